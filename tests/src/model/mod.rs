//! Models of the bus's protocols, each explored in every interleaving.
//!
//! A model restates one protocol as a handful of small integers and atomic steps, and [`explorer`] visits
//! every state that some interleaving of its processes reaches, with a kill possible before each step. Each
//! model knows its protocol and the variants that look as good and are not; the tests demand that the first
//! holds and that every other one is caught. A change to a protocol of the bus starts here.
//!
//! Steps are sequentially consistent, except in [`doorbell`], which has store buffers. What weaker orderings
//! allow is the business of the loom tests beside the code.
//!
//! | model | question |
//! |-------|----------|
//! | [`publish`] | many producers, one compare-and-swap a message: holes, overtaken readers, cells, arenas |
//! | [`two_phase`] | what happens to a ring that claims a slot first and writes it afterwards |
//! | [`single_producer`] | publication word, lossy readers, takeover of the producer's role |
//! | [`lossy`] | how a reader that holds nothing back knows that the copy of a cell is good |
//! | [`gate`] | the gate against groups that join, leave, die or are evicted |
//! | [`let_go`] | a named group that is let go while its member lives, and comes back |
//! | [`owner`] | who works on which message in a group of many members, and the entries put aside |
//! | [`keyed`] | a keyed group: a partition's messages in order, its members that come, go, stop and die |
//! | [`takeover`] | a group of one member: deaths counted, redeliveries marked, dead letters |
//! | [`aside_one`] | a group of one member: messages put aside, committed by its cursor |
//! | [`aside_due`] | whether an entry that waits is ever forgotten |
//! | [`receipts`] | what a follower is told of a message while it is handled, put aside, skipped, or purged |
//! | [`replay`] | dead letters published again and purged, by several at once |
//! | [`doorbell`] | parking and waking under total store order |
//! | [`reply_topic`] | the topic on which a process is answered, and who gets its number next |
//! | [`mailbox`] | a mailbox that is made by whoever comes first |
//! | [`role`] | the supervisor's role: taken over from a stopped holder, whose late acts change nothing |
//! | [`told`] | joins and ends told as events, whoever holds the role meanwhile |

pub mod aside_due;
pub mod aside_one;
pub mod doorbell;
pub mod explorer;
pub mod gate;
pub mod keyed;
pub mod let_go;
pub mod lossy;
pub mod mailbox;
pub mod owner;
pub mod publish;
pub mod receipts;
pub mod replay;
pub mod reply_topic;
pub mod role;
pub mod single_producer;
pub mod takeover;
pub mod told;
pub mod two_phase;

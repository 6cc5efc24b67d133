//! How joining and end of each registration come to be told, whoever holds the supervisor's role meanwhile.
//!
//! **Processes.** Holders of the role, one after the other; each has a serving loop and a thread that publishes what the loop has queued. A
//! participant that joins and ends, twice, in the same entry. A holder may be killed before every step, or superseded, which it need not
//! notice: it goes on late.
//!
//! **State and who writes it.** The entry: its word (state and incarnation, changed by compare-and-swap on the value seen by the newest holder), `joined`
//! and `end` (incarnation whose joining, or end, has been told) and `ended` (incarnation whose end was noticed). The last three are
//! changed by any holder, by compare-and-swap, to a later incarnation only.
//!
//! **The protocol.** Who makes the entry LIVE queues the joining. Who finds the participant ended notes that in `ended`, makes the entry SWEEPING,
//! then FREE, and queues the end. The thread looks whether an event has been told, publishes it, and says so in `joined` or `end`. A new
//! holder queues what an entry is that nobody was told of.
//!
//! **Safety.** No event is published twice, but for what cannot be helped without a transaction: its holder was killed between publishing
//! and saying so, or one of two was superseded while both were publishing it. No end comes before its joining.
//!
//! **Progress.** Everything is told in the end, but for what was in the queue of a holder that was killed, or superseded, when the entry was
//! another incarnation's already.
//!
//! **Broken variants.** [`Variant::SaidFirst`]: a holder that dies after it said so has told nobody. [`Variant::NoLook`]: a superseded holder tells
//! what its successor has told. [`Variant::Blind`]: a late one stores an earlier incarnation, and the next holder tells again.
//! [`Variant::EndedLast`]: a successor finds a free entry and does not know that its end was told to nobody. [`Variant::OwnIsTold`]: the thread
//! that publishes gets the entry of one whose joining waits in the queue, and what it says of itself hides that.

use super::explorer::{Model, Step, Successors};

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus.
    Correct,
    /// That it has been told is said before it is published.
    SaidFirst,
    /// The thread does not look whether it has been told.
    NoLook,
    /// What has been told is stored, whatever stands there.
    Blind,
    /// The end is noted after the entry is free.
    EndedLast,
    /// Where the entry goes to the thread that publishes, of which nothing is told, it is noted as told at once.
    OwnIsTold,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// The protocol.
    pub variant: Variant,
    /// How many may have the role, one after the other.
    pub holders: usize,
    /// How often the participant joins.
    pub incarnations: u8,
    /// Is the last of these the thread that publishes, which nobody is told of?
    pub last_is_thread: bool,
}

const HOLDERS: usize = 3;
const QUEUE: usize = 6;
const NAMES: [&str; HOLDERS] = ["H0", "H1", "H2"];
const THREADS: [&str; HOLDERS] = ["T0", "T1", "T2"];

/// Joining (0) or end (1) of an incarnation.
type Event = (u8, u8);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Word {
    #[default]
    Free,
    Live,
    Sweeping,
}

/// Where a serving loop is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    /// Not yet, or not any more.
    #[default]
    Away,
    Recover,
    Serve,
    /// Of this incarnation.
    Sweep(u8),
    Free(u8),
    Push(Event),
    /// Only the variant that notes the end last.
    NoteLate(u8),
}

/// Where a thread is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Thread {
    #[default]
    Idle,
    Looked(Event),
    Published(Event),
    /// Only the variant that says so first.
    Said(Event),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Holder {
    at: At,
    thread: Thread,
    queue: [Option<Event>; QUEUE],
    /// The incarnation whose process it has a descriptor of, which tells of its end. 0: none.
    watched: u8,
    is_dead: bool,
}

/// A state of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    word: Word,
    tag: u8,
    is_alive: bool,
    joined: u8,
    ended: u8,
    end: u8,
    newest: u8,
    holders: [Holder; HOLDERS],
    /// How often each event was published, by kind and incarnation.
    published: [[u8; 3]; 2],
    /// A second time, or never, is excused.
    twice: [[bool; 3]; 2],
    lost: [[bool; 3]; 2],
    is_reversed: bool,
}

impl State {
    fn is_told(&self, (kind, tag): Event) -> bool {
        tag <= if kind == 0 { self.joined } else { self.end }
    }
}

impl Holder {
    fn push(&mut self, event: Event) {
        if let Some(place) = self.queue.iter_mut().find(|place| place.is_none()) {
            *place = Some(event);
        }
    }

    fn pop(&mut self) -> Option<Event> {
        let first = self.queue[0].take();
        self.queue.rotate_left(1);
        first
    }

    fn has_begun(&self, event: Event) -> bool {
        !self.is_dead && matches!(self.thread, Thread::Looked(of) | Thread::Published(of) if of == event)
    }
}

impl Told {
    fn is_thread(&self, tag: u8) -> bool {
        self.last_is_thread && tag == self.incarnations
    }

    fn serve(&self, state: &State, index: usize, out: &mut Successors<State>) {
        let (name, me) = (NAMES[index], state.holders[index]);
        let is_newest = usize::from(state.newest) == index;
        let mut go = |what, change: &dyn Fn(&mut State)| {
            let mut next = *state;
            change(&mut next);
            out.push((Step::new(name, what), next));
        };
        let at = |at: At| move |next: &mut State| next.holders[index].at = at;
        match me.at {
            At::Away => {}
            _ if !is_newest && matches!(me.at, At::Recover | At::Serve) => {
                go("finds that it was superseded", &at(At::Away));
            }
            At::Recover => go("looks at the entry", &|next| {
                let me = &mut next.holders[index];
                me.at = At::Serve;
                let (word, tag) = (next.word, next.tag);
                let is_thread = self.is_thread(tag);
                let is_over = word == Word::Free && next.ended == tag;
                if tag > 0 && !is_thread && (word == Word::Live || is_over) && next.joined < tag {
                    me.push((0, tag));
                }
                if tag > 0 && !is_thread && is_over && next.end < tag {
                    me.push((1, tag));
                }
                me.watched = if word == Word::Live { tag } else { 0 };
                if word == Word::Sweeping {
                    if next.joined < tag && !is_thread {
                        me.push((0, tag));
                    }
                    me.at = At::Free(tag);
                }
            }),
            At::Serve => {
                let watched = me.watched;
                // Ends are seen to before requests.
                if watched == 0 && state.word == Word::Free && state.tag < self.incarnations {
                    go("makes the entry live", &|next| {
                        (next.word, next.tag, next.is_alive) = (Word::Live, next.tag + 1, true);
                        let me = &mut next.holders[index];
                        (me.at, me.watched) = (At::Push((0, next.tag)), next.tag);
                    });
                }
                if watched != 0 && !(state.is_alive && state.tag == watched) {
                    go("hears of the end", &|next| {
                        let is_it = next.tag == watched;
                        if is_it && next.word == Word::Live && self.variant != Variant::EndedLast {
                            next.ended = next.ended.max(watched);
                        }
                        let me = &mut next.holders[index];
                        me.watched = 0;
                        me.at = match next.word {
                            Word::Live if is_it => At::Sweep(watched),
                            Word::Sweeping if is_it => At::Free(watched),
                            Word::Free if is_it => At::Push((1, watched)),
                            _ => At::Serve,
                        };
                    });
                }
            }
            At::Sweep(tag) => go("begins to sweep", &|next| {
                let is_it = (next.word, next.tag) == (Word::Live, tag);
                next.word = if is_it { Word::Sweeping } else { next.word };
                next.holders[index].at = match (next.word, next.tag == tag) {
                    (Word::Sweeping, true) => At::Free(tag),
                    (Word::Free, true) => At::Push((1, tag)),
                    _ => At::Serve,
                };
            }),
            At::Free(tag) => go("frees the entry", &|next| {
                let is_it = (next.word, next.tag) == (Word::Sweeping, tag);
                next.word = if is_it { Word::Free } else { next.word };
                // Whoever finds that another has freed it tells the end as well: that one may not come to it.
                let is_free = (next.word, next.tag) == (Word::Free, tag);
                next.holders[index].at = match (is_free, self.variant) {
                    (false, _) => At::Serve,
                    (true, Variant::EndedLast) => At::NoteLate(tag),
                    (true, _) => At::Push((1, tag)),
                };
            }),
            At::NoteLate(tag) => go("notes the end late", &|next| {
                next.ended = next.ended.max(tag);
                next.holders[index].at = At::Push((1, tag));
            }),
            At::Push((kind, tag)) if self.is_thread(tag) => {
                go("tells nothing of the thread", &|next| {
                    if self.variant == Variant::OwnIsTold {
                        self.say(next, (kind, tag));
                    }
                    next.holders[index].at = At::Serve;
                });
            }
            At::Push(event) => go("queues an event", &|next| {
                if event.0 == 1 && next.joined < event.1 {
                    next.holders[index].push((0, event.1));
                }
                next.holders[index].push(event);
                next.holders[index].at = At::Serve;
            }),
        }
    }

    fn publish(&self, state: &State, index: usize, out: &mut Successors<State>) {
        let me = state.holders[index];
        let mut next = *state;
        let what = match me.thread {
            Thread::Idle => {
                let Some(event) = next.holders[index].pop() else { return };
                let (kind, tag) = (usize::from(event.0), usize::from(event.1));
                // What was told of a later one hides that this one was not.
                let later = if kind == 0 { state.joined } else { state.end };
                let is_excused = state.newest > 0;
                next.lost[kind][tag] |= is_excused && later > event.1 && state.published[kind][tag] == 0;
                if self.variant == Variant::NoLook || !state.is_told(event) {
                    next.twice[kind][tag] |= state.holders.iter().any(|other| other.has_begun(event));
                    next.holders[index].thread = Thread::Looked(event);
                }
                "looks whether it was told"
            }
            Thread::Looked(event) if self.variant == Variant::SaidFirst => {
                self.say(&mut next, event);
                next.holders[index].thread = Thread::Said(event);
                "says that it is told"
            }
            Thread::Looked(event) | Thread::Said(event) => {
                let (kind, tag) = (usize::from(event.0), usize::from(event.1));
                next.is_reversed |= kind == 1 && next.published[0][tag] == 0 && !next.lost[0][tag];
                next.published[kind][tag] += 1;
                let said = matches!(me.thread, Thread::Said(_));
                next.holders[index].thread = if said { Thread::Idle } else { Thread::Published(event) };
                "publishes"
            }
            Thread::Published(event) => {
                self.say(&mut next, event);
                next.holders[index].thread = Thread::Idle;
                "says that it is told"
            }
        };
        out.push((Step::new(THREADS[index], what), next));
    }

    fn say(&self, next: &mut State, (kind, tag): Event) {
        let word = if kind == 0 { &mut next.joined } else { &mut next.end };
        *word = if self.variant == Variant::Blind { tag } else { tag.max(*word) };
    }
}

impl Model for Told {
    type State = State;

    fn initial(&self) -> State {
        let mut state = State::default();
        state.holders[0].at = At::Serve;
        state
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for (index, name) in NAMES.into_iter().enumerate().take(self.holders) {
            let me = state.holders[index];
            if me.is_dead {
                continue;
            }
            self.serve(state, index, out);
            self.publish(state, index, out);
            // Only the last one stays, or nobody would be left to tell.
            if index + 1 < self.holders && index <= usize::from(state.newest) {
                let mut next = *state;
                for event in me.queue.into_iter().flatten().chain(match (me.thread, me.at) {
                    (Thread::Looked(event), _) => Some(event),
                    _ => None,
                }) {
                    next.lost[usize::from(event.0)][usize::from(event.1)] |= event.1 < state.tag;
                }
                if let Thread::Published((kind, tag)) = me.thread {
                    next.twice[usize::from(kind)][usize::from(tag)] = true;
                }
                next.holders[index] = Holder { is_dead: true, ..Holder::default() };
                out.push((Step::kill(name), next));
            }
        }
        let successor = usize::from(state.newest) + 1;
        if successor < self.holders {
            let mut next = *state;
            next.newest += 1;
            next.holders[successor].at = At::Recover;
            out.push((Step::new(NAMES[successor], "takes the role"), next));
        }
        if state.is_alive {
            let mut next = *state;
            next.is_alive = false;
            out.push((Step::new("the participant", "ends"), next));
        }
    }

    fn violation(&self, state: &State) -> Option<String> {
        for (kind, name) in ["joining", "end"].into_iter().enumerate() {
            for tag in 1..=usize::from(self.incarnations) {
                if state.published[kind][tag] > 1 && !state.twice[kind][tag] {
                    return Some(format!("the {name} of incarnation {tag} was told twice"));
                }
            }
        }
        state.is_reversed.then(|| "an end was told before its joining".to_owned())
    }

    fn goal(&self, state: &State) -> bool {
        state.tag == self.incarnations
            && state.word == Word::Free
            && (0..2).all(|kind| {
                let mut tags = 1..=usize::from(self.incarnations) - usize::from(self.last_is_thread);
                tags.all(|tag| state.published[kind][tag] > 0 || state.lost[kind][tag])
            })
    }
}

//! A lossy reader of cells: it holds nothing back, copies a cell that its producer may be rewriting, and must
//! find out afterwards whether the copy is good.
//!
//! **Processes.** One producer with an arena of two cells and a lane of four slots, so that a slot's word
//! outlives its cell, and one lossy reader. Either may be delayed for ever.
//!
//! **State and who writes it.** Slot words (sequence and cell), the cells (a header with the position of the
//! block in the arena's endless count and the sequence, and a body of two halves) and the limit up to which
//! the arena may be overwritten: all by the producer. The reader's cursor and copy are private. What was
//! published needs no record: there is one producer, so sequence, position and bytes determine each other.
//!
//! **Left out.** Other producers (they have other arenas), groups (where one holds messages back there is
//! less reuse, not more), blocks of unequal size, weak memory.
//!
//! **How the reader knows.** The producer raises the limit before it overwrites. The reader reads the limit
//! after its copy, and has to know on which side of it its block is. All it knows for certain is the sequence
//! that it asked for, for the slot's word names the cell and not the block that was in it. Two ways work.
//! [`Variant::Correct`]: position and sequence are one word, the tag, which the reader copies along; it
//! accepts if the tag has the sequence, and the position that a block in this place must have under that
//! limit. [`Variant::SequenceLimit`]: the limit is a sequence. What does not work is to read the position and
//! the sequence one after the other from a header that may be changing.
//!
//! **Invariant.** What the reader accepts for a sequence is the message that was published under it.
//! Progress: the producer can publish everything, and the reader can get to the end of it.
//!
//! **Broken variants.** [`Variant::PositionFromHeader`]: as said, the reader checks the sequence in the
//! header, takes the position from there, copies, and compares it with the limit. [`Variant::WordOnly`]: the
//! reader checks nothing but the slot's word, which is still the same. [`Variant::LateLimit`]: the producer
//! raises the limit after it has begun to overwrite.

use super::explorer::{Model, Step, Successors};

/// How the reader finds out that its copy is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus: a tag of position and sequence, and a limit of positions.
    Correct,
    /// As good: a limit of sequences.
    SequenceLimit,
    /// Position and sequence are two words, read one after the other.
    PositionFromHeader,
    /// The reader reads the slot's word again.
    WordOnly,
    /// The limit is raised after the first bytes were overwritten.
    LateLimit,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct LossyCells {
    /// The protocol.
    pub variant: Variant,
    /// How many messages are published.
    pub messages: u8,
}

const SLOTS: u8 = 4;
const CELLS: u8 = 2;

/// A block of the arena. Positions and sequences are stored plus one: zero is "never written".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Cell {
    position: u8,
    sequence: u8,
    body: [u8; 2],
}

/// Where the producer is with the message that it writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Limit,
    Position,
    First,
    Second,
    Sequence,
    Publish,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Reader {
    #[default]
    Word,
    Header,
    Position,
    First,
    Second,
    Check,
}

/// A state of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// The sequence in each slot's word, plus one.
    slots: [u8; SLOTS as usize],
    cells: [Cell; CELLS as usize],
    /// Everything before this position may be written, and all but the last `CELLS` of it overwritten.
    limit: u8,
    at: At,
    published: u8,
    reader: Reader,
    cursor: u8,
    /// The tag, or as much of it as was read.
    position: u8,
    sequence: u8,
    copy: [u8; 2],
    wrong: bool,
}

/// The message published at `sequence` also has this position and these bytes: there is one producer.
fn bytes(sequence: u8) -> u8 {
    sequence + 1
}

fn cell(sequence: u8) -> usize {
    usize::from(sequence % CELLS)
}

impl LossyCells {
    fn produce(&self, state: &State, out: &mut Successors<State>) {
        let s = state.published;
        let mut next = state.clone();
        let target = &mut next.cells[cell(s)];
        let late = self.variant == Variant::LateLimit;
        let two_words = self.variant == Variant::PositionFromHeader;
        let (what, at) = match state.at {
            At::Limit if s == self.messages => return,
            At::Limit if late => ("begins", At::First),
            At::Limit => {
                next.limit = s + 1;
                ("raises the limit for", if two_words { At::Position } else { At::First })
            }
            At::Position => {
                target.position = s + 1;
                ("writes the position of", At::First)
            }
            At::First => {
                target.body[0] = bytes(s);
                ("writes the first half of", At::Second)
            }
            At::Second => {
                target.body[1] = bytes(s);
                next.limit = s + 1;
                ("writes the second half of", At::Sequence)
            }
            At::Sequence => {
                target.sequence = s + 1;
                if !two_words {
                    target.position = s + 1;
                }
                (if two_words { "writes the sequence of" } else { "writes the tag of" }, At::Publish)
            }
            At::Publish => {
                next.slots[usize::from(s % SLOTS)] = s + 1;
                next.published += 1;
                ("publishes", At::Limit)
            }
        };
        next.at = at;
        out.push((Step::with("P", what, s), next));
    }

    fn read(&self, state: &State, out: &mut Successors<State>) {
        let r = state.cursor;
        let word = state.slots[usize::from(r % SLOTS)];
        let from = state.cells[cell(r)];
        let mut next = state.clone();
        let two_words = self.variant == Variant::PositionFromHeader;
        let drop = |next: &mut State| {
            next.cursor += 1;
            (next.position, next.sequence) = (0, 0);
            next.copy = [0; 2];
            Reader::Word
        };
        let (what, reader) = match state.reader {
            Reader::Word if word < r + 1 => return,
            Reader::Word if word > r + 1 => ("missed", drop(&mut next)),
            Reader::Word => ("finds published", Reader::Header),
            Reader::Header if two_words => {
                next.sequence = from.sequence;
                ("copies the sequence of", Reader::Position)
            }
            Reader::Header => {
                (next.position, next.sequence) = (from.position, from.sequence);
                ("copies the tag of", Reader::First)
            }
            Reader::Position => {
                next.position = from.position;
                ("copies the position of", Reader::First)
            }
            Reader::First => {
                next.copy[0] = from.body[0];
                ("copies the first half of", Reader::Second)
            }
            Reader::Second => {
                next.copy[1] = from.body[1];
                ("copies the second half of", Reader::Check)
            }
            Reader::Check => {
                let oldest = state.limit.saturating_sub(CELLS);
                let intact = match self.variant {
                    Variant::Correct | Variant::LateLimit => {
                        let here = (oldest..).find(|&position| cell(position) == cell(r)).unwrap_or(u8::MAX);
                        (state.position, state.sequence) == (here + 1, r + 1)
                    }
                    Variant::SequenceLimit => r >= oldest,
                    // Positions are stored plus one.
                    Variant::PositionFromHeader => state.sequence == r + 1 && state.position > oldest,
                    Variant::WordOnly => word == r + 1,
                };
                next.wrong = intact && state.copy != [bytes(r); 2];
                ("accepts or drops", drop(&mut next))
            }
        };
        next.reader = reader;
        out.push((Step::with("L", what, r), next));
    }
}

impl Model for LossyCells {
    type State = State;

    fn initial(&self) -> State {
        State::default()
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        self.produce(state, out);
        self.read(state, out);
    }

    fn violation(&self, state: &State) -> Option<String> {
        state.wrong.then(|| "the reader accepted torn or foreign bytes".into())
    }

    fn goal(&self, state: &State) -> bool {
        state.published == self.messages && state.cursor == self.messages
    }
}

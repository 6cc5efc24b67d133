//! A keyed group: all messages of one partition go to one member at a time, in order.
//!
//! **Processes.** Up to three members. Members take the partition where nobody has it, claim messages, acknowledge them,
//! put them aside to be tried again, give them back, give the partition up when they have nothing of it in hand, and may
//! be killed at any step. A member that has been silent for too long, which the model may say of anyone at any moment, is
//! fenced: another takes the partition from it. A repairer releases claims of the dead.
//!
//! **State and who writes it.** One word of the partition: nobody's, or a member's, and a generation that counts how often it
//! has changed hands. It is changed by compare-and-swap on the value seen: from nobody's to a member's by that one, back by its
//! member, from one to another after proof of death or after silence. One word a message, as in [`super::owner`], with a
//! nonce: free, claimed, released, in the store (waiting, or in hand) or done.
//!
//! **The protocol.** A member claims a message and *then* looks at the partition's word once more: is that not exactly the word
//! that it took the partition with, it gives the claim back and hands nothing out. Who has just taken the partition
//! looks at all its messages, the last first, and takes back what others have claimed of them. The same is done to a claim
//! of another that is met later. Each such step is: look at the message's word, then see that the partition is still one's
//! own, then change exactly the word that was seen. Of what is not finished and not in its hand a member takes the first, wherever it
//! lies: in the ring or in the store. Where that is not to be had yet, nothing later is.
//!
//! **Left out.** Several partitions, keys of one partition, and lanes: they are independent of each other, except that a member gives
//! up what it has too much of. How a parking is committed ([`super::owner`]). Weak memory: between claim and look there is
//! a full fence, and between taking the partition and looking at the claims as well.
//!
//! **Invariants.** A message is handed out only when all before it are finished or in the hand of the same member, and never
//! after a later one was finished. Nobody acknowledges what another has been given. No two members hold claims that stand.
//! Where nobody is fenced, no two members have anything in hand at all. Progress while a member lives: everything is
//! finished.
//!
//! **Broken variants.** [`Variant::NoLook`]: the word is not looked at after the claim. [`Variant::LookBefore`]: it is looked at
//! before the claim, and the member is stopped between the two. [`Variant::TakenAlive`]: the partition is taken from a member
//! that lives and was not silent. [`Variant::PassedOver`]: a claim of another is passed over instead of taken back. [`Variant::BlindTake`]: a
//! claim is taken back by who no longer has the partition, from the one that has. [`Variant::LookLast`]: the partition
//! is looked at before the message's word, and not after it. [`Variant::FirstToLast`]: claims are taken back in the order of the messages,
//! and the fenced member acknowledges a later one meanwhile. [`Variant::GivenUpInHand`]: the partition is given up while a
//! message of it is in hand. [`Variant::TakenInHand`]: it is taken again by a member that was fenced and still has a message of it in
//! hand; the one that had it meanwhile, and was slow, takes that message back. [`Variant::RetryPasses`]: later messages go on while one waits in the store.
//! [`Variant::StoreForgotten`]: who takes the partition does not look at what waits in the store.

use super::explorer::{Model, Step, Successors};

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus.
    Correct,
    /// What was claimed is handed out without a look at the partition's word.
    NoLook,
    /// The look comes before the claim.
    LookBefore,
    /// No proof of death, no silence.
    TakenAlive,
    /// Claims of others are treated as if those messages were finished.
    PassedOver,
    /// Claims of others are taken back without a look at the partition's word.
    BlindTake,
    /// That look comes before the look at the message's word.
    LookLast,
    /// Claims of others are taken back in the order of their messages.
    FirstToLast,
    /// A member gives the partition up whenever it likes.
    GivenUpInHand,
    /// It takes a partition again of which it still has something in hand.
    TakenInHand,
    /// A message in the store holds nothing back.
    RetryPasses,
    /// A new owner does not know what is in the store.
    StoreForgotten,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct Keyed {
    /// The protocol.
    pub variant: Variant,
    /// How many messages there are.
    pub messages: usize,
    /// How many members there are.
    pub members: usize,
    /// How many messages a member has in hand at most.
    pub batch: u32,
    /// How many members may be killed.
    pub kills: u8,
    /// How often a member that lives is fenced.
    pub fences: u8,
    /// How often the partition is given up.
    pub moves: u8,
    /// How often a message is put aside, to be tried again.
    pub retries: u8,
    /// How often one is given back.
    pub drops: u8,
}

const MESSAGES: usize = 3;
const MEMBERS: usize = 3;
const NAMES: [&str; MEMBERS] = ["M0", "M1", "M2"];

/// Adds a step: what it is called, the message concerned, and what it changes.
type Go<'a> = dyn FnMut(&'static str, u8, &dyn Fn(&mut State, &mut Member)) + 'a;

/// The word of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Word {
    #[default]
    Free,
    Claimed(u8, u8),
    Released(u8),
    /// In the store, until its time comes.
    Waiting(u8),
    /// In the store, in somebody's hand.
    Tried(u8, u8),
    Done,
}

impl Word {
    const fn nonce(self) -> u8 {
        match self {
            Self::Free | Self::Done => 0,
            Self::Claimed(_, nonce)
            | Self::Tried(_, nonce)
            | Self::Released(nonce)
            | Self::Waiting(nonce) => nonce,
        }
    }

    const fn member(self) -> Option<u8> {
        match self {
            Self::Claimed(member, _) | Self::Tried(member, _) => Some(member),
            _ => None,
        }
    }

    /// Unfinished and in nobody's hand.
    const fn is_open(self) -> bool {
        matches!(self, Self::Free | Self::Released(_) | Self::Waiting(_))
    }

    const fn claimed(self, member: u8) -> Self {
        match self {
            Self::Waiting(nonce) => Self::Tried(member, nonce + 1),
            other => Self::Claimed(member, other.nonce() + 1),
        }
    }

    /// What it is when its member loses it.
    const fn taken_back(self) -> Self {
        match self {
            Self::Tried(_, nonce) => Self::Waiting(nonce),
            Self::Claimed(_, nonce) => Self::Released(nonce),
            other => other,
        }
    }
}

/// The word of the partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Part {
    owner: Option<u8>,
    generation: u8,
}

/// Where a member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Idle,
    /// Goes through all messages; so many are left.
    Settle(u8),
    /// The same, and saw this one claimed so.
    Saw(u8, Word),
    /// And that the partition is still its own.
    Sure(u8, Word),
    /// Met one that another has claimed.
    Met(u8, Word),
    MetSure(u8, Word),
    /// The broken variants' early looks.
    Early(u8),
    EarlyMet(u8),
    /// Has claimed a message and hands nothing out yet.
    Claimed(u8, Word),
    /// Is to give it back.
    Lost(u8, Word),
    /// Acknowledges what it has in hand, from this message on.
    Acking(u8),
    /// Gives all of it back, the last first; so many messages are left to look at.
    Dropping(u8),
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Member {
    at: At,
    /// The word with which it took the partition, as long as it believes to have it.
    has: Option<Part>,
    /// What it has in hand, and the words that say so.
    hand: [Option<Word>; MESSAGES],
    /// The messages that it knows to be in the store, a bit each.
    stored: u8,
}

impl Member {
    fn in_hand(&self) -> u32 {
        self.hand.iter().flatten().count() as u32
    }
}

/// A state of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    part: Part,
    words: [Word; MESSAGES],
    members: [Member; MEMBERS],
    kills: u8,
    fences: u8,
    moves: u8,
    retries: u8,
    drops: u8,
    /// Messages that were acknowledged, a bit each.
    acknowledged: u8,
    wrong: Option<&'static str>,
}

impl State {
    fn is_dead(&self, member: u8) -> bool {
        self.members[usize::from(member)].at == At::Dead
    }
}

impl Keyed {
    /// The message that a member would take next, as it sees them: the first that is neither finished nor in its hand.
    fn first(&self, state: &State, me: &Member) -> Option<usize> {
        (0..self.messages).find(|&message| {
            let word = state.words[message];
            let is_foreign = word.member().is_some();
            let is_hidden = match word {
                Word::Waiting(_) | Word::Tried(..) => {
                    self.variant == Variant::StoreForgotten && me.stored & 1 << message == 0
                }
                _ => self.variant == Variant::PassedOver && is_foreign,
            };
            word != Word::Done && me.hand[message].is_none() && !is_hidden
        })
    }

    fn hand_out(&self, state: &mut State, who: usize, message: usize, word: Word) {
        let me = &mut state.members[who];
        me.hand[message] = Some(word);
        let own = |m: &usize| me.hand[*m].is_some_and(|word| word == state.words[*m]);
        if (0..message).any(|m| state.words[m] != Word::Done && !own(&m)) {
            state.wrong = Some("a message is handed out before an earlier one is finished");
        }
        if state.acknowledged >> message > 1 {
            state.wrong = Some("a message is handed out again after a later one was acknowledged");
        }
    }

    fn act(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let me = state.members[who];
        let id = who as u8;
        let mut go = |what: &'static str, value: u8, change: &dyn Fn(&mut State, &mut Member)| {
            let mut next = state.clone();
            let mut member = next.members[who];
            change(&mut next, &mut member);
            next.members[who] = member;
            out.push((Step::with(NAMES[who], what, value), next));
        };
        let still = me.has == Some(state.part);
        let met = |message: u8, seen: Word| match self.variant {
            Variant::BlindTake | Variant::LookLast => At::MetSure(message, seen),
            _ => At::Met(message, seen),
        };
        match me.at {
            At::Dead => {}
            At::Idle => self.choose(state, who, &mut go),
            At::Settle(0) => go("has settled", 0, &|_, m| m.at = At::Idle),
            At::Settle(left) => {
                let message = match self.variant {
                    Variant::FirstToLast => self.messages - usize::from(left),
                    _ => usize::from(left) - 1,
                };
                let seen = state.words[message];
                go("looks at message", message as u8, &|_, m| {
                    let in_store = matches!(seen, Word::Waiting(_) | Word::Tried(..));
                    m.stored |= u8::from(in_store && self.variant != Variant::StoreForgotten) << message;
                    let foreign = seen.member().is_some() && m.hand[message] != Some(seen);
                    m.at = match (foreign, self.variant) {
                        (false, _) | (_, Variant::PassedOver) => At::Settle(left - 1),
                        (_, Variant::BlindTake) => At::Sure(left, seen),
                        _ => At::Saw(left, seen),
                    };
                });
            }
            At::Saw(left, seen) => go("sees whether the partition is its own", u8::from(still), &|_, m| {
                m.at = if still { At::Sure(left, seen) } else { At::Idle };
                m.has = m.has.filter(|_| still);
            }),
            At::Sure(left, seen) => {
                let message = match self.variant {
                    Variant::FirstToLast => self.messages - usize::from(left),
                    _ => usize::from(left) - 1,
                };
                go("takes back the claim of message", message as u8, &|n, m| {
                    if n.words[message] == seen {
                        n.words[message] = seen.taken_back();
                    }
                    m.at = At::Settle(left - 1);
                });
            }
            At::Met(message, seen) => {
                go("sees whether the partition is its own", u8::from(still), &|_, m| {
                    m.at = if still { At::MetSure(message, seen) } else { At::Idle };
                    m.has = m.has.filter(|_| still);
                })
            }
            At::MetSure(message, seen) => go("takes back the claim of message", message, &|n, m| {
                if n.words[usize::from(message)] == seen {
                    n.words[usize::from(message)] = seen.taken_back();
                }
                m.at = At::Idle;
            }),
            At::EarlyMet(message) => {
                let seen = state.words[usize::from(message)];
                go("looks at message", message, &|_, m| {
                    m.at = if seen.member().is_some() { met(message, seen) } else { At::Idle };
                });
            }
            At::Early(message) => {
                let index = usize::from(message);
                let seen = state.words[index];
                go("claims message, and hands it out", message, &|n, m| {
                    m.at = At::Idle;
                    if seen.is_open() {
                        let word = seen.claimed(id);
                        n.words[index] = word;
                        n.members[who] = *m;
                        self.hand_out(n, who, index, word);
                        *m = n.members[who];
                    }
                });
            }
            At::Claimed(message, word) => {
                let fine = still || self.variant == Variant::NoLook;
                let what = if fine { "looks, and hands out message" } else { "looks, and has lost message" };
                go(what, message, &|n, m| {
                    if fine {
                        m.at = At::Idle;
                        n.members[who] = *m;
                        self.hand_out(n, who, usize::from(message), word);
                        *m = n.members[who];
                    } else {
                        m.at = At::Lost(message, word);
                        m.has = None;
                    }
                });
            }
            At::Lost(message, word) => go("gives back message", message, &|n, m| {
                let index = usize::from(message);
                if n.words[index] == word {
                    n.words[index] = word.taken_back();
                }
                m.at = At::Idle;
            }),
            At::Acking(from) => {
                let next = (usize::from(from)..self.messages).find(|&m| me.hand[m].is_some());
                let Some(message) = next else {
                    go("has acknowledged all", 0, &|_, m| m.at = At::Idle);
                    return;
                };
                go("acknowledges message", message as u8, &|n, m| {
                    if Some(n.words[message]) == m.hand[message] {
                        n.words[message] = Word::Done;
                        n.acknowledged |= 1 << message;
                    }
                    m.hand[message] = None;
                    m.at = At::Acking(message as u8 + 1);
                });
            }
            At::Dropping(left) => {
                let next = (0..usize::from(left)).rev().find(|&m| me.hand[m].is_some());
                let Some(message) = next else {
                    go("has given back all", 0, &|_, m| m.at = At::Idle);
                    return;
                };
                go("gives back message", message as u8, &|n, m| {
                    if Some(n.words[message]) == m.hand[message] {
                        n.words[message] = n.words[message].taken_back();
                    }
                    m.hand[message] = None;
                    m.at = At::Dropping(message as u8);
                });
            }
        }
    }

    fn choose(&self, state: &State, who: usize, go: &mut Go<'_>) {
        let me = state.members[who];
        let id = who as u8;
        let part = state.part;
        let may_take = me.in_hand() == 0 || self.variant == Variant::TakenInHand;
        if part.owner != Some(id) && may_take {
            let is_lost = part.owner.is_none_or(|owner| state.is_dead(owner));
            let is_silent = !is_lost && state.fences < self.fences;
            let is_robbed = !is_lost && self.variant == Variant::TakenAlive;
            if is_lost || is_silent || is_robbed {
                let what =
                    if is_lost { "takes the partition" } else { "takes the partition of a silent member" };
                go(what, 0, &|n, m| {
                    n.fences += u8::from(is_silent);
                    n.part = Part { owner: Some(id), generation: n.part.generation + 1 };
                    *m = Member { at: At::Settle(self.messages as u8), has: Some(n.part), stored: 0, ..*m };
                });
            }
        }
        if me.in_hand() > 0 {
            go("is done with what it has", 0, &|_, m| m.at = At::Acking(0));
            if state.drops < self.drops {
                go("gives up what it has", 0, &|n, m| {
                    n.drops += 1;
                    m.at = At::Dropping(self.messages as u8);
                });
            }
            // What was handed out last.
            let last = (0..self.messages).rev().find(|&m| me.hand[m].is_some());
            if let Some(last) = last
                && state.retries < self.retries
            {
                go("puts aside message", last as u8, &|n, m| {
                    n.retries += 1;
                    if Some(n.words[last]) == m.hand[last] {
                        n.words[last] = Word::Waiting(n.words[last].nonce());
                        m.stored |= 1 << last;
                    }
                    m.hand[last] = None;
                });
            }
        }
        if me.has.is_none() {
            return;
        }
        let is_idle = me.in_hand() == 0 || self.variant == Variant::GivenUpInHand;
        if is_idle && state.moves < self.moves {
            go("gives the partition up", 0, &|n, m| {
                n.moves += 1;
                if m.has == Some(n.part) {
                    n.part = Part { owner: None, generation: n.part.generation + 1 };
                }
                m.has = None;
            });
        }
        if me.in_hand() >= self.batch {
            return;
        }
        let passes = |message: usize| {
            self.variant == Variant::RetryPasses && matches!(state.words[message], Word::Waiting(_))
        };
        let mut next = self.first(state, &me);
        if let Some(message) = next
            && passes(message)
        {
            let mut blind = me;
            blind.hand[message] = Some(Word::Done);
            let later = self.first(state, &blind);
            if let Some(later) = later {
                self.take(state, who, later, go);
            }
            next = Some(message);
        }
        if let Some(message) = next {
            self.take(state, who, message, go);
        }
    }

    fn take(&self, state: &State, who: usize, message: usize, go: &mut Go<'_>) {
        let me = state.members[who];
        let seen = state.words[message];
        let value = message as u8;
        let still = me.has == Some(state.part);
        match (seen.is_open(), self.variant) {
            (true, Variant::LookBefore) => go("looks at the partition before message", value, &|_, m| {
                m.at = if still { At::Early(value) } else { At::Idle };
                m.has = m.has.filter(|_| still);
            }),
            (true, _) => go("claims message", value, &|n, m| {
                let word = seen.claimed(who as u8);
                n.words[message] = word;
                m.at = At::Claimed(value, word);
            }),
            (false, Variant::LookLast) => go("sees that the partition is its own", value, &|_, m| {
                m.at = if still { At::EarlyMet(value) } else { At::Idle };
                m.has = m.has.filter(|_| still);
            }),
            (false, Variant::BlindTake) => {
                go("meets another's claim of message", value, &|_, m| m.at = At::MetSure(value, seen));
            }
            (false, _) => go("meets another's claim of message", value, &|_, m| m.at = At::Met(value, seen)),
        }
    }

    /// Deaths, and what is done about the dead.
    fn interfere(&self, state: &State, out: &mut Successors<State>) {
        for (who, name) in NAMES.iter().enumerate().take(self.members) {
            if state.members[who].at != At::Dead && state.kills < self.kills {
                let mut next = state.clone();
                next.kills += 1;
                next.members[who] = Member { at: At::Dead, ..Member::default() };
                out.push((Step::kill(name), next));
            }
        }
        for message in 0..self.messages {
            let word = state.words[message];
            if word.member().is_some_and(|member| state.is_dead(member)) {
                let mut next = state.clone();
                next.words[message] = word.taken_back();
                out.push((Step::with("R", "releases the dead one's message", message as u8), next));
            }
        }
    }
}

impl Model for Keyed {
    type State = State;

    fn initial(&self) -> State {
        let mut state = State::default();
        for member in &mut state.members[self.members..] {
            member.at = At::Dead;
        }
        state
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for who in 0..self.members {
            self.act(state, who, out);
        }
        self.interfere(state, out);
    }

    fn violation(&self, state: &State) -> Option<String> {
        if let Some(wrong) = state.wrong {
            return Some(wrong.into());
        }
        let stands = |member: &&Member| {
            (0..self.messages).any(|m| member.hand[m].is_some_and(|word| word == state.words[m]))
        };
        if state.members.iter().filter(stands).count() > 1 {
            return Some("two members hold messages of the partition".into());
        }
        if state.fences == 0 && state.members.iter().filter(|member| member.in_hand() > 0).count() > 1 {
            return Some("two members have messages of the partition in hand".into());
        }
        None
    }

    fn goal(&self, state: &State) -> bool {
        let alive = state.members[..self.members].iter().any(|member| member.at != At::Dead);
        !alive || state.words[..self.messages].iter().all(|&word| word == Word::Done)
    }
}

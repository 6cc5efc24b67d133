//! Breadth-first search over every interleaving of a small protocol model.
//!
//! A model is a value that lists the initial state, the possible next steps of a state, and what must never
//! be true. The search visits each reachable state once, level by level, so the first violation it meets is
//! one of the shortest. It answers two questions:
//!
//! * **Safety.** Is there a reachable state that [`Model::violation`] objects to?
//! * **Progress.** Is there a reachable state from which [`Model::goal`] can no longer be reached by moves of
//!   live processes alone? Steps marked as faults (a kill) do not count as a way out. This is what shows a
//!   blocked reader, a cursor that is stuck or a sleeper that nobody wakes: not "nothing moves", which retry
//!   loops would hide, but "nothing that can still happen leads there".
//!
//! A process that is killed takes no further step. A process that is stopped is one that is not scheduled
//! for as long as the interleaving likes, so every safety result covers stopped processes too.
//!
//! States are kept in full (no hash compaction: a collision cannot hide a state). The number of states has a
//! limit, and reaching it is [`Verdict::Incomplete`], which the tests treat as a failure: a search that was
//! cut short proves nothing.

use std::fmt;
use std::hash::{Hash, Hasher};

/// One move in a model: who moves, what it does, and the value concerned, for the printed counterexample.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The process that moves.
    pub who: &'static str,
    /// What it does.
    pub what: &'static str,
    /// The sequence, cell or process concerned, if that helps the reader.
    pub value: Option<u8>,
    /// True for an injected fault: it may happen, but never counts as progress.
    pub fault: bool,
}

impl Step {
    /// An ordinary move.
    pub const fn new(who: &'static str, what: &'static str) -> Self {
        Self { who, what, value: None, fault: false }
    }

    /// An ordinary move that concerns `value`.
    pub const fn with(who: &'static str, what: &'static str, value: u8) -> Self {
        Self { who, what, value: Some(value), fault: false }
    }

    /// The death of `who`: it never moves again.
    pub const fn kill(who: &'static str) -> Self {
        Self { who, what: "is killed", value: None, fault: true }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(value) => write!(f, "{} {} [{value}]", self.who, self.what),
            None => write!(f, "{} {}", self.who, self.what),
        }
    }
}

/// The steps that a state allows, each with the state that it leads to.
pub type Successors<S> = Vec<(Step, S)>;

/// A protocol, small enough to visit every state of.
pub trait Model {
    /// Everything that steps read or change. Two equal states must behave alike.
    type State: Clone + Eq + Hash;

    /// Where every run starts.
    fn initial(&self) -> Self::State;

    /// Appends each possible next step of `state` to `out`. A step that changes nothing is ignored.
    fn successors(&self, state: &Self::State, out: &mut Successors<Self::State>);

    /// Says what is wrong with `state`, if something is.
    fn violation(&self, state: &Self::State) -> Option<String>;

    /// True where the work is done. From every reachable state such a state must stay reachable without
    /// further faults. The default asks for nothing.
    fn goal(&self, _state: &Self::State) -> bool {
        true
    }
}

/// A run that ends badly, with as few steps as any.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// The steps from the initial state.
    pub steps: Vec<Step>,
    /// What is wrong with the state that they lead to.
    pub reason: String,
    /// How many states were visited before it was found.
    pub states: usize,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({} steps, {} states visited)", self.reason, self.steps.len(), self.states)?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {:3}. {step}", number + 1)?;
        }
        Ok(())
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Every reachable state was visited and none is bad.
    Holds {
        /// How many states there are.
        states: usize,
        /// How many steps the farthest of them is away from the initial state.
        depth: usize,
    },
    /// A bad state was found.
    Broken(Counterexample),
    /// More states than the limit exist; nothing is known.
    Incomplete {
        /// The limit that was passed.
        limit: usize,
    },
}

/// Visits the states of `model`, at most `limit` of them.
pub fn explore<M: Model>(model: &M, limit: usize) -> Verdict {
    assert!(limit < NONE as usize, "state numbers are 32 bits wide, {limit} is too high a limit");
    let mut graph = Graph::new(model.initial());
    let mut out = Vec::new();
    let mut at = 0;
    while at < graph.states.len() {
        graph.edge_starts.push(graph.edges.len());
        let state = graph.states[at].clone();
        if let Some(reason) = model.violation(&state) {
            return Verdict::Broken(graph.counterexample(model, at, reason));
        }
        out.clear();
        model.successors(&state, &mut out);
        for (step, next) in out.drain(..) {
            if next == state {
                continue;
            }
            let to = graph.number_of(next, at);
            if !step.fault {
                graph.edges.push(to);
            }
        }
        if graph.states.len() > limit {
            return Verdict::Incomplete { limit };
        }
        at += 1;
    }
    graph.edge_starts.push(graph.edges.len());
    if let Some(stuck) = graph.first_stuck(|state| model.goal(state)) {
        let reason = String::from("stuck: no move of a live process leads to the goal any more");
        return Verdict::Broken(graph.counterexample(model, stuck, reason));
    }
    Verdict::Holds { states: graph.states.len(), depth: graph.path_to(graph.states.len() - 1).len() - 1 }
}

/// No state.
const NONE: u32 = u32::MAX;

/// The states found so far, numbered in the order of their discovery.
struct Graph<S> {
    states: Vec<S>,
    /// The state from which each was first reached; `NONE` for the initial one.
    parents: Vec<u32>,
    /// Open-addressed table: high half of the hash, number of the state. Power of two, at most half full.
    table: Vec<(u32, u32)>,
    /// Targets of moves that are not faults, grouped by the state that they leave.
    edges: Vec<u32>,
    /// Where each visited state's group starts in `edges`.
    edge_starts: Vec<usize>,
}

impl<S: Clone + Eq + Hash> Graph<S> {
    fn new(initial: S) -> Self {
        let mut graph = Self {
            states: Vec::new(),
            parents: Vec::new(),
            table: vec![(0, NONE); 1 << 12],
            edges: Vec::new(),
            edge_starts: Vec::new(),
        };
        graph.number_of(initial, NONE as usize);
        graph
    }

    /// The number of `state`, which is entered as found from `parent` if it is new.
    fn number_of(&mut self, state: S, parent: usize) -> u32 {
        let hash = hash_of(&state);
        let tag = (hash >> 32) as u32;
        let mut place = hash as usize & (self.table.len() - 1);
        loop {
            match self.table[place] {
                (_, NONE) => break,
                (seen, number) if seen == tag && self.states[number as usize] == state => return number,
                _ => place = (place + 1) & (self.table.len() - 1),
            }
        }
        let number = self.states.len() as u32;
        self.table[place] = (tag, number);
        self.states.push(state);
        self.parents.push(parent as u32);
        if self.states.len() * 2 > self.table.len() {
            self.grow();
        }
        number
    }

    fn grow(&mut self) {
        let mut table = vec![(0, NONE); self.table.len() * 2];
        for (number, state) in self.states.iter().enumerate() {
            let hash = hash_of(state);
            let mut place = hash as usize & (table.len() - 1);
            while table[place].1 != NONE {
                place = (place + 1) & (table.len() - 1);
            }
            table[place] = ((hash >> 32) as u32, number as u32);
        }
        self.table = table;
    }

    /// The first state found from which no state that satisfies `goal` can be reached without a fault.
    fn first_stuck(&self, goal: impl Fn(&S) -> bool) -> Option<usize> {
        let mut reaches: Vec<bool> = self.states.iter().map(goal).collect();
        if reaches.iter().all(|&done| done) {
            return None;
        }
        let (starts, sources) = self.reversed();
        let mut open: Vec<usize> = (0..reaches.len()).filter(|&at| reaches[at]).collect();
        while let Some(at) = open.pop() {
            for &source in &sources[starts[at]..starts[at + 1]] {
                if !std::mem::replace(&mut reaches[source as usize], true) {
                    open.push(source as usize);
                }
            }
        }
        reaches.iter().position(|&done| !done)
    }

    /// The edges turned round: where each state's group starts, and the states that lead to it.
    fn reversed(&self) -> (Vec<usize>, Vec<u32>) {
        let mut starts = vec![0; self.states.len() + 1];
        for &to in &self.edges {
            starts[to as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut next = starts.clone();
        let mut sources = vec![0; self.edges.len()];
        for from in 0..self.states.len() {
            for &to in &self.edges[self.edge_starts[from]..self.edge_starts[from + 1]] {
                sources[next[to as usize]] = from as u32;
                next[to as usize] += 1;
            }
        }
        (starts, sources)
    }

    /// The states from the initial one to `at`.
    fn path_to(&self, at: usize) -> Vec<usize> {
        let mut path = vec![at];
        let mut parent = self.parents[at];
        while parent != NONE {
            path.push(parent as usize);
            parent = self.parents[parent as usize];
        }
        path.reverse();
        path
    }

    /// Finds the steps to `at` again: they are not stored, the states are enough.
    fn counterexample<M: Model<State = S>>(&self, model: &M, at: usize, reason: String) -> Counterexample {
        let path = self.path_to(at);
        let mut out = Vec::new();
        let steps = path.windows(2).map(|pair| {
            out.clear();
            model.successors(&self.states[pair[0]], &mut out);
            let next = &self.states[pair[1]];
            out.iter().find(|(_, state)| state == next).expect("successors must not depend on chance").0
        });
        Counterexample { steps: steps.collect(), reason, states: self.states.len() }
    }
}

/// The hash function of Firefox and rustc: a rotate, an exclusive or and a multiplication a word.
#[derive(Default)]
struct FxHasher(u64);

impl FxHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for FxHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.add(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.add(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.add(value as u64);
    }

    fn finish(&self) -> u64 {
        // The multiplication leaves the low bits poor; the table takes its place from them.
        self.0 ^ (self.0 >> 29)
    }
}

fn hash_of<S: Hash>(state: &S) -> u64 {
    let mut hasher = FxHasher::default();
    state.hash(&mut hasher);
    hasher.finish()
}

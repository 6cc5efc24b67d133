//! How old a message without a stamp is: samples of (time, end of the lane), few, and dense where they are young.
//!
//! A sample is one word, so it is never torn, and says one thing that stays true for ever: at this time the lane's end was
//! here. So any store of it is harmless, late ones of a superseded supervisor too; a reader only has fewer samples than there
//! might be. What a word says that no supervisor wrote cannot be told from truth by itself, but contradicts the others: only
//! the longest chain of samples that can all be true counts, and the writer uses the places of the rest.
//!
//! ```text
//!   end ^                        . now        the age of message s: where the line between the sample before its
//!       |                  b___.'             publication (a) and the one after it (b) passes s
//!   s --|- - - - - - - - .'
//!       |   ____________a                     a: last look at which nothing had changed, kept when something has
//!       +-----------------------------> time
//! ```
//!
//! The true age lies between those of a and b. They are one look apart while young. When all places are taken, the sample
//! goes whose absence costs least for its age, so what is left becomes sparse with age, by about a twelfth of it
//! where nothing is regular, and corners stay longer than what lies on a line. Where a and b are too far apart to say more, the
//! answer is "at least".

use crate::layout::samples::KEPT;
use crate::sync::{AtomicU64, Ordering};

/// A sample's time counts in steps of 2^23 ns, some 8 ms; 32 bits of them are more than a year.
const TICK_SHIFT: u32 = 23;
/// Ages up to this are told; older samples go first.
const HORIZON_TICKS: u32 = ((3_600 * 1_000_000_000_u64) >> TICK_SHIFT) as u32;
/// What two samples may be apart for an age between them to be told, and half of the younger one's age.
const GAP_NS: u64 = 2_000_000_000;
/// How much worse a lost corner is than a wider gap.
const CORNER: u64 = 15;
/// A lane's newest sample and those that are kept.
const ALL: usize = KEPT + 1;

/// At a time, a lane's end. Of both the low 32 bits: an hour, and 2,147,483,648 messages, are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    tick: u32,
    end: u32,
}

impl Sample {
    const fn new(at_ns: u64, end: u64) -> Self {
        Self { tick: (at_ns >> TICK_SHIFT) as u32, end: end as u32 }
    }

    const fn pack(self) -> u64 {
        (self.tick as u64) << 32 | self.end as u64
    }

    /// `None` for a place that was never used.
    const fn unpack(word: u64) -> Option<Self> {
        if word == 0 { None } else { Some(Self { tick: (word >> 32) as u32, end: word as u32 }) }
    }

    /// As seen from a later sample. `None` if it cannot be the earlier one.
    fn seen_from(self, now: Sample, place: usize) -> Option<Seen> {
        let (age, back) = (now.tick.wrapping_sub(self.tick), now.end.wrapping_sub(self.end));
        let is_past = age <= i32::MAX as u32 && back <= i32::MAX as u32;
        is_past.then_some(Seen { age, back, place: place as u32 })
    }
}

/// The word of a sample, for a new file: at its creation a lane's end is 0.
pub const fn first(at_ns: u64) -> u64 {
    Sample::new(at_ns, 0).pack()
}

/// A sample as seen from now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Ticks ago.
    age: u32,
    /// Messages before the end.
    back: u32,
    /// Where it lies.
    place: u32,
}

/// Samples of a lane that can all be true, the oldest first: neither time nor end goes back.
struct Chain {
    samples: [Seen; ALL],
    len: usize,
}

impl Chain {
    fn of(words: impl Iterator<Item = u64>, now: Sample) -> Self {
        let mut this = Self { samples: [Seen::default(); ALL], len: 0 };
        let seen = words
            .enumerate()
            .filter_map(|(place, word)| Sample::unpack(word)?.seen_from(now, place))
            .take(ALL);
        for sample in seen {
            this.samples[this.len] = sample;
            this.len += 1;
        }
        let key = |sample: &Seen| (u64::from(sample.age) << 32) | u64::from(sample.back);
        this.samples[..this.len].sort_unstable_by_key(|sample| u64::MAX - key(sample));
        if !this.all().is_sorted_by(|older, younger| older.back >= younger.back) {
            this.keep_longest();
        }
        this
    }

    fn all(&self) -> &[Seen] {
        &self.samples[..self.len]
    }

    /// Leaves out as few samples as possible so that the ends of the rest do not go back.
    #[cold]
    fn keep_longest(&mut self) {
        // Of each sample: how long the longest chain is that ends there, and the one before it in that chain.
        let mut lengths = [0_usize; ALL];
        let mut before = [ALL; ALL];
        let mut last = 0;
        for here in 0..self.len {
            let earlier = (0..here).filter(|&at| self.samples[at].back >= self.samples[here].back);
            let best = earlier.max_by_key(|&at| lengths[at]);
            lengths[here] = best.map_or(0, |at| lengths[at]) + 1;
            before[here] = best.unwrap_or(ALL);
            if lengths[here] > lengths[last] {
                last = here;
            }
        }
        let all = self.samples;
        self.len = lengths[last];
        for at in (0..self.len).rev() {
            self.samples[at] = all[last];
            last = before[last].min(ALL - 1);
        }
    }

    /// The sample whose absence costs least. `None` where there are too few to choose.
    fn least(&self) -> Option<Seen> {
        let all = self.all();
        if let [oldest, second, ..] = all
            && second.age > HORIZON_TICKS
        {
            return Some(*oldest);
        }
        let cost = |triple: &[Seen]| {
            let [a, it, b] = [triple[0], triple[1], triple[2]];
            let (gap, span) = (u64::from(a.age - b.age), u64::from(a.back - b.back));
            // On a line between its neighbours it would lie here.
            let on_line = (gap * u64::from(a.back - it.back)).checked_div(span);
            let lost = on_line.map_or(0, |ticks| gap + CORNER * ticks.abs_diff(u64::from(a.age - it.age)));
            (lost << 16) / (u64::from(it.age) + 1)
        };
        all.windows(3).min_by_key(|triple| cost(triple)).map(|triple| triple[1])
    }
}

/// The words of a lane.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    newest: &'a AtomicU64,
    kept: &'a [AtomicU64],
}

/// What is known of a message's age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// About so many nanoseconds.
    About(u64),
    /// So many nanoseconds or more.
    AtLeast(u64),
}

impl<'a> History<'a> {
    /// Views a lane's newest sample and those that are kept.
    pub fn attach(newest: &'a AtomicU64, kept: &'a [AtomicU64]) -> Self {
        Self { newest, kept: &kept[..kept.len().min(KEPT)] }
    }

    /// Copies the samples. The end and the time that [`Snapshot::age`] is given are looked at afterwards, so that no
    /// sample is from later.
    pub fn load(&self) -> Snapshot {
        let mut words = [0; ALL];
        // Acquire: pairs with the Release in `Recorder::record`. What was the newest before it is among the kept.
        words[KEPT] = self.newest.load(Ordering::Acquire);
        for (word, kept) in words.iter_mut().zip(self.kept) {
            // Relaxed: each is complete in itself.
            *word = kept.load(Ordering::Relaxed);
        }
        Snapshot(words)
    }

    /// Keeps a sample, in an unused place or in that of the one that is missed least.
    fn keep(&self, sample: Sample, now: Sample) {
        let chain = Chain::of(self.kept.iter().map(|word| word.load(Ordering::Relaxed)), now);
        // Not one that cannot be true: it was found in the file.
        let Some(kept) = sample.seen_from(now, 0) else { return };
        if chain.all().iter().any(|known| (known.age, known.back) == (kept.age, kept.back)) {
            return;
        }
        let is_used = |place: usize| chain.all().iter().any(|known| known.place as usize == place);
        let place = match chain.len < self.kept.len() {
            true => (0..self.kept.len()).find(|&place| !is_used(place)),
            false => chain.least().map(|least| least.place as usize),
        };
        if let Some(word) = place.and_then(|place| self.kept.get(place)) {
            word.store(sample.pack(), Ordering::Relaxed);
        }
    }
}

/// Samples of a lane, copied.
#[derive(Clone, Debug)]
pub struct Snapshot([u64; ALL]);

impl Snapshot {
    /// How old message `sequence` is at `now_ns`, when the lane's end is `end`. `None` if that is not known at all, or if
    /// it is not published.
    pub fn age(&self, sequence: u64, end: u64, now_ns: u64) -> Option<Age> {
        // The message has this distance from the end, which those before it reach and those after it do not.
        let back = u32::try_from(end.checked_sub(sequence)?).ok().filter(|&back| back > 0)?;
        let chain = Chain::of(self.0.iter().copied(), Sample::new(now_ns, end));
        let (before, after) = chain.all().split_at(chain.all().partition_point(|seen| seen.back >= back));
        let within_tick_ns = now_ns & ((1 << TICK_SHIFT) - 1);
        let age_ns = |seen: &Seen| (u64::from(seen.age) << TICK_SHIFT) + within_tick_ns;
        let (after_ns, after_back) = after.first().map_or((0, 0), |seen| (age_ns(seen), seen.back));
        // Its time is up to a tick later than its word says.
        let at_least = after_ns.checked_sub(1 << TICK_SHIFT).map(Age::AtLeast);
        let Some(before) = before.last() else { return at_least };
        let gap_ns = age_ns(before) - after_ns;
        if gap_ns > GAP_NS + after_ns / 2 {
            return at_least;
        }
        // In the middle of its share of the gap: of a single message in it, nothing else is known.
        let (passed, all) = (u64::from(before.back - back) * 2 + 1, u64::from(before.back - after_back) * 2);
        let share_ns = u128::from(gap_ns) * u128::from(passed) / u128::from(all.max(1));
        Some(Age::About(age_ns(before) - share_ns as u64))
    }
}

impl Snapshot {
    /// Where the lane's end was at the last sample that is not later than `at_ns`: what came after that time begins there or
    /// later. `None` if none is so old. `end` and `now_ns` as for [`Snapshot::age`].
    pub fn end_before(&self, at_ns: u64, end: u64, now_ns: u64) -> Option<u64> {
        let chain = Chain::of(self.0.iter().copied(), Sample::new(now_ns, end));
        let ago = Sample::new(now_ns, end).tick.wrapping_sub(Sample::new(at_ns, 0).tick);
        // Its time is up to a tick later than its word says.
        let before = chain.all().iter().rev().find(|seen| seen.age > ago)?;
        end.checked_sub(u64::from(before.back))
    }
}

/// What the supervisor remembers of a lane between two looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recorder {
    last: Option<Sample>,
    /// `last` is the first that was seen of this end.
    is_first: bool,
}

impl Recorder {
    /// Goes on with what another has recorded.
    pub fn resume(history: &History<'_>) -> Self {
        Self { last: Sample::unpack(history.newest.load(Ordering::Acquire)), is_first: true }
    }

    /// Records a look: the lane's end was `end` at `at_ns`, and not before. True if the end has moved since the last one.
    pub fn record(&mut self, history: &History<'_>, at_ns: u64, end: u64) -> bool {
        let now = Sample::new(at_ns, end);
        let has_moved = self.last.is_none_or(|last| last.end != now.end);
        // Of a time in which nothing happens, the first look and the last are kept.
        if let Some(last) = self.last.filter(|_| has_moved || self.is_first) {
            history.keep(last, now);
        }
        (self.last, self.is_first) = (Some(now), has_moved);
        // Release: pairs with the Acquire in `load`; the one before it is among the kept.
        history.newest.store(now.pack(), Ordering::Release);
        has_moved
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const S: u64 = 1_000_000_000;
    /// A time far from 0.
    const START: u64 = 5_000_000 * S;

    struct Lane {
        newest: AtomicU64,
        kept: Vec<AtomicU64>,
        recorder: Recorder,
        /// Time and end of each look.
        looks: Vec<(u64, u64)>,
    }

    impl Lane {
        fn new() -> Self {
            let kept = (0..KEPT).map(|_| AtomicU64::new(0)).collect();
            let newest = AtomicU64::new(first(START));
            let recorder = Recorder::resume(&History::attach(&newest, &[]));
            Self { newest, kept, recorder, looks: Vec::new() }
        }

        fn look(&mut self, at_ns: u64, end: u64) -> bool {
            let history = History::attach(&self.newest, &self.kept);
            self.looks.push((at_ns, end));
            self.recorder.record(&history, at_ns, end)
        }

        fn age(&self, sequence: u64, end: u64, now_ns: u64) -> Option<Age> {
            History::attach(&self.newest, &self.kept).load().age(sequence, end, now_ns)
        }

        /// Age in seconds, where one is told.
        fn about(&self, sequence: u64, end: u64, now_ns: u64) -> f64 {
            match self.age(sequence, end, now_ns) {
                Some(Age::About(ns)) => ns as f64 / S as f64,
                other => panic!("{other:?} of {sequence} at {now_ns}"),
            }
        }
    }

    fn is_near(age_s: f64, truth_s: f64, by_s: f64) -> bool {
        (age_s - truth_s).abs() <= by_s
    }

    #[test]
    fn a_word_says_when_and_where() {
        for (at_ns, end) in [(START, 0), (START + 77 * S, (1 << 32) + 5), (u64::MAX, u64::MAX)] {
            let sample = Sample::new(at_ns, end);
            assert_eq!(Sample::unpack(sample.pack()), Some(sample));
        }
        assert_eq!(Sample::unpack(0), None);
        let now = Sample::new(START, 10);
        assert!(Sample::new(START - S, 11).seen_from(now, 0).is_none(), "beyond the end");
        assert!(Sample::new(START + S, 9).seen_from(now, 0).is_none(), "from the future");
    }

    #[test]
    fn what_came_after_a_time_begins_at_the_last_sample_before_it() {
        let mut lane = Lane::new();
        for (second, end) in [(1, 10), (2, 10), (3, 25), (4, 40)] {
            lane.look(START + second * S, end);
        }
        let now_ns = START + 5 * S;
        let history = History::attach(&lane.newest, &lane.kept).load();
        let end_before = |at_ns| history.end_before(at_ns, 50, now_ns);
        assert_eq!(end_before(now_ns), Some(40));
        assert_eq!(end_before(START + 4 * S + S / 2), Some(40));
        assert_eq!(end_before(START + 3 * S + S / 2), Some(25));
        assert_eq!(end_before(START + 2 * S + S / 2), Some(10));
        assert_eq!(end_before(START + S / 2), Some(0), "it was made then");
        assert_eq!(end_before(START - S), None, "nothing is known");
    }

    #[test]
    fn steady_traffic_is_dated_along_the_line() {
        let mut lane = Lane::new();
        let mut last = (0, 0);
        for turn in 0..36_000_u64 {
            last = (START + turn * S / 10, turn * 100);
            assert_eq!(lane.look(last.0, last.1), turn > 0);
        }
        for behind in [50_u64, 999, 10_000, 100_000, 1_000_000, 3_500_000] {
            let (age_s, truth_s) = (lane.about(last.1 - behind, last.1, last.0), behind as f64 / 1000.0);
            assert!(is_near(age_s, truth_s, 0.02), "{age_s} s, {truth_s} s");
        }
    }

    #[test]
    fn the_end_of_a_silence_is_remembered() {
        let mut lane = Lane::new();
        lane.look(START + S / 2, 0);
        for turn in 1..=600 {
            lane.look(START + turn * S, 5);
        }
        // Something at 600.4 s, seen at 600.5 s.
        lane.look(START + 6_005 * S / 10, 8);
        lane.look(START + 700 * S, 8);
        let now_ns = START + 702 * S;
        assert!(is_near(lane.about(4, 8, now_ns), 701.25, 0.25));
        assert!(is_near(lane.about(6, 8, now_ns), 101.75, 0.25));
        // Since the last look.
        assert!(is_near(lane.about(8, 9, START + 7_015 * S / 10), 0.75, 0.76));
        assert_eq!(lane.age(9, 9, now_ns), None, "not published");
        assert_eq!(lane.age(12, 9, now_ns), None);
    }

    #[test]
    fn bursts_without_a_pattern_are_dated_to_a_fraction_of_their_age() {
        let mut lane = Lane::new();
        let (mut end, mut at_ns, mut seed) = (0_u64, START, 7_u64);
        let mut published = Vec::new();
        for _ in 0..36_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (seed >> 60) < 5 {
                let burst = 1 + (seed >> 50) % 100;
                published.extend((0..burst).map(|_| at_ns + S / 20));
                end += burst;
            }
            at_ns += S / 10;
            lane.look(at_ns, end);
        }
        let mut worst: f64 = 0.0;
        for (sequence, &published_ns) in published.iter().enumerate() {
            let truth_s = (at_ns - published_ns) as f64 / S as f64;
            let error = (lane.about(sequence as u64, end, at_ns) - truth_s).abs();
            assert!(error <= 0.25 + truth_s / 6.0, "{error} s at {truth_s} s");
            worst = worst.max(if truth_s < 2.0 { error } else { 0.0 });
        }
        assert!(worst <= 0.25, "{worst} s");
    }

    #[test]
    fn beyond_the_history_only_a_bound_is_known() {
        let mut lane = Lane::new();
        for turn in 1..=3 * 3_600 {
            lane.look(START + turn * S, turn);
        }
        let (end, now_ns) = (3 * 3_600, START + 3 * 3_600 * S);
        assert!(is_near(lane.about(end - 3_590, end, now_ns), 3_590.0, 5.0));
        match lane.age(0, end, now_ns) {
            Some(Age::AtLeast(ns)) => assert!((3_600 * S..2 * 3_600 * S).contains(&ns), "{ns}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(Snapshot([0; ALL]).age(3, 5, now_ns), None, "nobody ever looked");
    }

    #[test]
    fn while_nobody_looks_nothing_is_made_up() {
        let mut lane = Lane::new();
        lane.look(START + S, 5);
        lane.look(START + 2 * S, 5);
        // The holder ends; ten minutes later something is published.
        let now_ns = START + 600 * S;
        assert_eq!(lane.age(5, 6, now_ns), None);
        // Another one goes on.
        let history = History::attach(&lane.newest, &lane.kept);
        lane.recorder = Recorder::resume(&history);
        lane.look(now_ns, 6);
        match lane.age(5, 6, now_ns + 10 * S) {
            Some(Age::AtLeast(ns)) => assert!((10 * S - (1 << TICK_SHIFT)..=10 * S).contains(&ns), "{ns}"),
            other => panic!("{other:?}"),
        }
        lane.look(now_ns + S, 6);
        lane.look(now_ns + 2 * S, 7);
        assert!(is_near(lane.about(6, 7, now_ns + 10 * S), 8.5, 0.01));
        assert!(is_near(lane.about(4, 7, now_ns + 10 * S), 609.5, 0.5), "known from before");
    }

    #[test]
    fn samples_that_contradict_the_others_are_ignored_and_overwritten() {
        let mut lane = Lane::new();
        for turn in 1..=100 {
            lane.look(START + turn * S / 10, turn * 10);
        }
        let now_ns = START + 10 * S;
        let truth = lane.about(500, 1000, now_ns);
        let lies = [
            Sample::new(now_ns - 9 * S, 900),
            Sample::new(now_ns - S, 100),
            Sample::new(now_ns + 3_600 * S, 400),
            Sample::new(now_ns - S, 1_000_000),
            Sample { tick: 0, end: 499 },
        ];
        for (place, lie) in lies.iter().enumerate() {
            lane.kept[110 + place].store(lie.pack(), Ordering::Relaxed);
        }
        let age = lane.about(500, 1000, now_ns);
        assert!(is_near(age, truth, 0.001), "{age} s instead of {truth} s");
        for turn in 101..=160 {
            lane.look(START + turn * S / 10, turn * 10);
        }
        let left: Vec<_> = lane.kept.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        assert!(!lies[..2].iter().any(|lie| left.contains(&lie.pack())), "their places are used");
        // A lie in the place of the newest: it is forgotten at the next look.
        lane.newest.store(Sample::new(now_ns + 99 * S, 7).pack(), Ordering::Relaxed);
        lane.recorder = Recorder::resume(&History::attach(&lane.newest, &lane.kept));
        lane.look(START + 161 * S / 10, 1610);
        assert!(is_near(lane.about(1300, 1610, START + 161 * S / 10), 3.1, 0.2));
    }

    #[test]
    fn a_late_store_of_a_former_holder_is_harmless() {
        let mut lane = Lane::new();
        let mut late = Recorder::default();
        for turn in 1..=300 {
            lane.look(START + turn * S / 10, turn * 10);
            if turn == 200 {
                late = lane.recorder;
            }
        }
        // It stood still between its look at 20.1 s and the stores that follow from it.
        late.record(&History::attach(&lane.newest, &lane.kept), START + 201 * S / 10, 2010);
        let now_ns = START + 30 * S;
        for sequence in [2_995, 2_500, 2_005, 500] {
            let truth_s = 30.0 - sequence as f64 / 100.0;
            assert!(is_near(lane.about(sequence, 3000, now_ns), truth_s, 0.25), "{sequence}");
        }
    }

    #[test]
    fn ends_and_times_wrap() {
        let mut lane = Lane::new();
        let base = u64::from(u32::MAX) - 500;
        let start = (u64::from(u32::MAX) << TICK_SHIFT) - 5 * S;
        lane.recorder = Recorder::default();
        for turn in 1..=100 {
            lane.look(start + turn * S / 10, base + turn * 10);
        }
        for behind in [20, 400, 900] {
            let age_s = lane.about(base + 1000 - behind, base + 1000, start + 10 * S);
            assert!(is_near(age_s, behind as f64 / 100.0, 0.1), "{age_s}");
        }
    }

    proptest! {
        /// Whatever lies in the file, nothing panics, and no age is told that its samples do not bound.
        #[test]
        fn any_words_are_read(
            words in prop::collection::vec(any::<u64>(), KEPT + 1),
            near in prop::collection::vec((0_u32..100_000, 0_u32..100_000), 0..40),
            (sequence, more, at_ns) in (0_u64..1 << 40, 0_u64..1 << 34, any::<u64>()),
        ) {
            let kept: Vec<_> = words.into_iter().map(AtomicU64::new).collect();
            let now = Sample::new(at_ns, sequence + more);
            for (word, (age, back)) in kept.iter().zip(near) {
                let sample = Sample { tick: now.tick.wrapping_sub(age), end: now.end.wrapping_sub(back) };
                word.store(sample.pack(), Ordering::Relaxed);
            }
            let history = History::attach(&kept[KEPT], &kept[..KEPT]);
            let _ = history.load().age(sequence, sequence + more, at_ns);
            let mut recorder = Recorder::resume(&history);
            recorder.record(&history, at_ns, sequence + more);
            recorder.record(&history, at_ns.wrapping_add(S), sequence + more + 1);
        }

        /// With looks at any times, the truth lies as near as the samples around it allow.
        #[test]
        fn ages_are_near_the_truth(steps in prop::collection::vec((50_u64..1_000, 0_u64..50), 1..400)) {
            let mut lane = Lane::new();
            let (mut at_ns, mut end) = (START, 0);
            lane.look(at_ns, 0);
            for &(ms, count) in &steps {
                at_ns += ms * 1_000_000;
                end += count;
                lane.look(at_ns, end);
            }
            for sequence in 0..end {
                let after = lane.looks.iter().position(|look| look.1 > sequence).unwrap();
                let (young_ns, old_ns) = (at_ns - lane.looks[after].0, at_ns - lane.looks[after - 1].0);
                let Some(Age::About(ns)) = lane.age(sequence, end, at_ns) else { continue };
                let slack_ns = 30_000_000 + old_ns / 4;
                prop_assert!(ns + slack_ns >= young_ns && ns <= old_ns + slack_ns, "{ns} of {young_ns}..{old_ns}");
            }
        }
    }
}

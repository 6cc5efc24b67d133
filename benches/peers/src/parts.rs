//! The loops that every peer goes through, ours included: single messages there and back, a stream, and a stream to
//! several readers.

use std::sync::atomic::Ordering;

use bus_bench::content::{Order, fill};
use bus_bench::guest::{Blocks, Nanos, Outcome, Part, Stream, Turn, pin};

use crate::way::{Cell, Inbox, Kind, Outbox, Result, Seen, failed};

/// Stamp of the message that ends a slice.
const LAST: u64 = u64::MAX;
/// Stamp of a message in a block that is timed as a whole.
const PLAIN: u64 = 0;

/// Most messages that are asked for at once.
const BATCH: usize = 64;

/// Shared word: how many messages the consumer has seen; of several, the slowest.
const SEEN: usize = 0;
/// Shared word: the consumer has seen the last one; of several, all have.
const DONE: usize = 1;

/// Pause before the last message is sent again to a peer that may have lost it.
const AGAIN_AFTER_NS: u64 = 2_000_000;

/// Opens one side: role 0 produces or calls, role 1 consumes or answers, for all readers if there are several. Both sides
/// open the ways in the same order, so that ends may wait for each other.
pub(crate) fn open<const W: usize, O, I>(
    cell: &Cell,
    role: usize,
    outbox: impl Fn(&str) -> Result<O>,
    inbox: impl Fn(&str) -> Result<I>,
) -> Result<Box<dyn Part>>
where
    O: Outbox<W> + 'static,
    I: Inbox<W> + 'static,
{
    Ok(match (cell.kind, role) {
        (Kind::Throughput | Kind::FanOut, 0) => Box::new(Producer::new(cell, outbox("there")?)),
        (Kind::Throughput, _) => Box::new(Consumer::new(cell, inbox("there")?)),
        (Kind::FanOut, _) => {
            let ends = (0..cell.readers).map(|_| inbox("there")).collect::<Result<_>>()?;
            Box::new(Readers { cell: cell.clone(), ends, next: 0 })
        }
        (Kind::Latency, 0) => {
            let to = outbox("there")?;
            Box::new(Caller(Line::new(cell, to, inbox("back")?)))
        }
        (Kind::Latency, _) => {
            let from = inbox("there")?;
            Box::new(Answerer(Line::new(cell, outbox("back")?, from)))
        }
    })
}

/// Opens both sides in this process; `way` gives both ends of a way.
pub(crate) fn open_together<const W: usize, O, I>(
    cell: &Cell,
    way: impl Fn() -> Result<(O, I)>,
) -> Result<Box<dyn Part>>
where
    O: Outbox<W> + Send + 'static,
    I: Inbox<W> + Send + 'static,
{
    let (to, from) = way()?;
    let core = cell.other_core;
    Ok(match cell.kind {
        Kind::Throughput | Kind::FanOut => Box::new(Together {
            first: Producer::new(cell, to),
            second: Consumer::new(cell, from),
            second_core: core,
        }),
        Kind::Latency => {
            let (answer, answered) = way()?;
            Box::new(Together {
                first: Caller(Line::new(cell, to, answered)),
                second: Answerer(Line::new(cell, answer, from)),
                second_core: core,
            })
        }
    })
}

struct Producer<O, const W: usize> {
    cell: Cell,
    to: O,
    number: u64,
}

impl<const W: usize, O: Outbox<W>> Part for Producer<O, W> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let (clock, until) = (turn.clock(), turn.deadline());
        let (first, mut number) = (self.number, self.number);
        let begun = clock.now();
        let elapsed_ns = loop {
            for _ in 0..self.cell.block {
                self.to.send(|words| fill(words, number, PLAIN))?;
                number += 1;
            }
            if self.cell.window > 0 {
                // Acquire: pairs with the consumer's Release; nothing but the count itself matters.
                while number - first > turn.word(SEEN).load(Ordering::Acquire) + self.cell.window {
                    self.to.flush()?;
                    std::thread::yield_now();
                }
            }
            let now = clock.now();
            if now >= until {
                break clock.ns_f64(now - begun);
            }
        };
        self.end(turn, number)?;
        self.number = number + 1;
        Ok(Outcome {
            ops: self.number - first,
            mean_ns: Some(elapsed_ns / (number - first) as f64),
            ..Outcome::of("producer")
        })
    }
}

impl<const W: usize, O: Outbox<W>> Producer<O, W> {
    fn new(cell: &Cell, to: O) -> Self {
        Self { cell: cell.clone(), to, number: 0 }
    }

    /// The last message, again and again where it may get lost.
    fn end(&mut self, turn: &Turn<'_>, number: u64) -> Result<()> {
        let clock = turn.clock();
        loop {
            self.to.send(|words| fill(words, number, LAST))?;
            self.to.flush()?;
            let sent = clock.now();
            // Acquire: pairs with the consumer's Release.
            while turn.word(DONE).load(Ordering::Acquire) == 0 {
                if !self.cell.lossy {
                    return Ok(());
                }
                if clock.ns_between(sent, clock.now()) > AGAIN_AFTER_NS {
                    break;
                }
                std::thread::yield_now();
            }
            if turn.word(DONE).load(Ordering::Acquire) != 0 {
                return Ok(());
            }
        }
    }
}

/// What one reader has seen in a slice.
struct Tally {
    first: u64,
    lossy: bool,
    order: Order,
    ops: u64,
    corrupt: u64,
    last: bool,
}

impl Tally {
    fn new(first: u64, lossy: bool) -> Self {
        Self { first, lossy, order: Order::starting_at(first), ops: 0, corrupt: 0, last: false }
    }

    #[inline(always)]
    fn see(&mut self, content: Seen) {
        match content {
            // The end of an earlier slice that was sent more than once.
            Some((number, _)) if self.lossy && number < self.first => {}
            Some((number, stamp)) => {
                self.ops += 1;
                self.order.note(number);
                self.last |= stamp == LAST;
            }
            None => {
                self.ops += 1;
                self.corrupt += 1;
            }
        }
    }
}

struct Consumer<I, const W: usize> {
    cell: Cell,
    from: I,
    /// Number of the next slice's first message.
    next: u64,
}

impl<const W: usize, I: Inbox<W>> Consumer<I, W> {
    fn new(cell: &Cell, from: I) -> Self {
        Self { cell: cell.clone(), from, next: 0 }
    }
}

impl<const W: usize, I: Inbox<W>> Part for Consumer<I, W> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock();
        let mut tally = Tally::new(self.next, self.cell.lossy);
        let (mut stream, mut mark_at) = (Stream::new(), 1);
        while !tally.last {
            self.from.receive(BATCH, |content| tally.see(content))?;
            if tally.ops >= mark_at {
                stream.mark(clock.now(), tally.ops);
                mark_at = tally.ops + self.cell.block;
                if self.cell.window > 0 {
                    // Release: pairs with the producer's Acquire.
                    turn.word(SEEN).store(tally.ops, Ordering::Release);
                }
            }
        }
        // Release: pairs with the producer's Acquire.
        turn.word(DONE).store(1, Ordering::Release);
        self.next = tally.order.next();
        Ok(Outcome {
            ops: tally.ops,
            block_ns: stream.median_ns(clock),
            mean_ns: stream.mean_ns(clock),
            lost: tally.order.lost,
            out_of_order: tally.order.out_of_order,
            corrupt: tally.corrupt,
            ..Outcome::of("consumer")
        })
    }
}

/// Several readers in one process, on one core: each takes a batch, then the next one does. A reader waits until its batch
/// is complete; the others are never further behind than one batch, so the producer always finds room meanwhile.
struct Readers<I, const W: usize> {
    cell: Cell,
    ends: Vec<I>,
    /// Number of the next slice's first message.
    next: u64,
}

impl<const W: usize, I: Inbox<W>> Part for Readers<I, W> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock();
        let first = self.next;
        let mut tallies: Vec<Tally> = self.ends.iter().map(|_| Tally::new(first, self.cell.lossy)).collect();
        let (mut stream, mut mark_at, mut upto) = (Stream::new(), 1, first);
        while tallies.iter().any(|tally| !tally.last) {
            upto += BATCH as u64;
            for (end, tally) in self.ends.iter_mut().zip(&mut tallies) {
                while !tally.last && tally.order.next() < upto {
                    let missing = (upto - tally.order.next()) as usize;
                    end.receive(missing, |content| tally.see(content))?;
                }
            }
            let ops: u64 = tallies.iter().map(|tally| tally.ops).sum();
            if ops >= mark_at {
                stream.mark(clock.now(), ops);
                mark_at = ops + self.cell.block;
                let slowest = tallies.iter().map(|tally| tally.ops).min().unwrap_or(0);
                // Release: pairs with the producer's Acquire.
                turn.word(SEEN).store(slowest, Ordering::Release);
            }
        }
        // Release: pairs with the producer's Acquire.
        turn.word(DONE).store(1, Ordering::Release);
        self.next = tallies.first().map_or(first, |tally| tally.order.next());
        let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
        Ok(Outcome {
            ops: sum(|tally| tally.ops),
            block_ns: stream.median_ns(clock),
            mean_ns: stream.mean_ns(clock),
            lost: sum(|tally| tally.order.lost),
            out_of_order: sum(|tally| tally.order.out_of_order),
            corrupt: sum(|tally| tally.corrupt),
            ..Outcome::of("consumer")
        })
    }
}

/// One end of the ways there and back.
struct Line<O, I, const W: usize> {
    block: u64,
    to: O,
    from: I,
    number: u64,
    histogram: Nanos,
}

impl<const W: usize, O: Outbox<W>, I: Inbox<W>> Line<O, I, W> {
    fn new(cell: &Cell, to: O, from: I) -> Self {
        Self { block: cell.block, to, from, number: 0, histogram: Nanos::new() }
    }

    #[inline(always)]
    fn send(&mut self, number: u64, stamp: u64) -> Result<()> {
        self.to.send(|words| fill(words, number, stamp))?;
        self.to.flush()
    }

    #[inline(always)]
    fn receive(&mut self) -> Result<Seen> {
        let mut content = None;
        self.from.receive(1, |seen| content = seen)?;
        Ok(content)
    }

    /// Notes how long a message was under way that carries the time when it was sent.
    #[inline(always)]
    fn time(&mut self, turn: &Turn<'_>, stamp: u64) {
        if stamp != PLAIN && stamp != LAST {
            self.histogram.record(turn.clock().ns_between(stamp, turn.clock().now()));
        }
    }
}

/// The side that begins each round trip. Blocks without a look at the clock, for the ratio, alternate with blocks in
/// which every message carries the time when it was sent.
struct Caller<O, I, const W: usize>(Line<O, I, W>);

impl<const W: usize, O: Outbox<W>, I: Inbox<W>> Part for Caller<O, I, W> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let line = &mut self.0;
        let (clock, until) = (turn.clock(), turn.deadline());
        line.histogram.clear();
        let mut blocks = Blocks::new();
        let mut order = Order::starting_at(line.number);
        let first = line.number;
        let mut corrupt = 0;
        let mut round_trip = |line: &mut Line<O, I, W>, stamp: u64| -> Result<()> {
            line.send(line.number, stamp)?;
            match line.receive()? {
                Some((number, stamp)) => {
                    line.time(turn, stamp);
                    order.note(number);
                }
                None => corrupt += 1,
            }
            line.number += 1;
            Ok(())
        };
        let mut now = clock.now();
        while now < until {
            for _ in 0..line.block {
                round_trip(line, PLAIN)?;
            }
            blocks.push(clock.ns_f64(clock.now() - now), 2 * line.block);
            for _ in 0..line.block {
                round_trip(line, clock.now())?;
            }
            now = clock.now();
        }
        round_trip(line, LAST)?;
        Ok(Outcome {
            ops: line.number - first,
            block_ns: blocks.median_ns(),
            histogram: line.histogram.to_sparse(),
            lost: order.lost,
            out_of_order: order.out_of_order,
            corrupt,
            ..Outcome::of("producer")
        })
    }
}

/// The side that answers.
struct Answerer<O, I, const W: usize>(Line<O, I, W>);

impl<const W: usize, O: Outbox<W>, I: Inbox<W>> Part for Answerer<O, I, W> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let line = &mut self.0;
        line.histogram.clear();
        let mut order = Order::starting_at(line.number);
        let (mut ops, mut corrupt) = (0, 0);
        loop {
            let seen = line.receive()?;
            // A message that cannot be read is answered all the same, so that the other side goes on.
            corrupt += u64::from(seen.is_none());
            let (number, stamp) = seen.unwrap_or((line.number, PLAIN));
            line.time(turn, stamp);
            order.note(number);
            line.number = number + 1;
            let timed = stamp != PLAIN && stamp != LAST;
            line.send(number, if timed { turn.clock().now() } else { stamp })?;
            ops += 1;
            if stamp == LAST {
                break;
            }
        }
        Ok(Outcome {
            ops,
            histogram: line.histogram.to_sparse(),
            lost: order.lost,
            out_of_order: order.out_of_order,
            corrupt,
            ..Outcome::of("consumer")
        })
    }
}

/// Both sides in one process, each with a thread and a core of its own: for libraries that cannot leave it.
struct Together<A, B> {
    first: A,
    second: B,
    second_core: usize,
}

impl<A: Part, B: Part + Send> Part for Together<A, B> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let (first, second, core) = (&mut self.first, &mut self.second, self.second_core);
        let (here, there) = std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                pin(core)?;
                second.slice(turn)
            });
            let here = first.slice(turn);
            (here, thread.join().unwrap_or_else(|_| Err(failed("the second thread", "it panicked"))))
        });
        let (here, there) = (here?, there?);
        let mut times = Nanos::new();
        times.merge_sparse(&here.histogram);
        times.merge_sparse(&there.histogram);
        Ok(Outcome {
            ops: here.ops,
            block_ns: here.block_ns.or(there.block_ns),
            mean_ns: here.mean_ns.or(there.mean_ns),
            histogram: times.to_sparse(),
            lost: here.lost + there.lost,
            out_of_order: here.out_of_order + there.out_of_order,
            corrupt: here.corrupt + there.corrupt,
            ..Outcome::of("both")
        })
    }
}

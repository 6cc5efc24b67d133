//! `priority`: critical messages at a fixed rate, once while nothing else goes on and once while the normal lane is
//! kept full. From just before the publish to the receive, by a reader that spins and does nothing with what it gets.
//! The sender is the process that fills the normal lane, or one of its own.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::block::Block;
use crate::bus::{Connection, Publisher, Settings, Subscriber};
use crate::content::{Order, fill};
use crate::error::Result;
use crate::floor::Turn;
use crate::histogram::Nanos;
use crate::protocol::Outcome;
use crate::spec::{Sender as Whose, Spec};

use super::paced::Schedule;
use super::{LAST, Part};

/// Word: 1 when the critical sender has finished.
const OVER: usize = 0;

/// How long before a message is due a sender that shares its core stops sleeping.
const WAKE_EARLY: Duration = Duration::from_micros(20);

/// Role 0 fills the normal lane (and sends the critical messages if nobody else does), role 1 reads, role 2 is the
/// sender of its own.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    let topic = bus.topic::<WORDS>(&format!("{}.lanes", spec.topic), &Settings::of(spec))?;
    if role == 1 {
        return Ok(Box::new(Reader {
            from: topic.subscriber(spec.wait)?,
            normal: Order::default(),
            critical: Order::default(),
            enders: 1 + u64::from(spec.saturated),
            histogram: Nanos::new(),
        }));
    }
    // Without this, a sleep of 100 us takes 150.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let critical = role == 2 || spec.sender == Whose::Same;
    Ok(Box::new(Writer {
        to: topic.publisher()?,
        block: Block::new(),
        normal: (role == 0 && spec.saturated).then_some(0),
        critical: critical.then_some(0),
        rate_hz: spec.rate_hz,
    }))
}

struct Writer<const WORDS: usize> {
    to: Publisher<WORDS>,
    block: Block<WORDS>,
    /// Number of the next normal message, if this process fills that lane.
    normal: Option<u64>,
    /// Number of the next critical message, if this process sends those.
    critical: Option<u64>,
    rate_hz: u64,
}

impl<const WORDS: usize> Part for Writer<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let (clock, until) = (turn.clock, turn.deadline());
        let schedule = Schedule::new(clock, clock.now(), self.rate_hz);
        let (mut index, mut filled) = (1, 0_u64);
        loop {
            let now = clock.now();
            if self.critical.is_some() {
                if now >= until {
                    break;
                }
                if now >= schedule.due(index) {
                    self.send_critical(clock.now())?;
                    index += 1;
                    continue;
                }
            } else if turn.control.word(OVER).load(Ordering::Acquire) != 0 {
                break;
            }
            if self.normal.is_some() {
                filled += u64::from(self.fill_normal()?);
            } else if self.critical.is_some() {
                wait_for(turn, schedule.due(index));
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if self.critical.is_some() {
            self.send_critical(LAST)?;
            turn.control.word(OVER).store(1, Ordering::Release);
        }
        if let Some(number) = self.normal {
            fill(&mut self.block.words, number, LAST);
            self.to.publish(&self.block)?;
            self.normal = Some(number + 1);
        }
        let mut outcome = Outcome::of("producer");
        outcome.ops = filled + index - 1;
        Ok(outcome)
    }
}

impl<const WORDS: usize> Writer<WORDS> {
    fn send_critical(&mut self, stamp: u64) -> Result<()> {
        let number = self.critical.unwrap_or(0);
        fill(&mut self.block.words, number, stamp);
        self.to.publish_critical(&self.block)?;
        self.critical = Some(number + 1);
        Ok(())
    }

    /// Whether the lane had room.
    fn fill_normal(&mut self) -> Result<bool> {
        let number = self.normal.unwrap_or(0);
        fill(&mut self.block.words, number, 0);
        let taken = self.to.try_publish(&self.block)?;
        self.normal = Some(number + u64::from(taken));
        Ok(taken)
    }
}

/// Spins until then; where the core is shared, sleeps most of the time instead.
fn wait_for(turn: &Turn<'_>, due: u64) {
    let clock = turn.clock;
    if turn.share_core {
        let left = Duration::from_nanos(clock.ns_between(clock.now(), due));
        if left > WAKE_EARLY {
            std::thread::sleep(left - WAKE_EARLY);
        }
    }
    while clock.now() < due {
        std::hint::spin_loop();
    }
}

struct Reader<const WORDS: usize> {
    from: Subscriber<WORDS>,
    normal: Order,
    critical: Order,
    /// Messages that say that a lane is finished.
    enders: u64,
    histogram: Nanos,
}

impl<const WORDS: usize> Part for Reader<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock;
        self.normal = Order::starting_at(self.normal.next());
        self.critical = Order::starting_at(self.critical.next());
        self.histogram.clear();
        let (mut enders, mut corrupt, mut normal) = (0, 0, 0_u64);
        while enders < self.enders {
            let message = self.from.receive()?;
            let now = clock.now();
            let critical = message.is_critical();
            let seen = message.content();
            message.ack();
            let Some((number, stamp)) = seen else {
                corrupt += 1;
                continue;
            };
            enders += u64::from(stamp == LAST);
            if critical {
                self.critical.note(number);
                if stamp != LAST {
                    self.histogram.record(clock.ns_between(stamp, now));
                }
            } else {
                self.normal.note(number);
                normal += 1;
            }
        }
        let mut outcome = Outcome::of("consumer");
        outcome.ops = self.histogram.count();
        outcome.block_ns = Some(self.histogram.quantile(0.99) as f64);
        outcome.histogram = self.histogram.to_sparse();
        outcome.lost = self.normal.lost + self.critical.lost;
        outcome.out_of_order = self.normal.out_of_order + self.critical.out_of_order;
        outcome.corrupt = corrupt;
        outcome.figures.insert("normal_messages".into(), normal as f64);
        Ok(outcome)
    }
}

//! Operations of members of a keyed group.

use crate::child::{Child, Verdict};
use bus_shm::{Batch, Bytes};
use std::time::Duration;

/// Takes all partitions, and a message.
pub(crate) fn claim_and_acknowledge(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, 1);
    child.begin();
    if let Some(message) = child.receive(&mut member) {
        child.acknowledge(message);
    }
    child.end();
    child.read_on(member);
}

/// Another member has come: half of the partitions go to it, which takes them.
pub(crate) fn hand_over(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, 1);
    let mut other = child.member();
    child.begin();
    for member in [&mut member, &mut other] {
        let message = child.receive(member);
        drop(message);
    }
    child.end();
    drop(other);
    child.read_on(member);
}

/// A member has died with messages in hand: its partitions are taken, and those messages come again.
pub(crate) fn take_over(child: Child) {
    let mut member = child.member();
    child.begin();
    child.told.ask();
    match member.receive_timeout(Duration::from_millis(900)) {
        Ok(Some(message)) => child.told.received(message.sequence(), message.attempts()),
        Ok(None) => {}
        Err(error) => child.failed(&error),
    }
    child.end();
    child.read_on(member);
}

/// The next message of a batch, told.
fn take(child: &Child, batch: &mut Batch<'_, Bytes>, sequences: &mut Vec<u64>) {
    child.told.ask();
    match batch.next_message() {
        Ok(Some(message)) => {
            child.told.received(message.sequence(), message.attempts());
            sequences.push(message.sequence());
        }
        Ok(None) => {}
        Err(error) => child.failed(&error),
    }
}

/// Another member has come while messages are in hand: of their keys nothing goes to it.
pub(crate) fn batch_beside(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, 1);
    let mut batch = member.receive_batch(2, 3, Duration::from_millis(1)).expect("a batch");
    let mut sequences = Vec::with_capacity(3);
    for _ in 0..2 {
        take(&child, &mut batch, &mut sequences);
    }
    let mut other = child.member();
    child.begin();
    take(&child, &mut batch, &mut sequences);
    child.end();
    if let Some(message) = child.receive(&mut other) {
        child.acknowledge(message);
    }
    child.told.acknowledge(&sequences);
    let kept = batch.ack();
    child.told.acknowledged(kept as u64);
    if kept != sequences.len() {
        child.failed(&"what was in hand was taken away");
    }
    drop(other);
    child.read_on(member);
}

/// What is in hand may be taken away from whoever stands still, and the rest of its key with it.
pub(crate) fn batch_fenced(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, 1);
    let mut batch = member.receive_batch(1, 3, Duration::from_millis(1)).expect("a batch");
    let mut sequences = Vec::with_capacity(3);
    take(&child, &mut batch, &mut sequences);
    // Whoever has come since has its share by then, so that what is stepped is the claim and not the change of members.
    child.begin_after(|| take(&child, &mut batch, &mut sequences));
    take(&child, &mut batch, &mut sequences);
    child.end();
    child.told.acknowledge(&sequences);
    let kept = batch.ack();
    child.told.acknowledged(kept as u64);
    (kept..sequences.len()).for_each(|_| child.told.acknowledgement_lost());
    child.read_on(member);
}

/// The message that is put aside may be taken away, too.
pub(crate) fn retry_fenced(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, 1);
    let message = child.receive(&mut member).expect("a message");
    child.begin();
    child.fail(message, Verdict::Retry);
    child.end();
    child.read_on(member);
}

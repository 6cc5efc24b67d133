//! Operations of members of a keyed group. Its messages have no keys here, so that each is of the partition of its sequence.

use crate::child::Child;
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

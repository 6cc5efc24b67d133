//! Operations on dead letters: published again, and purged.

use crate::child::{Child, Verdict};
use crate::scene::{BUS, ELSEWHERE, TOPIC, WITNESS};
use crate::told::Letters;
use bus_shm::dead_letters::{Filter, LetterId, list, purge, replay};
use bus_shm::inspect::BusView;
use bus_shm::{Bus, Bytes};
use std::time::Duration;

/// How many there are.
const COUNT: u64 = 2;

/// A process that has been a member, whose first messages were bad, and that takes part in the bus still. Whoever is a member
/// after it reads on while it stands still.
fn with_letters(child: &Child) -> (Bus, Filter) {
    let bus = child.bus();
    let mut member = child.scene.member(&child.topic(&bus));
    for _ in 0..COUNT {
        child.put_aside(&mut member, Verdict::Dead);
    }
    child.consume(&mut member, child.scene.ready - COUNT);
    // Announced by a thread of the member's, which would store at any moment of what is stepped.
    let ids = loop {
        let view = BusView::open(BUS, Some(&child.dir)).expect("the bus");
        let letters = list(&view, &Filter::topic(TOPIC)).expect("the dead letters");
        if letters.len() as u64 == COUNT && letters.iter().all(|letter| letter.announced) {
            break letters.iter().map(|letter| letter.id).collect::<Vec<LetterId>>();
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    drop(member);
    // No others: survivors have bad messages too.
    (bus, Filter { ids, ..Filter::topic(TOPIC) })
}

fn publish_again(child: Child, to: Option<&str>) {
    let (bus, filter) = with_letters(&child);
    let letters = if to.is_some() { Letters::Elsewhere } else { Letters::Replayed };
    if let Some(to) = to {
        // Nobody publishes there but whoever replays.
        let topic = bus.topic_builder::<Bytes>(to).lanes(1).producers(4).capacity(16).with_group(WITNESS);
        topic.max_message(1024).open().expect("another topic");
    }
    child.begin();
    child.told.letters_begun(letters);
    let replayed = replay(&bus, &filter, to);
    match &replayed {
        Ok(count) => child.told.letters_done(*count),
        Err(error) => child.failed(error),
    }
    child.end();
    drop(bus);
}

pub(crate) fn replay_here(child: Child) {
    publish_again(child, None);
}

pub(crate) fn replay_elsewhere(child: Child) {
    publish_again(child, Some(ELSEWHERE));
}

pub(crate) fn purge_all(child: Child) {
    let (bus, filter) = with_letters(&child);
    child.begin();
    child.told.letters_begun(Letters::Purged);
    let purged = purge(&bus, &filter);
    match &purged {
        Ok(count) => child.told.letters_done(*count),
        Err(error) => child.failed(error),
    }
    child.end();
    drop(bus);
}

//! A process of several threads takes part before it is registered for membarrier. In a program of its own: a process is registered once.

use bus_core::doorbell::Barrier;
use bus_shm::sys::barrier::{is_supported, of_ringer};
use bus_shm::{Bus, Bytes};
use std::time::{Duration, Instant};
use tests::cli::CliBus;

#[test]
fn it_runs_fences_until_a_thread_has_registered_it() {
    // Another process makes the bus: who makes one is registered by that.
    let cli = CliBus::new("registration");
    cli.run(&["up"]).expect(0);
    let (ends, waits) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || waits.recv());
    let bus = Bus::builder(&cli.bus.name).host(false).open().expect("the bus");
    let is_registered = || !is_supported() || of_ringer(Barrier::Membarrier) == Barrier::Membarrier;
    assert!(!is_supported() || !is_registered(), "not at once");
    let topic = bus.topic::<Bytes>("a.b").expect("a topic");
    let mut subscriber = topic.subscribe().expect("a place");
    let mut publisher = topic.publisher().expect("a publisher");
    let until = Instant::now() + Duration::from_secs(10);
    while !is_registered() {
        assert!(Instant::now() < until, "never registered");
        publisher.publish(b"message").expect("room");
        subscriber.receive().expect("a message").ack().expect("its own");
    }
    drop((subscriber, publisher, topic, bus));
    cli.run(&["down", "--force"]).expect(0);
    drop(ends);
    assert!(other.join().expect("it only waits").is_err());
}

//! Workers that share accounts: every account is one worker's at a time, and its bookings come in order.
//!
//! ```sh
//! cargo run --example keyed_group
//! ```

use bus_shm::{Bus, Bytes, Lane, Meta};
use std::collections::BTreeMap;
use std::time::Duration;

const ACCOUNTS: u64 = 20;
const BOOKINGS: u64 = 400;
const QUIET: Duration = Duration::from_millis(300);

/// What one worker has seen: of each account its bookings, in the order in which they came.
type Seen = BTreeMap<String, Vec<u64>>;

fn work(bus: &Bus) -> Result<Seen, Box<dyn std::error::Error + Send + Sync>> {
    let mut worker = bus.topic::<Bytes>("bookings")?.group("ledger").keyed().join()?;
    let mut seen = Seen::new();
    while let Some(message) = worker.receive_timeout(QUIET)? {
        let text = std::str::from_utf8(message.payload())?;
        let (account, number) = text.split_once(' ').ok_or("not a booking")?;
        let (account, number) = (account.to_owned(), number.parse()?);
        message.ack()?;
        seen.entry(account).or_default().push(number);
    }
    Ok(seen)
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let name = format!("keyed-example-{}", std::process::id());
    let bus = Bus::builder(&name).temporary(true).service("keyed-example").open()?;
    let topic = bus.topic_builder::<Bytes>("bookings").with_keyed_group("ledger").open()?;
    let mut publisher = topic.publisher()?;
    for number in 0..BOOKINGS {
        let account = format!("account-{}", number % ACCOUNTS);
        let meta = Meta::new().key(&account);
        publisher.publish_bytes_with(Lane::NORMAL, format!("{account} {number}").as_bytes(), &meta)?;
    }
    let workers: Vec<Seen> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| work(&bus))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker")).collect::<Result<_, _>>()
    })?;
    let mut all = Seen::new();
    for (index, seen) in workers.iter().enumerate() {
        let bookings: usize = seen.values().map(Vec::len).sum();
        println!("worker {index}: {} accounts, {bookings} bookings", seen.len());
        for (account, numbers) in seen {
            // One that moved from worker to worker came in order with each.
            assert!(numbers.is_sorted(), "{account}: {numbers:?}");
            all.entry(account.clone()).or_default().extend(numbers);
        }
    }
    let booked: usize = all.values().map(Vec::len).sum();
    println!("{} accounts, {booked} bookings, each account in order", all.len());
    Ok(())
}

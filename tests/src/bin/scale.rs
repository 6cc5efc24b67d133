//! `cargo run --release -p tests --bin scale [TOPICS [SUBSCRIBERS]]`: what many topics cost, against what they may. Needs the
//! binary `shmbus` of the same profile, which `cargo build --release -p bus-cli` makes.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;
use tests::scale::{Scale, measure};

/// A line of the table. True if the figure is as it may be.
fn line(what: &str, have: impl Display, may: &str, is_met: bool) -> bool {
    println!("{what:44} {have:>12}   {may:14} {}", if is_met { "met" } else { "MISSED" });
    is_met
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().expect("a number"));
    let topics = arguments.next().unwrap_or(10_000);
    let subscribers = arguments.next().unwrap_or(topics / 10);
    let mut is_met = true;
    for stamps in [true, false] {
        let scale = Scale { topics, subscribers, stamps, idle: Duration::from_secs(10) };
        let figures = measure(scale, &mut |text| eprintln!("{text}"));
        println!("\n{topics} topics of 64 slots, {subscribers} subscribers, stamps: {stamps}");
        let ms = |time: Duration| format!("{:.3} ms", time.as_secs_f64() * 1e3);
        is_met &= line(
            "making a topic",
            ms(figures.create),
            "below 1 ms",
            figures.create < Duration::from_millis(1),
        );
        is_met &=
            line("shmbus ls", ms(figures.list), "below 100 ms", figures.list < Duration::from_millis(100));
        let share = format!("{:.3} %", figures.idle_share * 100.0);
        is_met &= line("idle supervisor, of a core", share, "below 0.1 %", figures.idle_share < 0.001);
        let beside = figures.beside_ring_bytes;
        is_met &= line(
            "memory of a topic beside its ring",
            format!("{beside} B"),
            "below 16 KiB",
            beside < 16 << 10,
        );
        line("memory of all topics", format!("{} KiB", figures.memory_bytes >> 10), "", true);
        line("from a kill until three groups are gone", ms(figures.sweep), "", true);
        line("leaving with all subscribers", ms(figures.leave), "", true);
    }
    if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

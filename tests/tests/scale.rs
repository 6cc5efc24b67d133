//! Many topics, with limits that hold on a busy machine and without optimisation; `cargo run --release -p tests --bin scale` is
//! the measurement.

use std::time::Duration;
use tests::scale::{Scale, measure};

#[test]
fn five_hundred_topics_cost_little_whatever_is_done_with_them() {
    for stamps in [true, false] {
        let scale = Scale { topics: 500, subscribers: 50, stamps, idle: Duration::from_secs(2) };
        let figures = measure(scale, &mut |text| println!("{text}"));
        assert!(figures.create < Duration::from_millis(10), "{figures:?}");
        assert!(figures.list < Duration::from_millis(500), "{figures:?}");
        assert!(figures.idle_share < 0.01, "{figures:?}");
        assert!(figures.beside_ring_bytes < 16 << 10, "{figures:?}");
        assert!(figures.sweep < Duration::from_secs(2), "{figures:?}");
        assert!(figures.leave < Duration::from_secs(2), "{figures:?}");
    }
}

//! The program that measures what the bus takes beside time prints all of its lines; `cargo run --release -p tests --bin footprint` is
//! the measurement.

use std::process::Command;

#[test]
fn every_figure_is_measured_and_printed() {
    let output = Command::new(env!("CARGO_BIN_EXE_footprint")).arg("quick").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{complaint}");
    let lines: Vec<_> = printed.lines().collect();
    let expected = [
        ("attach, publish, received elsewhere ", " ms "),
        ("  of that: Bus::open ", " ms "),
        ("  topic ", " ms "),
        ("  publisher ", " ms "),
        ("  first publish ", " ms "),
        ("  until it is received ", " ms "),
        ("attach, publish, received elsewhere, process of two threads ", " ms "),
        ("shmbus, stripped ", ""),
        ("supervisor at rest, 1 topic, PSS ", "iB "),
        ("supervisor at rest, 1 topic, private RSS ", "iB "),
        ("supervisor at rest, 10 topics, PSS ", "iB "),
        ("supervisor at rest, 10 topics, private RSS ", "iB "),
        ("first publisher of a process, without rings ", "iB "),
        ("one more publisher, without rings ", "iB "),
        ("16384 messages, the first in their ring ", " ms "),
        ("as many once more ", " ms "),
    ];
    assert_eq!(lines.len(), expected.len(), "{printed}");
    for (line, (what, unit)) in lines.iter().zip(expected) {
        let measured = line.strip_prefix(what).unwrap_or_else(|| panic!("{what:?} in {printed}"));
        let first = measured.split_whitespace().next().unwrap_or_default();
        let is_number = first.parse::<f64>().is_ok() && measured.contains(unit);
        // `strip` may not be installed.
        assert!(is_number || (unit.is_empty() && first == "skipped:"), "{line}");
    }
}

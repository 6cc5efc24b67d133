//! A process that dies, or stops, at any instruction of any operation: what the others find.
//!
//! `SHMBUS_STEPS=all` tries every point with a child of its own; `SHMBUS_OPERATION` names a part of the operations to try.

use std::io::Write;
use std::path::Path;
use std::time::Duration;
use stepped::operations::OPERATIONS;
use tests::stepper::{Effort, heading, pause, prove};

/// Past the test harness, which keeps what a test that passes says to itself.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[test]
fn every_instruction() {
    if !cfg!(target_arch = "x86_64") {
        return say("skipped: single steps are implemented for x86-64 only\n");
    }
    let effort = match std::env::var("SHMBUS_STEPS").as_deref() {
        Ok("all") => Effort::ALL,
        _ => Effort::USUAL,
    };
    let wanted = std::env::var("SHMBUS_OPERATION").unwrap_or_default();
    let program = Path::new(env!("CARGO_BIN_EXE_step_child"));
    say(&format!("\n{}\n", heading()));
    let mut lines = Vec::new();
    for operation in OPERATIONS.iter().filter(|operation| operation.name.contains(&wanted)) {
        let line = prove(program, operation, effort);
        say(&format!("{line}\n"));
        lines.push(line);
    }
    let failures: Vec<_> = lines
        .iter()
        .flat_map(|line| line.failures.iter().map(move |failure| format!("{}: {failure}", line.name)))
        .collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// Longer than a process waits for another that is joining the same group.
const PAUSE: Duration = Duration::from_millis(1_200);

#[test]
fn whoever_stands_still_while_it_takes_a_group_over_has_it_all_the_same() {
    if !cfg!(target_arch = "x86_64") {
        return say("skipped: single steps are implemented for x86-64 only\n");
    }
    let program = Path::new(env!("CARGO_BIN_EXE_step_child"));
    let name = "repair: take a group over";
    let operation = OPERATIONS.iter().find(|operation| operation.name == name).expect("an operation");
    let failures = pause(program, operation, 24, PAUSE);
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

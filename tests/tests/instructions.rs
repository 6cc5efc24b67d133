//! A process that dies, or stops, at any instruction of any operation: what the others find.
//!
//! `SHMBUS_STEPS=all` tries every point with a child of its own; `SHMBUS_OPERATION` names a part of the operations to try.

use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use stepped::operations::{OPERATIONS, Operation};
use tests::stepper::{Effort, heading, pause, prove};

/// Past the test harness, which keeps what a test that passes says to itself.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Operations that are stepped through at the same time: while one waits for a child, the other goes on.
const AT_ONCE: usize = 2;

fn next_of(operations: &Mutex<impl Iterator<Item = &'static Operation>>) -> Option<&'static Operation> {
    operations.lock().expect("no panic").next()
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
    let operations = Mutex::new(OPERATIONS.iter().filter(|operation| operation.name.contains(&wanted)));
    let failures = Mutex::new(Vec::new());
    // What is asked for by name has the machine to itself: some of what is broken shows only to survivors that are quick.
    let at_once = if wanted.is_empty() { AT_ONCE } else { 1 };
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(operation) = next_of(&operations) {
                    let line = prove(program, operation, effort);
                    say(&format!("{line}\n"));
                    let named = line.failures.iter().map(|failure| format!("{}: {failure}", line.name));
                    failures.lock().expect("no panic").extend(named);
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic");
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

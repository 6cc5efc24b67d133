//! Traffic under faults, for a moment; and that its checker finds what is wrong. `ci/soak` runs it for longer.

use std::process::{Command, Output};

fn soak(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_soak")).args(arguments).output().expect("the soak program");
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    (output, text)
}

/// The numbers of the last line, which has exactly these words.
fn numbers(text: &str) -> [u64; 6] {
    let words = ["messages=", "kills=", "stops=", "redelivered=", "lost=", "out_of_order="];
    let last: Vec<_> = text.lines().last().expect("a last line").split(' ').collect();
    assert_eq!(last.len(), words.len(), "{last:?}");
    std::array::from_fn(|at| last[at].strip_prefix(words[at]).expect(words[at]).parse().expect("a number"))
}

#[test]
fn under_faults_nothing_is_lost_and_nothing_is_out_of_order() {
    let (output, text) = soak(&["--seconds", "3", "--seed", "3"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let [messages, kills, stops, redelivered, lost, out_of_order] = numbers(&text);
    assert!(messages > 1_000 && kills > 0 && stops > 0 && redelivered > 0, "{text}");
    assert_eq!((lost, out_of_order), (0, 0), "{text}");
    assert!(!text.contains("WRONG"), "{text}");
}

#[test]
fn a_run_for_programs_says_the_same() {
    let (output, text) = soak(&["--messages", "3000", "--seed", "4", "--json", "--producers", "2"]);
    assert!(output.status.success(), "{text}");
    let lines: Vec<_> = text.lines().collect();
    let report: serde_json::Value = serde_json::from_str(lines[lines.len() - 2]).expect("JSON");
    assert_eq!((report["messages"].as_u64(), numbers(&text)[0]), (Some(3_000), 3_000));
    assert_eq!(report["lost"].as_u64(), Some(0));
    assert_eq!(report["groups"].as_array().map(Vec::len), Some(7));
}

/// What is done wrong, and what the checker says to it.
const SABOTAGES: [(&str, &str); 9] = [
    ("drop", "is lost"),
    ("duplicate", "was finished, and was handed out again"),
    ("reorder", " after Some("),
    ("unmarked", "came again without being marked"),
    ("early-ack", "was finished, and was handed out again"),
    ("lose", "publish returned Ok: "),
    ("torn", "is nobody's, or torn"),
    ("forge", "was delivered and never published"),
    ("stall", "could go on and has not"),
];

#[test]
fn every_broken_promise_is_noticed() {
    // Three at a time: each is twenty processes.
    std::thread::scope(|scope| {
        for share in SABOTAGES.chunks(3) {
            scope.spawn(move || {
                for (sabotage, says) in share {
                    let arguments = ["--messages", "60000", "--seconds", "4", "--seed", "7"];
                    let more = ["--patience-ms", "1500", "--sabotage", sabotage];
                    let (output, text) = soak(&[arguments.as_slice(), &more].concat());
                    assert_eq!(output.status.code(), Some(1), "{sabotage}: {text}");
                    let wrong = text.lines().filter(|line| line.starts_with("WRONG: "));
                    assert!(wrong.into_iter().any(|line| line.contains(says)), "{sabotage}: {text}");
                    let [.., lost, out_of_order] = numbers(&text);
                    assert!(*sabotage != "drop" || lost > 0, "{text}");
                    assert!(*sabotage != "reorder" || out_of_order > 0, "{text}");
                }
            });
        }
    });
}

//! House rules that a program can check.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a source file beyond which it should be two.
const FILE_LINES_MAX: usize = 1_000;
/// The same for a file of tests, which is read one test at a time.
const TEST_FILE_LINES_MAX: usize = 1_500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// All Rust files below a directory of the workspace.
fn rust_files(dir: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(dir)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of the workspace").flatten() {
            let path = entry.path();
            if path.is_dir() {
                // What building has left: `benches/peers` has a target directory of its own.
                if path.file_name().is_none_or(|name| name != "target") {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    found
}

#[test]
fn files_can_be_held_in_mind() {
    for dir in ["bus-core", "bus-shm", "bus-cli", "benches", "tests"] {
        for (path, text) in rust_files(dir) {
            let lines = text.lines().count();
            let is_test = path.components().any(|part| part.as_os_str() == "tests");
            let most = if is_test { TEST_FILE_LINES_MAX } else { FILE_LINES_MAX };
            assert!(lines <= most, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_where_it_is_announced() {
    for dir in ["bus-core/src", "bus-cli/src"] {
        let text = fs::read_to_string(root().join(dir).join(if dir.starts_with("bus-core") {
            "lib.rs"
        } else {
            "main.rs"
        }));
        assert!(text.expect("a crate root").contains("#![forbid(unsafe_code)]"), "{dir} forbids unsafe code");
    }
    for (path, text) in rust_files("bus-shm/src") {
        let has_block = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or("");
            code.contains("unsafe {") || code.contains("unsafe impl")
        });
        let announced = text.contains("#![allow(unsafe_code)]");
        assert!(!has_block || announced, "{} has unsafe code and does not say so", path.display());
    }
}

#[test]
fn the_algorithms_take_their_atomics_from_the_shim() {
    for (path, text) in rust_files("bus-core/src") {
        if !path.ends_with("sync.rs") {
            assert!(!text.contains("core::sync::atomic"), "{} goes past sync.rs", path.display());
            assert!(!text.contains("std::sync::atomic"), "{} goes past sync.rs", path.display());
        }
    }
}

#[test]
fn the_readme_shows_the_examples_as_they_are() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    for example in ["publisher", "subscriber"] {
        let path = root().join(format!("bus-shm/examples/{example}.rs"));
        let text = fs::read_to_string(&path).expect("an example");
        let code: String = text.lines().skip(1).flat_map(|line| [line, "\n"]).collect();
        assert!(readme.contains(&code), "README.md does not show {} as it is", path.display());
        assert!(code.lines().count() <= 12, "{example} has {} lines", code.lines().count());
    }
}

#[test]
fn the_readme_names_the_limits_as_they_are() {
    use bus_core::limits::*;
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let grouped = |value: u32| {
        let digits = value.to_string();
        let mut text = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        text
    };
    for (what, value) in [
        ("slots of a lane", CAPACITY_DEFAULT),
        ("slots of a lane", CAPACITY_MAX),
        ("publishers of a topic", PRODUCERS_DEFAULT),
        ("publishers of a topic", PRODUCERS_MAX),
        ("payload inside a slot", INLINE_BYTES_DEFAULT),
        ("payload inside a slot", INLINE_BYTES_MAX),
        ("payload types", TYPES_MAX as u32),
        ("groups of a topic", GROUPS_MAX),
        ("processes of a bus", PARTICIPANTS_MAX),
        ("times a message is handed out", u32::from(ATTEMPTS_DEFAULT)),
        ("times a message is handed out", u32::from(ATTEMPTS_MAX)),
        ("a member of a shared group", ACK_WAIT_DEFAULT_MS / 1_000),
        ("a message that failed waits", RETRY_FIRST_DEFAULT_MS),
        ("a message that failed waits", RETRY_MAX_DEFAULT_MS / 1_000),
        ("messages of a group that wait", ASIDE_ENTRIES_DEFAULT),
        ("messages of a group that wait", ASIDE_ENTRIES_MAX),
        ("a lower lane waits", STARVATION_GUARD_DEFAULT),
        ("topic name", TOPIC_NAME_BYTES_MAX as u32),
    ] {
        let row = readme.lines().find(|line| line.starts_with(&format!("| {what}")));
        let row = row.unwrap_or_else(|| panic!("README.md has no row for {what}"));
        assert!(row.contains(&grouped(value)), "README.md says otherwise than {value}: {row}");
    }
}

#[test]
fn documents_that_are_linked_exist() {
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root().join(document)).expect(document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !target.starts_with("http") {
                let path = root().join(target.split('#').next().unwrap_or(target));
                assert!(path.exists(), "{document} links to {target}");
            }
        }
    }
}

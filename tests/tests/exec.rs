//! `shmbus sub --exec`: commands for messages, by the binary itself.

use bus_shm::Bus;
use bus_shm::dead_letters::{self, Filter};
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tests::cli::{CliBus, Running, has_ended};
use tests::harness::eventually;

/// A directory of its own for what commands leave.
struct Desk(PathBuf);

impl Desk {
    fn new(what: &str) -> Self {
        let path = std::env::temp_dir().join(format!("shmbus-exec-{what}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// A shell command that begins in that directory.
    fn script(&self, text: &str) -> String {
        format!("cd {} && {{ {text}; }}", self.0.display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn wait_for(&self, name: &str) -> String {
        eventually(name, || self.read(name).ends_with('\n'));
        self.read(name).trim().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn publish(cli: &CliBus, topic: &str, texts: &[&str]) {
    let bus = Bus::builder(&cli.bus.name).service("asker").open().unwrap();
    let mut publisher = bus.topic::<bus_shm::Bytes>(topic).unwrap().publisher().unwrap();
    texts.iter().for_each(|text| _ = publisher.publish(text.as_bytes()).unwrap());
}

/// Starts `sub --exec` on topic `t` and returns when it reads there.
fn sub(cli: &CliBus, arguments: &[&str], members: u64) -> Running {
    let running = cli.start(&[&["-q", "sub", "t"], arguments].concat());
    cli.wait_for_readers("t", members);
    running
}

fn lag(cli: &CliBus) -> u64 {
    let groups = cli.topic("t").map(|state| state.groups).unwrap_or_default();
    groups.iter().flat_map(|group| &group.lanes).map(|lane| lane.lag_count).sum()
}

fn letters(cli: &CliBus) -> Vec<(String, u8)> {
    let letters = dead_letters::list(&cli.view(), &Filter::default()).unwrap();
    letters.into_iter().map(|letter| (letter.error, letter.attempts)).collect()
}

#[test]
fn the_end_of_a_command_decides_about_its_message() {
    let (cli, desk) = (CliBus::new("exec-status"), Desk::new("status"));
    cli.run(&["up"]).expect(0);
    let script = desk.script(
        "read text; echo \"$text $SHMBUS_ATTEMPT\" >> runs; \
         case $text in good) ;; bad) echo first >&2; echo 'no such thing' >&2; exit 65;; \
         shot) kill -9 $$;; *) echo \"cannot $text\" >&2; exit 3;; esac",
    );
    let running = sub(&cli, &["--exec", &script, "--group", "g", "--attempts", "2", "--retry", "1ms"], 1);
    publish(&cli, "t", &["good", "bad", "fail", "shot", "good"]);
    eventually("three dead letters", || letters(&cli).len() == 3 && lag(&cli) == 0);
    let mut found = letters(&cli);
    found.sort();
    let expected = [("exit 3: cannot fail", 2), ("exit 65: no such thing", 1), ("signal 9", 2)]
        .map(|(text, count)| (text.to_owned(), count));
    assert_eq!(found, expected);
    running.signal(Signal::TERM);
    let ran = running.finish().expect(0);
    assert!(ran.err.contains("no such thing"), "it is passed on: {}", ran.err);
    let runs = desk.read("runs");
    let firsts: Vec<_> = runs.lines().filter(|line| line.ends_with(" 1")).collect();
    assert_eq!(firsts, ["good 1", "bad 1", "fail 1", "shot 1", "good 1"], "in order");
    cli.assert_nobody();
}

#[test]
fn a_command_knows_its_message_and_its_bus() {
    let cli = CliBus::new("exec-environment");
    cli.run(&["up"]).expect(0);
    let variables =
        ["TOPIC", "LANE", "SEQUENCE", "TYPE", "ATTEMPT", "BYTES", "SERVICE", "BUS", "CORRELATION"];
    let all: Vec<_> = variables.iter().map(|name| format!("$SHMBUS_{name}")).collect();
    // What it prints goes through.
    let script = format!("echo \"{}\" \"$(cat)\"; test -n \"$SHMBUS_KEY_HASH$SHMBUS_ID\"", all.join(" "));
    let mut running = sub(&cli, &["--exec", &script, "-n", "1"], 1);
    let said =
        ["pub", "t", "a b", "--key", "k", "--correlation", "beef", "--lane", "high", "--service", "asker"];
    cli.run(&said).expect(0);
    let expected = format!("t high 0 bytes 1 3 asker {} beef a b", cli.bus.name);
    assert_eq!(running.line(), expected);
    running.finish().expect(0);
}

#[test]
fn a_large_payload_that_nobody_reads_is_no_obstacle() {
    let (cli, desk) = (CliBus::new("exec-large"), Desk::new("large"));
    cli.run(&["up"]).expect(0);
    cli.run(&["create", "t", "--max-message", "8MiB", "--arena-bytes", "64MiB"]).expect(0);
    for (command, count) in [("true".to_owned(), 2), (desk.script("wc -c >> sizes; head -c 10 >&2"), 2)] {
        let running = sub(&cli, &["--exec", &command, "-n", &count.to_string()], 1);
        let large = "x".repeat(4 << 20);
        publish(&cli, "t", &[&large, &large]);
        running.finish().expect(0);
    }
    assert_eq!(desk.read("sizes").split_whitespace().collect::<Vec<_>>(), ["4194304", "4194304"]);
}

#[test]
fn jobs_run_side_by_side() {
    let (cli, desk) = (CliBus::new("exec-jobs"), Desk::new("jobs"));
    cli.run(&["up"]).expect(0);
    // Each waits until all four run.
    let script = desk.script("read n; touch run.$n; until [ $(ls run.* | wc -l) = 4 ]; do sleep 0.01; done");
    let running = sub(&cli, &["--exec", &script, "--group", "g", "--jobs", "4", "-n", "4"], 4);
    publish(&cli, "t", &["1", "2", "3", "4"]);
    running.finish().expect(0);
    assert_eq!((lag(&cli), letters(&cli).len()), (0, 0));
    cli.run(&["sub", "t", "--exec", "true", "--jobs", "2"]).expect(2).says("--group");
}

#[test]
fn a_command_that_runs_keeps_its_message() {
    let (cli, desk) = (CliBus::new("exec-extend"), Desk::new("extend"));
    cli.run(&["up"]).expect(0);
    let script = desk.script("echo $SHMBUS_SEQUENCE >> runs; until [ -e go ]; do sleep 0.01; done");
    let flags = ["--exec", &script, "--group", "g", "--shared", "--ack-wait", "150ms", "-n", "1"];
    let first = sub(&cli, &flags, 1);
    publish(&cli, "t", &["long"]);
    desk.wait_for("runs");
    // Another member that would take it over if it could.
    let other = sub(&cli, &flags, 2);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(800) {
        assert_eq!(desk.read("runs"), "0\n", "taken away from one that works");
        std::thread::sleep(Duration::from_millis(10));
    }
    desk.write("go", "");
    first.finish().expect(0);
    assert_eq!(desk.read("runs"), "0\n");
    other.signal(Signal::TERM);
    other.finish();
}

#[test]
fn a_command_that_takes_too_long_is_ended_with_what_it_has_started() {
    let (cli, desk) = (CliBus::new("exec-timeout"), Desk::new("timeout"));
    cli.run(&["up"]).expect(0);
    let script = desk.script("sleep 1000 & echo $! > inner; echo working >&2; wait");
    let flags = ["--exec", &script, "--exec-timeout", "300ms", "--attempts", "1", "--group", "g"];
    let running = sub(&cli, &flags, 1);
    publish(&cli, "t", &["long"]);
    eventually("a dead letter", || letters(&cli).len() == 1);
    let inner = desk.wait_for("inner").parse().unwrap();
    eventually("what it has started has ended", || has_ended(inner));
    assert_eq!(letters(&cli)[0].0, "took longer than 300 ms: working");
    running.signal(Signal::TERM);
    running.finish().expect(0);
}

#[test]
fn a_signal_lets_commands_end_and_starts_no_more() {
    let (cli, desk) = (CliBus::new("exec-drain"), Desk::new("drain"));
    cli.run(&["up"]).expect(0);
    let script =
        desk.script("echo $SHMBUS_SEQUENCE >> runs; until [ -e go ]; do sleep 0.01; done; echo done > end");
    let running = sub(&cli, &["--exec", &script, "--group", "g"], 1);
    publish(&cli, "t", &["one", "two"]);
    desk.wait_for("runs");
    running.signal(Signal::TERM);
    desk.write("go", "");
    running.finish().expect(0);
    assert_eq!((desk.read("runs"), desk.read("end"), lag(&cli)), ("0\n".into(), "done\n".into(), 1));
    // One that does not end in time is ended, and its message given back.
    std::fs::remove_file(desk.path("go")).unwrap();
    let running = sub(&cli, &["--exec", &script, "--group", "g", "--drain", "200ms"], 1);
    eventually("the second runs", || desk.read("runs") == "0\n1\n");
    running.signal(Signal::INT);
    running.finish().expect(0);
    assert_eq!((lag(&cli), letters(&cli).len()), (1, 0));
    // A second signal does not wait for anything.
    let running = sub(&cli, &["--exec", &script, "--group", "g"], 1);
    eventually("the second runs again", || desk.read("runs") == "0\n1\n1\n");
    running.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(100));
    running.signal(Signal::TERM);
    running.finish().expect(128 + 15);
    eventually("nobody is left", || cli.view().participants().is_empty());
}

#[test]
fn a_killed_sub_leaves_its_message_to_the_next_and_no_children() {
    let (cli, desk) = (CliBus::new("exec-killed"), Desk::new("killed"));
    cli.run(&["up"]).expect(0);
    // In a group and a session of its own: found all the same.
    let script = desk
        .script("setsid sleep 1000 & echo $! > inner; echo $$ > outer; echo $SHMBUS_ATTEMPT >> runs; wait");
    let running = sub(&cli, &["--exec", &script, "--group", "g", "--jobs", "2"], 2);
    publish(&cli, "t", &["one"]);
    let pids = ["inner", "outer"].map(|name| desk.wait_for(name).parse::<u32>().unwrap());
    desk.wait_for("runs");
    running.signal(Signal::KILL);
    running.finish().expect(128 + 9);
    eventually("its children have ended", || pids.iter().all(|&pid| has_ended(pid)));
    let script = desk.script("echo again $SHMBUS_ATTEMPT >> runs");
    let next = cli.start(&["sub", "t", "--exec", &script, "--group", "g", "--jobs", "2", "-n", "1"]);
    next.finish().expect(0);
    assert_eq!(desk.read("runs"), "1\nagain 2\n");
    assert_eq!(lag(&cli), 0);
}

#[test]
fn what_cannot_be_run_is_told_before_anything_is_taken() {
    let (cli, desk) = (CliBus::new("exec-missing"), Desk::new("missing"));
    cli.run(&["up"]).expect(0);
    desk.write("text", "no program\n");
    std::fs::set_permissions(desk.path("text"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let text = desk.path("text").display().to_string();
    for (command, code, says) in [
        ("no-such-command", 3, "there is no command \"no-such-command\" in PATH"),
        ("./no-such-command x", 3, "there is no command \"./no-such-command\""),
        ("no-such-command | cat", 3, "there is no command"),
        (text.as_str(), 6, "cannot be executed"),
        ("", 2, "--exec wants a command"),
    ] {
        cli.run(&["sub", "t", "--exec", command]).expect(code).says(says);
    }
    assert!(cli.topic("t").is_none(), "nothing was created");
    cli.run(&["sub", "t", "--exec", "true", "--json"]).expect(2);
    cli.run(&["sub", "t", "--jobs", "2"]).expect(2).says("--exec");
    // One that is gone later is a failure like any other.
    let program = desk.path("program");
    std::fs::write(&program, "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let command = program.display().to_string();
    let running = sub(&cli, &["--exec", &command, "--attempts", "1", "--group", "g"], 1);
    std::fs::remove_file(&program).unwrap();
    publish(&cli, "t", &["one"]);
    eventually("a dead letter", || letters(&cli).len() == 1);
    assert!(letters(&cli)[0].0.starts_with("the command cannot be started"), "{:?}", letters(&cli));
    running.signal(Signal::TERM);
    running.finish().expect(0);
}

#[test]
fn patterns_and_failing_commands_share_nothing() {
    let (cli, desk) = (CliBus::new("exec-patterns"), Desk::new("patterns"));
    cli.run(&["up"]).expect(0);
    for topic in ["observation.a", "observation.b"] {
        cli.run(&["create", topic]).expect(0);
    }
    let script = desk.script("echo $SHMBUS_TOPIC $(cat) >> runs");
    let running = cli.start(&["sub", "observation.*", "--exec", &script, "--group", "g", "-n", "3"]);
    cli.wait_for_readers("observation.a", 1);
    cli.wait_for_readers("observation.b", 1);
    publish(&cli, "observation.a", &["1"]);
    publish(&cli, "observation.b", &["2"]);
    // One that is created later joins by itself.
    publish(&cli, "observation.c", &["3"]);
    running.finish().expect(0);
    let runs = desk.read("runs");
    let mut lines: Vec<_> = runs.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["observation.a 1", "observation.b 2", "observation.c 3"]);
}

#[test]
fn a_command_that_does_not_stop_talking_is_looked_after() {
    let (cli, desk) = (CliBus::new("exec-flood"), Desk::new("flood"));
    cli.run(&["up"]).expect(0);
    cli.run(&["create", "t"]).expect(0);
    let flags = |script: &str| {
        let flags = [
            "-q",
            "sub",
            "t",
            "--exec",
            script,
            "--exec-timeout",
            "300ms",
            "--attempts",
            "1",
            "--group",
            "g",
        ];
        flags.map(str::to_owned)
    };
    // Passed on as fast as it comes, and to somebody who does not read.
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    for (index, to) in [Stdio::null(), Stdio::from(writer)].into_iter().enumerate() {
        let flags = flags("yes >&2");
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let mut child = cli.command(&flags).stdin(Stdio::null()).stderr(to).spawn().unwrap();
        cli.wait_for_readers("t", 1);
        publish(&cli, "t", &["x"]);
        eventually("a dead letter", || letters(&cli).len() == index + 1);
        assert_eq!(letters(&cli)[0].0, "took longer than 300 ms: y");
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(tests::cli::wait(&mut child).success());
        eventually("its place is free", || cli.view().participants().is_empty());
    }
    drop(reader);
    // Somebody who is left behind may go on as long as he likes.
    let script =
        desk.script("setsid sh -c 'echo $$ > pid; exec yes' >&2 & until [ -s pid ]; do sleep 0.01; done");
    let flags = flags(&script);
    let flags: Vec<_> = flags.iter().map(String::as_str).chain(["-n", "1"]).collect();
    let mut child = cli.command(&flags).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    cli.wait_for_readers("t", 1);
    publish(&cli, "t", &["x"]);
    assert!(tests::cli::wait(&mut child).success());
    assert_eq!((lag(&cli), letters(&cli).len()), (0, 2));
    let pid = desk.wait_for("pid").parse().unwrap();
    eventually("it has ended with its reader", || has_ended(pid));
}

#[test]
fn a_request_is_answered_with_what_the_command_prints() {
    let (cli, desk) = (CliBus::new("exec-request"), Desk::new("request"));
    cli.run(&["up"]).expect(0);
    cli.run(&["create", "t", "--max-message", "64KiB"]).expect(0);
    let script = desk.script(
        "read text; case $text in shout) echo HEY; printf '%s' $SHMBUS_ATTEMPT;; never) echo unused;          echo 'no such thing' >&2; exit 65;; fails) echo unused; echo \"cannot $SHMBUS_ATTEMPT\" >&2; exit 3;;          long) head -c 100000 /dev/zero;; full) head -c 60000 /dev/zero; echo said >&2;; *) echo plain;; esac",
    );
    let mut running = sub(&cli, &["--exec", &script, "--group", "g", "--attempts", "2", "--retry", "1ms"], 1);
    let ask = |text: &str| cli.run(&["request", "t", text, "--raw", "--timeout", "20s"]);
    assert_eq!(ask("shout").expect(0).out, "HEY\n1");
    ask("never").expect(1).says("exit 65: no such thing");
    ask("fails").expect(1).says("exit 3: cannot 2");
    ask("long").expect(1).says("more than the 65536 bytes");
    assert_eq!(ask("full").expect(0).out.len(), 60_000);
    // What nobody waits for goes through, as ever.
    publish(&cli, "t", &["just so"]);
    assert_eq!(running.line(), "plain");
    eventually("it is acknowledged", || lag(&cli) == 0);
    assert_eq!(letters(&cli).len(), 2);
    running.signal(Signal::TERM);
    assert_eq!(running.finish().expect(0).out, "plain\n");
    cli.assert_nobody();
}

#[test]
fn a_script_without_a_first_line_is_the_shells() {
    let (cli, desk) = (CliBus::new("exec-script"), Desk::new("script"));
    cli.run(&["up"]).expect(0);
    let path = desk.path("script");
    std::fs::write(&path, "words=$(wc -w)\necho $((words)) $1\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let command = format!("{} words", path.display());
    let mut running = sub(&cli, &["--exec", &command, "--attempts", "1", "-n", "1"], 1);
    publish(&cli, "t", &["one two three"]);
    assert_eq!(running.line(), "3 words");
    running.finish().expect(0);
}

#[test]
fn a_parent_that_does_not_want_to_know_of_children_changes_nothing() {
    let cli = CliBus::new("exec-sigchld");
    cli.run(&["up"]).expect(0);
    // `trap ''` leaves the signal ignored for what is started from there.
    let mut command = std::process::Command::new("sh");
    let own = cli.command(&["-q", "sub", "t", "--exec", "exit 65", "--group", "g"]);
    command.args(["-c", "trap '' CHLD; exec \"$0\" \"$@\""]).arg(own.get_program()).args(own.get_args());
    own.get_envs().for_each(|(name, value)| _ = value.map(|value| command.env(name, value)));
    let running = Running::spawn(&mut command);
    cli.wait_for_readers("t", 1);
    publish(&cli, "t", &["x"]);
    eventually("a dead letter", || letters(&cli).len() == 1);
    assert_eq!(letters(&cli), [("exit 65".to_owned(), 1)]);
    running.signal(Signal::TERM);
    running.finish().expect(0);
}

#[test]
fn no_more_commands_run_than_were_asked_for() {
    let (cli, desk) = (CliBus::new("exec-count"), Desk::new("count"));
    cli.run(&["up"]).expect(0);
    cli.run(&["create", "t", "--shared-group", "g"]).expect(0);
    publish(&cli, "t", &["1", "2", "3", "4", "5", "6"]);
    let script =
        desk.script("echo $SHMBUS_ATTEMPT >> runs; sleep 0.05; [ $SHMBUS_ATTEMPT$SHMBUS_SEQUENCE != 10 ]");
    let flags = |jobs: &'static str, count: &'static str| {
        let flags =
            ["sub", "t", "--exec", &script, "--group", "g", "--jobs", jobs, "-n", count, "--retry", "1ms"];
        flags.map(str::to_owned)
    };
    for (jobs, count, runs) in [("4", "0", 0), ("2", "1", 2), ("2", "3", 5), ("4", "2", 7)] {
        let flags = flags(jobs, count);
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        cli.start(&flags).finish().expect(0);
        let ran = desk.read("runs");
        assert_eq!(ran.lines().count(), runs, "--jobs {jobs} -n {count}");
        // The first message fails once, and no other was taken in vain.
        assert!(ran.lines().filter(|line| *line != "1").count() <= 1, "{ran}");
    }
    assert_eq!((lag(&cli), letters(&cli).len()), (0, 0));
}

#[test]
fn an_agent_in_shell_is_as_the_documents_show_it() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let script = root.join("bus-shm/examples/shell_agent.sh");
    let text = std::fs::read_to_string(&script).unwrap();
    let body: String =
        text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
    assert!(
        std::fs::read_to_string(root.join("docs/agents.md")).unwrap().contains(&body),
        "another one is shown"
    );
    let cli = CliBus::new("exec-agent");
    cli.run(&["up"]).expect(0);
    cli.run(&["create", "text.a"]).expect(0);
    let mut counts = cli.start(&["-q", "sub", "count.words"]);
    cli.wait_for_readers("count.words", 1);
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", tests::cli::binary().parent().unwrap().display());
    let script = script.display().to_string();
    let flags = ["-q", "sub", "text.*", "--exec", &script, "--group", "counter", "-n", "2"];
    let agent = Running::spawn(cli.command(&flags).env("PATH", path));
    cli.wait_for_readers("text.a", 1);
    publish(&cli, "text.a", &["one two three", ""]);
    assert_eq!(counts.line(), "text.a: 3 words");
    let ran = agent.finish().expect(0);
    assert!(ran.err.starts_with("no words in "), "{}", ran.err);
    assert!(letters(&cli)[0].0.starts_with("exit 65: no words in "), "{:?}", letters(&cli));
}

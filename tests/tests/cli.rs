//! The command line, as a user and a script see it: the real binary on real buses.

use bus_shm::{Bus, Bytes};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tests::cli::{CliBus, InTerminal, Ran, Running, has_ended};
use tests::harness::{Words, eventually};

#[test]
fn what_is_published_is_printed_one_message_a_line() {
    let cli = CliBus::new("cli-round");
    let mut sub = cli.start(&["sub", "news", "-n", "8"]);
    cli.wait_for_readers("news", 1);
    cli.run(&["pub", "news", "hello there"]).expect(0);
    assert_eq!(sub.line(), "hello there");
    cli.run_with(&["publish", "news"], b"one\ntwo \\ 2\nthree").expect(0).says("published 3 messages");
    assert_eq!([sub.line(), sub.line(), sub.line()], ["one", "two \\ 2", "three"]);
    let file = cli.path().join("a-file");
    std::fs::write(&file, b"two\nlines \xff\x1b[31m").unwrap();
    cli.run(&["pub", "news", "--file", file.to_str().unwrap(), "--lane", "critical"]).expect(0);
    assert_eq!(sub.line(), "two\\nlines \\xff\\x1b[31m", "whole files are one message, and one line");
    cli.run_with(&["pub", "news", "--file", "-"], b"all\nof it").expect(0);
    assert_eq!(sub.line(), "all\\nof it");
    cli.run(&["pub", "news", "-7"]).expect(0);
    assert_eq!(sub.line(), "-7");
    cli.run(&["pub", "news", ""]).expect(0);
    assert_eq!(sub.line(), "", "an empty message is a message");
    sub.finish().expect(0).says("created topic \"news\"");
    cli.assert_nobody();
}

#[test]
fn messages_as_json_say_everything_about_themselves() {
    let cli = CliBus::new("cli-json");
    cli.run(&["create", "a.b", "--group", "g", "--lanes", "2"]).expect(0);
    cli.run(&["pub", "a.b", "text \"q\""]).expect(0);
    cli.run_with(&["pub", "a.b", "-l", "high"], b"\xff\xfe\n").expect(0);
    let ran = cli.run(&["echo", "a.b", "-g", "g", "--json", "-n", "2"]).expect(0);
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["lane"], "high");
    assert_eq!((&lines[0]["encoding"], &lines[0]["payload"]), (&"base64".into(), &"//4=".into()));
    assert_eq!(lines[1]["lane"], "normal");
    assert_eq!((&lines[1]["encoding"], &lines[1]["payload"]), (&"utf-8".into(), &"text \"q\"".into()));
    assert_eq!((&lines[1]["topic"], &lines[1]["sequence"]), (&"a.b".into(), &0.into()));
    assert_eq!((&lines[1]["type"], &lines[1]["redelivered"]), (&"bytes".into(), &false.into()));
    let time = lines[1]["time"].as_str().unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
}

#[test]
fn raw_output_is_the_payload_and_nothing_else() {
    let cli = CliBus::new("cli-raw");
    cli.run(&["create", "a", "--group", "g"]).expect(0);
    cli.run(&["pub", "a", "x"]).expect(0);
    cli.run(&["pub", "a", "y"]).expect(0);
    assert_eq!(cli.run(&["sub", "a", "-g", "g", "--raw", "-n", "2"]).expect(0).out, "xy");
}

#[test]
fn a_pattern_reads_what_it_matches_also_when_it_is_created_later() {
    let cli = CliBus::new("cli-pattern");
    cli.run(&["create", "observation.email"]).expect(0);
    let sub = cli.start(&["sub", "observation.*", "-g", "g", "--json", "-n", "2", "-q"]);
    cli.wait_for_readers("observation.email", 1);
    cli.run_with(&["pub", "observation.email"], b"one\n").expect(0);
    // Made by the first message, which is not missed.
    cli.run_with(&["pub", "observation.voice.call"], b"two\n").expect(0);
    let ran = sub.finish().expect(0);
    let mut lines: Vec<(String, String)> = ran
        .out
        .lines()
        .map(|line| {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| json[key].as_str().unwrap().to_owned();
            (text("topic"), text("payload"))
        })
        .collect();
    lines.sort();
    let pair = |topic: &str, payload: &str| (topic.to_owned(), payload.to_owned());
    assert_eq!(lines, [pair("observation.email", "one"), pair("observation.voice.call", "two")]);
    let text = cli.run(&["sub", "--all", "--from", "oldest", "-n", "2", "-q"]).expect(0).out;
    assert!(text.contains("observation.email") && text.contains("observation.voice.call"), "{text}");
    cli.run(&["sub", "foo*"]).expect(2).says("is no pattern");
    cli.run(&["sub", "a.*", "--from", "7"]).expect(2).says("by name");
    cli.run(&["sub"]).expect(2);
}

#[test]
fn several_topics_feed_one_output_in_whole_lines() {
    let cli = CliBus::new("cli-many");
    let sub = cli.start(&["sub", "a", "b", "--hold", "-n", "4000"]);
    cli.wait_for_readers("a", 1);
    cli.wait_for_readers("b", 1);
    let lines = |topic: &str| (0..2_000).map(|n| format!("{topic}{n}\n")).collect::<String>();
    let (of_a, of_b) = (lines("a"), lines("b"));
    std::thread::scope(|scope| {
        scope.spawn(|| cli.run_with(&["pub", "a"], of_a.as_bytes()).expect(0));
        scope.spawn(|| cli.run_with(&["pub", "b"], of_b.as_bytes()).expect(0));
    });
    let ran = sub.finish().expect(0);
    for (topic, text) in [("a", &of_a), ("b", &of_b)] {
        let prefix = format!("{topic}: ");
        let got: String = ran
            .out
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            .flat_map(|line| [line, "\n"])
            .collect();
        assert_eq!(&got, text);
    }
    cli.assert_nobody();
}

#[test]
fn up_is_ready_when_it_returns_and_down_leaves_nothing() {
    let cli = CliBus::new("cli-up");
    let up = cli.run(&["up"]).expect(0);
    let pid = cli.view().supervisor_pid().expect("somebody serves");
    assert!(up.out.contains(&cli.bus.name) && up.out.contains(&pid.to_string()), "{}", up.out);
    cli.run(&["up"]).expect(6).says(&format!("running already (pid {pid}"));
    cli.run(&["up", "--replace", "-q"]).expect(0);
    let second = cli.view().supervisor_pid().expect("somebody serves");
    assert_ne!(pid, second);
    eventually("the first one has ended", || has_ended(pid));
    // Who is attached and what is unread is named, and nothing happens.
    let sub = cli.start(&["sub", "orders", "-g", "billing", "--service", "biller"]);
    cli.wait_for_readers("orders", 1);
    cli.run(&["down"]).expect(6).says("biller (pid").says("--force");
    sub.signal(Signal::INT);
    sub.finish().expect(0);
    cli.run(&["pub", "orders", "unread"]).expect(0);
    cli.run(&["down"]).expect(6).says("orders, group billing: 1 message");
    assert_eq!(cli.run(&["sub", "orders", "-g", "billing", "-n1"]).expect(0).out, "unread\n");
    cli.run(&["pub", "orders", "again"]).expect(0);
    let sub = cli.start(&["sub", "other"]);
    cli.wait_for_readers("other", 1);
    assert!(cli.run(&["down", "--force"]).expect(0).out.contains("is down"));
    sub.finish().expect(3).says("taken down");
    eventually("the supervisor has ended", || has_ended(second));
    cli.bus.assert_gone();
    cli.run(&["down"]).expect(3);
}

#[test]
fn of_two_ups_at_once_one_wins_and_the_other_says_so() {
    for _ in 0..4 {
        let cli = CliBus::new("cli-two");
        let both = [cli.start(&["up"]), cli.start(&["up"])].map(Running::finish);
        let mut codes = both.each_ref().map(|ran| ran.code);
        codes.sort_unstable();
        assert_eq!(codes, [0, 6], "{both:?}");
        let loser = both.into_iter().find(|ran| ran.code == 6).unwrap();
        loser.says("running already");
        cli.run(&["down"]).expect(0);
    }
}

#[test]
fn up_in_the_foreground_tells_systemd_and_ends_in_order() {
    let cli = CliBus::new("cli-front");
    let inbox_path = std::env::temp_dir().join(format!("{}.notify", cli.bus.name));
    let inbox = UnixDatagram::bind(&inbox_path).unwrap();
    inbox.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut up = Running::spawn(cli.command(&["up", "--foreground"]).env("NOTIFY_SOCKET", &inbox_path));
    let mut packet = [0; 256];
    let len = inbox.recv(&mut packet).unwrap();
    assert!(packet[..len].starts_with(b"READY=1"));
    let _ = std::fs::remove_file(&inbox_path);
    assert!(up.line().contains(&format!("pid {}", up.pid())));
    assert_eq!(cli.view().supervisor_pid(), Some(up.pid()));
    up.signal(Signal::TERM);
    up.finish().expect(0).says("stays");
    assert!(!cli.view().is_served());
    // The bus goes on without; the next process stands in.
    cli.run(&["pub", "a", "x"]).expect(0).says("stands in");
    cli.run(&["down"]).expect(0);
    cli.bus.assert_gone();
}

#[test]
fn a_temporary_bus_goes_with_its_last_participant_and_its_supervisor_with_it() {
    let cli = CliBus::new("cli-temp");
    cli.run(&["up", "--temporary"]).expect(0);
    let pid = cli.view().supervisor_pid().expect("somebody serves");
    let sub = cli.start(&["sub", "a"]);
    cli.wait_for_readers("a", 1);
    cli.run(&["pub", "a", "x"]).expect(0);
    assert!(!has_ended(pid), "somebody is still there");
    sub.signal(Signal::INT);
    sub.finish().expect(0);
    eventually("the bus has gone", || !cli.path().exists());
    eventually("the supervisor has ended", || has_ended(pid));
}

#[test]
fn what_only_looks_creates_and_hosts_nothing() {
    let cli = CliBus::new("cli-look");
    let looks: [&[&str]; 6] = [
        &["ls"],
        &["info"],
        &["info", "a"],
        &["lag"],
        &["top", "--once", "--interval", "50ms"],
        &["sub", "a", "--existing"],
    ];
    for arguments in looks {
        cli.run(arguments).expect(3).says("no bus");
        assert!(!cli.path().exists(), "{arguments:?} created it");
    }
    cli.run(&["pub", "a", "x"]).expect(0).says("created bus");
    for arguments in &looks[..5] {
        cli.run(arguments).expect(0);
        assert!(!cli.view().is_served(), "{arguments:?} hosts");
    }
    assert_eq!(cli.view().role_epoch(), 1, "only the publisher has ever had the role");
}

#[test]
fn listings_are_valid_json_and_agree() {
    let cli = CliBus::new("cli-lists");
    cli.run(&["up"]).expect(0);
    assert_eq!(cli.run(&["ls", "--json"]).expect(0).json()["topics"], Value::Array(vec![]));
    cli.run(&["ls"]).expect(0).says("no topics yet");
    let created = cli.run(&["create", "a.b", "--capacity", "1K", "--group", "g", "--shared-group", "s"]);
    assert!(created.expect(0).out.contains("created: 3 lanes of 1,024 messages"));
    cli.run(&["pub", "a.b", "12345", "-n", "7"]).expect(0);
    let ls = cli.run(&["list", "--json"]).expect(0).json();
    let topic = &ls["topics"][0];
    assert_eq!((&topic["topic"], &topic["message_count"]), (&"a.b".into(), &7.into()));
    assert_eq!((&topic["unread_count"], &topic["groups"]), (&7.into(), &2.into()));
    assert!(topic["memory_bytes"].as_u64().unwrap() > 0);
    let info = cli.run(&["info", "a.b", "--json"]).expect(0).json();
    assert_eq!(info["settings"]["capacity"], 1024);
    assert_eq!(info["lanes"][2]["published_count"], 7);
    let lag = cli.run(&["lag", "--json"]).expect(0).json();
    let top = cli.run(&["top", "--once", "--json", "--interval", "50ms"]).expect(0).json();
    for groups in [&info["groups"], &lag["groups"], &top["topics"][0]["groups"]] {
        assert_eq!((&groups[0]["group"], &groups[1]["group"]), (&"g".into(), &"s".into()));
        for group in groups.as_array().unwrap() {
            assert_eq!((&group["lag_count"], &group["lag_bytes"]), (&7.into(), &35.into()));
            assert!(group["lag_ns"].as_u64().unwrap() > 0);
        }
    }
    assert_eq!(top["topics"][0]["groups"][0]["lanes"][2]["verdict"], "no-reader");
    let bus = cli.run(&["info", "--json"]).expect(0).json();
    assert_eq!((&bus["bus"], &bus["topics"][0]), (&cli.bus.name.as_str().into(), &"a.b".into()));
    let buses = cli.run(&["ls", "--buses", "--json"]).expect(0).json();
    let names: Vec<_> = buses["buses"].as_array().unwrap().iter().map(|bus| bus["bus"].clone()).collect();
    assert!(names.contains(&cli.bus.name.as_str().into()), "{names:?}");
    for arguments in [&["ls"][..], &["info", "a.b"], &["lag"], &["top", "-1"]] {
        assert!(cli.run(arguments).expect(0).out.contains("a.b"), "{arguments:?}");
    }
    for arguments in [&["ls", "--buses"][..], &["info"]] {
        assert!(cli.run(arguments).expect(0).out.contains(&cli.bus.name), "{arguments:?}");
    }
    cli.run(&["down", "--force"]).expect(0);
}

/// A group that counts what it has finished, and a publisher that counts what it has published.
struct Traffic {
    sent: AtomicU64,
    finished: AtomicU64,
    paused: AtomicBool,
    ended: AtomicBool,
}

fn lag_of(report: &Value) -> u64 {
    let groups = report["groups"].as_array().unwrap();
    groups.iter().find(|group| group["group"] == "counted").unwrap()["lag_count"].as_u64().unwrap()
}

#[test]
fn lag_agrees_with_a_counting_consumer_to_the_message() {
    let cli = CliBus::new("cli-lag");
    let bus = Bus::builder(&cli.bus.name).service("counter").open().unwrap();
    let topic = bus.topic::<Bytes>("load").unwrap();
    let mut subscriber = topic.group("counted").join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let traffic = Traffic {
        sent: AtomicU64::new(0),
        finished: AtomicU64::new(0),
        paused: AtomicBool::new(false),
        ended: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !traffic.ended.load(Ordering::SeqCst) {
                if traffic.paused.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                } else if publisher.publish(b"0123456789").is_ok() {
                    // Counted when it is certain; a look in between may see one more.
                    traffic.sent.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        scope.spawn(|| {
            while !traffic.ended.load(Ordering::SeqCst) {
                if traffic.paused.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                } else if let Some(message) = subscriber.receive_timeout(Duration::from_millis(5)).unwrap() {
                    message.ack().unwrap();
                    traffic.finished.fetch_add(1, Ordering::SeqCst);
                    // Slower than the publisher, so that there is a lag.
                    if traffic.finished.load(Ordering::SeqCst).is_multiple_of(64) {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
            }
        });
        let look = |arguments: &[&str]| {
            let now = || (traffic.sent.load(Ordering::SeqCst), traffic.finished.load(Ordering::SeqCst));
            let (sent_before, finished_before) = now();
            let ran = cli.run(arguments).expect(0);
            let (sent_after, finished_after) = now();
            let report = ran.json();
            let report = if report["topics"].is_array() { report["topics"][0].clone() } else { report };
            let lag = lag_of(&report);
            let least = sent_before.saturating_sub(finished_after + 1);
            let most = sent_after + 1 - finished_before;
            assert!((least..=most).contains(&lag), "{least} <= {lag} <= {most}");
            lag
        };
        let top = ["top", "--once", "--json", "--interval", "20ms"];
        for _ in 0..5 {
            look(&["lag", "load", "--json"]);
            look(&top);
        }
        for _ in 0..3 {
            traffic.paused.store(true, Ordering::SeqCst);
            let settled = || {
                let before = (traffic.sent.load(Ordering::SeqCst), traffic.finished.load(Ordering::SeqCst));
                std::thread::sleep(Duration::from_millis(30));
                before == (traffic.sent.load(Ordering::SeqCst), traffic.finished.load(Ordering::SeqCst))
            };
            eventually("both stand still", settled);
            let exact = traffic.sent.load(Ordering::SeqCst) - traffic.finished.load(Ordering::SeqCst);
            assert_eq!(look(&["lag", "--json"]), exact);
            assert_eq!(look(&top), exact);
            traffic.paused.store(false, Ordering::SeqCst);
            let sent = traffic.sent.load(Ordering::SeqCst);
            eventually("it goes on", || traffic.sent.load(Ordering::SeqCst) > sent + 1_000);
        }
        traffic.ended.store(true, Ordering::SeqCst);
    });
    let code = if lag_of(&cli.run(&["lag", "--json"]).json()) > 0 { 5 } else { 0 };
    cli.run(&["lag", "--max", "0"]).expect(code);
    drop((subscriber, publisher, topic, bus));
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let cli = CliBus::new("cli-codes");
    cli.run(&["create", "a", "--group", "g", "--capacity", "8"]).expect(0);
    // 2: usage
    cli.run(&["frobnicate"]).expect(2);
    cli.run(&["pub", "a", "x", "--lane", "express"]).expect(2).says("critical, high, normal");
    cli.run(&["pub", "a/b", "x"]).expect(2).says("letters, digits");
    cli.run(&["sub", "_secret"]).expect(2).says("belong to the bus");
    cli.run(&["create", "b", "--lanes", "5"]).expect(2).says("1 to 4");
    cli.run(&["create", "b", "--capacity", "many"]).expect(2);
    cli.run(&["sub", "a", "--from", "first"]).expect(2).says("oldest");
    cli.run(&["sub", "a", "a"]).expect(2).says("twice");
    cli.run(&["top"]).expect(2).says("--once");
    // 3: not found
    cli.run(&["info", "nothing"]).expect(3).says("shmbus create nothing");
    cli.run(&["lag", "--group", "nobody"]).expect(3);
    cli.run(&["sub", "a", "--from", "77"]).expect(3).says("retained, 0..0");
    cli.run(&["pub", "a", "--file", "/no/such/file"]).expect(3).says("/no/such/file");
    // 4: timed out
    cli.run(&["sub", "a", "--timeout", "50ms"]).expect(4).says("no message for 50 ms");
    cli.run(&["pub", "a", "x", "-n", "9", "--timeout", "50ms"]).expect(4).says("\"g\" holds it");
    // 5: threshold
    cli.run(&["lag", "--max", "7"]).expect(5).says("8 messages behind");
    cli.run(&["lag", "--max", "8"]).expect(0);
    cli.run(&["lag", "--max-age", "1us"]).expect(5);
    cli.run(&["lag", "--max-age", "1h"]).expect(0);
    // 6: incompatible
    cli.run(&["create", "a", "--capacity", "16"]).expect(6).says("capacity was asked to be 16");
    cli.run(&["create", "a"]).expect(0);
    cli.run(&["sub", "a", "-g", "g", "--shared"]).expect(6).says("one member");
    let reader = cli.start(&["sub", "a", "-g", "g", "--service", "first"]);
    cli.wait_for_readers("a", 1);
    cli.run(&["sub", "a", "-g", "g"]).expect(6).says(&format!("pid {} (first)", reader.pid()));
    cli.run(&["--dir", "/tmp", "up"]).expect(6).says("tmpfs");
    let help = cli.run(&["--help"]).expect(0).out;
    for code in 0..=6 {
        assert!(help.contains(&format!("\n  {code}  ")), "{code} is not explained");
    }
}

#[test]
fn a_full_topic_lets_go_as_soon_as_there_is_room() {
    let cli = CliBus::new("cli-full");
    cli.run(&["create", "a", "--group", "g", "--capacity", "8"]).expect(0);
    let lines: String = (0..50).map(|n| format!("{n}\n")).collect();
    let mut publisher = Running::spawn(cli.command(&["pub", "a", "--timeout", "1m"]).stdin(Stdio::piped()));
    publisher.write(lines.as_bytes());
    eventually("it is full", || cli.topic("a").is_some_and(|topic| topic.lanes[2].fill_count == 8));
    let ran = cli.run(&["sub", "a", "-g", "g", "-n", "50"]).expect(0);
    assert_eq!(ran.out, lines);
    publisher.finish().expect(0).says("published 50 messages");
}

#[test]
fn a_rate_is_kept() {
    let cli = CliBus::new("cli-rate");
    let begun = Instant::now();
    cli.run(&["pub", "a", "x", "--rate", "200", "--count", "41"]).expect(0);
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    assert_eq!(cli.topic("a").unwrap().lanes[2].end, 41);
}

#[test]
fn a_closed_pipe_ends_it_without_a_word_even_while_nothing_comes() {
    let cli = CliBus::new("cli-pipe");
    cli.run(&["up"]).expect(0);
    let (sub, out) = Running::spawn_piped(&mut cli.command(&["sub", "a", "-q"]));
    cli.wait_for_readers("a", 1);
    cli.run(&["pub", "a", "first"]).expect(0);
    let mut out = BufReader::new(out);
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    drop(out);
    assert_eq!(sub.finish().expect(0).err, "");
    cli.assert_nobody();
    // And while something does come.
    let (sub, mut out) = Running::spawn_piped(&mut cli.command(&["sub", "a", "-q"]));
    cli.wait_for_readers("a", 1);
    let mut publisher =
        Running::spawn(cli.command(&["-q", "pub", "a", "--timeout", "1m"]).stdin(Stdio::piped()));
    publisher.write("a line of text\n".repeat(3_000).as_bytes());
    out.read_exact(&mut [0; 1_000]).unwrap();
    drop(out);
    assert_eq!(sub.finish().expect(0).err, "");
    publisher.write("a line of text\n".repeat(3_000).as_bytes());
    assert_eq!(publisher.finish().expect(0).err, "");
    cli.assert_nobody();
    let (top, out) = Running::spawn_piped(&mut cli.command(&["top", "--json", "--interval", "30ms"]));
    BufReader::new(out).read_line(&mut line).unwrap();
    assert_eq!(top.finish().expect(0).err, "");
}

#[test]
fn an_interrupt_ends_it_in_order() {
    let cli = CliBus::new("cli-int");
    cli.run(&["up"]).expect(0);
    for signal in [Signal::INT, Signal::TERM] {
        let sub = cli.start(&["sub", "a", "-q"]);
        cli.wait_for_readers("a", 1);
        sub.signal(signal);
        assert_eq!(sub.finish().expect(0).err, "");
        cli.assert_nobody();
    }
    // What was asked for has not been done: a shell's code for that.
    let sub = cli.start(&["sub", "a", "-n", "5", "-q"]);
    cli.wait_for_readers("a", 1);
    sub.signal(Signal::INT);
    assert_eq!(sub.finish().expect(130).err, "");
    let mut publisher = Running::spawn(cli.command(&["-q", "pub", "a"]).stdin(Stdio::piped()));
    publisher.write(b"whole\nhal");
    eventually("the whole line is published", || cli.topic("a").is_some_and(|topic| topic.lanes[2].end == 1));
    publisher.signal(Signal::INT);
    let ran = publisher.finish();
    assert_eq!((ran.code, ran.err.as_str()), (130, ""));
    assert_eq!(cli.topic("a").unwrap().lanes[2].end, 1, "half a line is no message");
    cli.assert_nobody();
}

#[test]
fn an_unknown_topic_is_created_and_waited_on_unless_it_has_to_exist() {
    let cli = CliBus::new("cli-unknown");
    cli.run(&["up"]).expect(0);
    cli.run(&["sub", "later", "--existing"]).expect(3).says("no topic \"later\"");
    assert!(cli.topic("later").is_none());
    let mut sub = cli.start(&["sub", "later", "-n", "1"]);
    sub.wait_for_remark("created topic \"later\"");
    cli.wait_for_readers("later", 1);
    cli.run(&["pub", "later", "now"]).expect(0);
    assert_eq!(sub.finish().expect(0).out, "now\n");
    let sub = cli.start(&["sub", "later", "--existing", "-q", "--timeout", "20ms"]);
    assert_eq!(sub.finish().expect(4).out, "");
    cli.run(&["down"]).expect(0);
}

#[test]
fn a_stalled_reader_holds_for_its_limit_and_then_says_what_it_missed() {
    let cli = CliBus::new("cli-stall");
    cli.run(&["create", "a", "--capacity", "64"]).expect(0);
    let (mut sub, out) = Running::spawn_piped(&mut cli.command(&["sub", "a", "--stall", "100ms"]));
    cli.wait_for_readers("a", 1);
    // Nobody reads its output: it blocks in the middle of a line when the pipe is full.
    let line = "x".repeat(1_000);
    let input: String = (0..2_000).map(|n| format!("{n} {line}\n")).collect();
    cli.run_with(&["pub", "a", "--timeout", "10s"], input.as_bytes()).expect(0).says("published 2,000");
    let mut numbers = Vec::new();
    let mut out = BufReader::new(out);
    while numbers.last() != Some(&1_999) {
        let mut text = String::new();
        assert!(out.read_line(&mut text).unwrap() > 0, "it ended after {numbers:?}");
        numbers.push(text.split(' ').next().unwrap().parse::<u64>().unwrap());
    }
    assert!(numbers.is_sorted());
    let mut missed = 0;
    while numbers.len() as u64 + missed < 2_000 {
        let remark = sub.wait_for_remark("missed ");
        let run = remark.split(' ').nth(1).unwrap();
        let (from, until) = run.split_once("..").unwrap();
        let (from, until): (u64, u64) = (from.parse().unwrap(), until.parse().unwrap());
        assert!(remark.contains(&format!("({})", until - from)), "{remark}");
        assert!(numbers.iter().all(|number| !(from..until).contains(number)), "{remark}");
        missed += until - from;
    }
    assert_eq!(numbers.len() as u64 + missed, 2_000, "each was printed or reported");
    sub.signal(Signal::INT);
    sub.finish().expect(0);
    cli.assert_nobody();
}

#[test]
fn a_tap_never_holds_and_a_holder_never_lets_go() {
    let cli = CliBus::new("cli-tap");
    // A supervisor of its own: the one in a stopped process would not answer.
    cli.run(&["up"]).expect(0);
    cli.run(&["create", "a", "--capacity", "8"]).expect(0);
    cli.run(&["pub", "a", "x", "-n", "20"]).expect(0);
    let (tap, _unread) = Running::spawn_piped(&mut cli.command(&["sub", "a", "--tap", "--from", "oldest"]));
    eventually("the tap takes part", || cli.view().participants().len() == 1);
    cli.run(&["pub", "a", "x", "-n", "1000", "--timeout", "0"]).expect(0);
    tap.signal(Signal::INT);
    drop(tap);
    let (hold, _unread) = Running::spawn_piped(&mut cli.command(&["sub", "a", "--hold"]));
    cli.wait_for_readers("a", 1);
    hold.signal(Signal::STOP);
    cli.run(&["pub", "a", "x", "-n", "20", "--timeout", "1500ms"]).expect(4).says("\"~");
    hold.signal(Signal::CONT);
    hold.signal(Signal::INT);
    hold.finish().expect(0);
}

#[test]
fn a_group_goes_on_where_it_stood_also_after_a_kill() {
    let cli = CliBus::new("cli-group");
    cli.run(&["up"]).expect(0);
    cli.run(&["create", "a", "--group", "g"]).expect(0);
    cli.run_with(&["pub", "a"], b"1\n2\n3\n4\n5\n").expect(0);
    assert_eq!(cli.run(&["sub", "a", "-g", "g", "-n", "2"]).expect(0).out, "1\n2\n");
    let mut sub = cli.start(&["sub", "a", "-g", "g", "--from", "oldest"]);
    sub.wait_for_remark("--from has no effect");
    assert_eq!([sub.line(), sub.line(), sub.line()], ["3", "4", "5"]);
    eventually("it has acknowledged", || {
        cli.topic("a").is_some_and(|topic| topic.groups[0].lanes[2].low_water == 5)
    });
    sub.signal(Signal::KILL);
    sub.finish().expect(137);
    cli.run_with(&["pub", "a"], b"6\n").expect(0);
    assert_eq!(cli.run(&["sub", "a", "-g", "g", "-n", "1"]).expect(0).out, "6\n");
    cli.assert_nobody();
}

#[test]
fn members_of_a_shared_group_share_the_messages() {
    let cli = CliBus::new("cli-shared");
    let members: Vec<Running> =
        (0..2).map(|_| cli.start(&["sub", "a", "-g", "team", "--shared", "-q"])).collect();
    eventually("both are members", || {
        cli.topic("a").is_some_and(|topic| topic.groups.iter().any(|group| group.members == 2))
    });
    let lines: String = (0..2_000).map(|n| format!("{n}\n")).collect();
    cli.run_with(&["-q", "pub", "a", "--timeout", "10s"], lines.as_bytes()).expect(0);
    eventually("everything is finished", || {
        cli.topic("a").is_some_and(|topic| topic.groups[0].lanes.iter().all(|lane| lane.lag_count == 0))
    });
    let mut all = Vec::new();
    for member in members {
        member.signal(Signal::INT);
        let out = member.finish().expect(0).out;
        all.extend(out.lines().map(|line| line.parse::<u32>().unwrap()));
    }
    assert_eq!(all.len(), 2_000, "no message went to both");
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), (0..2_000).collect());
}

#[test]
fn members_of_a_keyed_group_have_keys_for_themselves_and_info_says_how_many() {
    let cli = CliBus::new("cli-keyed");
    cli.run(&["create", "a", "--keyed-group", "team"]).expect(0);
    cli.run(&["group", "rebalance", "a", "team"]).expect(6).says("no members");
    let mut members: Vec<Running> =
        (0..2).map(|_| cli.start(&["sub", "a", "-g", "team", "--keyed", "-q"])).collect();
    let shares = || {
        let info = cli.run(&["info", "a", "--json"]).expect(0).json();
        let members = info["groups"][0]["keyed"]["members"].as_array().unwrap().clone();
        members.iter().map(|member| member["partition_count"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    eventually("they share", || shares() == [128, 128]);
    for number in 0..3 {
        for key in ["ada", "bob", "eve", "joe"] {
            cli.run(&["-q", "pub", "a", "--key", key, &format!("{key} {number}")]).expect(0);
        }
    }
    eventually("everything is finished", || {
        cli.topic("a").is_some_and(|topic| topic.groups[0].lanes.iter().all(|lane| lane.lag_count == 0))
    });
    cli.run(&["sub", "a", "-g", "team", "--shared"]).expect(6).says("keyed");
    let text = cli.run(&["info", "a"]).expect(0).out;
    for words in ["group team is keyed", "128 of 256", "hottest partitions: "] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    let top = cli.run(&["top", "--once", "--interval", "30ms"]).expect(0).out;
    for words in ["2 keyed members", "; busiest member ", " %, hottest partition ", " %)"] {
        assert!(top.contains(words), "{words:?} is not in {top}");
    }
    let top = cli.run(&["top", "--once", "--json", "--interval", "30ms"]).expect(0).json();
    let keyed = &top["topics"][0]["groups"][0]["keyed"];
    assert_eq!((keyed["members"].as_array().unwrap().len(), &keyed["handed_count"]), (2, &12.into()));
    cli.run(&["group", "rebalance", "a", "team"]).expect(0);
    let done = cli.run(&["group", "rebalance", "a", "team", "--json"]).expect(0).json();
    assert_eq!((&done["members"], &done["counted"]), (&2.into(), &0.into()));
    cli.run(&["group", "rebalance", "a", "nobody"]).expect(6).says("no such group");
    for member in &members {
        member.signal(Signal::INT);
    }
    let printed: Vec<String> = members.drain(..).map(|member| member.finish().out).collect();
    for key in ["ada", "bob", "eve", "joe"] {
        let of: Vec<Vec<&str>> = printed
            .iter()
            .map(|out| out.lines().filter(|line| line.starts_with(key)).collect())
            .filter(|lines: &Vec<&str>| !lines.is_empty())
            .collect();
        assert_eq!(of, [[0, 1, 2].map(|number| format!("{key} {number}"))], "one member has all of {key}");
    }
}

#[test]
fn a_damaged_bus_is_named_and_goes_with_force() {
    let cli = CliBus::new("cli-damage");
    cli.run(&["pub", "good", "x"]).expect(0);
    cli.run(&["pub", "bad", "x"]).expect(0);
    let shorten = |path: &str| {
        std::fs::File::options().write(true).open(cli.path().join(path)).unwrap().set_len(100).unwrap();
    };
    shorten("topics/bad/ring");
    let ls = cli.run(&["ls"]).expect(1).says("\"bad\" cannot be read").says("100 bytes");
    assert!(ls.out.contains("good"), "{}", ls.out);
    cli.run(&["info", "bad"]).expect(6).says("down --force");
    cli.run(&["pub", "bad", "x"]).expect(6);
    cli.run(&["pub", "good", "x"]).expect(0);
    shorten("bus");
    cli.run(&["ls"]).expect(6);
    cli.run(&["down"]).expect(6).says("down --force");
    cli.run(&["down", "--force"]).expect(0);
    cli.bus.assert_gone();
}

#[test]
fn files_deleted_under_a_reader_are_reported_once() {
    let cli = CliBus::new("cli-unlink");
    let mut sub = cli.start(&["sub", "a", "-q"]);
    cli.wait_for_readers("a", 1);
    std::fs::remove_dir_all(cli.path()).unwrap();
    sub.wait_for_remark("its files have been deleted");
    sub.signal(Signal::TERM);
    let ran = sub.finish().expect(0);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    cli.bus.assert_gone();
}

#[test]
fn a_topic_of_archives_is_shown_with_its_type_and_takes_no_text() {
    let cli = CliBus::new("cli-typed");
    let bus = Bus::builder(&cli.bus.name).service("typed").open().unwrap();
    let topic = bus.topic_builder::<Words>("words").with_group("g").open().unwrap();
    topic.publisher().unwrap().publish(&Words { words: [0x41; 8] }).unwrap();
    cli.run(&["pub", "words", "text"]).expect(6).says("carries Words v1");
    assert!(cli.run(&["ls"]).expect(0).out.contains("Words v1"));
    let text = cli.run(&["sub", "words", "--from", "oldest", "-n", "1"]).expect(0).out;
    assert!(text.starts_with("Words v1, 64 B: A\\x00\\x00"), "{text}");
    let json = cli.run(&["sub", "words", "-g", "g", "--json", "-n", "1"]).expect(0).json();
    assert_eq!((&json["type"], &json["encoding"]), (&"Words v1".into(), &"base64".into()));
    assert_eq!(json["bytes"], 64);
    drop((topic, bus));
}

#[test]
fn top_is_live_in_a_terminal_and_quits_on_q() {
    let cli = CliBus::new("cli-top");
    cli.run(&["create", "orders", "--group", "billing"]).expect(0);
    cli.run(&["create", "sport", "--group", "fans"]).expect(0);
    let mut top = InTerminal::start(&mut cli.command(&["top", "--interval", "30ms"]));
    top.wait_for("q quit");
    top.wait_for("billing");
    cli.run(&["pub", "orders", "x", "-n", "123"]).expect(0);
    top.wait_for("123");
    top.wait_for("nobody reads");
    top.press("/fan");
    top.wait_for("/fan_");
    top.wait_until_gone("billing");
    top.press("\r");
    top.wait_for("/ filter (fan)");
    top.press("l");
    top.wait_for("l:lag*");
    assert!(top.screen().contains("sport") && !top.screen().contains("orders"), "{}", top.screen());
    top.press("q");
    let written = top.written();
    assert_eq!(top.finish(), 0);
    assert!(written.contains("\u{1b}[?1049h"), "it has a screen of its own");
    cli.assert_nobody();
    let top = InTerminal::start(&mut cli.command(&["top"]));
    top.wait_for("q quit");
    cli.run(&["down", "--force"]).expect(0);
    assert_eq!(top.finish(), 3, "the bus has gone");
}

#[test]
fn gc_removes_what_the_killed_have_left_and_nothing_else() {
    let cli = CliBus::apart("cli-gc");
    let names = |ran: Ran| -> Vec<String> {
        let words = ran.expect(0).json();
        let removed = words["removed"].as_array().unwrap().iter();
        removed.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert!(cli.run(&["gc"]).expect(0).out.contains("nothing to remove"));
    // A reader on a temporary bus is killed, and the supervisor with it.
    let mut up = cli.start(&["up", "--temporary", "--foreground"]);
    up.line();
    let sub = cli.start(&["sub", "a"]);
    cli.wait_for_readers("a", 1);
    assert!(names(cli.run(&["gc", "--json"])).is_empty(), "somebody is there");
    up.signal(Signal::KILL);
    up.finish().expect(137);
    assert!(names(cli.run(&["gc", "--json"])).is_empty(), "somebody is still there");
    sub.signal(Signal::KILL);
    sub.finish().expect(137);
    assert_eq!(names(cli.run(&["gc", "--dry-run", "--json"])), std::slice::from_ref(&cli.bus.name));
    assert!(cli.path().exists(), "only looked");
    assert!(cli.run(&["gc"]).expect(0).out.contains(&format!("removed temporary bus {}", cli.bus.name)));
    assert!(!cli.path().exists());
    // A bus that is to stay does, whoever has been killed.
    let sub = cli.start(&["sub", "a"]);
    cli.wait_for_readers("a", 1);
    sub.signal(Signal::KILL);
    sub.finish().expect(137);
    assert!(names(cli.run(&["gc", "--json"])).is_empty());
    assert!(cli.path().exists());
}

#[test]
fn fsck_says_what_is_wrong_where_and_what_to_do() {
    use std::os::unix::fs::FileExt;
    let cli = CliBus::new("cli-fsck");
    cli.run(&["fsck"]).expect(3).says("no bus");
    cli.run(&["create", "a.b", "--lanes", "2", "--group", "g"]).expect(0);
    cli.run(&["pub", "a.b", "hello"]).expect(0);
    assert_eq!(cli.run(&["fsck"]).expect(0).out, "clean: 1 topic, 2 lanes, 1 group checked\n");
    let report = cli.run(&["fsck", &cli.bus.name, "--json"]).expect(0).json();
    assert_eq!((&report["clean"], &report["lanes"]), (&true.into(), &2.into()));
    let ring = std::fs::File::options().write(true).open(cli.path().join("topics/a.b/ring")).unwrap();
    let gate = bus_core::layout::ring::gate(1) as u64;
    ring.write_all_at(&77_u64.to_ne_bytes(), gate).unwrap();
    let ran = cli.run(&["fsck"]).expect(1);
    let lines: Vec<_> = ran.out.lines().collect();
    let [problem, "1 problem: 1 topic, 2 lanes, 1 group checked"] = lines[..] else { panic!("{lines:?}") };
    assert!(
        problem.starts_with("topic a.b, lane 1 [gate.ahead]: found gate 77, expected at most"),
        "{problem}"
    );
    assert!(problem.contains("shmbus down --force"), "{problem}");
    let report = cli.run(&["fsck", "--json"]).expect(1).json();
    let problem = &report["problems"][0];
    assert_eq!((&problem["invariant"], &problem["topic"]), (&"gate.ahead".into(), &"a.b".into()));
    assert_eq!((&problem["lane"], &problem["found"]), (&1.into(), &"gate 77".into()));
}

//! Requests and mailboxes from the shell: the real binary, answered by this process.

use bus_shm::{Bus, Bytes};
use rustix::process::Signal;
use serde_json::Value;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tests::cli::{CliBus, Running};
use tests::harness::eventually;

/// Opens the bus and answers each request with what `answer` makes of it, until one says `end`.
fn replier(
    cli: &CliBus,
    topic: &str,
    answer: impl Fn(&[u8]) -> Result<Vec<u8>, String> + Send + 'static,
) -> std::thread::JoinHandle<u32> {
    let bus = Bus::builder(&cli.bus.name).service("replier").open().unwrap();
    let mut subscriber = bus.topic::<Bytes>(topic).unwrap().group("repliers").join().unwrap();
    std::thread::spawn(move || {
        let mut count = 0;
        loop {
            let message = subscriber.receive().unwrap();
            let outcome = answer(message.payload());
            let sent = message.reply_outcome(outcome.as_deref().map_err(String::as_str)).unwrap();
            let is_end = message.payload() == b"end";
            count += u32::from(sent);
            message.ack().unwrap();
            if is_end {
                return count;
            }
        }
    })
}

#[test]
fn a_request_prints_its_answer() {
    let cli = CliBus::new("cli-request");
    cli.run(&["up"]).expect(0);
    let thread = replier(&cli, "ask", |request| match request {
        b"why" => Err("nobody knows".into()),
        b"red" => Err("\x1b[31mred\nshmbus: fine".into()),
        other => Ok([other, b" \xff"].concat()),
    });
    assert_eq!(cli.run(&["request", "ask", "hello"]).expect(0).out, "hello \\xff\n");
    assert_eq!(cli.run_with(&["request", "ask", "-"], b"two\nlines").expect(0).out, "two\\nlines \\xff\n");
    assert_eq!(cli.run_with(&["request", "ask", "--raw"], b"x").expect(0).out, "x \u{fffd}");
    let json = cli.run(&["request", "ask", "hi", "--json", "--key", "k"]).expect(0).json();
    assert_eq!((&json["topic"], &json["service"]), (&"ask".into(), &"replier".into()));
    assert_eq!((&json["encoding"], &json["bytes"]), (&"base64".into(), &4.into()));
    cli.run(&["request", "ask", "why"]).expect(1).says("the replier answered with an error: nobody knows");
    // What a terminal would act upon is shown as an escape.
    cli.run(&["request", "ask", "red"]).expect(1).says("\\x1b[31mred\\nshmbus: fine");
    // A message that is no request is nothing to be answered.
    cli.run(&["pub", "ask", "just so"]).expect(0);
    assert_eq!(cli.run(&["request", "ask", "end"]).expect(0).out, "end \\xff\n");
    assert_eq!(thread.join().unwrap(), 7);
    // Nothing is left of all these requesters.
    let names: Vec<_> = std::fs::read_dir(cli.path().join("topics")).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    cli.run(&["down", "--force"]).expect(0);
}

#[test]
fn a_request_without_an_answer_says_why_and_how_soon() {
    let cli = CliBus::new("cli-unanswered");
    cli.run(&["request", "ask", "x"]).expect(3).says("no bus");
    cli.run(&["up"]).expect(0);
    cli.run(&["request", "ask", "x"])
        .expect(3)
        .says("topic \"ask\": nobody can answer: there is no such topic");
    cli.run(&["create", "ask", "--group", "g"]).expect(0);
    let begun = Instant::now();
    cli.run(&["request", "ask", "x", "--timeout", "1m"]).expect(3).says("no member of its groups is alive");
    assert!(begun.elapsed() < Duration::from_secs(30));
    cli.run(&["request", "ask", "x", "--timeout", "50ms", "--even-if-away"])
        .expect(4)
        .says("no answer within 50ms; 0 of 1 group(s)");
    cli.run(&["request", "ask", "x", "--replies", "0"]).expect(2);
    cli.run(&["request", "a b", "x"]).expect(2).says("cannot name a topic");
    cli.run(&["request", "@a b", "x"]).expect(2).says("cannot name a mailbox");
    // A name that nobody has made may be wrong: nothing is made, and nobody waits.
    for more in [None, Some("--even-if-away")] {
        let arguments = ["request", "@typo", "x", "--timeout", "1m"].into_iter().chain(more);
        let ran = cli.run(&arguments.collect::<Vec<_>>()).expect(3);
        ran.says("topic \"@typo\": nobody can answer: there is no such mailbox");
    }
    cli.run(&["request", "typo", "x", "--even-if-away"]).expect(3).says("there is no such topic");
    cli.run(&["request", "typo", "x", "--create"]).expect(2).says("--create is for mailboxes");
    assert!(!cli.run(&["ls"]).expect(0).out.contains("typo"));
    // A request that its replier gives up is a dead letter here as elsewhere.
    let bus = Bus::builder(&cli.bus.name).service("refuser").open().unwrap();
    let mut refuser = bus.topic::<Bytes>("refused").unwrap().group("g").join().unwrap();
    let refusing = std::thread::spawn(move || refuser.receive().unwrap().reject("no \x07 way").unwrap());
    cli.run(&["request", "refused", "x", "--timeout", "1m"]).expect(7).says("no \\x07 way");
    refusing.join().unwrap();
    drop(bus);
    // Several answers end with the time, if there is one.
    let thread = replier(&cli, "ask", |request| Ok(request.to_vec()));
    let ran = cli.run(&["request", "ask", "end", "--replies", "3", "--timeout", "400ms"]).expect(0);
    assert_eq!(ran.out, "end\n");
    thread.join().unwrap();
    // A signal ends the wait.
    let mut sub = cli.start(&["sub", "ask"]);
    cli.wait_for_readers("ask", 1);
    let waiting = cli.start(&["request", "ask", "x", "--timeout", "1m"]);
    assert_eq!(sub.line(), "x");
    waiting.signal(Signal::INT);
    waiting.finish().expect(130);
    sub.signal(Signal::INT);
    sub.finish().expect(0);
    cli.run(&["down", "--force"]).expect(0);
}

#[test]
fn a_mailbox_is_a_name_with_an_at_everywhere() {
    let cli = CliBus::new("cli-mailbox");
    cli.run(&["up"]).expect(0);
    cli.run(&["pub", "@reasoner", "first"]).expect(0).says("created mailbox @reasoner");
    cli.run_with(&["pub", "@reasoner"], b"second\nthird").expect(0);
    assert!(cli.run(&["ls"]).expect(0).out.contains("@reasoner"));
    let info = cli.run(&["info", "@reasoner"]).expect(0).out;
    assert!(info.contains("@reasoner; it has never had an owner"), "{info}");
    assert!(cli.run(&["lag", "@reasoner"]).expect(0).out.contains("@reasoner"));
    assert!(cli.run(&["top", "--once"]).expect(0).out.contains("@reasoner"));
    cli.run(&["quota", "@reasoner", "--messages", "1000"]).expect(0);
    assert!(cli.run(&["quota", "@reasoner"]).expect(0).out.contains("1,000"));
    // Looking takes nothing away.
    let ran = cli.run(&["sub", "@reasoner", "--tap", "--from", "oldest", "-n", "3"]).expect(0);
    assert_eq!(ran.out, "first\nsecond\nthird\n");
    let mut owner =
        Running::spawn(cli.command(&["sub", "@reasoner", "--service", "one"]).stdin(Stdio::null()));
    assert_eq!([owner.line(), owner.line(), owner.line()], ["first", "second", "third"]);
    cli.run(&["sub", "@reasoner"]).expect(6).says("mailbox @reasoner is owned by pid").says("(one)");
    cli.run(&["sub", "@reasoner", "--group", "g"]).expect(2).says("a mailbox has one group");
    cli.run(&["sub", "@reasoner", "news"]).expect(2).says("mailboxes are read by themselves");
    owner.signal(Signal::INT);
    owner.finish().expect(0);
    let info = cli.run(&["info", "@reasoner"]).expect(0).out;
    assert!(info.contains("its owner has been away for"), "{info}");
    // A full one.
    let filler = (0..256).map(|number| format!("{number}\n")).collect::<String>();
    cli.run_with(&["pub", "@reasoner"], filler.as_bytes()).expect(0);
    cli.run(&["pub", "@reasoner", "one too many", "--timeout", "10ms"])
        .expect(4)
        .says("mailbox @reasoner is full")
        .says("its owner has been away for");
    // Its dead letters are found under its name, and told of.
    {
        let bus = Bus::builder(&cli.bus.name).service("owner").open().unwrap();
        let mut owner = bus.mailbox::<Bytes>("reasoner").unwrap().own().unwrap();
        owner.receive().unwrap().reject("not for me").unwrap();
    }
    let letters = cli.run(&["dlq", "ls", "@reasoner"]).expect(0).out;
    assert!(letters.contains("@reasoner") && letters.contains("not for me"), "{letters}");
    let json = cli.run(&["dlq", "ls", "@reasoner", "--json"]).expect(0).json();
    assert_eq!(json["dead_letters"][0]["topic"], "_mail.reasoner");
    cli.run(&["dlq", "replay", "@reasoner"]).expect(0);
    cli.run(&["create", "copy", "--capacity", "512", "--group", "g"]).expect(0);
    cli.run(&["replay", "@reasoner", "--from", "oldest", "--to", "copy"]).expect(0);
    let mut asked = cli.start(&["request", "@other", "x", "--create", "--json"]);
    let bus = Bus::builder(&cli.bus.name).service("owner").open().unwrap();
    eventually("the mailbox is made", || cli.path().join("topics/_mail.other").exists());
    let mut owner = bus.mailbox::<Bytes>("other").unwrap().own().unwrap();
    let message = owner.receive_timeout(Duration::from_secs(20)).unwrap().unwrap();
    message.reply_bytes(b"answer").unwrap();
    message.ack().unwrap();
    let json: Value = serde_json::from_str(&asked.line()).unwrap();
    assert_eq!((&json["topic"], &json["payload"]), (&"@other".into(), &"answer".into()));
    asked.finish().expect(0);
    drop((owner, bus));
    cli.run(&["down", "--force"]).expect(0);
}

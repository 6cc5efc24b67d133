//! Mailboxes: messages for agents that are away, and who owns them.

use bus_core::name::NameError;
use bus_shm::requests::Nobody;
use bus_shm::{Ask, Bytes, Mailbox, MailboxError, MailboxOwner, Pending, PublishError, RequestError};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use tests::harness::{self, Agent, Role, TestBus, assert_clean, eventually};

const ENTRY: &str = "child";
const LONG: Duration = Duration::from_secs(20);
/// What docs/requests.md says that an empty mailbox takes, and a sender that has written to it.
const EMPTY_BYTES: u64 = 20 << 10;
const SENDER_BYTES: u64 = 8 << 10;

#[test]
fn child() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "sender" => sender(role),
        "owner" => owner(role),
        other => panic!("no such role: {other}"),
    }
}

fn spawn(role: &str, test: &TestBus, argument: &str) -> Agent {
    Agent::spawn(ENTRY, role, &test.name, argument)
}

/// Opens the bus, waits for a word, and then writes one message into `@reasoner`; or owns it, by its argument.
fn sender(mut role: Role) {
    let bus = role.open();
    role.parent.tell("ready");
    role.parent.hear();
    let mailbox: Mailbox<Bytes> = bus.mailbox("reasoner").unwrap();
    mailbox.publisher().unwrap().publish(role.argument.as_bytes()).unwrap();
    role.parent.tell("written");
    role.parent.hear();
}

/// Takes as many messages as it is told to, acknowledges all but the last two, and holds these.
fn owner(mut role: Role) {
    let bus = role.open();
    let mailbox: Mailbox<Bytes> = bus.mailbox("reasoner").unwrap();
    let mut owner = mailbox.own().unwrap();
    let count = role.number() as usize;
    for number in 0..count - 2 {
        let message = owner.receive_timeout(LONG).unwrap().unwrap();
        assert_eq!(message.payload(), number.to_string().as_bytes());
        message.ack().unwrap();
    }
    let mut batch = owner.receive_batch(2, 2, LONG).unwrap();
    for _ in 0..2 {
        assert!(batch.next_message().unwrap().is_some());
    }
    role.parent.tell("holding");
    role.parent.hear();
}

fn mailbox(bus: &bus_shm::Bus) -> Mailbox<Bytes> {
    bus.mailbox("reasoner").unwrap()
}

#[test]
fn what_was_written_before_there_was_an_owner_is_read_in_order() {
    let test = TestBus::new("before");
    let bus = test.open("main");
    let mailbox = mailbox(&bus);
    assert_eq!((mailbox.name(), mailbox.owner()), ("reasoner", MailboxOwner::None));
    let mut publisher = mailbox.publisher().unwrap();
    for number in 0..200_u32 {
        publisher.publish(&number.to_le_bytes()).unwrap();
    }
    let mut owner = mailbox.own().unwrap();
    assert_eq!(mailbox.owner(), MailboxOwner::There);
    for number in 0..200_u32 {
        let message = owner.receive_timeout(LONG).unwrap().unwrap();
        assert_eq!((message.payload(), message.is_redelivered()), (&number.to_le_bytes()[..], false));
        message.ack().unwrap();
    }
    assert!(owner.try_receive().unwrap().is_none());
    // Patterns leave it out, and its names are checked.
    assert_eq!(bus.subscribe_pattern::<Bytes>("*").join().unwrap().topic_count(), 0);
    for name in ["", "a b", "a..b", "@x"] {
        assert!(matches!(bus.mailbox::<Bytes>(name), Err(MailboxError::Name { .. })), "{name:?}");
    }
    assert!(bus.mailbox::<Bytes>("_reasoner.two").is_ok(), "names of mailboxes are their own");
    // The longest has dead letters that can be announced.
    let longest = "m".repeat(185);
    let mailbox: Mailbox<Bytes> = bus.mailbox(&longest).unwrap();
    mailbox.topic().dead_letter_notices().unwrap();
    match bus.mailbox::<Bytes>(&format!("{longest}m")) {
        Err(error @ MailboxError::Name { why: NameError::TooLong { max_bytes: 185, .. }, .. }) => {
            assert!(error.to_string().contains("186 bytes, at most 185"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_clean(&test);
}

#[test]
fn a_full_mailbox_says_so_and_since_when_its_owner_is_away() {
    let test = TestBus::new("full");
    let bus = test.open("main");
    let mailbox = mailbox(&bus);
    let mut publisher = mailbox.publisher().unwrap();
    publisher.set_deadline(Duration::from_millis(10));
    publisher.set_breaker(false);
    let fill = |publisher: &mut bus_shm::Publisher<Bytes>| loop {
        match publisher.publish(b"x") {
            Ok(_) => {}
            Err(PublishError::Full(full)) => return full,
            Err(error) => panic!("{error}"),
        }
    };
    let full = fill(&mut publisher);
    assert_eq!((full.lag_count, full.owner), (256, Some(MailboxOwner::None)));
    let said = full.to_string();
    assert!(said.contains("@reasoner") && said.contains("never had an owner"), "{said}");
    // One that reads half of it and ends.
    let mut owner = mailbox.own().unwrap();
    for _ in 0..128 {
        owner.receive_timeout(LONG).unwrap().unwrap().ack().unwrap();
    }
    assert_eq!(fill(&mut publisher).owner, Some(MailboxOwner::There));
    drop(owner);
    let full = fill(&mut publisher);
    assert!(matches!(full.owner, Some(MailboxOwner::AwaySince(since)) if since > 0), "{full:?}");
    assert!(full.to_string().contains("has been away for"), "{full}");
}

#[test]
fn a_second_owner_is_told_who_has_it_and_the_next_one_gets_what_was_in_doubt() {
    const COUNT: u32 = 10;
    let test = TestBus::new("owners");
    let bus = test.open("main");
    let mailbox = mailbox(&bus);
    let mut publisher = mailbox.publisher().unwrap();
    (0..COUNT + 3).for_each(|number| _ = publisher.publish(number.to_string().as_bytes()).unwrap());
    let mut agent = spawn("owner", &test, &COUNT.to_string());
    agent.line.expect("holding");
    match mailbox.own() {
        Err(MailboxError::Owned { mailbox, pid, service }) => {
            assert_eq!((mailbox.as_str(), pid, service.as_str()), ("reasoner", agent.pid(), "owner"));
        }
        other => panic!("{other:?}"),
    }
    agent.kill();
    eventually("its death is known", || matches!(mailbox.owner(), MailboxOwner::AwaySince(_)));
    let mut owner = mailbox.own().unwrap();
    for number in COUNT - 2..COUNT + 3 {
        let message = owner.receive_timeout(LONG).unwrap().unwrap();
        assert_eq!(message.payload(), number.to_string().as_bytes());
        assert_eq!(message.is_redelivered(), number < COUNT, "{number}");
        message.ack().unwrap();
    }
    assert_clean(&test);
}

#[test]
fn of_many_that_write_first_one_makes_the_mailbox_and_nothing_is_lost() {
    const SENDERS: usize = 6;
    for round in 0..3 {
        let test = TestBus::new("race");
        let bus = test.open("main");
        let mut agents: Vec<_> =
            (0..SENDERS).map(|number| spawn("sender", &test, &number.to_string())).collect();
        agents.iter_mut().for_each(|agent| agent.line.expect("ready"));
        agents.iter_mut().for_each(|agent| agent.line.tell("go"));
        let mut owner = mailbox(&bus).own().unwrap();
        // One is killed wherever it happens to be.
        agents[round].kill();
        let mut alive = 0;
        for agent in &mut agents {
            alive += usize::from(agent.line.try_hear().is_some_and(|heard| heard == "written"));
        }
        assert!(alive >= SENDERS - 1);
        let mut got = Vec::new();
        while let Some(message) = owner.receive_timeout(Duration::from_millis(50)).unwrap() {
            got.push(message.payload().to_vec());
            message.ack().unwrap();
        }
        got.sort();
        got.dedup();
        assert!(got.len() >= alive, "{got:?}");
        let topics: Vec<_> = std::fs::read_dir(test.path().join("topics")).unwrap().flatten().collect();
        assert_eq!(topics.len(), 1, "{topics:?}");
        drop(agents);
        assert_clean(&test);
    }
}

#[test]
fn a_thousand_mailboxes_lose_nothing_and_take_what_is_said() {
    const MAILBOXES: usize = 1_000;
    const EACH: u32 = 3;
    let test = TestBus::new("thousand");
    let bus = test.open("main");
    for number in 0..MAILBOXES {
        let mailbox: Mailbox<Bytes> = bus.mailbox(&format!("agent-{number}")).unwrap();
        let mut publisher = mailbox.publisher().unwrap();
        for count in 0..EACH {
            publisher.publish(format!("{number} {count}").as_bytes()).unwrap();
        }
    }
    let home = test.path().join("topics/_mail.agent-7");
    let bytes = |path: &std::path::Path| {
        let files = std::fs::read_dir(path).unwrap().flatten();
        files.map(|file| (file.file_name(), file.metadata().unwrap().blocks() * 512)).collect::<Vec<_>>()
    };
    let (arenas, rest): (Vec<_>, Vec<_>) = bytes(&home)
        .into_iter()
        .partition(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("arena-")));
    let sum = |files: &[(std::ffi::OsString, u64)]| files.iter().map(|(_, bytes)| bytes).sum::<u64>();
    assert_eq!((sum(&rest), sum(&arenas)), (EMPTY_BYTES, SENDER_BYTES), "{rest:?} {arenas:?}");
    for number in (0..MAILBOXES).rev() {
        let mailbox: Mailbox<Bytes> = bus.mailbox(&format!("agent-{number}")).unwrap();
        let mut owner = mailbox.own().unwrap();
        for count in 0..EACH {
            let message = owner.receive_timeout(LONG).unwrap().unwrap();
            assert_eq!(message.payload(), format!("{number} {count}").as_bytes());
            message.ack().unwrap();
        }
        assert!(owner.try_receive().unwrap().is_none());
    }
}

#[test]
fn a_mailbox_can_be_asked() {
    let test = TestBus::new("asked");
    let bus = test.open("main");
    let client = bus.requester().unwrap();
    let ask = Ask::within(LONG);
    let sent = client.send_bytes::<Bytes, Bytes>("@reasoner", b"?", &ask);
    // Nobody has made it: its name may be wrong, and it is not made, even for an owner that is away.
    let is_missing = |error: RequestError| match error {
        RequestError::NoReplier { topic, why: Nobody::NoMailbox } => assert_eq!(topic, "@reasoner"),
        other => panic!("{other}"),
    };
    is_missing(sent.unwrap_err());
    is_missing(
        client.send_bytes::<Bytes, Bytes>("@reasoner", b"?", &ask.clone().even_if_away()).unwrap_err(),
    );
    assert!(!test.path().join("topics/_mail.reasoner").exists());
    let pending: Pending<Bytes> =
        client.send_bytes::<Bytes, _>("@reasoner", b"?", &ask.clone().create_mailbox()).unwrap();
    assert_eq!(pending.id().sequence, 0);
    drop(pending);
    mailbox(&bus).own().unwrap().receive_timeout(LONG).unwrap().expect("that request").ack().unwrap();
    // There, and its owner away, it is to be said.
    let error = client.send_bytes::<Bytes, Bytes>("@reasoner", b"?", &ask).unwrap_err();
    assert!(matches!(&error, RequestError::NoReplier { why: Nobody::NoMember, .. }), "{error}");
    let asked = ask.even_if_away();
    let pending: Pending<Bytes> = client.send_bytes::<Bytes, _>("@reasoner", b"?", &asked).unwrap();
    let mut owner = mailbox(&bus).own().unwrap();
    let message = owner.receive_timeout(LONG).unwrap().unwrap();
    message.reply_bytes(b"!").unwrap();
    message.ack().unwrap();
    assert_eq!(pending.wait().unwrap().payload(), b"!");
}

//! The supervisor's role when its holder is stopped or dead at a bad moment: who takes it, how soon, and what the late holder
//! still does, which must be nothing. The protocol behind it is `tests/src/model/role.rs`.
//!
//! Every child is this test binary again, in the test [`agent`].

use bus_core::holder::{Holder, HolderWord, participant};
use bus_core::layout::ring::{self, type_state};
use bus_core::layout::superblock::{PARTICIPANT_BYTES, RoleWord, at};
use bus_shm::directory::BusDir;
use bus_shm::inspect::BusView;
use bus_shm::supervisor::Supervisor;
use bus_shm::{Bus, BusError, Bytes};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tests::harness::{self, Agent, Role, TestBus, Text, Words, eventually};

/// From the moment at which a holder is stopped to the next registration.
const SUCCESSION_MAX: Duration = Duration::from_secs(2);

fn spawn(role: &str, test: &TestBus, argument: impl std::fmt::Display) -> Agent {
    Agent::spawn("agent", role, &test.name, argument)
}

/// The other processes of every test here.
#[test]
fn agent() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "supervisor" => supervisor(role),
        "guest" => guest(role),
        "endless" => endless(role),
        other => panic!("no role {other:?}"),
    }
}

/// A dedicated supervisor.
fn supervisor(mut role: Role) {
    let supervisor = Supervisor::take(&BusDir::new(&role.bus, None).unwrap(), false).unwrap();
    role.parent.tell("serving");
    let stopped = supervisor.serve().unwrap();
    role.parent.tell(format!("{stopped:?}"));
}

/// Opens the bus, says whether it has the role, and makes topics of the names that it is told.
fn guest(mut role: Role) {
    let bus = role.builder().temporary(false).open().unwrap();
    role.parent.tell(bus.is_host());
    while let Some(asked) = role.parent.try_hear() {
        match asked.as_str() {
            "leave" => break,
            "host?" => role.parent.tell(bus.is_host()),
            "join" => {
                // What it holds goes with it; that it was there is noted.
                bus.topic::<Words>("t").unwrap().subscribe().unwrap().close();
                role.parent.tell("joined");
            }
            "claim" => {
                let mut subscriber = bus.topic::<Words>("t").unwrap().group("g").shared().join().unwrap();
                let _message = subscriber.receive_timeout(Duration::from_secs(10)).unwrap().unwrap();
                role.parent.tell("claimed");
                role.parent.try_hear();
                return;
            }
            name => {
                let made = bus.topic_builder::<Bytes>(name).capacity(1 << 20).lanes(4).open();
                role.parent.tell(made.map_or_else(|error| error.to_string(), |_| "made".into()));
            }
        }
    }
}

/// Publishes without end.
fn endless(mut role: Role) {
    let bus = role.builder().temporary(false).open().unwrap();
    let mut publisher = bus.topic::<Words>("t").unwrap().publisher().unwrap();
    publisher.set_deadline(Duration::from_secs(20));
    role.parent.tell("ready");
    for n in 0.. {
        publisher.publish(&Words::numbered(n)).unwrap();
    }
}

fn word_at(path: &Path, offset_bytes: usize) -> u64 {
    let mut bytes = [0; 8];
    std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, offset_bytes as u64).unwrap();
    u64::from_ne_bytes(bytes)
}

fn put(path: &Path, offset_bytes: usize, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset_bytes as u64).unwrap();
}

fn newest(test: &TestBus) -> RoleWord {
    RoleWord::unpack(word_at(&test.path().join("bus"), at::ROLE_EPOCH))
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What a late holder might change: who is the newest, who takes part under which lease, which topics of which types there
/// are, and which groups.
fn tables(test: &TestBus) -> Vec<(String, Vec<u8>)> {
    let mut tables = vec![
        ("role".to_owned(), newest(test).pack().to_ne_bytes().to_vec()),
        ("participants".into(), std::fs::read(test.path().join("bus")).unwrap()[at::STATE..].to_vec()),
        ("leases".into(), names(&test.path().join("leases")).join(" ").into()),
    ];
    let topics = test.path().join("topics");
    for name in names(&topics) {
        let ring = std::fs::read(topics.join(&name).join("ring")).unwrap();
        let groups = std::fs::read(topics.join(&name).join("groups")).unwrap();
        tables.push((format!("{name}: files"), names(&topics.join(&name)).join(" ").into()));
        tables.push((format!("{name}: beginning"), ring[..ring::at::LANES].to_vec()));
        tables.push((
            format!("{name}: producers"),
            ring[ring::at::PRODUCERS..ring::at::PRODUCERS + 4096].to_vec(),
        ));
        let entries = (0..4).map(|entry| groups[256 + entry * 384..256 + entry * 384 + 8].to_vec());
        tables.push((format!("{name}: groups"), entries.flatten().collect()));
    }
    tables
}

/// Reads until somebody who needs a registration has one, and says how long that took and how much was read meanwhile.
fn succession(test: &TestBus, holder: &Agent, subscriber: &mut bus_shm::Subscriber<Words>) -> Agent {
    holder.stop();
    let stopped = Instant::now();
    let mut guest = spawn("guest", test, "");
    let (heard, told) = std::sync::mpsc::channel();
    let (mut count, mut longest) = (0_u64, Duration::ZERO);
    let guest = std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            guest.line.expect("true");
            heard.send(()).unwrap();
            guest
        });
        while told.try_recv().is_err() {
            let begun = Instant::now();
            let message = subscriber.receive().unwrap();
            assert!(message.value().unwrap().is_numbered(message.sequence()));
            message.ack().unwrap();
            longest = longest.max(begun.elapsed());
            count += 1;
        }
        waiting.join().unwrap()
    });
    assert!(stopped.elapsed() < SUCCESSION_MAX, "{:?}", stopped.elapsed());
    assert!(count > 10_000 && longest < Duration::from_millis(900), "{count} messages, {longest:?}");
    guest
}

/// The holder of the role is stopped; somebody else takes it while messages flow; the holder goes on and finds that out.
fn stopped_holder(test: &TestBus, mut holder: Agent, ends: &str) {
    let bus = Bus::builder(&test.name).open().unwrap();
    assert!(!bus.is_host());
    let mut subscriber = bus.topic::<Words>("t").unwrap().subscribe().unwrap();
    let mut publisher = spawn("endless", test, "");
    publisher.line.expect("ready");
    let epoch = newest(test).epoch;
    let mut guest = succession(test, &holder, &mut subscriber);
    assert_eq!(newest(test).epoch, epoch + 1);
    // The new holder serves: this process, which has not asked before, and the guest itself.
    bus.topic::<Text>("other").unwrap();
    guest.line.tell("big");
    guest.line.expect("made");
    // No arena may come or go while the tables are compared.
    publisher.stop();
    let before = tables(test);
    let beat = word_at(&test.path().join("bus"), at::ROLE_BEAT);
    holder.go_on();
    if ends == "HandedOver" {
        holder.line.expect(ends);
        holder.join();
    } else {
        eventually("the thread has given up", || {
            holder.line.tell("host?");
            holder.line.hear() == "false"
        });
        // It takes part as before.
        holder.line.tell("late");
        holder.line.expect("made");
        std::fs::remove_dir_all(test.path().join("topics/late")).unwrap();
        put(&test.path().join("bus"), at::TOPICS_GENERATION, &generation(&before));
        put(&test.path().join("bus"), at::TOPICS_BELL, &generation(&before));
    }
    eventually("the new holder beats on", || word_at(&test.path().join("bus"), at::ROLE_BEAT) > beat);
    for (before, after) in before.into_iter().zip(tables(test)) {
        assert_eq!(before.0, after.0);
        assert!(before.1 == after.1, "{} has changed", before.0);
    }
    publisher.go_on();
    drop((subscriber, publisher));
    guest.line.tell("leave");
    guest.join();
    bus.down(true).unwrap();
    test.assert_gone();
}

/// The words for topics, as the table was before another was made on purpose.
fn generation(tables: &[(String, Vec<u8>)]) -> [u8; 8] {
    let table = &tables.iter().find(|(name, _)| name == "participants").unwrap().1;
    table[at::TOPICS_GENERATION - at::STATE..][..8].try_into().unwrap()
}

#[test]
fn a_stopped_supervisor_is_superseded_and_ends_when_it_goes_on() {
    let test = TestBus::new("stopped-chief");
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    stopped_holder(&test, chief, "HandedOver");
}

#[test]
fn a_stopped_agent_loses_the_role_and_takes_part_when_it_goes_on() {
    let test = TestBus::new("stopped-agent");
    let mut agent = spawn("guest", &test, "");
    agent.line.expect("true");
    stopped_holder(&test, agent, "");
}

#[test]
fn a_dedicated_supervisor_supersedes_a_stopped_one_without_being_told_to_replace_it() {
    let test = TestBus::new("up");
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    chief.stop();
    let begun = Instant::now();
    let mut successor = spawn("supervisor", &test, "");
    successor.line.expect("serving");
    assert!(begun.elapsed() < SUCCESSION_MAX, "{:?}", begun.elapsed());
    chief.go_on();
    chief.line.expect("HandedOver");
    chief.join();
    assert!(BusView::open(&test.name, None).unwrap().is_served());
    // And one that is in order keeps it.
    let error = Supervisor::take(&BusDir::new(&test.name, None).unwrap(), false).unwrap_err();
    assert!(error.to_string().contains("--replace"), "{error}");
}

/// Where the topics of the dead cannot be opened, their number is not anybody else's: a claim carries the number only.
#[test]
fn a_supervisor_without_descriptors_sweeps_when_it_has_some() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let test = TestBus::new("no-descriptors");
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    let bus = test.builder().temporary(false).open().unwrap();
    let topic = bus.topic_builder::<Words>("t").with_shared_group("g").open().unwrap();
    let sequence = topic.publisher().unwrap().publish(&Words::numbered(7)).unwrap();
    let mut victim = spawn("guest", &test, "");
    victim.line.expect("false");
    victim.line.tell("claim");
    victim.line.expect("claimed");

    let open = || -> Vec<u64> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", chief.pid())).unwrap();
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
    };
    // As many as it may wait on: itself, its socket, the tester and the victim. All numbers below are in use.
    let in_use = open();
    assert!((0..4).all(|number| in_use.contains(&number)), "{in_use:?}");
    let pid = Pid::from_raw(chief.pid() as i32);
    let limits = Rlimit { current: Some(4), maximum: getrlimit(Resource::Nofile).maximum };
    let before = prlimit(pid, Resource::Nofile, limits).unwrap();
    victim.kill();
    eventually("noticed, by the descriptor of its process", || open().len() < in_use.len());
    std::thread::sleep(Duration::from_millis(50));
    prlimit(pid, Resource::Nofile, before).unwrap();
    // It would get the number of the dead one, were that free.
    let mut newcomer = spawn("guest", &test, "");
    newcomer.line.expect("false");
    let mut survivor = topic.group("g").shared().join().unwrap();
    let message = survivor.receive_timeout(Duration::from_secs(10)).unwrap().expect("what the dead one held");
    assert_eq!((message.sequence(), message.attempts()), (sequence, 2));
    message.ack().unwrap();
    newcomer.line.tell("leave");
    newcomer.join();
}

#[test]
fn a_process_that_leaves_does_not_wait_for_a_stopped_supervisor() {
    let test = TestBus::new("leave");
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    let bus = Bus::builder(&test.name).open().unwrap();
    chief.stop();
    let begun = Instant::now();
    drop(bus);
    assert!(begun.elapsed() < SUCCESSION_MAX, "{:?}", begun.elapsed());
    chief.go_on();
    let view = BusView::open(&test.name, None).unwrap();
    eventually("noticed", || view.participants().is_empty());
}

#[test]
fn a_holder_stopped_while_it_makes_a_topic_gives_its_name_to_nothing_half_made() {
    let test = TestBus::new("stopped-maker");
    let topics = test.path().join("topics");
    let is_half_made = || names(&topics).iter().any(|name| name.starts_with(".tmp-"));
    let mut caught = 0;
    for round in 0..40 {
        let mut chief = spawn("supervisor", &test, "");
        chief.line.expect("serving");
        let mut agent = spawn("guest", &test, "");
        agent.line.expect("false");
        let name = format!("t{round}");
        agent.line.tell(&name);
        while !is_half_made() && !topics.join(&name).exists() {
            std::hint::spin_loop();
        }
        chief.stop();
        let is_caught = is_half_made();
        // The client takes the role, and makes the topic itself.
        agent.line.expect("made");
        if !is_caught {
            // It was quicker, has perhaps answered, and then keeps the role.
            agent.line.tell("leave");
            agent.join();
            chief.kill();
            std::fs::remove_dir_all(topics.join(&name)).unwrap();
            continue;
        }
        assert!(!is_half_made());
        let made = std::fs::read(topics.join(&name).join("ring")).unwrap()[..64].to_vec();
        chief.go_on();
        chief.line.expect("HandedOver");
        chief.join();
        assert!(!is_half_made());
        assert_eq!(std::fs::read(topics.join(&name).join("ring")).unwrap()[..64], made, "replaced");
        let settings = BusView::open(&test.name, None).unwrap().topic(&name).unwrap().settings().unwrap();
        assert_eq!((settings.capacity, settings.lanes), (1 << 20, 4));
        agent.line.tell("leave");
        agent.join();
        std::fs::remove_dir_all(topics.join(&name)).unwrap();
        caught += 1;
        if caught == 3 {
            return;
        }
    }
    panic!("the supervisor was never caught at it ({caught})");
}

/// Offset of a participant's word.
fn entry(number: usize) -> usize {
    at::PARTICIPANTS + number * PARTICIPANT_BYTES
}

#[test]
fn an_entry_that_a_stopped_holder_was_filling_is_kept_out_of_use_until_its_end() {
    let test = TestBus::new("quarantine");
    let file = test.path().join("bus");
    let word = |number| HolderWord::unpack(word_at(&file, entry(number)));
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    chief.stop();
    // As if it had been stopped between its claim and its last step.
    let mark = newest(&test).mark;
    let claimed = HolderWord { state: participant::REGISTERING, holder: participant::maker(mark), tag: 5 };
    put(&file, entry(0), &claimed.pack().to_ne_bytes());
    let first = Bus::builder(&test.name).open().unwrap();
    assert!(first.is_host());
    assert_eq!(word(0), claimed.with_state(participant::QUARANTINED));
    assert_eq!(first.participants()[0].participant, 1);
    // Its late stores may come now; nobody has the entry.
    put(&file, entry(0) + 8, &[0xee; PARTICIPANT_BYTES - 8]);
    let mut second = spawn("guest", &test, "");
    second.line.expect("false");
    assert_eq!(first.participants().len(), 2);
    assert_eq!(word(2).state, participant::LIVE);
    chief.kill();
    eventually("the entry is free again", || word(0).state == participant::FREE);
    assert_eq!(word(0).tag, 5, "its number in this incarnation belongs to nobody");
    let mut third = spawn("guest", &test, "");
    third.line.expect("false");
    let live = HolderWord { state: participant::LIVE, holder: Holder::new(0, 6), tag: 6 };
    assert_eq!(word(0), live);
}

#[test]
fn a_type_that_a_stopped_holder_was_entering_takes_no_other_types_place() {
    let test = TestBus::new("types");
    let ring = test.path().join("topics/t/ring");
    let state = |index: usize| ring::at::TYPES + index * size_of::<ring::TypeEntry>() + 12;
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    let bus = Bus::builder(&test.name).open().unwrap();
    bus.topic::<Words>("t").unwrap();
    chief.stop();
    put(&ring, state(1), &type_state::claimed(newest(&test).mark).to_ne_bytes());
    let both = bus.topic_builder::<Text>("t").accepts::<Words>().open();
    let topic = both.unwrap_or_else(|error| panic!("{error}"));
    assert!(bus.is_host());
    assert_eq!(word_at(&ring, state(1)) as u32, type_state::BURNT);
    // Its late stores.
    put(&ring, state(1) - 12, &[0xee; 12]);
    put(&ring, state(1) + 4, &[0xee; 72]);
    let mut subscriber = topic.subscribe().unwrap();
    topic.publisher().unwrap().publish(&Text { id: 7, text: "seven".into() }).unwrap();
    assert_eq!(subscriber.receive().unwrap().value().unwrap().id, 7);
    let view = BusView::open(&test.name, None).unwrap();
    assert_eq!(view.topic("t").unwrap().settings().unwrap().types.len(), 2);
}

#[test]
fn a_bus_that_was_closed_by_a_process_that_got_no_further_is_removed_by_the_next() {
    let test = TestBus::new("closed");
    drop(Bus::builder(&test.name).open().unwrap());
    let old =
        std::fs::metadata(test.path()).map(|status| std::os::unix::fs::MetadataExt::ino(&status)).unwrap();
    put(&test.path().join("bus"), at::ROLE_EPOCH, &RoleWord::CLOSED.to_ne_bytes());
    // Somebody who may still want to rename it.
    let path = test.path().join("role.00aa");
    let file = bus_shm::sys::file::create_new(&path, 0o600).unwrap();
    assert!(bus_shm::sys::lock::try_lock(&file, &path).unwrap());
    let bus = test.open("next");
    bus.topic::<Words>("t").unwrap();
    let doomed = test.path().with_file_name(format!(".dead-{old}"));
    assert_eq!(names(&doomed), ["role.00aa"]);
    // Now it does, and the next bus stays where it is.
    assert!(bus_shm::sys::file::rename_noreplace(&test.path(), &doomed).is_err());
    bus_shm::collect_garbage(None, false);
    assert!(doomed.exists());
    drop(file);
    bus_shm::collect_garbage(None, false);
    assert!(!doomed.exists());
    assert!(bus.topic_builder::<Words>("t").create(false).open().is_ok());
}

#[test]
fn what_members_that_have_ended_were_making_in_a_topic_is_removed() {
    let test = TestBus::new("leftovers");
    let bus = test.open("holder");
    bus.topic::<Words>("t").unwrap();
    let mut guest = spawn("guest", &test, "");
    guest.line.expect("false");
    guest.line.tell("join");
    guest.line.expect("joined");
    let leftover = |pid: u32| -> PathBuf {
        let all = BusView::open(&test.name, None).unwrap().participants();
        let maker = all.iter().find(|info| info.pid == pid).expect("it takes part");
        test.path().join("topics/t").join(format!(".tmp-{}.{}-1f-0", maker.participant, maker.tag))
    };
    let files = [leftover(guest.pid()), leftover(std::process::id())];
    files.iter().for_each(|path| std::fs::write(path, "half").unwrap());
    guest.kill();
    eventually("the dead one's goes", || !files[0].exists());
    assert!(files[1].exists(), "the live one's stays");
}

#[test]
fn an_idle_holder_of_many_topics_uses_next_to_no_time() {
    let test = TestBus::new("idle");
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    let bus = Bus::builder(&test.name).open().unwrap();
    for index in 0..100 {
        bus.topic_builder::<Words>(&format!("t{index}")).capacity(8).open().unwrap();
    }
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", chief.pid())).unwrap();
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        // After the state: ppid is the first number, utime the eleventh.
        fields[10] + fields[11]
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(10));
    assert!(ticks() - before <= 1, "{} ticks in 10 s", ticks() - before);
    bus.down(true).unwrap();
}

#[test]
fn holders_leave_neither_locks_nor_sockets() {
    let test = TestBus::new("litter");
    let litter = || names(&test.path()).into_iter().filter(|name| name.contains('.')).collect::<Vec<_>>();
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    chief.kill();
    assert_eq!(litter().len(), 2, "{:?}", litter());
    let bus = Bus::builder(&test.name).open().unwrap();
    let mark = newest(&test).mark;
    assert_eq!(litter(), [format!("control.{mark:04x}"), format!("role.{mark:04x}")]);
    drop(bus);
    assert!(litter().is_empty(), "{:?}", litter());
}

#[test]
fn a_bus_that_takes_long_to_remove_is_taken_down_without_an_error() {
    let test = TestBus::new("slow-down");
    let bus = test.builder().temporary(false).open().unwrap();
    // The asker looks at the role's word every 50 ms, and finds it closed long before the answer comes.
    let many = test.path().join("many");
    std::fs::create_dir(&many).unwrap();
    (0..60_000).for_each(|number| drop(std::fs::File::create(many.join(number.to_string())).unwrap()));
    bus.down(false).unwrap();
    assert!(!test.path().exists());
    assert!(matches!(bus.down(false), Err(BusError::Closed { .. })));
}

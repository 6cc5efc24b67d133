//! The table of operations. To add one: write a function that prepares, calls [`Child::begin`], does the one thing, telling
//! before and after each step what it means, calls [`Child::end`], and goes on; and give it a line in [`OPERATIONS`].

use crate::body::{Stream, Words, body};
use crate::child::Child;
use crate::scene::{BUS, Group, Late, Scene};
use crate::{keyed, late, letters};
use bus_shm::directory::BusDir;
use bus_shm::supervisor::Supervisor;
use bus_shm::{Bytes, Lane, Publisher, Subscriber, Wait};
use std::hint::black_box;
use std::time::Duration;

/// What the child is to the others, and so what they can still do while it stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It publishes. Nobody waits for it.
    Publisher,
    /// It is a member of a group, or about to become one: the ring may fill up until it goes on.
    Member,
    /// It takes part, or is about to.
    Guest,
    /// It holds the supervisor's role, or is about to: who is registered goes on without it.
    Supervisor,
}

/// What the parent does when the operation has fallen asleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// It sleeps for a while, or until something comes that is on its way.
    None,
    /// It publishes a message.
    Publish,
    /// It registers a process, creates a topic, and leaves again; the operation ends when it sleeps after that.
    Requests,
}

/// An operation that is stepped.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its name in the report.
    pub name: &'static str,
    /// What it finds.
    pub scene: Scene,
    /// What the child is.
    pub part: Part,
    /// What wakes it.
    pub wake: Wake,
    /// What another process did that died before the operation began and that nobody has repaired.
    pub dead: Option<fn(&Child)>,
    /// The operation.
    pub run: fn(Child),
    /// One that is not on the data path, or with as many stores as nobody wants to stop at: stopped at some system calls and stores
    /// only.
    pub control: bool,
}

impl Operation {
    const fn hot(name: &'static str, part: Part, scene: Scene, run: fn(Child)) -> Self {
        Self { name, scene, part, wake: Wake::None, dead: None, run, control: false }
    }

    const fn control(name: &'static str, part: Part, scene: Scene, run: fn(Child)) -> Self {
        Self { control: true, ..Self::hot(name, part, scene, run) }
    }

    const fn woken_by(self, wake: Wake) -> Self {
        Self { wake, ..self }
    }

    const fn after(self, dead: fn(&Child)) -> Self {
        Self { dead: Some(dead), ..self }
    }
}

const MANY: Scene = Scene::MANY;
const ONE: Scene = Scene::ONE;
/// One producer whose messages do not fit into the slot.
const ONE_ARENA: Scene = Scene { inline_bytes: 32, ..ONE };
const TYPED: Scene = Scene { typed: true, ..MANY };
const MANY_ALONE: Scene = MANY.with_group(Group::One, 6);
const ONE_ALONE: Scene = ONE.with_group(Group::One, 6);
const ONE_ARENA_ALONE: Scene = ONE_ARENA.with_group(Group::One, 6);
const SHARED: Scene = MANY.with_group(Group::Shared, 6);
const KEYED: Scene = MANY.with_group(Group::Keyed, 6).with_keys(2);
const KEYED_LATE: Scene = KEYED.with_late(Late::PLAIN);
/// All of one key, and whoever stands still loses it.
const KEYED_FENCED: Scene = KEYED.with_late(IMPATIENT).with_keys(1);
const NEW: Scene = MANY.with_group(Group::New, 3);
const NEW_SHARED: Scene = MANY.with_group(Group::NewShared, 3);
/// Takes more messages than the first segment of an arena holds, which is 512 of these.
const LONG: Scene = Scene { capacity: 1024, ..MANY };
/// Messages of groups that fail.
const ONE_LATE: Scene = MANY_ALONE.with_late(Late::PLAIN);
const SHARED_LATE: Scene = SHARED.with_late(Late::PLAIN);
/// Payloads that do not fit into an entry of the store.
const ONE_SPILLED: Scene = Scene { body_bytes: 512, ..ONE_LATE };
const SHARED_SPILLED: Scene = Scene { body_bytes: 512, ..SHARED_LATE };
const ONCE: Late = Late { attempts: 1, entries: 64, ..Late::PLAIN };
const TWICE: Late = Late { attempts: 2, ..Late::PLAIN };
/// A store that holds three dead letters.
const SMALL: Late = Late { entries: 4, drops: true, ..Late::PLAIN };
const IMPATIENT: Late = Late { ack_wait: Some(Duration::from_millis(60)), ..Late::PLAIN };
/// More messages than a new store has entries.
const MANY_LATE: Scene = Scene { capacity: 32, ready: 18, ..ONE_LATE };
const EMPTY: Scene = Scene { exists: false, ..MANY };

use Part::{Guest, Member, Publisher as Publishes, Supervisor as Supervises};

/// All of them.
pub const OPERATIONS: &[Operation] = &[
    Operation::hot("publish, one producer, in the slot", Publishes, ONE, publish),
    Operation::hot("publish, one producer, from an arena", Publishes, ONE_ARENA, publish),
    Operation::hot("publish, many producers", Publishes, MANY, publish),
    Operation::hot("publish a batch, many producers", Publishes, TYPED, publish_batch),
    Operation::hot(
        "publish a batch, one producer",
        Publishes,
        Scene { producers: 1, ..TYPED },
        publish_batch,
    ),
    Operation::hot("loan and publish, many producers", Publishes, MANY, loan),
    Operation::hot("loan and publish, one producer", Publishes, ONE, loan),
    Operation::hot("arena: its first message", Publishes, MANY, first_message),
    Operation::hot("arena: reuse", Publishes, MANY, arena_reuse),
    Operation::hot("arena: growth", Publishes, LONG, arena_growth),
    Operation::hot("publish and wake", Publishes, MANY, wake),
    Operation::hot("park and receive", Member, MANY.with_group(Group::One, 2), park).woken_by(Wake::Publish),
    Operation::hot("receive, many producers", Member, MANY_ALONE, receive),
    Operation::hot("receive, one producer", Member, ONE_ALONE, receive),
    Operation::hot("receive the next of a run, many producers", Member, MANY_ALONE, receive_known),
    Operation::hot("receive the next of a run, one producer, in the slot", Member, ONE_ALONE, receive_known),
    Operation::hot(
        "receive the next of a run, one producer, from an arena",
        Member,
        ONE_ARENA_ALONE,
        receive_known,
    ),
    Operation::hot("acknowledge", Member, MANY_ALONE, acknowledge),
    Operation::hot("receive and acknowledge a batch", Member, MANY_ALONE, batch),
    Operation::hot("give back and receive again", Member, MANY_ALONE, give_back),
    Operation::hot("shared: claim", Member, SHARED, receive),
    Operation::hot("shared: acknowledge", Member, SHARED, acknowledge),
    Operation::hot("shared: claim and acknowledge a batch", Member, SHARED, batch),
    Operation::hot("shared: give back and claim again", Member, SHARED, give_back),
    Operation::control("retry: the store is made", Member, ONE_LATE, late::first_retry),
    Operation::hot("retry", Member, ONE_LATE, late::retry),
    Operation::hot("retry, behind the table", Member, ONE_SPILLED, late::retry),
    Operation::control("retry: the store grows", Member, MANY_LATE, late::grow),
    Operation::hot("retry again", Member, ONE_LATE, late::retry_again),
    Operation::control("reject", Member, ONE_LATE, late::reject),
    Operation::control("reject after a retry", Member, ONE_LATE, late::reject_again),
    Operation::control("reject: the oldest makes room", Member, ONE_LATE.with_late(SMALL), late::drop_oldest),
    Operation::control("worn out", Member, ONE_LATE.with_late(ONCE), late::worn_out),
    Operation::control("worn out in the store", Member, ONE_LATE.with_late(TWICE), late::worn_out_late),
    Operation::control("a batch with a retry and a reject", Member, ONE_LATE, late::batch),
    Operation::hot("a late one: claim, acknowledge", Member, ONE_LATE, late::claim_and_acknowledge),
    Operation::hot("a late one: give back and claim again", Member, ONE_LATE, late::give_back_late),
    Operation::hot(
        "a late one behind the table: claim, acknowledge",
        Member,
        ONE_SPILLED,
        late::claim_and_acknowledge,
    ),
    Operation::control("shared: retry: the store is made", Member, SHARED_LATE, late::first_retry),
    Operation::hot("shared: retry", Member, SHARED_LATE, late::retry),
    Operation::hot("shared: retry, behind the table", Member, SHARED_SPILLED, late::retry),
    Operation::hot("shared: retry again", Member, SHARED_LATE, late::retry_again),
    Operation::control("shared: reject", Member, SHARED_LATE, late::reject),
    Operation::control("shared: worn out", Member, SHARED_LATE.with_late(ONCE), late::worn_out),
    Operation::control("shared: a batch with a retry and a reject", Member, SHARED_LATE, late::batch),
    Operation::hot(
        "shared: a late one: claim, acknowledge",
        Member,
        SHARED_LATE,
        late::claim_and_acknowledge,
    ),
    Operation::hot(
        "shared: a late one behind the table",
        Member,
        SHARED_SPILLED,
        late::claim_and_acknowledge,
    ),
    Operation::hot("shared: ask for more time", Member, SHARED_LATE, late::extend),
    Operation::hot("shared: ask for more time, a late one", Member, SHARED_LATE, late::extend_late),
    Operation::control(
        "shared: take from a silent member",
        Member,
        SHARED_LATE.with_late(IMPATIENT),
        late::take_back,
    ),
    Operation::hot("keyed: claim and acknowledge", Member, KEYED, keyed::claim_and_acknowledge),
    Operation::hot("keyed: give back and claim again", Member, KEYED, give_back),
    Operation::hot("keyed: claim and acknowledge a batch", Member, KEYED, batch),
    Operation::control("keyed: hand partitions over", Member, KEYED, keyed::hand_over),
    Operation::control("keyed: a batch while another comes", Member, KEYED, keyed::batch_beside),
    Operation::control("keyed: a batch of a silent member", Member, KEYED_FENCED, keyed::batch_fenced),
    Operation::control("keyed: retry", Member, KEYED_LATE, late::retry),
    Operation::control("keyed: retry again", Member, KEYED_LATE, late::retry_again),
    Operation::control("keyed: retry of a silent member", Member, KEYED_FENCED, keyed::retry_fenced),
    Operation::control(
        "keyed: a late one: claim, acknowledge",
        Member,
        KEYED_LATE,
        late::claim_and_acknowledge,
    ),
    Operation::control("keyed: leave", Member, KEYED, leave_group),
    Operation::control("keyed: take partitions of a dead member", Member, KEYED, keyed::take_over)
        .after(consume_and_die),
    Operation::control("dead letters: replay", Guest, SHARED_LATE, letters::replay_here),
    Operation::control("dead letters: replay, behind the table", Guest, SHARED_SPILLED, letters::replay_here),
    Operation::control("dead letters of one member: replay", Guest, ONE_LATE, letters::replay_here),
    Operation::control("dead letters: replay elsewhere", Guest, SHARED_LATE, letters::replay_elsewhere),
    Operation::control("dead letters: purge", Guest, SHARED_LATE, letters::purge_all),
    Operation::control("dead letters: purge, behind the table", Guest, SHARED_SPILLED, letters::purge_all),
    Operation::control(
        "dead letters of one member: purge, behind the table",
        Guest,
        ONE_SPILLED,
        letters::purge_all,
    ),
    Operation::hot("repair: room that a dead reader holds", Publishes, MANY, publish_into_full)
        .after(read_and_die),
    Operation::hot("repair: claims of a dead member", Member, SHARED, wait_for_claims).after(consume_and_die),
    Operation::control("repair: take a group over", Member, MANY_ALONE, join).after(consume_and_die),
    Operation::control(
        "repair: take a group with a store over",
        Member,
        ONE_LATE.with_group(Group::One, 8),
        join,
    )
    .after(late::put_aside_and_die),
    Operation::control(
        "repair: a store of a dead member",
        Member,
        SHARED_LATE.with_group(Group::Shared, 8),
        late::wait_for_late,
    )
    .after(late::put_aside_and_die),
    Operation::control("repair: succeed a dead producer", Publishes, ONE_ARENA, attach)
        .after(publish_and_die),
    Operation::control("repair: sweep", Supervises, SHARED_LATE.with_group(Group::Shared, 5), sweep)
        .after(do_all_and_die),
    Operation::control(
        "repair: sweep beside the living",
        Supervises,
        SHARED_LATE.with_group(Group::Shared, 8),
        late::sweep_in_office,
    )
    .after(late::put_aside_and_die),
    Operation::control("attach a publisher", Publishes, MANY, attach),
    Operation::control("detach a publisher", Guest, MANY, detach),
    Operation::control("join a group that exists", Member, MANY_ALONE, join),
    Operation::control("join a new group", Member, NEW, join),
    Operation::control("join a new shared group", Member, NEW_SHARED, join),
    Operation::control("join without a name", Member, MANY, subscribe),
    Operation::control("leave a group", Member, MANY_ALONE, leave_group),
    Operation::control("leave without a name", Member, MANY, unsubscribe),
    Operation::control("register", Guest, MANY, register),
    Operation::control("leave the bus", Guest, MANY, leave_bus),
    Operation::control("make a bus and take the role", Supervises, EMPTY, make_bus),
    Operation::control("serve: register, create a topic, bury", Supervises, MANY, serve)
        .woken_by(Wake::Requests),
];

fn publish(child: Child) {
    let mut publisher = child.publisher();
    child.publish_many(&mut publisher, 3);
    let body = child.body(0);
    child.begin();
    child.publish(&mut publisher, black_box(&body));
    child.end();
    child.publish_on(publisher);
}

fn publish_batch(child: Child) {
    let bus = child.bus();
    let topic = child.scene.typed_topic::<Words>(&bus).expect("the topic");
    let mut publisher = topic.publisher().expect("a publisher");
    let words = |count| Words::numbered(Stream::Child.number(count));
    let values: [Words; 3] = std::array::from_fn(|index| words(index as u64 + 1));
    child.told.intend(1);
    publisher.publish(&words(0)).expect("published");
    child.told.accepted(1);
    child.begin();
    child.told.intend(3);
    match publisher.publish_batch(Lane::CRITICAL, black_box(&values)) {
        Ok(count) => child.told.accepted(count as u64),
        Err(error) => child.failed(&error),
    }
    child.end();
    drop(publisher);
    child.publish_on(child.publisher());
}

fn loan(child: Child) {
    let mut publisher = child.publisher();
    let body = child.body(0);
    loan_and_publish(&child, &mut publisher, &body);
    let body = child.body(0);
    child.begin();
    loan_and_publish(&child, &mut publisher, &body);
    child.end();
    child.publish_on(publisher);
}

fn loan_and_publish(child: &Child, publisher: &mut Publisher<Bytes>, body: &[u8]) {
    child.told.intend(1);
    let published = publisher.loan(Lane::CRITICAL, body.len()).and_then(|mut loan| {
        loan.copy_from_slice(body);
        loan.publish()
    });
    match published {
        Ok(_) => child.told.accepted(1),
        Err(error) => child.failed(&error),
    }
}

fn first_message(child: Child) {
    let mut publisher = child.publisher();
    let body = child.body(0);
    child.begin();
    child.publish(&mut publisher, &body);
    child.end();
    child.publish_on(publisher);
}

fn publish_all(child: &Child, publisher: &mut Publisher<Bytes>, bodies: &[Vec<u8>]) {
    for body in bodies {
        child.publish(publisher, body);
    }
}

fn arena_reuse(child: Child) {
    let mut publisher = child.publisher();
    child.publish_and_read(&mut publisher, 510);
    let bodies: Vec<_> = (0..4).map(|after| child.body(after)).collect();
    child.begin();
    publish_all(&child, &mut publisher, &bodies);
    child.end();
    child.publish_on(publisher);
}

fn arena_growth(child: Child) {
    let mut publisher = child.publisher();
    child.publish_many(&mut publisher, 511);
    let bodies: Vec<_> = (0..2).map(|after| child.body(after)).collect();
    child.begin();
    publish_all(&child, &mut publisher, &bodies);
    child.end();
    child.publish_on(publisher);
}

fn wake(child: Child) {
    let mut publisher = child.publisher();
    child.publish_many(&mut publisher, 1);
    // A sleep that ends by its time limit leaves the bell armed.
    let mut sleeper = child.topic(&child.bus()).subscriber().wait(Wait::Park).join().expect("a sleeper");
    assert!(sleeper.receive_timeout(Duration::from_millis(1)).expect("nothing wrong").is_none());
    drop(sleeper);
    let body = child.body(0);
    child.begin();
    child.publish(&mut publisher, &body);
    child.end();
    child.publish_on(publisher);
}

fn park(child: Child) {
    let mut member = child.member();
    member.set_wait(Wait::Park);
    child.consume(&mut member, 2);
    child.begin();
    child.told.ask();
    match member.receive_timeout(Duration::from_secs(20)) {
        Ok(Some(message)) => child.told.received(message.sequence(), message.attempts()),
        Ok(None) => child.failed(&"nothing has come"),
        Err(error) => child.failed(&error),
    }
    child.end();
    child.read_on(member);
}

fn receive(child: Child) {
    receive_after(2, child);
}

/// Two that were there at once make a stream, and the third look shows all the others.
fn receive_known(child: Child) {
    receive_after(3, child);
}

fn receive_after(consumed: u64, child: Child) {
    let mut member = child.member();
    child.consume(&mut member, consumed);
    child.begin();
    let message = child.receive(&mut member);
    child.end();
    drop(message);
    child.read_on(member);
}

fn acknowledge(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, 1);
    let message = child.receive(&mut member).expect("a message");
    child.begin();
    child.acknowledge(message);
    child.end();
    child.read_on(member);
}

fn batch(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, 1);
    child.begin();
    read_batch(&child, &mut member);
    child.end();
    child.read_on(member);
}

fn read_batch(child: &Child, member: &mut Subscriber<Bytes>) {
    let mut batch = member.receive_batch(3, 3, Duration::from_millis(1)).expect("a batch");
    let mut sequences = [0; 3];
    let mut count = 0;
    loop {
        child.told.ask();
        // Other members may have been quicker.
        let Some(message) = batch.next_message().expect("nothing wrong") else { break };
        child.told.received(message.sequence(), 1 + u8::from(message.is_redelivered()));
        sequences[count] = message.sequence();
        count += 1;
    }
    child.told.acknowledge(&sequences[..count]);
    let kept = batch.ack();
    child.told.acknowledged(kept as u64);
}

fn give_back(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, 1);
    let message = child.receive(&mut member).expect("a message");
    child.begin();
    drop(message);
    let message = child.receive(&mut member);
    child.end();
    drop(message);
    child.read_on(member);
}

fn read_and_die(child: &Child) {
    let topic = child.topic(&child.bus());
    let reader = topic.subscribe().expect("a reader");
    child.meet("ready");
    drop(reader);
}

fn publish_into_full(child: Child) {
    let mut publisher = child.publisher();
    child.publish_and_read(&mut publisher, u64::from(child.scene.capacity));
    let body = child.body(0);
    child.begin();
    child.publish(&mut publisher, &body);
    child.end();
    child.publish_on(publisher);
}

fn consume_and_die(child: &Child) {
    let mut member = child.member();
    child.consume(&mut member, 1);
    let mut batch = member.receive_batch(2, 2, Duration::ZERO).expect("a batch");
    for _ in 0..2 {
        child.told.ask();
        let message = batch.next_message().expect("nothing wrong").expect("a message");
        child.told.received(message.sequence(), 1 + u8::from(message.is_redelivered()));
    }
    child.meet("ready");
    drop(batch);
}

fn wait_for_claims(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, 3);
    child.begin();
    child.told.ask();
    match member.receive_timeout(Duration::from_millis(700)) {
        Ok(Some(message)) => child.told.received(message.sequence(), message.attempts()),
        Ok(None) => {}
        Err(error) => child.failed(&error),
    }
    child.end();
    child.read_on(member);
}

fn join(child: Child) {
    let topic = child.topic(&child.bus());
    let builder = child.scene.group_of(&topic);
    child.begin();
    let joined = builder.join();
    child.end();
    match joined {
        Ok(member) => child.read_on(member),
        Err(error) => child.failed(&error),
    }
}

fn publish_and_die(child: &Child) {
    let mut publisher = child.publisher();
    child.publish_many(&mut publisher, 3);
    child.meet("ready");
    drop(publisher);
}

fn attach(child: Child) {
    let topic = child.topic(&child.bus());
    child.begin();
    let publisher = topic.publisher();
    child.end();
    match publisher {
        Ok(publisher) => child.publish_on(publisher),
        Err(error) => child.failed(&error),
    }
}

fn do_all_and_die(child: &Child) {
    let mut publisher = child.publisher();
    child.publish_many(&mut publisher, 3);
    let topic = child.topic(&child.bus());
    let reader = topic.subscribe().expect("a reader");
    late::put_aside_and_die(child);
    drop((publisher, reader));
}

fn sweep(child: Child) {
    let dir = BusDir::new(BUS, Some(&child.dir)).expect("its directory");
    child.begin();
    let supervisor = Supervisor::take(&dir, false);
    child.end();
    if let Err(error) = supervisor {
        child.failed(&error);
    }
}

fn detach(child: Child) {
    let mut publisher = child.publisher();
    child.publish_many(&mut publisher, 3);
    let bus = child.bus();
    child.begin();
    drop(publisher);
    child.end();
    drop(bus);
}

fn subscribe(child: Child) {
    let topic = child.topic(&child.bus());
    child.begin();
    let joined = topic.subscribe();
    child.end();
    if let Err(error) = joined {
        child.failed(&error);
    }
}

fn leave_group(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, 2);
    let bus = child.bus();
    child.begin();
    drop(member);
    child.end();
    drop(bus);
}

fn unsubscribe(child: Child) {
    let bus = child.bus();
    let reader = child.topic(&bus).subscribe().expect("a reader");
    child.begin();
    drop(reader);
    child.end();
}

fn register(child: Child) {
    child.begin();
    let bus = Scene::bus(&child.dir, "child");
    child.end();
    drop(bus);
}

fn leave_bus(child: Child) {
    let bus = child.bus();
    child.begin();
    drop(bus);
    child.end();
}

fn make_bus(child: Child) {
    let dir = BusDir::new(BUS, Some(&child.dir)).expect("its directory");
    child.begin();
    let supervisor = Supervisor::take(&dir, false);
    child.end();
    if let Err(error) = supervisor {
        child.failed(&error);
    }
}

fn serve(child: Child) {
    let dir = BusDir::new(BUS, Some(&child.dir)).expect("its directory");
    let supervisor = Supervisor::take(&dir, true).expect("the role");
    child.begin();
    let stopped = supervisor.serve();
    child.end();
    if let Err(error) = stopped {
        child.failed(&error);
    }
}

/// A payload of the scene's, for those who survive.
pub fn survivor_body(scene: &Scene, count: u64) -> Vec<u8> {
    body(Stream::Survivor.number(count), scene.body_bytes)
}

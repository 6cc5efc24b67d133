//! Operations on messages that fail: put aside, handed out again, dead letters.

use crate::child::{Child, Verdict};
use crate::scene::{BUS, RETRY_DELAY, TOPIC};
use bus_core::aside::AsideWord;
use bus_core::layout::aside::{Shape, at, state, word};
use bus_core::layout::owners;
use bus_core::owner::{OwnerWord, ParkedEntry, state as owner_state};
use bus_shm::directory::BusDir;
use bus_shm::supervisor::Supervisor;
use bus_shm::{Bytes, Received, Subscriber, Wait};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// At once, as soon as nothing else is there.
const NOW: Verdict = Verdict::At(Duration::ZERO);
/// Not before survivors have been there for a while.
const LATER: Verdict = Verdict::At(RETRY_DELAY);
/// The group's entry in the table; the witness has the one before.
const GROUP_ENTRY: usize = 1;

fn fail_in_hand(child: Child, mut member: Subscriber<Bytes>, verdict: Verdict) {
    let message = child.receive(&mut member).expect("a message");
    child.begin();
    child.fail(message, verdict);
    child.end();
    child.read_on(member);
}

/// Its first: the store is made.
pub(crate) fn first_retry(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, 1);
    fail_in_hand(child, member, Verdict::Retry);
}

pub(crate) fn retry(child: Child) {
    let mut member = child.member();
    child.put_aside(&mut member, LATER);
    fail_in_hand(child, member, Verdict::Retry);
}

pub(crate) fn reject(child: Child) {
    let mut member = child.member();
    child.put_aside(&mut member, LATER);
    fail_in_hand(child, member, Verdict::Dead);
}

/// All messages of the scene are done but the last, which lies in the store and is due.
fn with_one_late(child: &Child) -> Subscriber<Bytes> {
    let mut member = child.member();
    child.consume(&mut member, child.scene.ready - 1);
    child.put_aside(&mut member, NOW);
    member
}

pub(crate) fn retry_again(child: Child) {
    let member = with_one_late(&child);
    fail_in_hand(child, member, Verdict::Retry);
}

pub(crate) fn reject_again(child: Child) {
    let member = with_one_late(&child);
    fail_in_hand(child, member, Verdict::Dead);
}

pub(crate) fn claim_and_acknowledge(child: Child) {
    let mut member = with_one_late(&child);
    child.begin();
    if let Some(message) = child.receive(&mut member) {
        child.acknowledge(message);
    }
    child.end();
    child.read_on(member);
}

pub(crate) fn give_back_late(child: Child) {
    let mut member = with_one_late(&child);
    let message = child.receive(&mut member).expect("the late one");
    child.begin();
    drop(message);
    let message = child.receive(&mut member);
    child.end();
    drop(message);
    child.read_on(member);
}

/// Of a group in which a message is handed out once: one that was given back is met again.
pub(crate) fn worn_out(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, 1);
    drop(child.receive(&mut member).expect("a message"));
    child.begin();
    if let Some(message) = child.receive(&mut member) {
        child.acknowledge(message);
    }
    child.end();
    child.read_on(member);
}

/// The same with one that lies in the store. It was put there when more attempts were allowed.
pub(crate) fn worn_out_late(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, child.scene.ready - 1);
    child.put_aside(&mut member, NOW);
    drop(child.receive(&mut member).expect("the late one"));
    child.begin();
    if let Some(message) = child.receive(&mut member) {
        child.acknowledge(message);
    }
    child.end();
    child.read_on(member);
}

/// The second of four messages is to be tried again, the third is bad.
pub(crate) fn batch(child: Child) {
    let mut member = child.member();
    child.put_aside(&mut member, LATER);
    child.begin();
    fail_in_batch(&child, &mut member);
    child.end();
    child.read_on(member);
}

fn fail_in_batch(child: &Child, member: &mut Subscriber<Bytes>) {
    let is_shared = child.scene.group.is_shared();
    let mut batch = member.receive_batch(4, 4, Duration::from_millis(1)).expect("a batch");
    let mut sequences = [0; 4];
    let (mut count, mut done) = (0, 0);
    for index in 0.. {
        child.told.ask();
        // Other members may have been quicker.
        let Some(message) = batch.next_message().expect("nothing wrong") else { break };
        let sequence = message.sequence();
        let attempts = 1 + u8::from(message.is_redelivered());
        child.told.received(sequence, attempts);
        if !matches!(index, 1 | 2) {
            sequences[count] = sequence;
            count += 1;
            continue;
        }
        child.told.fail(sequence, attempts, index == 2);
        let put = if index == 1 { message.retry("it failed") } else { message.reject("it is bad") };
        match put {
            Ok(()) if is_shared => child.told.put_aside(1),
            Ok(()) => done += 1,
            Err(error) => child.failed(&error),
        }
    }
    child.told.acknowledge(&sequences[..count]);
    batch.ack();
    child.told.acknowledged(count as u64);
    child.told.put_aside(done);
}

/// The store has room for as many messages as are in it.
pub(crate) fn grow(child: Child) {
    let mut member = child.member();
    for _ in 0..16 {
        child.put_aside(&mut member, MUCH_LATER);
    }
    fail_in_hand(child, member, Verdict::Retry);
}

/// There are as many dead letters as may be.
pub(crate) fn drop_oldest(child: Child) {
    let mut member = child.member();
    for _ in 0..3 {
        child.put_aside(&mut member, Verdict::Dead);
    }
    fail_in_hand(child, member, Verdict::Dead);
}

fn extend_and_acknowledge(child: &Child, message: Option<Received<'_, Bytes>>) {
    let Some(mut message) = message else { return };
    // Lost: then the acknowledgement says so too.
    let _ = message.extend();
    child.acknowledge(message);
}

pub(crate) fn extend(child: Child) {
    let mut member = child.member();
    child.consume(&mut member, 1);
    let message = child.receive(&mut member);
    child.begin();
    extend_and_acknowledge(&child, message);
    child.end();
    child.read_on(member);
}

pub(crate) fn extend_late(child: Child) {
    let mut member = with_one_late(&child);
    let message = child.receive(&mut member);
    child.begin();
    extend_and_acknowledge(&child, message);
    child.end();
    child.read_on(member);
}

/// Two members; the one is silent about a message from the ring and one from the store, and the other takes them.
pub(crate) fn take_back(child: Child) {
    let topic = child.topic(&child.bus());
    let mut silent = child.scene.member(&topic);
    let mut other = child.scene.group_of(&topic).wait(Wait::Park).join().expect("another");
    child.consume(&mut silent, 1);
    child.put_aside(&mut silent, NOW);
    let mut batch = silent.receive_batch(2, 2, Duration::ZERO).expect("a batch");
    for _ in 0..2 {
        child.told.ask();
        let message = batch.next_message().expect("nothing wrong").expect("a message");
        child.told.received(message.sequence(), 1 + u8::from(message.is_redelivered()));
    }
    child.begin();
    for _ in 0..2 {
        child.told.ask();
        match other.receive_timeout(Duration::from_millis(500)) {
            Ok(Some(message)) => {
                child.told.received(message.sequence(), message.attempts());
                child.acknowledge(message);
            }
            Ok(None) => break,
            Err(error) => child.failed(&error),
        }
    }
    child.end();
    drop(batch);
    drop(silent);
    child.read_on(other);
}

/// The files of the group's store, as one who knows how they are laid out stores into them: what no call of the bus leaves behind,
/// and a death does.
struct Files {
    aside: File,
    owners: Option<File>,
    shape: Shape,
    capacity: u32,
}

impl Files {
    fn open(child: &Child) -> Self {
        let topic = bus_shm::directory::base_dir(Some(&child.dir)).join(BUS).join("topics").join(TOPIC);
        let open = |name: &str| OpenOptions::new().read(true).write(true).open(topic.join(name));
        let aside = open(&format!("aside-{GROUP_ENTRY}")).expect("the store");
        let number = |offset: usize| load(&aside, offset);
        let shape = Shape::check(number(at::BOUND), number(at::INLINE_BYTES), number(at::SPILL_BYTES));
        let owners = open(&format!("owners-{GROUP_ENTRY}")).ok();
        Self { shape: shape.expect("its measures"), owners, capacity: child.scene.capacity, aside }
    }

    /// The entry of a message, and its word.
    fn find(&self, sequence: u64) -> (usize, AsideWord) {
        let index = (0..16).find(|&index| {
            let entry = self.shape.entry(index);
            load(&self.aside, entry + 8 * word::STATE) as u8 != state::FREE
                && load(&self.aside, entry + 8 * word::SEQUENCE) == sequence
        });
        let index = index.expect("its entry");
        (index, AsideWord::unpack(load(&self.aside, self.shape.entry(index))))
    }

    fn put(&self, index: usize, word: AsideWord) {
        store(&self.aside, self.shape.entry(index), word.pack());
    }

    /// Where the owner word of a message lies.
    fn owner(&self, sequence: u64) -> usize {
        owners::words(0, self.capacity) + 8 * (sequence as usize & (self.capacity as usize - 1))
    }
}

fn load(file: &File, offset: usize) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset as u64).expect("a word");
    u64::from_ne_bytes(bytes)
}

fn store(file: &File, offset: usize, word: u64) {
    file.write_all_at(&word.to_ne_bytes(), offset as u64).expect("a word");
}

/// While messages are there that have not failed.
const SOON: Verdict = Verdict::At(Duration::from_millis(5));
/// Long enough for whoever is to find the entry waiting.
const MUCH_LATER: Verdict = Verdict::At(Duration::from_millis(60));

/// Dies with messages from the ring in hand and one from the store, with entries that it filled and amended, with one that it had
/// staged and not committed, and with one that it had committed and not finished.
pub(crate) fn put_aside_and_die(child: &Child) {
    let mut member = child.member();
    let is_shared = child.scene.group.is_shared();
    if is_shared {
        // Two for those who come later, before all others.
        for _ in 0..2 {
            drop(child.receive(&mut member).expect("a message"));
        }
    }
    let late = [SOON, MUCH_LATER, MUCH_LATER, MUCH_LATER].map(|verdict| {
        let message = child.receive(&mut member).expect("a message");
        let sequence = message.sequence();
        child.fail(message, verdict);
        sequence
    });
    // The late one is due, and comes before those that were given back.
    std::thread::sleep(Duration::from_millis(6));
    let mut batch = member.receive_batch(1, 8, Duration::from_millis(1)).expect("a batch");
    let (mut of_ring, mut was_late) = (0, false);
    while !was_late || of_ring < 2 {
        child.told.ask();
        let message = batch.next_message_timeout(Duration::from_secs(1)).expect("nothing wrong");
        let message = message.expect("two of the ring, and the late one");
        child.told.received(message.sequence(), 1 + u8::from(message.is_redelivered()));
        if message.sequence() == late[0] {
            was_late = true;
            continue;
        }
        of_ring += 1;
        if of_ring == 2 && !is_shared {
            // Staged, for as long as the batch is not acknowledged.
            child.told.fail(message.sequence(), 1, false);
            message.retry("it failed").expect("room");
        }
    }
    let files = Files::open(child);
    let me = files.find(late[0]).1.holder;
    let hold = |sequence: u64, state: u8| {
        let (index, word) = files.find(sequence);
        files.put(index, AsideWord { state, holder: me, ..word });
        ParkedEntry { index: index as u16, incarnation: (word.tag & 0x3ff) as u16 }
    };
    let committed = hold(late[1], state::STAGED);
    hold(late[2], state::AMENDING);
    if let Some(owners) = &files.owners {
        let change = |sequence: u64, to: &dyn Fn(OwnerWord) -> OwnerWord| {
            let at = files.owner(sequence);
            store(owners, at, to(OwnerWord::unpack(load(owners, at))).pack());
        };
        change(late[1], &|word| word.parked(committed));
        hold(late[3], state::STAGED);
        change(late[3], &|word| OwnerWord { state: owner_state::CLAIMED, member: me.participant, ..word });
    }
    let is_free = |&index: &usize| load(&files.aside, files.shape.entry(index)) as u8 == state::FREE;
    let filled = (0..16).find(is_free).expect("a free entry");
    files.put(filled, AsideWord { state: state::FILLING, holder: me, attempts: 1, tag: 1 });
    child.meet("ready");
    drop(batch);
}

/// Takes the supervisor's role and sweeps what a dead member held, while a member of this process has a message from the ring and
/// one from the store in hand. Nothing here waits: whoever waits asks after others.
pub(crate) fn sweep_in_office(child: Child) {
    let dir = BusDir::new(BUS, Some(&child.dir)).expect("its directory");
    let mut member = child.member();
    child.put_aside(&mut member, NOW);
    let mut batch = member.receive_batch(1, 2, Duration::ZERO).expect("a batch");
    let sequences = [(); 2].map(|()| {
        child.told.ask();
        let message =
            batch.next_message().expect("nothing wrong").expect("one of the store, and one of the ring");
        child.told.received(message.sequence(), 1 + u8::from(message.is_redelivered()));
        message.sequence()
    });
    child.begin();
    let supervisor = Supervisor::take(&dir, false);
    child.end();
    child.told.acknowledge(&sequences);
    match batch.ack() {
        2 => child.told.acknowledged(2),
        kept => child.failed(&format!("{kept} of 2 were still its own")),
    }
    match supervisor {
        Ok(supervisor) => drop(supervisor),
        Err(error) => child.failed(&error),
    }
    child.read_on(member);
}

/// Waits for what a dead member held, while another member of this process has a message from the ring and one from the store in
/// hand.
pub(crate) fn wait_for_late(child: Child) {
    let topic = child.topic(&child.bus());
    let mut holder = child.scene.member(&topic);
    let mut batch = holder.receive_batch(1, 3, Duration::ZERO).expect("a batch");
    let mut sequences = [0; 2];
    for index in 0..3 {
        child.told.ask();
        let message = batch.next_message_timeout(Duration::from_secs(1)).expect("nothing wrong");
        let message = message.expect("two of the ring, and one of these again");
        let (sequence, attempts) = (message.sequence(), 1 + u8::from(message.is_redelivered()));
        child.told.received(sequence, attempts);
        if index == 1 {
            child.told.fail(sequence, attempts, false);
            message.retry("it failed").expect("its own");
            child.told.put_aside(1);
        } else {
            sequences[index / 2] = sequence;
        }
    }
    // Who waits asks after others for the first time a while after it has joined.
    let mut waiter = child.scene.member(&topic);
    child.begin();
    child.told.ask();
    match waiter.receive_timeout(Duration::from_millis(700)) {
        Ok(Some(message)) => child.told.received(message.sequence(), message.attempts()),
        Ok(None) => {}
        Err(error) => child.failed(&error),
    }
    child.end();
    child.told.acknowledge(&sequences);
    match batch.ack() {
        3 => child.told.acknowledged(2),
        kept => child.failed(&format!("{kept} of 3 were still its own")),
    }
    drop(holder);
    child.read_on(waiter);
}

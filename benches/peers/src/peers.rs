//! Who is compared, how each is set, what each promises, and which of our rows promises the same.

use serde::Serialize;

use crate::servers::Need;
use crate::way::Ours;

/// What the table cannot show as measured.
pub(crate) const NOT_MEASURED: [&str; 3] = [
    "Kafka: 50,000 messages/s as quoted by the article that quotes 2,000 for RabbitMQ and 42,387 for its in-process bus",
    "Aeron: not compared here, no package",
    "tango: not compared here, no package",
];

/// What a peer does for the messages it carries, in a few words each.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Promises {
    /// How often a payload is copied between the sender's and the receiver's variables, the writing of it not counted.
    pub(crate) copies: &'static str,
    /// Whether the receiver's library checks what it hands out.
    pub(crate) validates: &'static str,
    pub(crate) order: &'static str,
    pub(crate) readers: &'static str,
    /// What happens to the others when one process is killed.
    pub(crate) survives_kill: &'static str,
    pub(crate) acknowledged: &'static str,
}

/// What we do, except in rows that say tap: that one may miss messages and acknowledges nothing.
pub(crate) const OURS: Promises = Promises {
    copies: "1",
    validates: "every archive",
    order: "by sender",
    readers: "groups, each sees all",
    survives_kill: "nothing is lost, nobody waits",
    acknowledged: "by the reader",
};

/// One way to pass messages in one setting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// At its best documented settings, or at its defaults.
    pub(crate) tuned: bool,
    /// What was set.
    pub(crate) setting: &'static str,
    /// Which of our rows it is compared with.
    pub(crate) ours: Ours,
    /// Messages between two looks at the clock.
    pub(crate) block: u64,
    pub(crate) window: u64,
    pub(crate) lossy: bool,
    /// The first worker has both sides: threads of its own, or a program that it starts.
    pub(crate) alone: bool,
    /// Shown, not judged: it cannot leave its process.
    pub(crate) reference: bool,
    /// With several readers, and only so.
    pub(crate) fan_out: bool,
    pub(crate) need: Need,
    pub(crate) promises: Promises,
}

/// Many producers, as everybody gets it.
pub(crate) const DEFAULT: Ours = Ours { one_producer: false, tuned: false, spin: false, tap: false };
/// Many producers, no stamps, batches.
const MANY: Ours = Ours { tuned: true, ..DEFAULT };
/// The same with one producer.
const ONE: Ours = Ours { one_producer: true, ..MANY };

/// What may lose messages is compared with a tap, which may as well.
const TAP: Ours = Ours { tap: true, ..DEFAULT };
const SPIN_TAP: Ours = Ours { spin: true, ..TAP };
const SPIN_MANY: Ours = Ours { spin: true, ..MANY };
const SPIN_ONE: Ours = Ours { spin: true, ..ONE };

/// Blocks for what takes nanoseconds, microseconds, and tens of them.
const FAST: u64 = 256;
const MEDIUM: u64 = 64;
const SLOW: u64 = 16;

/// Messages that may be under way to a server that would drop them.
const WINDOW: u64 = 16_384;

const SYSTEM: Promises = Promises {
    copies: "2",
    validates: "no",
    order: "total",
    readers: "one of many",
    survives_kill: "what is read is lost",
    acknowledged: "no",
};

const fn peer(
    name: &'static str,
    tuned: bool,
    setting: &'static str,
    ours: Ours,
    promises: Promises,
) -> Peer {
    Peer {
        name,
        tuned,
        setting,
        ours,
        block: MEDIUM,
        window: 0,
        lossy: false,
        alone: false,
        reference: false,
        fan_out: false,
        need: Need::Nothing,
        promises,
    }
}

/// Everybody, in the order of the table.
pub(crate) fn all() -> Vec<Peer> {
    let unix = Promises { order: "by sender", readers: "one", ..SYSTEM };
    let ring = Promises { copies: "0", order: "one sender", readers: "one", survives_kill: "no", ..SYSTEM };
    let ringfire = Promises {
        copies: "2",
        validates: "type by size",
        order: "one sender",
        readers: "32, each sees all",
        survives_kill: "by process number",
        acknowledged: "no",
    };
    let iceoryx = Promises {
        copies: "0",
        validates: "type by name",
        order: "by sender",
        readers: "each sees all",
        survives_kill: "when another one cleans up",
        acknowledged: "no",
    };
    let crossbar = Promises {
        copies: "2",
        validates: "type by size",
        order: "one sender",
        readers: "each sees all",
        survives_kill: "by process number",
        acknowledged: "no",
    };
    let channel = Promises { copies: "3", order: "total", readers: "one", ..SYSTEM };
    let inside = Promises { order: "one sender", readers: "one", survives_kill: "one process", ..ring };
    let shared = |peer: Peer| Peer { block: FAST, ..peer };
    let threads = |peer: Peer| Peer { block: FAST, alone: true, reference: true, ..peer };
    let library = |need: Need, peer: Peer| Peer { need, ..peer };
    let server = |need: Need, peer: Peer| Peer { need, block: SLOW, ..peer };
    // What the server would drop, or close the connection for, when a reader is slow: we do not let it come to that.
    let windowed = |peer: Peer| Peer { window: WINDOW, ..peer };
    let fan_out = |peer: Peer| Peer { fan_out: true, ..peer };
    let zeromq = Need::Library("libzmq.so.5");
    let nng = Need::Library("libnng.so.1");
    let sockets = Promises { copies: "4", order: "by sender", readers: "one of many", ..SYSTEM };
    let broker = Promises {
        copies: "4 and more",
        validates: "no",
        order: "by sender",
        readers: "each sees all",
        survives_kill: "what is read is lost",
        acknowledged: "no",
    };
    let acknowledged = Promises {
        readers: "groups",
        survives_kill: "comes again; not if the server dies",
        acknowledged: "both sides",
        ..broker
    };
    let python = Promises {
        copies: "4",
        validates: "pickle",
        order: "by sender",
        readers: "one of many",
        survives_kill: "others may block for ever",
        acknowledged: "no",
    };
    let ringfire_lossless =
        shared(peer("ringfire", true, "lossless, busy spin, batches of 64", SPIN_ONE, ringfire));
    let survivor = Promises { survives_kill: "yes", ..ringfire };
    let ringfire_latest =
        shared(Peer { lossy: true, ..peer("ringfire", false, "latest wins, futex wait", TAP, survivor) });
    let iceoryx_lossless = shared(peer(
        "iceoryx2",
        true,
        "no overflow, retry until delivered, buffer of 1,024",
        SPIN_MANY,
        iceoryx,
    ));
    let iceoryx_overflow = shared(Peer {
        lossy: true,
        ..peer("iceoryx2", false, "safe overflow, buffer of 2", SPIN_TAP, iceoryx)
    });
    let crossbar_bus = shared(peer("crossbar", true, "bounded bus of 1,024", SPIN_ONE, crossbar));
    let loans = Promises { copies: "1", ..crossbar };
    let crossbar_pool =
        shared(Peer { lossy: true, ..peer("crossbar", false, "pool, ring of 8", TAP, loans) });
    let zeromq_publish = library(
        zeromq,
        Peer {
            lossy: true,
            ..peer(
                "zeromq",
                false,
                "pub and sub, queue of 1,000",
                TAP,
                Promises { readers: "each sees all", ..sockets },
            )
        },
    );
    vec![
        ringfire_lossless,
        ringfire_latest,
        fan_out(ringfire_lossless),
        fan_out(ringfire_latest),
        iceoryx_lossless,
        iceoryx_overflow,
        fan_out(iceoryx_lossless),
        fan_out(iceoryx_overflow),
        crossbar_bus,
        crossbar_pool,
        fan_out(crossbar_bus),
        fan_out(crossbar_pool),
        peer("ipc-channel", true, "bytes", MANY, channel),
        peer("ipc-channel", false, "Vec<u64> by serde", DEFAULT, Promises { validates: "serde", ..channel }),
        peer("pipe", true, "64 KiB a call, 1 MiB pipe", MANY, SYSTEM),
        peer("pipe", false, "one call a message", DEFAULT, SYSTEM),
        peer("unix stream", true, "64 KiB a call, 1 MiB buffers", MANY, unix),
        peer("unix stream", false, "one call a message", DEFAULT, unix),
        peer("unix seqpacket", true, "64 messages a call, 1 MiB buffers", MANY, unix),
        peer("unix seqpacket", false, "one call a message", DEFAULT, unix),
        peer("posix mq", true, "queue of 4,096 or what the system allows", MANY, SYSTEM),
        peer("posix mq", false, "queue of 10", DEFAULT, SYSTEM),
        Peer { block: FAST, ..peer("ring + eventfd", true, "looks for 25 us, then sleeps", ONE, ring) },
        Peer { block: FAST, ..peer("ring + eventfd", false, "sleeps at once", ONE, ring) },
        library(zeromq, peer("zeromq", true, "push and pull, queue of 10,000", MANY, sockets)),
        zeromq_publish,
        fan_out(library(
            zeromq,
            peer(
                "zeromq",
                true,
                "pub that waits (XPUB_NODROP) and sub, queue of 10,000",
                MANY,
                Promises { readers: "each sees all", ..sockets },
            ),
        )),
        fan_out(zeromq_publish),
        library(nng, peer("nng", true, "pair, queues of 1,024", MANY, sockets)),
        library(nng, peer("nng", false, "push and pull", DEFAULT, sockets)),
        library(
            Need::Boost,
            peer(
                "boost queue",
                true,
                "1,024 messages",
                MANY,
                Promises { validates: "no", survives_kill: "others may block for ever", ..SYSTEM },
            ),
        ),
        windowed(server(
            Need::Redis,
            peer("redis pub/sub", true, "Unix socket, 100 commands at once", MANY, broker),
        )),
        windowed(server(
            Need::Redis,
            peer("redis pub/sub", false, "Unix socket, command by command", DEFAULT, broker),
        )),
        windowed(server(
            Need::Redis,
            peer("redis streams", true, "group, 100 at once, acknowledged in batches", MANY, acknowledged),
        )),
        windowed(server(
            Need::Redis,
            peer("redis streams", false, "group, one by one", DEFAULT, acknowledged),
        )),
        fan_out(windowed(server(
            Need::Redis,
            peer("redis pub/sub", true, "Unix socket, 100 commands at once", MANY, broker),
        ))),
        fan_out(windowed(server(
            Need::Redis,
            peer("redis streams", true, "a group a reader, 100 at once", MANY, acknowledged),
        ))),
        windowed(server(Need::Nats, peer("nats", true, "32 KiB a write", MANY, broker))),
        windowed(server(Need::Nats, peer("nats", false, "message by message", DEFAULT, broker))),
        windowed(server(
            Need::Nats,
            peer("nats jetstream", true, "memory, 256 publications at once", MANY, acknowledged),
        )),
        windowed(server(
            Need::Nats,
            peer("nats jetstream", false, "memory, one by one", DEFAULT, acknowledged),
        )),
        fan_out(windowed(server(Need::Nats, peer("nats", true, "32 KiB a write", MANY, broker)))),
        fan_out(windowed(server(
            Need::Nats,
            peer("nats jetstream", true, "memory, interest, a consumer a reader", MANY, acknowledged),
        ))),
        server(
            Need::RabbitMq,
            peer(
                "rabbitmq",
                true,
                "confirms, 1,000 at once; prefetch 1,000, acknowledged by 100",
                MANY,
                acknowledged,
            ),
        ),
        server(
            Need::RabbitMq,
            peer("rabbitmq", false, "confirms and acknowledgements one by one", DEFAULT, acknowledged),
        ),
        fan_out(server(
            Need::RabbitMq,
            peer("rabbitmq", true, "fanout exchange, a queue a reader, confirms", MANY, acknowledged),
        )),
        Peer {
            alone: true,
            need: Need::Python,
            ..peer("python multiprocessing", true, "Queue, bytes", DEFAULT, python)
        },
        Peer {
            alone: true,
            reference: true,
            need: Need::Python,
            ..peer(
                "python asyncio",
                true,
                "Queue of 10,000, one process",
                DEFAULT,
                Promises {
                    copies: "0",
                    validates: "no",
                    order: "total",
                    survives_kill: "one process",
                    ..python
                },
            )
        },
        threads(peer("rtrb", true, "chunks of 64, spins", SPIN_ONE, inside)),
        threads(peer(
            "crossbeam-channel",
            true,
            "bounded, 1,024",
            MANY,
            Promises { copies: "2", order: "total", readers: "one of many", ..inside },
        )),
        threads(peer(
            "disruptor",
            true,
            "poller, busy spin",
            SPIN_ONE,
            Promises { readers: "each sees all", ..inside },
        )),
    ]
}

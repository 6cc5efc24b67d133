//! What processes and the supervisor say to each other: one packet there, one back.
//!
//! A packet is `"shmb"`, the protocol version (u32), and an rkyv archive that is validated before it is read.

use crate::payload::TypeIdentity;
use rkyv::rancor::Failure;

/// Version of what follows. Another version is answered with an error that both can read.
pub(crate) const PROTOCOL: u32 = 1;
/// This build, as it names itself.
pub(crate) const BUILD: &str = env!("CARGO_PKG_VERSION");
const MARK: &[u8; 4] = b"shmb";

/// Configuration of a topic to be created.
#[derive(Clone, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct TopicSpec {
    pub(crate) name: String,
    pub(crate) capacity: u32,
    pub(crate) lanes: u32,
    pub(crate) producers: u32,
    pub(crate) inline_bytes: u32,
    pub(crate) message_bytes: u64,
    pub(crate) arena_first_bytes: u64,
    pub(crate) arena_bound_bytes: u64,
    pub(crate) arena_history_bytes: u64,
    pub(crate) flags: u32,
    pub(crate) ttl_ns: u64,
    pub(crate) overflow: u32,
    /// The topic's own quota: its two words.
    pub(crate) quota: [u64; 2],
    pub(crate) types: Vec<TypeIdentity>,
    /// Named groups that exist from the start and hold the first message for their members.
    pub(crate) groups: Vec<GroupSpec>,
}

/// A group to be created with its topic.
#[derive(Clone, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct GroupSpec {
    pub(crate) name: String,
    pub(crate) shared: bool,
    /// All messages of a key go to one member. Only with `shared`.
    pub(crate) keyed: bool,
}

/// What a process asks for.
#[derive(Clone, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) enum Request {
    /// A participant number for the process that holds the lease file of this name.
    Register { service: String, pid_namespace: u64, start_ticks: u64, lease_name: String },
    /// The process has let go of everything.
    Leave { participant: u16, tag: u32 },
    /// A topic; answered `Done` also if it exists.
    CreateTopic { participant: u16, spec: TopicSpec },
    /// More types for an existing topic.
    AddTypes { topic: String, types: Vec<TypeIdentity> },
    /// Take the bus down. `participant` is the caller's own, if it has one.
    Down { force: bool },
    /// Give the role to the caller. A thread of an agent always does; a dedicated supervisor only if `replace`.
    HandOver { replace: bool },
    /// A breaker of this topic has opened. Nobody waits for an answer.
    Tripped { topic: String },
    /// A process publishes nothing in this topic for a while that a message of topic `cause` has caused, in one conversation or, where
    /// none is named, in any. Nobody waits for an answer.
    LoopCut { topic: String, cause: String, conversation: String, service: String, hops: u16, open_ms: u64 },
    /// The quota of a topic, or of one of its services: two words; zeros take it away.
    Quota { topic: String, service: Option<String>, words: [u64; 2] },
}

/// What the supervisor answers.
#[derive(Clone, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) enum Reply {
    Registered { participant: u16, tag: u32 },
    Done,
    Refused { reason: String },
    NoSpace { path: String, need_bytes: u64, free_bytes: u64, total_bytes: u64 },
}

/// A packet that is not one.
#[derive(Debug)]
pub(crate) enum Garbled {
    /// Another protocol version, and the build's name if it gave one.
    Version(u32, String),
    /// No packet of ours at all.
    Bytes,
}

fn seal(archive: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(16 + archive.len() + BUILD.len());
    packet.extend_from_slice(MARK);
    packet.extend_from_slice(&PROTOCOL.to_le_bytes());
    packet.extend_from_slice(&(archive.len() as u32).to_le_bytes());
    packet.extend_from_slice(archive);
    packet.extend_from_slice(BUILD.as_bytes());
    packet
}

fn open(packet: &[u8]) -> Result<rkyv::util::AlignedVec, Garbled> {
    let (Some(mark), Some(version), Some(len)) = (packet.get(..4), packet.get(4..8), packet.get(8..12))
    else {
        return Err(Garbled::Bytes);
    };
    if mark != MARK {
        return Err(Garbled::Bytes);
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |all, &byte| all << 8 | u32::from(byte));
    let end = 12_usize.saturating_add(number(len) as usize);
    let build = packet.get(end..).map(|build| String::from_utf8_lossy(build).into_owned());
    if number(version) != PROTOCOL {
        return Err(Garbled::Version(number(version), build.unwrap_or_default()));
    }
    let archive = packet.get(12..end).ok_or(Garbled::Bytes)?;
    let mut aligned = rkyv::util::AlignedVec::with_capacity(archive.len());
    aligned.extend_from_slice(archive);
    Ok(aligned)
}

impl Request {
    pub(crate) fn to_packet(&self) -> Vec<u8> {
        seal(&rkyv::to_bytes::<Failure>(self).unwrap_or_default())
    }

    pub(crate) fn from_packet(packet: &[u8]) -> Result<Self, Garbled> {
        rkyv::from_bytes::<Self, Failure>(&open(packet)?).map_err(|_| Garbled::Bytes)
    }
}

impl Reply {
    pub(crate) fn to_packet(&self) -> Vec<u8> {
        seal(&rkyv::to_bytes::<Failure>(self).unwrap_or_default())
    }

    pub(crate) fn from_packet(packet: &[u8]) -> Result<Self, Garbled> {
        rkyv::from_bytes::<Self, Failure>(&open(packet)?).map_err(|_| Garbled::Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_survive_and_hostile_ones_are_refused() {
        let packet = Request::Leave { participant: 3, tag: 9 }.to_packet();
        assert!(matches!(Request::from_packet(&packet), Ok(Request::Leave { participant: 3, tag: 9 })));
        for cut in 0..packet.len() - BUILD.len() {
            assert!(Request::from_packet(&packet[..cut]).is_err(), "cut at {cut}");
        }
        for at in 12..packet.len() - BUILD.len() {
            let mut broken = packet.clone();
            broken[at] ^= 0xff;
            let _ = Request::from_packet(&broken);
        }
        let mut newer = packet;
        newer[4] = 9;
        assert!(matches!(Request::from_packet(&newer), Err(Garbled::Version(9, build)) if build == BUILD));
    }
}

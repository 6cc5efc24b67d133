//! The asking side: finds the newest holder of the role, or takes the role where that one is gone or silent.

use super::protocol::{BUILD, Garbled, PROTOCOL, Reply, Request};
use super::role::{self, SILENCE};
use crate::directory::BusDir;
use crate::error::{BusError, RegionError};
use crate::region::Region;
use crate::sys::socket;
use bus_core::layout::superblock::{RoleWord, at};
use bus_core::sync::Ordering;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// How long a request may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the holder's beat is looked at by one who waits for an answer.
const LOOK: Duration = Duration::from_millis(50);

/// What one who waits for the holder of the role sees of it.
struct Watch<'a> {
    superblock: &'a Region,
    word: u64,
    beat: u64,
    looked: Instant,
    silent: Duration,
}

impl<'a> Watch<'a> {
    fn new(superblock: &'a Region) -> Self {
        let mut this = Self { superblock, word: 0, beat: 0, looked: Instant::now(), silent: Duration::ZERO };
        this.look(LOOK);
        this
    }

    /// Looks again. Who looks may have stood still itself, perhaps together with the holder: what it was waiting for says how
    /// much of the time since the last look may count.
    fn look(&mut self, waited_max: Duration) {
        let word = role::newest(self.superblock);
        // Relaxed: only looked at for whether it moves.
        let beat = self.superblock.look(at::ROLE_BEAT).map_or(0, |beat| beat.load(Ordering::Relaxed));
        let step = self.looked.elapsed().min(waited_max);
        self.looked = Instant::now();
        self.silent =
            if (word, beat) == (self.word, self.beat) { self.silent + step } else { Duration::ZERO };
        (self.word, self.beat) = (word, beat);
    }

    /// The word of a holder that has been silent for too long.
    fn silent_word(&self) -> Option<u64> {
        (self.silent >= SILENCE).then_some(self.word)
    }
}

/// What became of one try.
enum Attempt {
    Answer(Reply),
    /// Nobody listens, or the listener went away before it answered.
    Nobody,
    /// Another has the role now.
    Changed,
    /// The caller has taken the role from a silent holder, or somebody else is about to.
    Taken,
}

/// Sends one request. `host` is called when nobody listens, or with the word of a holder that is silent: it tries to take the
/// role, and returns whether somebody (this process or another) can be expected to listen soon. Every request may be repeated.
pub(crate) fn ask(
    dir: &BusDir,
    superblock: &Region,
    request: &Request,
    mut host: impl FnMut(Option<u64>) -> Result<bool, BusError>,
) -> Result<Reply, BusError> {
    let begun = Instant::now();
    let mut watch = Watch::new(superblock);
    loop {
        let timeout = || BusError::Timeout { bus: dir.name().into(), waited: REQUEST_TIMEOUT };
        match attempt(dir, request, &mut watch, begun + REQUEST_TIMEOUT, &mut host)? {
            Attempt::Answer(reply) => return understand(reply),
            Attempt::Changed | Attempt::Taken => {}
            Attempt::Nobody => {
                watch.look(LOOK);
                let silent = watch.silent_word();
                if !host(silent)? && silent.is_none() {
                    return Err(BusError::NoSupervisor { bus: dir.name().into() });
                }
            }
        }
        if begun.elapsed() > REQUEST_TIMEOUT {
            return Err(timeout());
        }
        // Somebody holds the role and is about to listen, or has just stopped.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a request that wants no answer, if there is somebody to take it right now.
pub(crate) fn notify(dir: &BusDir, superblock: &Region, request: &Request) {
    let word = role::newest(superblock);
    if role::is_closed(word) {
        return;
    }
    if let Ok(socket) = socket::try_connect(&dir.socket(RoleWord::unpack(word).mark)) {
        let _ = socket::try_send(&socket, &request.to_packet());
    }
}

/// One try.
fn attempt(
    dir: &BusDir,
    request: &Request,
    watch: &mut Watch<'_>,
    deadline: Instant,
    host: &mut impl FnMut(Option<u64>) -> Result<bool, BusError>,
) -> Result<Attempt, BusError> {
    watch.look(LOOK);
    let word = watch.word;
    if role::is_closed(word) {
        return Err(BusError::Closed { bus: dir.name().into() });
    }
    let socket = match socket::connect(&dir.socket(RoleWord::unpack(word).mark)) {
        Ok(socket) => socket,
        Err(error) if error.is(Errno::CONNREFUSED) || error.is(Errno::NOENT) => return Ok(Attempt::Nobody),
        Err(error) if error.is(Errno::AGAIN) => {
            // Many wait already.
            watch.look(socket::SEND_TIMEOUT);
            return Ok(Attempt::Nobody);
        }
        Err(error) => return Err(error.into()),
    };
    if socket::send(&socket, &request.to_packet()).is_err() {
        return Ok(Attempt::Nobody);
    }
    let is_down = matches!(request, Request::Down { .. });
    let mut packet = Vec::new();
    loop {
        match socket::receive(&socket, &mut packet, Some(LOOK))? {
            socket::Received::Packet => break,
            socket::Received::Closed => return Ok(Attempt::Nobody),
            socket::Received::TimedOut => {}
        }
        watch.look(2 * LOOK);
        if is_down && role::is_closed(watch.word) && Instant::now() < deadline {
            // What was asked for has begun; the answer comes when the files have gone.
            continue;
        }
        if watch.word != word {
            return Ok(Attempt::Changed);
        }
        if let Some(silent) = watch.silent_word()
            && host(Some(silent))?
        {
            return Ok(Attempt::Taken);
        }
        if Instant::now() >= deadline {
            return Err(BusError::Timeout { bus: dir.name().into(), waited: REQUEST_TIMEOUT });
        }
    }
    match Reply::from_packet(&packet) {
        Ok(reply) => Ok(Attempt::Answer(reply)),
        Err(Garbled::Version(their_protocol, theirs)) => Err(BusError::Build {
            bus: dir.name().into(),
            theirs,
            their_protocol,
            ours: BUILD,
            our_protocol: PROTOCOL,
        }),
        Err(Garbled::Bytes) => Err(BusError::Refused {
            bus: dir.name().into(),
            reason: "the control socket answered something that is not an answer".into(),
        }),
    }
}

fn understand(reply: Reply) -> Result<Reply, BusError> {
    match reply {
        Reply::NoSpace { path, need_bytes, free_bytes, total_bytes } => {
            Err(RegionError::NoSpace { path: path.into(), need_bytes, free_bytes, total_bytes }.into())
        }
        other => Ok(other),
    }
}

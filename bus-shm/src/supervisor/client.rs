//! The asking side: finds the holder of the role, or takes the role if there is none.

use super::protocol::{BUILD, Garbled, PROTOCOL, Reply, Request};
use crate::directory::BusDir;
use crate::error::{BusError, RegionError};
use crate::sys::socket;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// How long a request may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends one request. `host` is called when nobody listens: it tries to take the role, and returns whether somebody (this
/// process or another) can be expected to listen soon.
pub(crate) fn ask(
    dir: &BusDir,
    request: &Request,
    mut host: impl FnMut() -> Result<bool, BusError>,
) -> Result<Reply, BusError> {
    let begun = Instant::now();
    loop {
        match attempt(dir, request)? {
            Some(reply) => return understand(reply),
            None if !host()? => return Err(BusError::NoSupervisor { bus: dir.name().into() }),
            None if begun.elapsed() > REQUEST_TIMEOUT => {
                return Err(BusError::Timeout { bus: dir.name().into(), waited: REQUEST_TIMEOUT });
            }
            // Somebody holds the role and is about to listen, or has just stopped.
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// One try; `None` if nobody listens, or the listener went away before it answered. Every request may be repeated.
fn attempt(dir: &BusDir, request: &Request) -> Result<Option<Reply>, BusError> {
    let socket = match socket::connect(&dir.socket()) {
        Ok(socket) => socket,
        Err(error) if error.is(Errno::CONNREFUSED) || error.is(Errno::NOENT) || error.is(Errno::AGAIN) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    if socket::send(&socket, &request.to_packet()).is_err() {
        return Ok(None);
    }
    let mut packet = Vec::new();
    match socket::receive(&socket, &mut packet, Some(REQUEST_TIMEOUT))? {
        socket::Received::Packet => {}
        socket::Received::Closed => return Ok(None),
        socket::Received::TimedOut => {
            return Err(BusError::Timeout { bus: dir.name().into(), waited: REQUEST_TIMEOUT });
        }
    }
    match Reply::from_packet(&packet) {
        Ok(reply) => Ok(Some(reply)),
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

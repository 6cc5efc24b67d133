//! Control sockets: Unix sockets that keep the boundaries of packets (`SOCK_SEQPACKET`).
//!
//! A packet arrives whole or not at all, in order, and the end of the other process shows as end of file, which
//! is a hint and no proof of death. Every descriptor is closed by exec.
#![allow(unsafe_code)]

use super::error::{Result, SysError};
use super::timespec;
use core::time::Duration;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

/// Largest packet in bytes.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Connections that may wait to be accepted. More are made to wait in [`connect`].
const BACKLOG: i32 = 128;

/// How long [`connect`] and [`send`] wait for an other side that does not take what it is given.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// What [`receive`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A packet, now in the buffer.
    Packet,
    /// The other side has closed, or ended.
    Closed,
    /// Nothing within the time limit.
    TimedOut,
}

/// Who is at the other end, as the kernel recorded it when the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process, as this pid namespace sees it; 0 when it does not see it.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// Longest path, in bytes, that a socket can be bound to (room for the final zero taken off).
#[must_use]
pub fn max_path_bytes() -> usize {
    // SAFETY: a plain C structure of integers, of which only the size of a field is used.
    let address: libc::sockaddr_un = unsafe { core::mem::zeroed() };
    address.sun_path.len() - 1
}

/// Creates a socket at `path` and listens. The name stays until it is unlinked, also when the process ends.
///
/// # Errors
/// `ENAMETOOLONG` when the path has more than [`max_path_bytes`] bytes, `EADDRINUSE` when the name is taken.
pub fn listen(path: &Path) -> Result<OwnedFd> {
    let fail = |call, errno| SysError::new(call, path.display(), errno);
    let address = address(path).map_err(|errno| fail("bind", errno))?;
    let socket = seqpacket().map_err(|errno| fail("socket", errno))?;
    rustix::net::bind(&socket, &address).map_err(|errno| fail("bind", errno))?;
    rustix::net::listen(&socket, BACKLOG).map_err(|errno| fail("listen", errno))?;
    Ok(socket)
}

/// Connects to a listening socket.
///
/// # Errors
/// `ENOENT` without such a name, `ECONNREFUSED` when nobody listens there any more, `EAGAIN` when its queue has
/// stayed full for [`SEND_TIMEOUT`], `ENAMETOOLONG` as for [`listen`].
pub fn connect(path: &Path) -> Result<OwnedFd> {
    let fail = |call, errno| SysError::new(call, path.display(), errno);
    let address = address(path).map_err(|errno| fail("connect", errno))?;
    let socket = seqpacket().map_err(|errno| fail("socket", errno))?;
    limit_sending(&socket)?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))
        .map_err(|errno| fail("connect", errno))?;
    Ok(socket)
}

/// As [`connect`], but without waiting.
///
/// # Errors
/// As [`connect`]; `EAGAIN` when its queue is full now.
pub fn try_connect(path: &Path) -> Result<OwnedFd> {
    let fail = |call, errno| SysError::new(call, path.display(), errno);
    let address = address(path).map_err(|errno| fail("connect", errno))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|errno| fail("socket", errno))?;
    rustix::net::connect(&socket, &address).map_err(|errno| fail("connect", errno))?;
    Ok(socket)
}

/// Takes the next connection, waiting for one without limit; poll the listening descriptor to wait with one.
///
/// # Errors
/// `EMFILE` and `ENFILE` when there are no descriptors left; whatever else `accept4` reports.
pub fn accept(listener: &impl AsFd) -> Result<OwnedFd> {
    let socket = rustix::io::retry_on_intr(|| rustix::net::accept_with(listener, SocketFlags::CLOEXEC))
        .map_err(|errno| SysError::on_fd("accept4", listener, errno))?;
    limit_sending(&socket)?;
    Ok(socket)
}

/// Sends one packet of 1 to [`PACKET_BYTES_MAX`] bytes. No SIGPIPE.
///
/// # Errors
/// `EPIPE` or `ECONNRESET` when the other side has closed, `EAGAIN` when it has not made room within
/// [`SEND_TIMEOUT`], `EMSGSIZE` for a packet too long, `EINVAL` for an empty one (which would look like the end).
pub fn send(socket: &impl AsFd, packet: &[u8]) -> Result<()> {
    send_with(socket, packet, SendFlags::NOSIGNAL)
}

/// As [`send`], but without waiting: `false` when there is no room now.
///
/// For one that serves many and must not stand still for the slowest.
///
/// # Errors
/// As [`send`], without `EAGAIN`.
pub fn try_send(socket: &impl AsFd, packet: &[u8]) -> Result<bool> {
    match send_with(socket, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Err(error) if error.is(Errno::AGAIN) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

fn send_with(socket: &impl AsFd, packet: &[u8], flags: SendFlags) -> Result<()> {
    let fail = |errno| SysError::on_fd("send", socket, errno);
    match packet.len() {
        0 => return Err(fail(Errno::INVAL)),
        1..=PACKET_BYTES_MAX => {}
        _ => return Err(fail(Errno::MSGSIZE)),
    }
    // A packet goes whole or not at all, so that the count says nothing.
    rustix::io::retry_on_intr(|| rustix::net::send(socket, packet, flags)).map(|_| ()).map_err(fail)
}

/// Waits for a packet, at most for `timeout` (`None`: without limit), and puts it into `buffer`.
///
/// What the buffer held is dropped. Its allocation is used again, so keep one per connection. Signals are
/// survived.
///
/// # Errors
/// `EMSGSIZE` when a packet was longer than [`PACKET_BYTES_MAX`] (it is lost); whatever else `recv` reports.
pub fn receive(socket: &impl AsFd, buffer: &mut Vec<u8>, timeout: Option<Duration>) -> Result<Received> {
    let fail = |call, errno| SysError::on_fd(call, socket, errno);
    // A limit too far away to be expressed is none.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        let mut entries = [PollFd::new(socket, PollFlags::IN)];
        match poll(&mut entries, left.as_ref()) {
            Ok(0) => return Ok(Received::TimedOut),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(fail("poll", errno)),
        }
        buffer.clear();
        buffer.reserve(PACKET_BYTES_MAX);
        let room = &mut buffer.spare_capacity_mut()[..PACKET_BYTES_MAX];
        // TRUNC: the answer is the length of the packet even where it did not fit.
        let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
        let ((filled, _), packet_bytes) = match rustix::net::recv(socket, room, flags) {
            Ok(answer) => answer,
            // Another thread was quicker, or a signal came.
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(errno) => return Err(fail("recv", errno)),
        };
        let filled_bytes = filled.len();
        // SAFETY: the kernel has written that many bytes at the beginning of the spare capacity.
        unsafe { buffer.set_len(filled_bytes) };
        return match packet_bytes {
            0 => Ok(Received::Closed),
            1..=PACKET_BYTES_MAX => Ok(Received::Packet),
            _ => {
                buffer.clear();
                Err(fail("recv", Errno::MSGSIZE))
            }
        };
    }
}

/// Has the other side closed, or ended? What it sent before can still be received.
#[must_use]
pub fn is_deserted(socket: &impl AsFd) -> bool {
    let mut entries = [PollFd::new(socket, PollFlags::RDHUP)];
    let now = timespec(Duration::ZERO);
    matches!(rustix::io::retry_on_intr(|| poll(&mut entries, Some(&now))), Ok(1..))
}

/// Who made the connection (for the accepting side) or listens (for the connecting side).
///
/// # Errors
/// `ENOTCONN` or whatever else `getsockopt` reports.
pub fn peer(socket: &impl AsFd) -> Result<Peer> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len_bytes = size_of::<libc::ucred>() as libc::socklen_t;
    // Not through rustix, whose pid cannot be 0: the kernel says 0 for a peer in a foreign pid namespace.
    // SAFETY: the kernel writes at most `len_bytes` into the structure, of which every bit pattern is valid.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut len_bytes,
        )
    };
    if status != 0 {
        let error = std::io::Error::last_os_error();
        let subject = format_args!("SO_PEERCRED of fd {}", socket.as_fd().as_raw_fd());
        return Err(SysError::from_io("getsockopt", subject, &error));
    }
    Ok(Peer { pid: u32::try_from(found.pid).unwrap_or(0), uid: found.uid, gid: found.gid })
}

fn address(path: &Path) -> rustix::io::Result<SocketAddrUnix> {
    match path.as_os_str().as_bytes().len() {
        // An empty name would bind to one that the kernel makes up.
        0 => Err(Errno::NOENT),
        len_bytes if len_bytes > max_path_bytes() => Err(Errno::NAMETOOLONG),
        _ => SocketAddrUnix::new(path),
    }
}

fn seqpacket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

fn limit_sending(socket: &OwnedFd) -> Result<()> {
    set_socket_timeout(socket, Timeout::Send, Some(SEND_TIMEOUT))
        .map_err(|errno| SysError::on_fd("setsockopt", socket, errno))
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_millis(5));
    const LATER: Option<Duration> = Some(Duration::from_secs(20));

    fn pair(scratch: &Scratch) -> (OwnedFd, OwnedFd) {
        let path = scratch.path("control");
        let listener = listen(&path).unwrap();
        let client = connect(&path).unwrap();
        (client, accept(&listener).unwrap())
    }

    #[test]
    fn packets_keep_their_boundaries() {
        let scratch = Scratch::new();
        let (client, server) = pair(&scratch);
        let mut buffer = vec![9; 3];
        assert_eq!(receive(&server, &mut buffer, SOON).unwrap(), Received::TimedOut);
        let large = vec![7; PACKET_BYTES_MAX];
        send(&client, b"one").unwrap();
        send(&client, &large).unwrap();
        assert_eq!(receive(&server, &mut buffer, LATER).unwrap(), Received::Packet);
        assert_eq!(buffer, b"one");
        assert_eq!(receive(&server, &mut buffer, None).unwrap(), Received::Packet);
        assert!(buffer == large);
        assert!(send(&client, b"").unwrap_err().is(Errno::INVAL));
        assert!(send(&client, &[0; PACKET_BYTES_MAX + 1]).unwrap_err().is(Errno::MSGSIZE));
        assert_eq!(receive(&server, &mut buffer, Some(Duration::ZERO)).unwrap(), Received::TimedOut);
    }

    #[test]
    fn a_packet_too_long_is_an_error_and_the_next_one_arrives() {
        let scratch = Scratch::new();
        let (client, server) = pair(&scratch);
        rustix::net::send(&client, &[1; PACKET_BYTES_MAX + 1], SendFlags::NOSIGNAL).unwrap();
        send(&client, b"next").unwrap();
        let mut buffer = Vec::new();
        assert!(receive(&server, &mut buffer, LATER).unwrap_err().is(Errno::MSGSIZE));
        assert_eq!(receive(&server, &mut buffer, LATER).unwrap(), Received::Packet);
        assert_eq!(buffer, b"next");
    }

    #[test]
    fn the_end_of_the_other_side_is_seen_after_its_last_packet() {
        let scratch = Scratch::new();
        let (client, server) = pair(&scratch);
        send(&client, b"last").unwrap();
        drop(client);
        let mut buffer = Vec::new();
        assert_eq!(receive(&server, &mut buffer, LATER).unwrap(), Received::Packet);
        assert_eq!(receive(&server, &mut buffer, LATER).unwrap(), Received::Closed);
        assert!(send(&server, b"nobody").unwrap_err().is(Errno::PIPE));
    }

    #[test]
    fn a_reader_that_stands_still_is_reported_without_waiting() {
        let scratch = Scratch::new();
        let (client, _server) = pair(&scratch);
        let packet = vec![0; PACKET_BYTES_MAX];
        let sent_count = (0..1_000).take_while(|_| try_send(&client, &packet).unwrap()).count();
        assert!((1..1_000).contains(&sent_count));
    }

    #[test]
    fn the_kernel_says_who_is_there() {
        let scratch = Scratch::new();
        let (client, server) = pair(&scratch);
        let expected = Peer {
            pid: std::process::id(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        assert_eq!((peer(&server).unwrap(), peer(&client).unwrap()), (expected, expected));
    }

    #[test]
    fn paths_are_checked() {
        let scratch = Scratch::new();
        let room = max_path_bytes() - scratch.path("").as_os_str().len();
        let fits = scratch.path(&"x".repeat(room));
        let listener = listen(&fits).unwrap();
        connect(&fits).unwrap();
        assert!(listen(&fits).unwrap_err().is(Errno::ADDRINUSE));
        drop(listener);
        assert!(connect(&fits).unwrap_err().is(Errno::CONNREFUSED));
        let long = scratch.path(&"x".repeat(room + 1));
        assert!(listen(&long).unwrap_err().is(Errno::NAMETOOLONG));
        assert!(connect(&long).unwrap_err().is(Errno::NAMETOOLONG));
        assert!(connect(&scratch.path("absent")).unwrap_err().is(Errno::NOENT));
        assert!(listen(Path::new("")).unwrap_err().is(Errno::NOENT));
    }
}

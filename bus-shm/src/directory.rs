//! Where a bus lies: `<dir>/shmbus-<uid>/<bus>/`, and the names of the files in it.

use crate::error::BusError;
use crate::sys::{file, socket, tmpfs};
use bus_core::limits::BUS_NAME_BYTES_MAX;
use bus_core::name::{REPLY_TOPICS, check_dotted};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where buses live unless `--dir` or `SHMBUS_DIR` says otherwise.
pub const DEFAULT_DIR: &str = "/dev/shm";
/// Environment variable that names another directory.
pub const DIR_VARIABLE: &str = "SHMBUS_DIR";
/// Prefix of directories that are being made; never a bus or a topic, since names do not begin with a dot.
pub(crate) const TEMPORARY: &str = ".tmp-";
/// Prefix of buses that are being removed.
pub(crate) const DOOMED: &str = ".dead-";

/// The directory of one bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusDir {
    name: String,
    base: PathBuf,
    path: PathBuf,
}

/// What the names of the lock files of the role's holders begin with.
pub(crate) const ROLE: &str = "role.";
/// What the names of their sockets begin with.
pub(crate) const CONTROL: &str = "control.";

/// Name of the lock file of the role's holder with this mark.
pub(crate) fn role_name(mark: u16) -> String {
    format!("{ROLE}{mark:04x}")
}

/// Name of its socket.
pub(crate) fn socket_name(mark: u16) -> String {
    format!("{CONTROL}{mark:04x}")
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The directory that holds this user's buses. Not created yet.
pub fn base_dir(dir: Option<&Path>) -> PathBuf {
    let dir = match dir {
        Some(dir) => dir.to_owned(),
        None => std::env::var_os(DIR_VARIABLE).map_or_else(|| DEFAULT_DIR.into(), PathBuf::from),
    };
    dir.join(format!("shmbus-{}", uid()))
}

impl BusDir {
    /// Names the directory of bus `name`; touches nothing.
    pub fn new(name: &str, dir: Option<&Path>) -> Result<Self, BusError> {
        check_dotted(name, BUS_NAME_BYTES_MAX).map_err(|why| BusError::Name { name: name.into(), why })?;
        let base = base_dir(dir);
        let this = Self { name: name.to_owned(), path: base.join(name), base };
        // All marks are of one length.
        let path = this.socket(0);
        let len_bytes = path.as_os_str().len();
        if len_bytes > socket::max_path_bytes() {
            return Err(BusError::SocketPath { path, len_bytes, max_bytes: socket::max_path_bytes() });
        }
        Ok(this)
    }

    /// Makes the user's base directory if need be, and checks that it is in shared memory and nobody else's.
    pub(crate) fn prepare_base(&self) -> Result<(), BusError> {
        let dir = self.base.parent().unwrap_or(Path::new("/"));
        if !tmpfs::space(dir)?.is_tmpfs {
            return Err(BusError::NotTmpfs { dir: dir.to_owned() });
        }
        if !self.base.exists()
            && let Err(error) = file::make_dir(&self.base, 0o700)
            && !self.base.exists()
        {
            return Err(error.into());
        }
        self.check_base()
    }

    /// Checks that the base directory belongs to the caller alone.
    pub(crate) fn check_base(&self) -> Result<(), BusError> {
        let Ok(status) = std::fs::symlink_metadata(&self.base) else {
            return Err(BusError::NotFound { bus: self.name.clone(), dir: self.base.clone() });
        };
        let (owner, mode) = (status.uid(), status.mode() & 0o7777);
        if !status.is_dir() || owner != uid() || mode & 0o022 != 0 {
            return Err(BusError::Foreign { dir: self.base.clone(), owner, mode, uid: uid() });
        }
        Ok(())
    }

    /// Name of the bus.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of the bus.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of all this user's buses.
    pub fn base(&self) -> &Path {
        &self.base
    }

    pub(crate) fn superblock(&self) -> PathBuf {
        self.path.join("bus")
    }

    pub(crate) fn spin(&self) -> PathBuf {
        self.path.join("spin")
    }

    /// The lock file of the holder of the supervisor's role that has this mark.
    pub(crate) fn role(&self, mark: u16) -> PathBuf {
        self.path.join(role_name(mark))
    }

    /// The control socket of that holder.
    pub(crate) fn socket(&self, mark: u16) -> PathBuf {
        self.path.join(socket_name(mark))
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.path.join("leases")
    }

    pub(crate) fn lease(&self, participant: u16, tag: u32) -> PathBuf {
        self.leases().join(format!("{participant}.{tag}"))
    }

    pub(crate) fn topics(&self) -> PathBuf {
        self.path.join("topics")
    }

    pub(crate) fn topic(&self, topic: &str) -> TopicDir {
        TopicDir(self.topics().join(topic))
    }

    /// Names of all topics, sorted.
    pub fn topic_names(&self) -> Vec<String> {
        let mut names = visible_names(&self.topics());
        names.sort();
        names
    }

    /// The same; `None` if the directory cannot be read, for want of a descriptor for example.
    pub(crate) fn topics_if_readable(&self) -> Option<Vec<String>> {
        std::fs::read_dir(self.topics()).ok()?;
        Some(self.topic_names())
    }
}

/// Names in a directory that do not begin with a dot.
pub(crate) fn visible_names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect()
}

/// Name of the topic on which the participant of this number and incarnation is answered.
pub(crate) fn reply_topic(participant: u16, tag: u32) -> String {
    format!("{REPLY_TOPICS}{participant}.{tag}")
}

/// The directory of one topic.
#[derive(Clone, Debug)]
pub(crate) struct TopicDir(pub(crate) PathBuf);

impl TopicDir {
    pub(crate) fn ring(&self) -> PathBuf {
        self.0.join("ring")
    }

    pub(crate) fn groups(&self) -> PathBuf {
        self.0.join("groups")
    }

    pub(crate) fn wake(&self) -> PathBuf {
        self.0.join("wake")
    }

    pub(crate) fn samples(&self) -> PathBuf {
        self.0.join("samples")
    }

    pub(crate) fn owners(&self, entry: usize) -> PathBuf {
        self.0.join(format!("owners-{entry}"))
    }

    pub(crate) fn keys(&self, entry: usize) -> PathBuf {
        self.0.join(format!("keys-{entry}"))
    }

    pub(crate) fn aside(&self, entry: usize) -> PathBuf {
        self.0.join(format!("aside-{entry}"))
    }

    pub(crate) fn outcomes(&self, entry: usize) -> PathBuf {
        self.0.join(format!("outcomes-{entry}"))
    }

    pub(crate) fn arena(&self, producer: usize, tag: u32, lane: usize) -> PathBuf {
        self.0.join(format!("arena-{producer}.{tag}-{lane}"))
    }

    /// Bytes of memory that all files of the topic take.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let Ok(entries) = std::fs::read_dir(&self.0) else { return 0 };
        entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|status| status.blocks() * 512).sum()
    }
}

/// A name for something temporary that no other process chooses.
pub(crate) fn unique_name(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{}-{:x}-{count}", std::process::id(), crate::sys::clock::monotonic_ns())
}

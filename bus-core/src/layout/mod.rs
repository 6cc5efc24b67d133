//! What lies where in each file, and who may write it. docs/layout.md shows the same as tables.
//!
//! One module a file. Plain fields are written once, before the file gets its name, and never again; words
//! that change are atomic and are named by their byte offset. All integers are in the machine's order; a
//! region of another order, version or size is refused when it is attached.
//!
//! | file | writer |
//! |---|---|
//! | [`superblock`] `bus` | the supervisor |
//! | [`ring`] `topics/<name>/ring` | publishers of the topic |
//! | [`groups`] `topics/<name>/groups` | members of its groups |
//! | [`listeners`] `listeners` | all |
//! | [`wake`] `topics/<name>/wake` | all (bells, listeners); the supervisor (state, breaker) |
//! | [`owners`] `topics/<name>/owners-<entry>` | members of that group |
//! | [`aside`] `topics/<name>/aside-<entry>` | members of that group |
//! | [`outcomes`] `topics/<name>/outcomes-<entry>` | members of that group |
//! | [`samples`] `topics/<name>/samples` | the supervisor |
//! | [`arena`] `topics/<name>/arena-<producer>.<tag>-<lane>` | that producer |

pub mod arena;
pub mod aside;
pub mod groups;
pub mod keys;
pub mod lease;
pub mod listeners;
pub mod outcomes;
pub mod owners;
pub mod ring;
pub mod samples;
pub mod superblock;
pub mod wake;

use bytemuck::{Pod, Zeroable};

/// Version of everything below. A region of another version is refused, with both versions named.
pub const LAYOUT_VERSION: u32 = 1;
/// Reads back as another number where the byte order differs.
pub const ENDIAN_MARK: u32 = 0x0102_0304;
/// Bytes of a page, to which sections of different writers are aligned.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes of a cache line.
pub const LINE_BYTES: usize = 64;
/// Bytes of the extension block between header and payload, for messages that carry the flag: correlation id (16),
/// causation: topic epoch (8), lane and sequence (8), key hash (8), expiry in CLOCK_MONOTONIC ns (8), hops (2), origin
/// participant (2), reserved (12).
pub const EXTENSION_BYTES: usize = 64;

/// What every file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Preamble {
    /// Which kind of file it is: one of the `MAGIC` constants of the modules.
    pub magic: [u8; 8],
    /// [`LAYOUT_VERSION`].
    pub version: u32,
    /// [`ENDIAN_MARK`].
    pub endian: u32,
    /// Bytes that the file was created with; it may have grown since, never shrunk.
    pub file_bytes: u64,
    /// Random number of the topic or bus that the file belongs to.
    pub epoch: u64,
}

/// Why a region is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It is too short to be one.
    Truncated {
        /// Bytes that are there.
        len_bytes: u64,
        /// Bytes that are needed.
        need_bytes: u64,
    },
    /// It begins with something else.
    Magic,
    /// It was written on a machine of another byte order.
    Endian,
    /// It has another layout.
    Version {
        /// The region's.
        found: u32,
        /// This build's.
        ours: u32,
    },
    /// A field has a value that no creator writes.
    Field {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: u64,
    },
}

impl core::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated { len_bytes, need_bytes } => {
                write!(f, "it has {len_bytes} bytes where {need_bytes} are needed")
            }
            Self::Magic => write!(f, "it does not begin like a region of shmbus"),
            Self::Endian => write!(f, "it was written in another byte order"),
            Self::Version { found, ours } => {
                write!(f, "it has layout version {found}, this build speaks version {ours}")
            }
            Self::Field { name, value } => write!(f, "its field {name} has the impossible value {value}"),
        }
    }
}

impl Preamble {
    /// The beginning of a new file.
    pub const fn new(magic: [u8; 8], file_bytes: u64, epoch: u64) -> Self {
        Self { magic, version: LAYOUT_VERSION, endian: ENDIAN_MARK, file_bytes, epoch }
    }

    /// Checks the beginning of a file of `len_bytes`.
    pub fn check(&self, magic: [u8; 8], len_bytes: u64) -> Result<(), Mismatch> {
        if self.magic != magic {
            return Err(Mismatch::Magic);
        }
        if self.endian != ENDIAN_MARK {
            return Err(Mismatch::Endian);
        }
        if self.version != LAYOUT_VERSION {
            return Err(Mismatch::Version { found: self.version, ours: LAYOUT_VERSION });
        }
        if len_bytes < self.file_bytes {
            return Err(Mismatch::Truncated { len_bytes, need_bytes: self.file_bytes });
        }
        Ok(())
    }
}

/// A name in a fixed field: UTF-8, padded with zeros.
pub fn put_name<const N: usize>(name: &str) -> [u8; N] {
    let mut field = [0; N];
    let len = name.len().min(N);
    field[..len].copy_from_slice(&name.as_bytes()[..len]);
    field
}

/// Reads such a field; bytes that are not UTF-8 end it.
pub fn get_name(field: &[u8]) -> &str {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    match core::str::from_utf8(&field[..end]) {
        Ok(name) => name,
        Err(error) => core::str::from_utf8(&field[..error.valid_up_to()]).unwrap_or(""),
    }
}

const _: () = assert!(size_of::<Preamble>() == 32);

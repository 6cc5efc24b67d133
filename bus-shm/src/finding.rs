//! A message as a reader has found it.
#![allow(unsafe_code)]

use bus_core::extension::Extension;
use bus_core::header::{Header, flags};

/// A message as it was found, in place or copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finding {
    pub(crate) sequence: u64,
    pub(crate) header: Header,
    pub(crate) payload: *const u8,
    /// How often it has been handed out; more than once if that is not known exactly.
    pub(crate) times: u8,
}

impl Finding {
    /// Before anything is found.
    pub(crate) const NONE: Self = Self {
        sequence: 0,
        header: Header { len_bytes: 0, producer: 0, kind: 0, flags: 0, stamp_ns: 0, reference: 0 },
        payload: core::ptr::dangling(),
        times: 0,
    };

    /// Its payload.
    #[inline]
    pub(crate) fn payload(&self) -> &[u8] {
        // SAFETY: whoever found the message has checked that so many bytes are inside of the mapping, or of the copy. They stay until
        // it is settled, or the next one is handed out: the gate or its claim keeps them, and whoever keeps them longer copies.
        unsafe { core::slice::from_raw_parts(self.payload, self.header.len_bytes as usize) }
    }

    /// Its payload, and before it the extension block if it has one.
    pub(crate) fn body(&self) -> &[u8] {
        let extension_bytes = self.header.extension_bytes();
        // SAFETY: as above; an extension lies right before its payload.
        unsafe {
            let body = self.payload.sub(extension_bytes);
            core::slice::from_raw_parts(body, extension_bytes + self.header.len_bytes as usize)
        }
    }

    /// The extension block before its payload.
    pub(crate) fn extension(&self) -> Option<Extension> {
        if self.header.flags & flags::EXTENSION == 0 {
            return None;
        }
        // SAFETY: whoever found the message has checked that the block lies right before the payload, in the mapping or in the copy.
        Some(unsafe { self.payload.sub(size_of::<Extension>()).cast::<Extension>().read_unaligned() })
    }
}

//! Types that travel: how a value is archived into shared memory, how it is read there, and how a topic knows it.
#![allow(unsafe_code)]

use crate::sys::store::two_words;
use bus_core::limits::{MESSAGE_BYTES_MAX, TYPE_NAME_BYTES_MAX};
use bus_core::name::{FNV1A_START, fnv1a};
use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::ser::writer::Buffer;
use rkyv::{Archive, Serialize};

/// How rkyv lays values out in every build of shmbus. A build with other format features has another fingerprint.
const FORMAT: &[u8] = b"rkyv 0.8, little endian, 32-bit pointers, aligned";

// rkyv's format is chosen by features that any crate of the program can switch on.
const _: () = assert!(
    size_of::<rkyv::primitive::ArchivedUsize>() == 4 && align_of::<rkyv::primitive::ArchivedU64>() == 8,
    "shmbus needs rkyv's default format: little endian, aligned, 32-bit relative pointers"
);

/// A payload type: archived by rkyv straight into shared memory and read there in place.
///
/// Implement it with [`message!`](crate::message), which derives the fingerprint from the archived fields.
pub trait Message:
    Archive<Archived: for<'a> CheckBytes<HighValidator<'a, Failure>>>
    + for<'a, 'b> Serialize<HighSerializer<Buffer<'a>, ArenaHandle<'b>, Failure>>
    + 'static
{
    /// Name under which topics know the type; at most 72 bytes.
    const NAME: &'static str;
    /// Version; two versions can be in flight in one topic.
    const VERSION: u32;

    /// A number that differs when the archived layout differs.
    fn fingerprint() -> u64;
}

/// Marker for topics of plain bytes, for tools and for payloads that bring their own format.
#[derive(Clone, Copy, Debug)]
pub struct Bytes;

/// What a topic handle may speak: a [`Message`] or [`Bytes`].
pub trait Speak: 'static {
    /// The type's identity; `None` for bytes.
    fn identity() -> Option<TypeIdentity>;
}

impl<T: Message> Speak for T {
    fn identity() -> Option<TypeIdentity> {
        Some(TypeIdentity::of::<T>())
    }
}

impl Speak for Bytes {
    fn identity() -> Option<TypeIdentity> {
        None
    }
}

/// What a topic's type table says of a type.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct TypeIdentity {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Its fingerprint.
    pub fingerprint: u64,
}

impl TypeIdentity {
    /// The identity of `T`.
    pub fn of<T: Message>() -> Self {
        const { assert!(T::NAME.len() <= TYPE_NAME_BYTES_MAX, "a type name has at most 72 bytes") };
        Self { name: T::NAME.to_owned(), version: T::VERSION, fingerprint: T::fingerprint() }
    }
}

impl std::fmt::Display for TypeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} v{} ({:016x})", self.name, self.version, self.fingerprint)
    }
}

/// Builds a fingerprint; used by [`message!`](crate::message).
#[derive(Clone, Copy, Debug)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Starts with a type's name and version, the size and alignment of its archive, and the format.
    pub fn new<T: Archive>(name: &str, version: u32) -> Self {
        let mut state = fnv1a(FORMAT, FNV1A_START);
        state = fnv1a(name.as_bytes(), state);
        state = fnv1a(&version.to_le_bytes(), state);
        Self(state).number(size_of::<T::Archived>()).number(align_of::<T::Archived>())
    }

    fn number(self, value: usize) -> Self {
        Self(fnv1a(&(value as u64).to_le_bytes(), self.0))
    }

    /// Adds a field: its name, its type as written without module paths, and where its archive lies.
    pub fn field<T, F: Archive>(self, name: &str, _get: fn(&T) -> &F, offset_bytes: usize) -> Self {
        let mut state = fnv1a(name.as_bytes(), self.0);
        let mut word_start = 0;
        let text = core::any::type_name::<F>();
        // "alloc::string::String" and "std::string::String" are one type: only last path segments count.
        for (at, found) in text.char_indices() {
            if !(found.is_alphanumeric() || found == '_') {
                if found != ':' {
                    state = fnv1a(&text.as_bytes()[word_start..at + found.len_utf8()], state);
                }
                word_start = at + found.len_utf8();
            }
        }
        state = fnv1a(&text.as_bytes()[word_start..], state);
        Self(state).number(size_of::<F::Archived>()).number(align_of::<F::Archived>()).number(offset_bytes)
    }

    /// The number.
    pub fn finish(self) -> u64 {
        self.0
    }
}

/// Makes a type that derives rkyv's `Archive` and `Serialize` a [`Message`].
///
/// Every field is listed, so that the fingerprint covers the archived layout: a program that was built with a field
/// renamed, retyped, or moved is refused when it attaches, instead of reading garbage. Nested types are covered by
/// their names and sizes.
///
/// ```
/// #[derive(rkyv::Archive, rkyv::Serialize)]
/// struct Observation {
///     sensor: u32,
///     text: String,
/// }
/// bus_shm::message!(Observation, version 1, { sensor, text });
/// ```
///
/// A field left out does not compile:
///
/// ```compile_fail
/// #[derive(rkyv::Archive, rkyv::Serialize)]
/// struct Observation {
///     sensor: u32,
///     text: String,
/// }
/// bus_shm::message!(Observation, version 1, { sensor });
/// ```
#[macro_export]
macro_rules! message {
    ($type:ident, version $version:literal, { $($field:ident),* $(,)? }) => {
        impl $crate::Message for $type {
            const NAME: &'static str = stringify!($type);
            const VERSION: u32 = $version;

            fn fingerprint() -> u64 {
                fn _every_field_is_listed(value: &$type) {
                    let $type { $($field: _),* } = value;
                }
                $crate::payload::Fingerprint::new::<$type>(stringify!($type), $version)
                    $(.field::<$type, _>(
                        stringify!($field),
                        |value| &value.$field,
                        ::core::mem::offset_of!(<$type as ::rkyv::Archive>::Archived, $field),
                    ))*
                    .finish()
            }
        }
    };
}

/// Is the archive of such a value a copy of its bytes?
pub(crate) const fn is_copied<T: Message>() -> bool {
    T::COPY_OPTIMIZATION.is_enabled() && size_of::<T>() == size_of::<T::Archived>()
}

/// Archives `value` into `memory`, which is 16-byte aligned. The length used, or `None` if it does not fit (or cannot be
/// archived at all; see [`encoded_bytes`]).
#[inline]
pub(crate) fn encode<T: Message>(value: &T, memory: &mut [core::mem::MaybeUninit<u8>]) -> Option<usize> {
    if is_copied::<T>() {
        if memory.len() < size_of::<T>() {
            return None;
        }
        // SAFETY: COPY_OPTIMIZATION promises that the archive of a T is its bytes, all of them initialised; source and destination
        // are valid for that many and do not overlap, since nobody holds a reference to a T in the destination.
        unsafe { copy_fresh(value, memory.as_mut_ptr().cast::<T>()) };
        return Some(size_of::<T>());
    }
    let buffer = rkyv::api::high::to_bytes_in::<_, Failure>(value, Buffer::from(memory)).ok()?;
    Some(buffer.len())
}

/// Values up to this size are copied word by word.
const FRESH_BYTES_MAX: usize = 128;

/// Copies a value that was probably put together just before, from words or smaller.
///
/// Loaded in larger pieces than it was stored in, it would have to leave the core first, behind stores to lines that another core is
/// reading, and the copy would wait for them: a load is not served from two pending stores. So small values of whole words are
/// loaded word by word, whatever the compiler would rather do.
///
/// # Safety
/// As for `core::ptr::copy_nonoverlapping` of its bytes, none of which may be uninitialised; `to` is aligned to 8 bytes.
#[inline(always)]
unsafe fn copy_fresh<T>(value: *const T, to: *mut T) {
    let is_of_words = align_of::<T>() == align_of::<u64>() && size_of::<T>().is_multiple_of(size_of::<u64>());
    if !is_of_words || size_of::<T>() > FRESH_BYTES_MAX {
        // SAFETY: the caller's promise. By bytes: memory is aligned for words, and T may want more.
        return unsafe {
            core::ptr::copy_nonoverlapping(value.cast::<u8>(), to.cast::<u8>(), size_of::<T>());
        };
    }
    let words = size_of::<T>() / size_of::<u64>();
    let (value, to) = (value.cast::<u64>(), to.cast::<u64>());
    // SAFETY: inside of the value, aligned as it is, and initialised: the caller's promise.
    let word = |index| unsafe { value.add(index).read_volatile() };
    for index in (0..words - words % 2).step_by(2) {
        let (low, high) = (word(index), word(index + 1));
        // SAFETY: inside of the destination, aligned as it is.
        unsafe { two_words(to.add(index), low, high) };
    }
    if words % 2 == 1 {
        // SAFETY: as above.
        unsafe { to.add(words - 1).write(word(words - 1)) };
    }
}

/// How many bytes the archive of `value` takes, by archiving it elsewhere; what is too large even for that counts as one byte
/// more than `most_bytes`. `None`: it cannot be archived.
#[cold]
pub(crate) fn encoded_bytes<T: Message>(value: &T, most_bytes: usize) -> Option<usize> {
    let mut size = 4096_usize;
    loop {
        let mut memory: Vec<u128> = Vec::new();
        if memory.try_reserve_exact(size / 16).is_err() {
            return Some(most_bytes.saturating_add(1));
        }
        let spare = memory.spare_capacity_mut();
        // SAFETY: the same memory, seen as uninitialised bytes.
        let bytes = unsafe { core::slice::from_raw_parts_mut(spare.as_mut_ptr().cast(), size_of_val(spare)) };
        match encode(value, bytes) {
            Some(len) => return Some(len),
            // Nothing says whether it was too large. Messages may have 1 GiB at most, and nobody means more than a few of those.
            None if size > 4 * MESSAGE_BYTES_MAX as usize => return None,
            None => size = size.saturating_mul(4),
        }
    }
}

/// Reads an archive in place after checking it. The root stands at the end of `bytes`.
#[inline]
pub(crate) fn access<T: Message>(bytes: &[u8]) -> Option<&T::Archived> {
    let root_bytes = size_of::<T::Archived>();
    if is_copied::<T>() && bytes.len() == root_bytes {
        // Where the compiler knows the length it knows where the root stands, and most of what is checked about that.
        return rkyv::api::high::access::<T::Archived, Failure>(&bytes[..root_bytes]).ok();
    }
    rkyv::api::high::access::<T::Archived, Failure>(bytes).ok()
}

/// Reads an archive in place without checking it.
///
/// # Safety
/// `bytes` is an archive of `T`.
#[inline]
pub(crate) unsafe fn access_unchecked<T: Message>(bytes: &[u8]) -> &T::Archived {
    // SAFETY: the caller promises it.
    unsafe { rkyv::access_unchecked::<T::Archived>(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(rkyv::Archive, rkyv::Serialize)]
    struct Small {
        a: u32,
        b: u32,
    }
    message!(Small, version 1, { a, b });

    #[derive(rkyv::Archive, rkyv::Serialize)]
    struct Text {
        id: u64,
        text: String,
    }
    message!(Text, version 2, { id, text });

    mod renamed {
        #[derive(rkyv::Archive, rkyv::Serialize)]
        pub(super) struct Small {
            pub(super) a: u32,
            pub(super) c: u32,
        }
        message!(Small, version 1, { a, c });
    }

    mod retyped {
        #[derive(rkyv::Archive, rkyv::Serialize)]
        pub(super) struct Small {
            pub(super) a: u32,
            pub(super) b: i32,
        }
        message!(Small, version 1, { a, b });
    }

    #[test]
    fn fingerprints_differ_when_a_field_is_renamed_or_retyped() {
        assert_eq!(Small::fingerprint(), Small::fingerprint());
        assert_ne!(Small::fingerprint(), renamed::Small::fingerprint());
        assert_ne!(Small::fingerprint(), retyped::Small::fingerprint());
        assert_ne!(Small::fingerprint(), Text::fingerprint());
    }

    #[repr(align(16))]
    struct Aligned([core::mem::MaybeUninit<u8>; 256]);

    fn round_trip<T: Message>(value: &T, room: usize) -> Option<(Aligned, usize)> {
        let mut memory = Aligned([core::mem::MaybeUninit::uninit(); 256]);
        let len = encode(value, &mut memory.0[..room])?;
        Some((memory, len))
    }

    #[test]
    fn values_are_read_where_they_were_archived_and_too_little_room_is_noticed() {
        let text = Text { id: 7, text: "a text that is longer than eight bytes".into() };
        let (memory, len) = round_trip(&text, 256).unwrap();
        // SAFETY: `encode` filled the first `len` bytes.
        let bytes = unsafe { core::slice::from_raw_parts(memory.0.as_ptr().cast::<u8>(), len) };
        let read = access::<Text>(bytes).unwrap();
        assert_eq!((read.id.to_native(), read.text.as_str()), (7, text.text.as_str()));
        assert!(round_trip(&text, 16).is_none());
        assert_eq!(encoded_bytes(&text, 1 << 20), Some(len));
        assert!(access::<Text>(&bytes[..8]).is_none(), "cut off");
    }
}

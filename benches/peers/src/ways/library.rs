//! Libraries of C that may be there or not: loaded when their peer is measured, so that building needs none of them.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::mem::transmute_copy;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::way::{Result, failed};

/// A loaded library. It stays loaded: its functions may be in use anywhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Library(*mut c_void);

impl Library {
    /// Loads a library by its file name or path.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let text = CString::new(name).map_err(|error| failed(name, error))?;
        // SAFETY: the name ends in a zero byte; the libraries asked for do nothing surprising when they are loaded.
        let handle = unsafe { libc::dlopen(text.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() { Err(failed("loading", last_error(name))) } else { Ok(Self(handle)) }
    }

    /// A function by its name.
    ///
    /// # Safety
    /// `F` is a type of function pointers, and the one that the library's header declares for this name.
    pub(crate) unsafe fn function<F: Copy>(self, name: &CStr) -> Result<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: the handle is a loaded library's, the name ends in a zero byte.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if address.is_null() {
            return Err(failed("looking for a function", name.to_string_lossy()));
        }
        // SAFETY: a function's address as a pointer to it, of the type that the caller vouches for.
        Ok(unsafe { transmute_copy(&address) })
    }
}

fn last_error(name: &str) -> String {
    // SAFETY: the text, if any, is valid until the next call of this thread.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return name.into();
    }
    // SAFETY: see above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Runs what makes a library's own threads so that they may use all cores, and not the one of this worker alone.
pub(crate) fn with_free_threads<T>(make: impl FnOnce() -> T) -> Result<T> {
    let own = sched_getaffinity(None).map_err(|error| failed("sched_getaffinity", error))?;
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|core| all.set(core));
    sched_setaffinity(None, &all).map_err(|error| failed("sched_setaffinity", error))?;
    let made = make();
    sched_setaffinity(None, &own).map_err(|error| failed("sched_setaffinity", error))?;
    Ok(made)
}

pub(crate) type Socket = *mut c_void;

/// The part of ZeroMQ that is needed.
#[derive(Clone, Copy)]
pub(crate) struct Zmq {
    pub(crate) context: unsafe extern "C" fn() -> *mut c_void,
    pub(crate) socket: unsafe extern "C" fn(*mut c_void, c_int) -> Socket,
    pub(crate) set: unsafe extern "C" fn(Socket, c_int, *const c_void, usize) -> c_int,
    pub(crate) bind: unsafe extern "C" fn(Socket, *const c_char) -> c_int,
    pub(crate) connect: unsafe extern "C" fn(Socket, *const c_char) -> c_int,
    pub(crate) send: unsafe extern "C" fn(Socket, *const c_void, usize, c_int) -> c_int,
    pub(crate) receive: unsafe extern "C" fn(Socket, *mut c_void, usize, c_int) -> c_int,
    pub(crate) close: unsafe extern "C" fn(Socket) -> c_int,
}

impl Zmq {
    pub(crate) fn load(name: &str) -> Result<Self> {
        let library = Library::open(name)?;
        // SAFETY: the types are those of zmq.h.
        unsafe {
            Ok(Self {
                context: library.function(c"zmq_ctx_new")?,
                socket: library.function(c"zmq_socket")?,
                set: library.function(c"zmq_setsockopt")?,
                bind: library.function(c"zmq_bind")?,
                connect: library.function(c"zmq_connect")?,
                send: library.function(c"zmq_send")?,
                receive: library.function(c"zmq_recv")?,
                close: library.function(c"zmq_close")?,
            })
        }
    }
}

/// The part of nng that is needed. A socket is a structure of one number, which travels like the number.
#[derive(Clone, Copy)]
pub(crate) struct Nng {
    pub(crate) pair: unsafe extern "C" fn(*mut u32) -> c_int,
    pub(crate) push: unsafe extern "C" fn(*mut u32) -> c_int,
    pub(crate) pull: unsafe extern "C" fn(*mut u32) -> c_int,
    pub(crate) listen: unsafe extern "C" fn(u32, *const c_char, *mut c_void, c_int) -> c_int,
    pub(crate) dial: unsafe extern "C" fn(u32, *const c_char, *mut c_void, c_int) -> c_int,
    pub(crate) set_int: unsafe extern "C" fn(u32, *const c_char, c_int) -> c_int,
    pub(crate) send: unsafe extern "C" fn(u32, *const c_void, usize, c_int) -> c_int,
    pub(crate) receive: unsafe extern "C" fn(u32, *mut c_void, *mut usize, c_int) -> c_int,
    pub(crate) close: unsafe extern "C" fn(u32) -> c_int,
}

impl Nng {
    pub(crate) fn load(name: &str) -> Result<Self> {
        let library = Library::open(name)?;
        // SAFETY: the types are those of nng.h.
        unsafe {
            Ok(Self {
                pair: library.function(c"nng_pair0_open")?,
                push: library.function(c"nng_push0_open")?,
                pull: library.function(c"nng_pull0_open")?,
                listen: library.function(c"nng_listen")?,
                dial: library.function(c"nng_dial")?,
                set_int: library.function(c"nng_socket_set_int")?,
                send: library.function(c"nng_send")?,
                receive: library.function(c"nng_recv")?,
                close: library.function(c"nng_close")?,
            })
        }
    }
}

/// Boost's queue behind `boost_queue.cpp`.
#[derive(Clone, Copy)]
pub(crate) struct BoostQueue {
    pub(crate) create: unsafe extern "C" fn(*const c_char, usize, usize) -> *mut c_void,
    pub(crate) attach: unsafe extern "C" fn(*const c_char) -> *mut c_void,
    pub(crate) send: unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> c_int,
    pub(crate) receive: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> c_long,
    pub(crate) close: unsafe extern "C" fn(*mut c_void),
    pub(crate) remove: unsafe extern "C" fn(*const c_char) -> c_int,
}

impl BoostQueue {
    pub(crate) fn load(path: &str) -> Result<Self> {
        let library = Library::open(path)?;
        // SAFETY: the types are those of boost_queue.cpp.
        unsafe {
            Ok(Self {
                create: library.function(c"queue_create")?,
                attach: library.function(c"queue_attach")?,
                send: library.function(c"queue_send")?,
                receive: library.function(c"queue_receive")?,
                close: library.function(c"queue_close")?,
                remove: library.function(c"queue_remove")?,
            })
        }
    }
}

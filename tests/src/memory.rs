//! A little shared memory of a test's own, and how to run out of it.

use std::path::{Path, PathBuf};

/// Mounts a tmpfs over `dir` that only this thread and its children see. False where that is not allowed.
pub fn mount_tmpfs(dir: &Path, options: &str, flags: libc::c_ulong) -> bool {
    let text = |text: &str| std::ffi::CString::new(text).expect("no zero in it");
    let (dir, kind, options) = (text(dir.to_str().expect("a path in UTF-8")), text("tmpfs"), text(options));
    let root = text("/");
    // SAFETY: strings that end in zero, and flags.
    #[allow(unsafe_code)]
    unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                std::ptr::null(),
                root.as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            ) == 0
            && libc::mount(kind.as_ptr(), dir.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) == 0
    }
}

/// Bytes that are free there.
pub fn free_bytes(dir: &Path) -> u64 {
    bus_shm::sys::tmpfs::space(dir).expect("a file system").free_bytes
}

/// Takes memory until only `left` bytes are free.
pub fn take_memory(dir: &Path, left: u64) -> PathBuf {
    let path = dir.join("ballast");
    let file = std::fs::File::create(&path).expect("a file");
    let bytes = free_bytes(dir) - left;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).expect("memory that is free");
    assert_eq!(free_bytes(dir), left);
    path
}

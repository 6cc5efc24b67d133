//! Cores, pinning and CPU time.
#![allow(unsafe_code)]

use super::error::{Result, SysError};
use rustix::io::Errno;
use rustix::thread::{ClockId, CpuSet};

/// All pids are below this (`PID_MAX_LIMIT`). The number of a process's clock holds only 29 bits of the pid, so
/// that a larger number would silently name another clock.
const PID_LIMIT: u32 = 1 << 22;

/// The cores on which this thread may run, in ascending order; never empty.
///
/// Where the kernel does not say (more cores than its answer has room for here), the first cores, as many as
/// the process may use at once.
#[must_use]
pub fn online() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(allowed) if allowed.count() > 0 => {
            (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect()
        }
        _ => (0..std::thread::available_parallelism().map_or(1, usize::from)).collect(),
    }
}

/// Binds the current thread (and threads that it starts later) to one core.
///
/// # Errors
/// `EINVAL` when there is no such core or this process may not use it.
pub fn pin(core: usize) -> Result<()> {
    let fail = |errno| SysError::new("sched_setaffinity", format_args!("core {core}"), errno);
    if core >= CpuSet::MAX_CPU {
        return Err(fail(Errno::INVAL));
    }
    let mut set = CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).map_err(fail)
}

/// The core that this thread ran on a moment ago.
#[must_use]
pub fn current() -> usize {
    rustix::thread::sched_getcpu()
}

/// CPU time that this thread has used, in nanoseconds.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    super::clock::clock_ns(ClockId::ThreadCPUTime)
}

/// CPU time that all threads of a process have used, in nanoseconds.
///
/// # Errors
/// `ESRCH` when there is no such process (pid 0 names none), as seen from this pid namespace.
pub fn process_cpu_ns(pid: u32) -> Result<u64> {
    let fail = |errno| SysError::new("clock_gettime", format_args!("pid {pid}"), errno);
    if !(1..PID_LIMIT).contains(&pid) {
        return Err(fail(Errno::SRCH));
    }
    let mut clock = 0;
    // SAFETY: writes one clock number into a local.
    let error = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if error != 0 {
        return Err(fail(Errno::from_raw_os_error(error)));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one time into a local.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        // The process may have ended since its clock was looked up: the kernel then calls the clock invalid.
        let error = SysError::from_io("", "", &std::io::Error::last_os_error());
        return Err(fail(if error.is(Errno::INVAL) { Errno::SRCH } else { error.errno }));
    }
    // The widths of the fields differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    let (seconds, nanos) = (time.tv_sec as u64, time.tv_nsec as u64);
    Ok(seconds * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_runs_where_it_was_put() {
        let cores = online();
        assert!(!cores.is_empty());
        std::thread::spawn(move || {
            for &core in &cores {
                pin(core).unwrap();
                assert_eq!((current(), online()), (core, vec![core]));
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn an_absent_core_is_refused() {
        for core in [CpuSet::MAX_CPU - 1, CpuSet::MAX_CPU, usize::MAX] {
            let error = pin(core).unwrap_err();
            assert!(error.is(Errno::INVAL) && error.subject.starts_with("core "));
        }
    }

    #[test]
    fn work_shows_in_the_time_of_thread_and_process() {
        let pid = std::process::id();
        // The process is read first and last, so that its span holds the thread's.
        let process_ns = process_cpu_ns(pid).unwrap();
        let thread_ns = thread_cpu_ns();
        let mut number = 0_u64;
        while thread_cpu_ns() - thread_ns < 2_000_000 {
            number = core::hint::black_box(number + 1);
        }
        assert!(process_cpu_ns(pid).unwrap() - process_ns >= 2_000_000);
    }

    #[test]
    fn an_absent_process_has_no_time() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        for pid in [0, child.id(), PID_LIMIT - 1, PID_LIMIT, i32::MAX.cast_unsigned(), u32::MAX] {
            let error = process_cpu_ns(pid).unwrap_err();
            assert!(error.is(Errno::SRCH), "{error}");
        }
    }
}

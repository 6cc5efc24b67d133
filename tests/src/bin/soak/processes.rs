//! The places of workers, and the processes that come and go in them.
#![allow(unsafe_code)]

use crate::page::{Page, word};
use crate::plan::Job;
use bus_shm::sys::clock::monotonic_ns;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

/// What every worker is told.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) dir: String,
    pub(crate) bus: String,
    pub(crate) seed: u64,
    pub(crate) poison_one_in: u64,
    pub(crate) sabotage: String,
    pub(crate) producers: usize,
}

/// A place.
pub(crate) struct Place {
    pub(crate) job: Job,
    /// What it is called in tables.
    pub(crate) name: String,
    pub(crate) page: Page,
    path: String,
    _file: OwnedFd,
    number: usize,
    incarnation: u64,
    child: Option<Child>,
    /// It stands still until then.
    pub(crate) stopped_until: Option<Instant>,
    /// It was killed then.
    pub(crate) killed_ns: Option<u64>,
    /// It was asked to leave.
    pub(crate) is_leaving: bool,
    /// A process begins here then.
    pub(crate) begins_at: Option<Instant>,
    /// Records read of all processes here.
    pub(crate) heard: u64,
}

impl Place {
    pub(crate) fn new(number: usize, job: Job, name: String) -> Self {
        let (page, file, path) = Page::make();
        Self {
            job,
            name,
            page,
            path,
            _file: file,
            number,
            incarnation: 0,
            child: None,
            stopped_until: None,
            killed_ns: None,
            is_leaving: false,
            begins_at: None,
            heard: 0,
        }
    }

    /// Starts a process here.
    pub(crate) fn begin(&mut self, common: &Common) {
        self.page.set(word::LEAVE, 0);
        self.page.set(word::RESTS, 0);
        self.incarnation += 1;
        let seed = common.seed ^ (self.number as u64) << 48 ^ self.incarnation << 16;
        let child = Command::new(std::env::current_exe().expect("the path of this program"))
            .args(["worker", &self.number.to_string(), &self.path, &common.dir, &common.bus])
            .args([seed, common.poison_one_in, common.producers as u64].map(|number| number.to_string()))
            .arg(&common.sabotage)
            .stdin(Stdio::null())
            .spawn()
            .expect("a process");
        self.child = Some(child);
        (self.stopped_until, self.killed_ns, self.is_leaving, self.begins_at) = (None, None, false, None);
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.child.is_some()
    }

    /// Alive, and not made to stand still.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some() && self.stopped_until.is_none() && self.killed_ns.is_none()
    }

    fn signal(&self, signal: i32) {
        if let Some(child) = &self.child {
            // SAFETY: the child has not been waited for, so its pid is its own.
            unsafe { libc::kill(child.id().cast_signed(), signal) };
        }
    }

    pub(crate) fn kill(&mut self) {
        self.killed_ns = Some(monotonic_ns());
        self.signal(libc::SIGKILL);
    }

    pub(crate) fn stop(&mut self, until: Instant) {
        self.stopped_until = Some(until);
        self.signal(libc::SIGSTOP);
    }

    pub(crate) fn go_on(&mut self) {
        self.signal(libc::SIGCONT);
        self.stopped_until = None;
    }

    pub(crate) fn leave(&mut self) {
        self.is_leaving = true;
        self.page.set(word::LEAVE, 1);
    }

    /// How the process here ended, if it has.
    pub(crate) fn reap(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("the end of a process")?;
        self.child = None;
        self.stopped_until = None;
        Some(status)
    }

    /// Kilobytes of its own, and all that it has touched.
    pub(crate) fn memory_kib(&self) -> (u64, u64) {
        let Some(pid) = self.pid() else { return (0, 0) };
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
        };
        (field("RssAnon:"), field("VmRSS:"))
    }

    /// Where its threads are, for a dump.
    pub(crate) fn where_it_is(&self) -> String {
        let Some(pid) = self.pid() else { return "no process".into() };
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let states = tasks.map(|task| {
            let read = |name: &str| {
                let text = std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
                text.trim_end().to_owned()
            };
            let stat = read("stat");
            let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
            let call = read("syscall").split(' ').take(3).collect::<Vec<_>>().join(" ");
            format!("{} {} in {call}", read("comm"), state.unwrap_or('?'))
        });
        format!("pid {pid}: {}", states.collect::<Vec<_>>().join("; "))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// In a worker: it ends with the checker.
pub(crate) fn end_with_parent() {
    // SAFETY: takes a number.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

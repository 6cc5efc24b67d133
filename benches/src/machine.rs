//! What the machine is, as far as the figures depend on it.

use std::fs;

use crate::clock::Clock;
use crate::cores::{Cores, parse_list};
use crate::report::Machine;

/// Describes the machine and the cores that were chosen.
pub(crate) fn describe(clock: &Clock, cores: &Cores) -> Machine {
    Machine {
        cpu: cpu_name(),
        cores: core_count(),
        kernel: format!("Linux {}", rustix::system::uname().release().to_string_lossy()),
        clock: clock.name().to_owned(),
        page_bytes: rustix::param::page_size(),
        clock_step_ns: clock.step_ns(),
        pinned: if cores.pinned { cores.list.clone() } else { Vec::new() },
        physical_cores: cores.physical,
    }
}

fn cpu_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

fn core_count() -> usize {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    parse_list(&online).len().max(1)
}

/// Resident memory of this process in bytes: its own (anonymous) and what it maps of shared memory.
pub(crate) fn resident_bytes() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
            .unwrap_or(0)
            * 1_024
    };
    (field("RssAnon:"), field("RssShmem:"))
}

/// Bytes of memory that the files below a directory take up.
pub(crate) fn directory_bytes(directory: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => directory_bytes(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn this_process_has_memory_of_its_own() {
        assert!(resident_bytes().0 > 0);
    }

    #[test]
    fn a_directory_is_as_large_as_its_files() {
        let directory = std::env::temp_dir().join(format!("bus-bench-size-{}", std::process::id()));
        fs::create_dir_all(directory.join("below")).unwrap();
        let mut file = fs::File::create(directory.join("below/file")).unwrap();
        file.write_all(&vec![1_u8; 100_000]).unwrap();
        // Some file systems give a file its blocks only when it is written out.
        file.sync_all().unwrap();
        let bytes = directory_bytes(&directory);
        fs::remove_dir_all(&directory).unwrap();
        assert!(bytes >= 100_000, "{bytes}");
        assert_eq!(directory_bytes(&directory), 0);
    }
}

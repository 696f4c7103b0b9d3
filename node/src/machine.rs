//! What this machine has.

use std::fs;
use std::path::Path;

/// Bytes of memory that this process may use: the machine's, or less where its group of processes may use less.
pub fn memory_bytes() -> u64 {
    let machine = rustix::system::sysinfo();
    let total = machine.totalram.saturating_mul(machine.mem_unit.into());
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    total.min(smallest_limit(Path::new("/sys/fs/cgroup"), &groups))
}

/// The least limit of a process's group and of those around it, in the one hierarchy that has no name.
fn smallest_limit(root: &Path, groups: &str) -> u64 {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let of = |folder: &Path| {
        let limit = fs::read_to_string(folder.join("memory.max")).ok()?;
        limit.trim().parse::<u64>().ok()
    };
    root.join(group.unwrap_or_default())
        .ancestors()
        .take_while(|folder| folder.starts_with(root))
        .filter_map(of)
        .min()
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_around_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        assert_eq!(smallest_limit(root.path(), "0::/a/b\n"), u64::MAX);
        fs::write(root.path().join("a/memory.max"), "4096\n").unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        assert_eq!(smallest_limit(root.path(), "1:cpu:/x\n0::/a/b\n"), 4096);
        assert_eq!(smallest_limit(root.path(), ""), u64::MAX);
        assert_eq!(smallest_limit(root.path(), "0::/a/b/gone\n"), 4096);
    }

    #[test]
    fn a_machine_has_memory() {
        assert!(memory_bytes() > 64 << 20);
    }
}

//! Walls around a driver that reads what strangers wrote.
//!
//! The process keeps what drivers do at any time: memory, threads, `ioctl` on devices that exist, reading what describes the
//! machine. It loses other files, programs, sockets, other processes, and every way to get more rights.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr,
};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, set_parent_process_death_signal, setpriority_process, setrlimit,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Where drivers lie, what they are set up by, and what describes the machine. None of it is the node's or a user's.
const READABLE: [&str; 17] = [
    "/usr",
    "/lib",
    "/lib64",
    "/opt",
    "/nix",
    "/run/opengl-driver",
    "/run/nvidia-persistenced",
    "/etc/ld.so.cache",
    "/etc/vulkan",
    "/etc/glvnd",
    "/etc/egl",
    "/etc/nvidia",
    "/etc/drirc",
    "/etc/localtime",
    "/etc/OpenCL",
    "/proc",
    "/sys",
];
/// Devices that drivers open at any time. Those of NVIDIA's are found by their names.
const DEVICES: [&str; 8] = [
    "/dev/dri",
    "/dev/kfd",
    "/dev/dxg",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];
/// Memory of a software adapter's worker beyond what guests were given: a driver, its compiler, and what wgpu keeps.
const SOFTWARE_SPARE_BYTES: u64 = 2 << 30;

/// Ends with its parent and before anything else where memory is short, leaves no copy of its memory behind, and sees no files of
/// the node's. Before the driver, because its threads would keep what they had.
pub(super) fn before_the_driver() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    limit(Resource::Core, 0)?;
    // Where it is refused, the worker is as likely to be chosen as others.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    files().map_err(io::Error::other)
}

/// Lets all threads, the driver's too, be less urgent.
pub(super) fn stand_back(nice: i32) -> io::Result<()> {
    for thread in fs::read_dir("/proc/self/task")?.flatten() {
        let id = thread.file_name().to_str().and_then(|name| name.parse().ok());
        // If it is refused, it is as urgent.
        let _ = id
            .and_then(Pid::from_raw)
            .map(|id| setpriority_process(Some(id), nice));
    }
    Ok(())
}

/// Bounds the memory of a worker whose adapter computes in it.
pub(super) fn limit_memory(budget_bytes: u64) -> io::Result<()> {
    limit(
        Resource::Data,
        budget_bytes
            .saturating_mul(2)
            .saturating_add(SOFTWARE_SPARE_BYTES),
    )
}

fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    Ok(setrlimit(resource, limit)?)
}

/// From here on the kernel does nothing that a driver does not need while it computes, for none of its threads.
pub(super) fn behind_the_driver() -> io::Result<()> {
    for filter in [calls(), new_processes()] {
        let filter = filter.map_err(io::Error::other)?;
        seccompiler::apply_filter_all_threads(&filter).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Kernels without Landlock have the other wall only.
fn files() -> Result<(), landlock::RulesetError> {
    let abi = ABI::V5;
    let read = AccessFs::from_read(abi);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .create()?;
    for path in READABLE {
        let access = match Path::new(path).is_dir() {
            true => read & !AccessFs::Execute,
            false => AccessFs::ReadFile.into(),
        };
        if let Ok(path) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(path, access))?;
        }
    }
    let names = fs::read_dir("/dev").into_iter().flatten().flatten();
    let named = names.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("nvidia"))
    });
    let devices = DEVICES.iter().map(PathBuf::from).chain(named);
    let file = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    for device in devices {
        let access = if device.is_dir() {
            file | AccessFs::ReadDir
        } else {
            file
        };
        if let Ok(path) = PathFd::new(device) {
            rules = rules.add_rule(PathBeneath::new(path, access))?;
        }
    }
    rules.restrict_self()?;
    Ok(())
}

/// What no driver needs and every intruder wants.
fn calls() -> Result<BpfProgram, seccompiler::Error> {
    let mut refused = vec![
        // Other programs.
        libc::SYS_execve,
        libc::SYS_execveat,
        // Other processes.
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_process_madvise,
        // The network, and other ends of sockets than the one that is open.
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        // More rights, and another view of the system.
        libc::SYS_setuid,
        libc::SYS_setgid,
        libc::SYS_setreuid,
        libc::SYS_setregid,
        libc::SYS_setresuid,
        libc::SYS_setresgid,
        libc::SYS_setfsuid,
        libc::SYS_setfsgid,
        libc::SYS_setgroups,
        libc::SYS_capset,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fsmount,
        libc::SYS_mount_setattr,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_open_by_handle_at,
        libc::SYS_name_to_handle_at,
        // Large parts of the kernel that have had many holes.
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_fanotify_init,
        libc::SYS_quotactl,
        // The machine.
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_clock_adjtime,
        libc::SYS_adjtimex,
        libc::SYS_syslog,
        libc::SYS_acct,
        // Names of files. Their contents are Landlock's.
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_unlinkat,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_renameat2,
        libc::SYS_fchmodat,
        libc::SYS_fchownat,
        libc::SYS_truncate,
        libc::SYS_setxattr,
    ];
    #[cfg(target_arch = "x86_64")]
    refused.extend([
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_creat,
        libc::SYS_mkdir,
        libc::SYS_mknod,
        libc::SYS_unlink,
        libc::SYS_rmdir,
        libc::SYS_link,
        libc::SYS_symlink,
        libc::SYS_rename,
        libc::SYS_renameat,
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_iopl,
        libc::SYS_ioperm,
        libc::SYS_modify_ldt,
    ]);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = refused
        .into_iter()
        .flat_map(numbers)
        .map(|call| (call, Vec::new()))
        .collect();
    // What is no thread of this process is a process of its own, which would outlive it.
    let thread = libc::CLONE_THREAD as u64;
    let no_thread = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)?;
    for call in numbers(libc::SYS_clone) {
        rules.insert(call, vec![SeccompRule::new(vec![no_thread.clone()])?]);
    }
    filter(rules, libc::EPERM)
}

/// `clone3` has its flags in memory, where a filter cannot look. Told that there is none, the C library takes `clone`.
fn new_processes() -> Result<BpfProgram, seccompiler::Error> {
    filter(
        numbers(libc::SYS_clone3).map(|call| (call, Vec::new())).collect(),
        libc::ENOSYS,
    )
}

/// A system call by all its numbers: kernels with the x32 interface have each once more.
fn numbers(call: i64) -> impl Iterator<Item = i64> {
    const X32: i64 = 0x4000_0000;
    let more = cfg!(target_arch = "x86_64").then_some(call | X32);
    std::iter::once(call).chain(more)
}

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> Result<BpfProgram, seccompiler::Error> {
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(error as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

//! What a process may ask of the kernel.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Kinds of system calls that a process can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Calls {
    /// What none of our processes needs and every intruder wants: the memory of other processes, more rights, another view of
    /// the system, parts of the kernel that have had many holes, the machine itself.
    Intrusion,
    /// To become another program.
    Programs,
    /// To start processes; threads are none.
    Processes,
    /// To stop other processes.
    Signals,
    /// New sockets, and other ends of those that are open.
    Network,
    /// New sockets but those of the Internet, and the one by which the kernel tells of networks: what listens on others is a
    /// program of this machine, which may do what its caller cannot.
    LocalSockets,
    /// To change what files are called and who may use them. Their contents are [`confine`](crate::confine)'s.
    FileNames,
}

/// From here on the kernel refuses these calls to all threads of this process, and to what it starts.
pub fn refuse(kinds: &[Calls]) -> io::Result<()> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = kinds
        .iter()
        .flat_map(|kind| calls(*kind))
        .flat_map(numbers)
        .map(|call| (call, Vec::new()))
        .collect();
    let clones = clones(kinds).map_err(io::Error::other)?;
    if !clones.is_empty() {
        rules.extend(numbers(libc::SYS_clone).map(|call| (call, clones.clone())));
        // `clone3` has its flags in memory, where a filter cannot look. Told that there is none, the C library takes `clone`.
        let clone3 = numbers(libc::SYS_clone3).map(|call| (call, Vec::new()));
        apply(clone3.collect(), libc::ENOSYS)?;
    }
    if kinds.contains(&Calls::LocalSockets) {
        // As a kernel that lacks them: whoever asks then takes another way, such as names by DNS.
        let others = local_sockets().map_err(io::Error::other)?;
        let socket = numbers(libc::SYS_socket).map(|call| (call, vec![others.clone()]));
        apply(socket.collect(), libc::EAFNOSUPPORT)?;
    }
    apply(rules, libc::EPERM)
}

fn calls(kind: Calls) -> Vec<i64> {
    let mut calls = every_machines(kind).to_vec();
    #[cfg(target_arch = "x86_64")]
    calls.extend(older(kind));
    calls
}

fn every_machines(kind: Calls) -> &'static [i64] {
    match kind {
        Calls::Intrusion => &[
            // The memory of others.
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_process_madvise,
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
        ],
        Calls::Programs => &[libc::SYS_execve, libc::SYS_execveat],
        Calls::Processes | Calls::LocalSockets => &[],
        Calls::Signals => &[
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_send_signal,
        ],
        Calls::Network => &[
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_accept,
            libc::SYS_accept4,
        ],
        Calls::FileNames => &[
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
        ],
    }
}

/// Calls that newer machines do not have.
#[cfg(target_arch = "x86_64")]
fn older(kind: Calls) -> &'static [i64] {
    match kind {
        Calls::Intrusion => &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt],
        Calls::Processes => &[libc::SYS_fork, libc::SYS_vfork],
        Calls::FileNames => &[
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
        ],
        Calls::Programs | Calls::Signals | Calls::Network | Calls::LocalSockets => &[],
    }
}

/// Which flags of `clone` are refused: any of these rules is enough.
fn clones(kinds: &[Calls]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    const NAMESPACES: [libc::c_int; 7] = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let flags = |mask: libc::c_int, value: libc::c_int| {
        let masked = SeccompCmpOp::MaskedEq(mask as u64);
        let flags = SeccompCondition::new(0, SeccompCmpArgLen::Qword, masked, value as u64)?;
        SeccompRule::new(vec![flags])
    };
    let mut rules = Vec::new();
    if kinds.contains(&Calls::Intrusion) {
        for namespace in NAMESPACES {
            rules.push(flags(namespace, namespace)?);
        }
    }
    // What is no thread of this process is a process of its own, which would outlive it.
    if kinds.contains(&Calls::Processes) {
        rules.push(flags(libc::CLONE_THREAD, 0)?);
    }
    Ok(rules)
}

/// Sockets of no family that a node needs.
fn local_sockets() -> Result<SeccompRule, seccompiler::BackendError> {
    let other_than = |family: libc::c_int| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family as u64)
    };
    SeccompRule::new(vec![
        other_than(libc::AF_INET)?,
        other_than(libc::AF_INET6)?,
        other_than(libc::AF_NETLINK)?,
    ])
}

/// A system call by all its numbers: kernels with the x32 interface have each once more.
fn numbers(call: i64) -> impl Iterator<Item = i64> {
    const X32: i64 = 0x4000_0000;
    let more = cfg!(target_arch = "x86_64").then_some(call | X32);
    std::iter::once(call).chain(more)
}

fn apply(rules: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> io::Result<()> {
    let program = || -> Result<BpfProgram, seccompiler::Error> {
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(error as u32),
            std::env::consts::ARCH.try_into()?,
        )?;
        Ok(filter.try_into()?)
    };
    let program = program().map_err(io::Error::other)?;
    seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)
}

//! Walls around a driver that reads what strangers wrote.
//!
//! The process keeps what drivers do at any time: memory, threads, `ioctl` on devices that exist, reading what describes the
//! machine. It loses other files, programs, sockets, other processes, and every way to get more rights.

use std::fs;
use std::io;
use std::path::PathBuf;

use nearfield_sandbox::{Allowed, Calls, Files, Resource, USUAL_DEVICES, confine, limit, refuse};
use rustix::process::{Pid, Signal, set_parent_process_death_signal, setpriority_process};

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
/// Devices that drivers open at any time, beside the usual ones. Those of NVIDIA's are found by their names.
const DEVICES: [&str; 3] = ["/dev/dri", "/dev/kfd", "/dev/dxg"];
/// Memory of a software adapter's worker beyond what guests were given: a driver, its compiler, and what wgpu keeps.
const SOFTWARE_SPARE_BYTES: u64 = 2 << 30;

/// Ends with its parent and before anything else where memory is short, leaves no copy of its memory behind, and sees no files of
/// the node's. Before the driver, because its threads would keep what they had.
pub(super) fn before_the_driver() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    limit(Resource::Core, 0)?;
    // Where it is refused, the worker is as likely to be chosen as others.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    // Kernels without Landlock have the other wall only.
    confine(allowed())?;
    Ok(())
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

/// From here on the kernel does nothing that a driver does not need while it computes, for none of its threads.
pub(super) fn behind_the_driver() -> io::Result<()> {
    refuse(&[
        Calls::Intrusion,
        Calls::Programs,
        Calls::Processes,
        Calls::Signals,
        Calls::Network,
        Calls::FileNames,
    ])
}

/// What a worker may open, and so whoever starts one.
pub fn allowed() -> impl Iterator<Item = Allowed> {
    let names = fs::read_dir("/dev").into_iter().flatten().flatten();
    let nvidia = names.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("nvidia"))
    });
    let devices = DEVICES.iter().chain(&USUAL_DEVICES).map(PathBuf::from);
    Allowed::all(Files::Read, READABLE).chain(Allowed::all(Files::Device, devices.chain(nvidia)))
}

//! cgroup v2 inside the guest: one directory for the pod, one below it for each app, with its limits and its devices.
//!
//! The guest's kernel is the pod's own, so nothing outside can be in the way: every controller that the kernel has is on,
//! and a limit that cannot be set is an error.

use super::devices::create_directory;
use super::sys;
use anyhow::{Context, Result};
use contract::devices;
use contract::devices::program::{self, PROG_ATTACH, PROG_LOAD};
use contract::name::AppName;
use contract::pod::{Device, IoLimit, Limits, Pod};
use rustix::fd::AsFd;
use rustix::mount::{MountFlags, mount};
use std::fmt::Write;
use std::fs::{File, OpenOptions};
use std::path::Path;

const ROOT: &str = "/sys/fs/cgroup";
/// Microseconds of `cpu.max`'s period.
const CPU_PERIOD: u64 = 100_000;

/// Makes the directories, sets the limits, and opens each app's `cgroup.procs`.
pub(super) fn make(pod: &Pod) -> Result<Vec<(AppName, File)>> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount("cgroup2", ROOT, "cgroup2", flags, None).with_context(|| format!("mount cgroup2 at `{ROOT}`"))?;
    let root = Path::new(ROOT);
    let of_pod = root.join("pod");
    delegate(root)?;
    create_directory(&of_pod)?;
    limit(&of_pod, &pod.limits)?;
    delegate(&of_pod)?;
    pod.apps
        .iter()
        .map(|app| {
            let directory = of_pod.join(app.name.as_str());
            create_directory(&directory)?;
            limit(&directory, &app.limits).with_context(|| format!("limit app `{}`", app.name))?;
            confine(&directory, &app.devices).with_context(|| format!("keep app `{}` from devices", app.name))?;
            let procs = OpenOptions::new().write(true).open(directory.join("cgroup.procs"));
            Ok((app.name.clone(), procs.with_context(|| format!("open the cgroup of app `{}`", app.name))?))
        })
        .collect()
}

/// Turns on for the children whatever the kernel has.
fn delegate(directory: &Path) -> Result<()> {
    let file = directory.join("cgroup.controllers");
    let controllers = std::fs::read_to_string(&file).with_context(|| format!("read `{}`", file.display()))?;
    let words: Vec<String> = controllers.split_ascii_whitespace().map(|word| format!("+{word}")).collect();
    write(directory, "cgroup.subtree_control", &words.join(" "))
}

/// One app's disk is not another's to read, and the pod's channel is a device, too. A kernel without CONFIG_CGROUP_BPF cannot keep
/// an app from them; stage2 sees that and refuses apps that nothing else confines.
fn confine(directory: &Path, devices: &[Device]) -> Result<()> {
    let instructions = program::program(&devices::list(devices));
    let loaded = match sys::bpf(PROG_LOAD, &mut program::load(&instructions)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => return Ok(()),
        other => sys::own(other.context("load a BPF program")?),
    };
    let cgroup = File::open(directory).with_context(|| format!("open `{}`", directory.display()))?;
    sys::bpf(PROG_ATTACH, &mut program::attach(cgroup.as_fd(), loaded.as_fd())).context("attach a BPF program")?;
    Ok(())
}

fn limit(directory: &Path, limits: &Limits) -> Result<()> {
    for (file, value) in settings(limits) {
        write(directory, file, &value)?;
    }
    Ok(())
}

fn write(directory: &Path, file: &str, value: &str) -> Result<()> {
    std::fs::write(directory.join(file), value)
        .with_context(|| format!("write `{value}` to `{}/{file}`", directory.display()))
}

/// The files of a cgroup that `limits` sets. The guest has no swap, so `memory.swap.max` has nothing to forbid.
fn settings(limits: &Limits) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        settings.push(("memory.max", bytes.to_string()));
    }
    if let Some(millis) = limits.cpu_millis {
        settings.push(("cpu.max", format!("{} {CPU_PERIOD}", millis.saturating_mul(CPU_PERIOD / 1000).max(1000))));
    }
    if let Some(shares) = limits.cpu_shares {
        settings.push(("cpu.weight", weight(shares).to_string()));
    }
    if let Some(pids) = limits.pids {
        settings.push(("pids.max", pids.to_string()));
    }
    settings.extend(limits.io.iter().map(|limit| ("io.max", io_max(limit))));
    settings
}

/// The scale of v1 shares, 2 to 262144, on that of v2 weights, 1 to 10000, as every runtime converts it.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + ((shares - 2) * 9999) / 262_142
}

fn io_max(limit: &IoLimit) -> String {
    let mut line = format!("{}:{}", limit.major, limit.minor);
    for (key, value) in [
        ("rbps", limit.read_bytes_per_sec),
        ("wbps", limit.write_bytes_per_sec),
        ("riops", limit.read_operations_per_sec),
        ("wiops", limit.write_operations_per_sec),
    ] {
        if let Some(value) = value {
            let _ = write!(line, " {key}={value}"); // Writing to a String cannot end in an error.
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_files() {
        assert!(settings(&Limits::default()).is_empty());
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            cpu_millis: Some(1500),
            cpu_shares: Some(1024),
            pids: Some(7),
            io: Vec::new(),
        };
        let expected =
            [("memory.max", "1048576"), ("cpu.max", "150000 100000"), ("cpu.weight", "39"), ("pids.max", "7")];
        let settings = settings(&limits);
        let settings: Vec<(&str, &str)> = settings.iter().map(|(file, value)| (*file, value.as_str())).collect();
        assert_eq!(settings, expected);
    }

    #[test]
    fn weights_keep_the_ends() {
        assert_eq!([weight(0), weight(2), weight(262_144), weight(u64::MAX)], [1, 1, 10_000, 10_000]);
    }
}

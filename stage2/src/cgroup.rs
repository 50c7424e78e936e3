//! The app's cgroups: joining them, and showing them, read-only and from their own root, in /sys/fs/cgroup.

use crate::mount::{self, INERT, Parameter};
use anyhow::{Context, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use std::io::Read;

/// Moves this process into each cgroup: writing 0 to `tasks` or `cgroup.procs` means the writer itself, so no pid can be mistaken.
pub(crate) fn join(procs: &[OwnedFd]) -> Result<()> {
    for procs in procs {
        rustix::io::write(procs, b"0").context("join the app's cgroup")?;
    }
    Ok(())
}

/// What /sys/fs/cgroup gets.
#[derive(Debug, PartialEq, Eq)]
enum Layout<'a> {
    /// cgroup v2 alone.
    Unified,
    /// One directory for each v1 hierarchy in which the app has a cgroup of its own.
    Separate(Vec<&'a str>),
}

/// Reads /proc/self/cgroup as it is inside the app's cgroup namespace.
fn layout(text: &str) -> Layout<'_> {
    // A line is `NUMBER:CONTROLLERS:PATH`; number 0 without controllers is v2.
    let controllers =
        text.lines().filter_map(|line| line.split(':').nth(1)).filter(|controllers| !controllers.is_empty());
    let controllers: Vec<_> = controllers
        .filter(|controllers| SHOWN.iter().any(|shown| controllers.split(',').any(|one| one == *shown)))
        .collect();
    if controllers.is_empty() { Layout::Unified } else { Layout::Separate(controllers) }
}

/// v1 controllers that programs size themselves by. The others would only cost time, a mount each.
const SHOWN: [&str; 4] = ["memory", "cpu", "pids", "cpuset"];

/// Mounts /sys/fs/cgroup on `sys`.
pub(crate) fn mount(sys: &OwnedFd, proc: &OwnedFd) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = match rustix::fs::openat(sys, "fs/cgroup", flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(()), // A kernel without cgroups.
        other => other.context("open /sys/fs/cgroup")?,
    };
    let own = rustix::fs::openat(proc, "self/cgroup", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let mut text = String::new();
    std::fs::File::from(own.context("open /proc/self/cgroup")?).take(64 << 10).read_to_string(&mut text)?;
    let attributes = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
    match layout(&text) {
        Layout::Unified => {
            let cgroup = mount::detached("cgroup2", &[], attributes)?;
            mount::attach(cgroup.as_fd(), target.as_fd()).context("mount /sys/fs/cgroup")
        }
        Layout::Separate(hierarchies) => {
            let tmpfs = mount::detached("tmpfs", &[("mode", "755"), ("size", "4k")], INERT)?;
            mount::attach(tmpfs.as_fd(), target.as_fd()).context("mount /sys/fs/cgroup")?;
            for controllers in hierarchies {
                separate(&tmpfs, controllers, attributes)
                    .with_context(|| format!("mount /sys/fs/cgroup/{controllers}"))?;
            }
            Ok(crate::sys::mount_setattr(tmpfs.as_fd(), false, u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()))?)
        }
    }
}

/// One v1 hierarchy.
fn separate(tmpfs: &OwnedFd, controllers: &str, attributes: MountAttrFlags) -> Result<()> {
    let parameters: Vec<Parameter<'_>> = controllers.split(',').map(|one| (one, "")).collect();
    let cgroup = mount::detached("cgroup", &parameters, attributes)?;
    rustix::fs::mkdirat(tmpfs, controllers, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(tmpfs, controllers, flags, Mode::empty())?;
    mount::attach(cgroup.as_fd(), target.as_fd())?;
    // Programs look for each controller by its own name where several share a hierarchy.
    for one in controllers.split(',').filter(|one| *one != controllers) {
        rustix::fs::symlinkat(controllers, tmpfs, one)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        for (text, expected) in [
            ("0::/\n", Layout::Unified),
            ("", Layout::Unified),
            ("9:name=systemd:/\n8:pids:/\n5:devices:/\n4:memory:/\n0::/\n", Layout::Separate(vec!["pids", "memory"])),
            ("3:cpu,cpuacct:/\n1:net_cls:/\n", Layout::Separate(vec!["cpu,cpuacct"])),
        ] {
            assert_eq!(layout(text), expected);
        }
    }
}

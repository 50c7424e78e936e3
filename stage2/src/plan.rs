//! What is mounted in an app's root beyond the file systems that every app has: a pure list, parents before children.

use anyhow::{Result, bail, ensure};
use contract::name::VolumeName;
use contract::pod::App;
use std::path::{Component, Path};

/// One mount that the user or the image asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wanted<'a> {
    /// A volume of the pod.
    Volume {
        /// Which.
        volume: &'a VolumeName,
        /// Where.
        target: &'a Path,
        /// Read-only for this app.
        read_only: bool,
        /// Fill it from the image first.
        populate: bool,
    },
    /// A fresh tmpfs.
    Tmpfs {
        /// Where.
        target: &'a Path,
        /// Its limit.
        size_bytes: u64,
        /// Permission bits of its root.
        mode: u32,
    },
}

impl<'a> Wanted<'a> {
    /// Where it is mounted.
    pub(crate) fn target(&self) -> &'a Path {
        match self {
            Self::Volume { target, .. } | Self::Tmpfs { target, .. } => target,
        }
    }
}

/// Single files of /proc that may be replaced, as lxcfs does it. All else there must be the kernel's own: who can mount
/// over /proc can make every later write to it go to a file of his (CVE-2025-52881, CVE-2019-19921).
const PROC_FILES: [&str; 9] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/net/dev",
];

/// The mounts of `app` in the order in which they are made.
pub(crate) fn wanted(app: &App) -> Result<Vec<Wanted<'_>>> {
    let tmpfs = app.tmpfs.iter().map(|tmpfs| Wanted::Tmpfs {
        target: &tmpfs.target,
        size_bytes: tmpfs.size_bytes,
        mode: tmpfs.mode,
    });
    let volumes = app.mounts.iter().map(|mount| Wanted::Volume {
        volume: &mount.volume,
        target: &mount.target,
        read_only: mount.read_only,
        populate: mount.populate,
    });
    let mut wanted: Vec<_> = tmpfs.chain(volumes).collect();
    for mount in &wanted {
        check_target(mount.target())?;
    }
    // Stable: what has the same depth stays in the order of pod.json. A parent has fewer parts than its child.
    wanted.sort_by_key(|mount| mount.target().components().count());
    Ok(wanted)
}

fn check_target(target: &Path) -> Result<()> {
    let shown = target.display();
    ensure!(target.is_absolute(), "mount target `{shown}` is not absolute");
    ensure!(!target.components().any(|part| part == Component::ParentDir), "mount target `{shown}` holds `..`");
    ensure!(target != Path::new("/"), "mount target `/` would hide the app's root");
    if target.starts_with("/proc") && !PROC_FILES.iter().any(|file| target == Path::new(file)) {
        bail!("mount target `{shown}` lies in /proc, which must be the kernel's own");
    }
    Ok(())
}

/// Whether a mount of `wanted` covers `path`, so that it is not ours to change.
pub(crate) fn covers(wanted: &[Wanted<'_>], path: &Path) -> bool {
    wanted.iter().any(|mount| mount.target() == path)
}

/// Whether `path` lies below something that is mounted.
pub(crate) fn lies_in(wanted: &[Wanted<'_>], path: &Path) -> bool {
    wanted.iter().any(|mount| path.starts_with(mount.target()))
}

/// Whether something is mounted at `path` or below it.
pub(crate) fn touches(wanted: &[Wanted<'_>], path: &str) -> bool {
    wanted.iter().any(|mount| mount.target().starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for good in ["/data", "/dev/shm", "/proc/meminfo", "/a/./b", "/procfs", "/sys/fs/cgroup"] {
            assert!(check_target(Path::new(good)).is_ok(), "{good}");
        }
        for bad in ["/", "/proc", "/proc/", "/proc/self", "/proc/sys/kernel", "data", "", "/a/../b", "/..", "//", "/./"]
        {
            assert!(check_target(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn parents_come_first() {
        let app = crate::samples::app(
            r#"{"mounts": [
                {"volume": "c", "target": "/a/b/c", "read_only": false},
                {"volume": "a", "target": "/a", "read_only": true, "populate": true},
                {"volume": "z", "target": "/z", "read_only": false}],
             "tmpfs": [{"target": "/a/b", "size_bytes": 4096, "mode": 511}]}"#,
        );
        let order: Vec<_> = wanted(&app).unwrap().iter().map(|mount| mount.target().display().to_string()).collect();
        assert_eq!(order, ["/a", "/z", "/a/b", "/a/b/c"]);
        let covers = |path: &str| covers(&wanted(&app).unwrap(), Path::new(path));
        let lies_in = |path: &str| lies_in(&wanted(&app).unwrap(), Path::new(path));
        assert!(covers("/a/b") && !covers("/a/b/d"));
        assert!(lies_in("/a/q/r") && !lies_in("/ab"));
        assert!(touches(&wanted(&app).unwrap(), "/a/b"));
        assert!(!touches(&wanted(&app).unwrap(), "/q"));
    }
}

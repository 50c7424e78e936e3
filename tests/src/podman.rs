//! podman beside ours, told to leave this machine as it is.

use std::fs;
use std::path::Path;
use std::process::Command;

/// podman with storage of its own, cgroups without systemd, and limits that it may set. It takes no longer path than 50
/// bytes for its run directory.
pub fn podman(storage: &Path) -> Command {
    let mut command = Command::new("prlimit");
    command.args(["--nofile=1024:1024", "--nproc=4096:4096", "podman", "--root"]).arg(storage.join("root"));
    command.arg("--runroot").arg(storage.join("run")).args(["--storage-driver=overlay", "--cgroup-manager=cgroupfs"]);
    command.args(["--events-backend=none", "--log-level=error"]);
    command
}

/// Unmounts a storage of [`podman`], and removes podman's parent cgroups. One in use stays.
pub fn sweep(storage: &Path) {
    let _ = nix::mount::umount(&storage.join("root/overlay")); // podman leaves its storage mounted on itself.
    for entry in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        for name in ["libpod_parent/conmon", "libpod_parent"] {
            let _ = fs::remove_dir(entry.path().join(name)); // Absent, or not empty: somebody else's.
        }
    }
}

//! The pod root in a guest: every app's root from its disk, every volume from its share or from memory.

use super::devices::{self, create_directory};
use anyhow::{Context, Result, bail};
use contract::guest::{Guest, Root, Volume, VolumeSource};
use contract::pod::{self, Pod};
use contract::stage2::{APPS, ROOTFS, SHM, VOLUMES};
use rustix::fs::{Gid, Mode, Uid};
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// The pod root, until [`enter`] makes it the root directory.
const POD_ROOT: &str = "/run/pod";
/// Disks and shares, out of the apps' sight.
const BEHIND: &str = "/run/behind";
/// As in namespaces.
const SHARED_BYTES_MAX: u64 = 64 << 20;

/// Mounts all of it below [`POD_ROOT`].
pub(super) fn lay_out(guest: &Guest, pod: &Pod) -> Result<()> {
    for directory in ["/run", POD_ROOT, BEHIND] {
        create_directory(directory)?;
    }
    let space = Space::of(free_bytes(), pod.limits.memory_bytes, pod.apps.iter().map(|app| app.limits.memory_bytes));
    let options = format!("mode=0755,size={},nr_inodes={}", space.files_bytes, space.files);
    let inert = MountFlags::NODEV | MountFlags::NOSUID;
    tmpfs(Path::new(BEHIND), inert, &options)?;
    // Volumes lie in the pod root, so it is a part of the same tmpfs: all that the apps write has one limit.
    let pod_root = Path::new(BEHIND).join("pod");
    create_directory(&pod_root)?;
    mount_bind(&pod_root, POD_ROOT).context("bind the pod root")?;
    let below = |path: &str| PathBuf::from(format!("{POD_ROOT}{path}"));
    create_directory(below(SHM))?;
    tmpfs(&below(SHM), inert | MountFlags::NOEXEC, &format!("mode=1777,size={}", space.shared_bytes))?;
    create_directory(below(APPS))?;
    create_directory(below(VOLUMES))?;
    for root in &guest.roots {
        let app = below(APPS).join(root.app.as_str());
        create_directory(&app)?;
        mount_root(root, &app.join(ROOTFS)).with_context(|| format!("mount the root of app `{}`", root.app))?;
    }
    for volume in &guest.volumes {
        let target = below(VOLUMES).join(volume.name.as_str());
        mount_volume(volume, pod, &target).with_context(|| format!("mount volume `{}`", volume.name))?;
    }
    Ok(())
}

/// Makes the pod root the root directory. pivot_root(2) refuses a root that is the initramfs, and the apps need pivot_root,
/// so the pod root is moved over it, which leaves the kernel's own root below and out of sight.
pub(super) fn enter() -> Result<()> {
    // Nobody may read them again; their pages are free for the apps.
    for file in [contract::guest::GUEST, contract::guest::POD, "/init"] {
        let _ = std::fs::remove_file(file);
    }
    std::env::set_current_dir(POD_ROOT).context("enter the pod root")?;
    mount_move(".", "/").context("move the pod root to `/`")?;
    rustix::process::chroot(".").context("make the pod root the root directory")?;
    std::env::set_current_dir("/").context("enter the new root directory")
}

/// How much of the guest's memory files may take. A full tmpfs must say ENOSPC while the apps still have memory to go on with.
#[derive(Debug, PartialEq, Eq)]
struct Space {
    /// Of all roots' changes and all empty volumes together.
    files_bytes: u64,
    /// Their number: each takes 1 KiB of the kernel's memory beside its content.
    files: u64,
    /// Of `/dev/shm`.
    shared_bytes: u64,
}

impl Space {
    /// Half of the free memory, or of what the pod and the largest app may use of it: a file is charged to the app that writes it.
    fn of(free_bytes: u64, of_pod: Option<u64>, of_apps: impl Iterator<Item = Option<u64>>) -> Self {
        let largest = of_apps.map(|limit| limit.unwrap_or(u64::MAX)).max();
        let usable = of_pod.into_iter().chain(largest).fold(free_bytes, u64::min);
        let files_bytes = usable / 2;
        Self { files_bytes, files: files_bytes >> 10, shared_bytes: SHARED_BYTES_MAX.min(usable / 4) }
    }
}

/// What kernel and init have left.
fn free_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.mem_unit) * info.freeram
}

fn tmpfs(target: &Path, flags: MountFlags, options: &str) -> Result<()> {
    let options = CString::new(options).context("tmpfs options")?;
    mount("tmpfs", target, "tmpfs", flags, Some(options.as_c_str()))
        .with_context(|| format!("mount a tmpfs at `{}`", target.display()))
}

/// The disk's file system below, a tmpfs above. The device nodes of an image are inert, as in namespaces.
fn mount_root(root: &Root, target: &Path) -> Result<()> {
    let device = devices::wait("its disk", || disk(&root.disk))?;
    let below = Path::new(BEHIND).join(&root.disk);
    create_directory(&below)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV;
    mount(&device, &below, "erofs", flags, None).with_context(|| format!("mount `{}`", device.display()))?;
    let above = Path::new(BEHIND).join(format!("{}-upper", root.app));
    let (upper, work) = (above.join("upper"), above.join("work"));
    for directory in [&above, &upper, &work, &target.to_owned()] {
        create_directory(directory)?;
    }
    // The upper directory's owner and mode are those of the merged root, so they must be the image's.
    copy_owner(&below, &upper)?;
    let options = format!("lowerdir={},upperdir={},workdir={}", below.display(), upper.display(), work.display());
    let options = CString::new(options).context("overlay options")?;
    mount("overlay", target, "overlay", MountFlags::NODEV, Some(options.as_c_str())).context("mount the overlay")
}

fn copy_owner(from: &Path, to: &Path) -> Result<()> {
    let stat = rustix::fs::stat(from).with_context(|| format!("stat `{}`", from.display()))?;
    rustix::fs::chmod(to, Mode::from_raw_mode(stat.st_mode))
        .and_then(|()| rustix::fs::chown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))))
        .with_context(|| format!("set owner and mode of `{}`", to.display()))
}

/// The disk that bears this serial.
fn disk(serial: &str) -> Option<PathBuf> {
    let disks = std::fs::read_dir("/sys/block").ok()?;
    disks.flatten().find_map(|disk| {
        let found = std::fs::read_to_string(disk.path().join("serial")).ok()?;
        (found.trim_end() == serial).then(|| PathBuf::from("/dev").join(disk.file_name()))
    })
}

fn mount_volume(volume: &Volume, pod: &Pod, target: &Path) -> Result<()> {
    match &volume.source {
        VolumeSource::Memory => {
            let Some(pod::VolumeSource::Empty { mode, uid, gid }) =
                pod.volumes.iter().find(|candidate| candidate.name == volume.name).map(|found| &found.source)
            else {
                bail!("`pod.json` has no such empty volume");
            };
            create_directory(target)?;
            rustix::fs::chown(target, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid))).context("set its owner")?;
            // After the owner, which takes the set-id bits away.
            rustix::fs::chmod(target, Mode::from_raw_mode(*mode)).context("set its mode")
        }
        VolumeSource::Share { tag, file, read_only } => mount_share(tag, file.as_deref(), *read_only, target),
    }
}

/// A share is a directory of the host. A volume that is one file is bound out of it.
fn mount_share(tag: &str, file: Option<&str>, read_only: bool, target: &Path) -> Result<()> {
    // The host enforces it as well; here it makes the error the ordinary EROFS.
    let write = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let flags = MountFlags::NODEV | MountFlags::NOSUID | write;
    let Some(file) = file else {
        create_directory(target)?;
        return mount(tag, target, "virtiofs", flags, None).context("mount the share");
    };
    let share = Path::new(BEHIND).join(format!("share-{tag}"));
    create_directory(&share)?;
    mount(tag, &share, "virtiofs", flags, None).context("mount the share")?;
    std::fs::write(target, b"").context("make a place for the file")?;
    mount_bind(share.join(file), target).context("bind the file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_leave_memory_to_the_apps() {
        const MIB: u64 = 1 << 20;
        for (free, of_pod, of_apps, files, shared) in [
            (480, None, &[None][..], 240, 64),
            (80, None, &[None, Some(16)], 40, 20),
            (128, None, &[Some(64)], 32, 16),
            (128, None, &[Some(16), Some(96)], 48, 24),
            (128, Some(64), &[None], 32, 16),
            (40, None, &[Some(64)], 20, 10),
        ] {
            let limits = of_apps.iter().map(|limit| limit.map(|mib: u64| mib * MIB));
            let space = Space::of(free * MIB, of_pod.map(|mib: u64| mib * MIB), limits);
            let expected = Space { files_bytes: files * MIB, files: files << 10, shared_bytes: shared * MIB };
            assert_eq!(space, expected, "{free} {of_pod:?} {of_apps:?}");
        }
    }
}

//! `stage1-kvm qemu PARENT ACCELERATOR PROGRAM ARGUMENTS…`: confines itself and becomes qemu.
//!
//! Runs as root in the host's namespaces, as a child of the supervisor, before any of the guest's instructions. Afterwards
//! there is no network, no file of the host but the system's read-only `/usr`, no capability, and a user who owns nothing;
//! qemu's own sandbox then takes away exec, privileges and what it does not use of the kernel.

use anyhow::{Context, Result, bail};
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};
use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The user of each machine is its own, so that one that broke out of qemu can neither trace nor signal another: this
/// number, beyond what systemd and others give away, plus the supervisor's pid, which no other living pod has.
const USER_FIRST: u32 = 0x7000_0000;
/// Where the new root is put together. Any directory does: the mounts are this process's own.
const ROOT: &str = "/run";
/// What a dynamic program needs to start, as far as it is not in `/usr`.
const LINKS: [&str; 5] = ["bin", "sbin", "lib", "lib64", "lib32"];

/// Confines the process and executes the program. Returns only on error.
pub(crate) fn main(parent: &str, accelerator: &str, program: &str, arguments: &[&str]) -> Result<u8> {
    let user = USER_FIRST + parent.parse::<u32>().context("`PARENT` is not a pid")?;
    namespaces()?;
    root((accelerator == "kvm").then_some(user)).context("put together qemu's root directory")?;
    no_core_files()?;
    privileges(user)?;
    // After the change of user, which clears it.
    die_with(parent)?;
    execute(program, arguments)
}

/// Becomes `program`, with an empty environment.
pub(super) fn execute(program: &str, arguments: &[&str]) -> Result<u8> {
    let words = std::iter::once(&program).chain(arguments);
    let argv: Vec<CString> = words.map(|word| CString::new(*word)).collect::<Result<_, _>>()?;
    let Err(error) = nix::unistd::execve(&argv[0], &argv, &[] as &[CString]);
    Err(error).with_context(|| format!("execute `{program}`"))
}

fn namespaces() -> Result<()> {
    let flags =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
    nix::sched::unshare(flags).context("make qemu's namespaces")?;
    // Else the mounts below would show on the host.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context("part from the host's mounts")
}

/// A root with `/usr` read-only, `/proc` that shows this process only, `/dev/kvm` for this user if asked, and nothing else.
fn root(kvm: Option<u32>) -> Result<()> {
    let root = Path::new(ROOT);
    let sealed = MountFlags::NOSUID | MountFlags::NODEV;
    mount("qemu", root, "tmpfs", sealed, Some(c"mode=0755,size=64k")).context("mount a tmpfs")?;
    for directory in ["usr", "proc", "dev", "etc"] {
        std::fs::create_dir(root.join(directory)).with_context(|| format!("create `{directory}`"))?;
    }
    bind_read_only(Path::new("/usr"), &root.join("usr"))?;
    for name in LINKS {
        let (from, to) = (Path::new("/").join(name), root.join(name));
        match std::fs::read_link(&from) {
            Ok(target) => std::os::unix::fs::symlink(target, &to).with_context(|| format!("link `{name}`"))?,
            Err(_) if from.is_dir() => {
                std::fs::create_dir(&to)?;
                bind_read_only(&from, &to)?;
            }
            Err(_) => {}
        }
    }
    bind_file(Path::new("/etc/ld.so.cache"), root, MountFlags::RDONLY | sealed)?;
    if let Some(user) = kvm {
        kvm_node(&root.join("dev"), user)?;
    }
    // qemu opens kernel and initramfs by their numbers there. Other processes do not show: their user is another.
    let flags = sealed | MountFlags::NOEXEC;
    mount("proc", root.join("proc"), "proc", flags, Some(c"hidepid=invisible,subset=pid")).context("mount proc")?;
    mount_remount(root, sealed | MountFlags::RDONLY, c"").context("make the root read-only")?;
    std::env::set_current_dir(root).context("enter the new root")?;
    rustix::process::pivot_root(".", ".").context("pivot to the new root")?;
    unmount(".", UnmountFlags::DETACH).context("leave the host's root")
}

/// A node of its own for KVM: the host's belongs to root, or to a group that the user of this machine is not in.
fn kvm_node(directory: &Path, user: u32) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("dev", directory, "tmpfs", flags, Some(c"mode=0755,size=4k")).context("mount a tmpfs")?;
    let device = std::fs::metadata("/dev/kvm").context("look at `/dev/kvm`")?.rdev();
    let node = directory.join("kvm");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &node, rustix::fs::FileType::CharacterDevice, mode, device)
        .context("make a node for KVM")?;
    std::os::unix::fs::chown(&node, Some(user), Some(user)).context("give KVM's node to the machine's user")?;
    mount_remount(directory, flags | MountFlags::RDONLY, c"").context("make `/dev` read-only")
}

fn bind_read_only(from: &Path, to: &Path) -> Result<()> {
    mount_bind_recursive(from, to).with_context(|| format!("bind `{}`", from.display()))?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(to, flags, c"").with_context(|| format!("make `{}` read-only", from.display()))
}

/// Binds a file that may be missing at its own name in the new root.
fn bind_file(from: &Path, root: &Path, flags: MountFlags) -> Result<()> {
    if !from.exists() {
        return Ok(());
    }
    let to: PathBuf = root.join(from.strip_prefix("/").unwrap_or(from));
    std::fs::write(&to, b"").with_context(|| format!("create `{}`", to.display()))?;
    mount_bind(from, &to).with_context(|| format!("bind `{}`", from.display()))?;
    mount_remount(&to, MountFlags::BIND | flags, c"").with_context(|| format!("restrict `{}`", from.display()))
}

/// A core file would hold the guest's memory. 1, not 0: to a program that takes core files (`|` in core_pattern) the kernel gives
/// them whatever the limit, but for this one (fs/coredump.c).
pub(crate) fn no_core_files() -> Result<()> {
    let none = Rlimit { current: Some(1), maximum: Some(1) };
    match setrlimit(Resource::Core, none) {
        // The caller's is 0, and may not be raised: a file is not made then, and such a program is asked not to keep it.
        Err(rustix::io::Errno::PERM) => Ok(()),
        result => result.context("limit core files"),
    }
}

/// Drops everything; the order is the kernel's: the bounding set while CAP_SETPCAP is there, groups before the user.
fn privileges(user: u32) -> Result<()> {
    for capability in contract::kernel::Capability::ALL {
        drop_from_bounding_set(capability.number())?;
    }
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
    nix::unistd::setgroups(&[]).context("drop the groups")?;
    nix::unistd::setresgid(group, group, group).context("change the group")?;
    // The kernel clears all capability sets when all user ids leave 0.
    nix::unistd::setresuid(user, user, user).context("change the user")?;
    rustix::thread::set_no_new_privs(true).context("forbid new privileges")?;
    let capabilities = rustix::thread::capabilities(None).context("read the capabilities")?;
    let left = capabilities.effective | capabilities.permitted | capabilities.inheritable;
    if !left.is_empty() {
        bail!("capabilities are left after the change of user: {left:?}");
    }
    Ok(())
}

pub(super) fn drop_from_bounding_set(number: u8) -> Result<()> {
    let capability = rustix::thread::CapabilitySet::from_bits_retain(1 << number);
    match rustix::thread::remove_capability_from_bounding_set(capability) {
        // An older kernel does not know the newest capabilities.
        Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("drop capability {number}")),
    }
}

/// Asks the kernel to kill this process when the one that started it dies.
pub(super) fn die_with(parent: &str) -> Result<()> {
    let parent = parent.parse().ok().and_then(Pid::from_raw).context("`PARENT` is not a pid")?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask to die with the supervisor")?;
    // It may have died before the request.
    if getppid() != Some(parent) {
        bail!("the supervisor is gone");
    }
    Ok(())
}

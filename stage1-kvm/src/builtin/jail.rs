//! What confines the hypervisor process before the guest's first instruction. A guest that takes this process over finds an
//! empty file system, a user id that nothing else has, no capability, and a few system calls on the fds that are open.

use crate::qemu::jail::no_core_files;
use anyhow::{Context, Result, bail};
use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use nix::sched::CloneFlags;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{Signal, chdir, fchdir, getppid, pivot_root, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, Gid, Uid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// User and group ids from here on belong to nobody; with the process id added, to no other hypervisor either.
const FIRST_ID: u32 = 0x7000_0000;
/// asm-generic: `_IO(KVMIO, 0x80)`.
const KVM_RUN: u64 = 0xae80;

/// Gives up all that the process has by its origin. Called by its only thread, with all fds open that it will ever need.
pub(super) fn enter(supervisor: u32) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the built-in hypervisor must be started by root to confine itself");
    }
    no_core_files()?;
    // The mount and IPC namespaces go first: they need CAP_SYS_ADMIN. The network needs none of its own, because socket(2) is in
    // no filter; a namespace costs more than the rest together.
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC)
        .context("leave the host's mount namespace")?;
    empty_root().context("enter an empty root")?;
    rustix::thread::set_no_new_privs(true).context("set no_new_privs")?;
    let id = FIRST_ID + rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    for capability in 0..=40 {
        drop_bounding(capability).context("drop the bounding capabilities")?;
    }
    rustix::thread::set_thread_groups(&[]).context("drop the groups")?;
    rustix::thread::set_thread_res_gid(group, group, group).context("drop the group id")?;
    rustix::thread::set_thread_res_uid(user, user, user).context("drop the user id")?;
    // After the ids: changing them clears the death signal.
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask to die with the supervisor")?;
    if getppid().is_none_or(|parent| parent.as_raw_nonzero().get().unsigned_abs() != supervisor) {
        bail!("the supervisor is gone");
    }
    let left = rustix::thread::capabilities(None).context("read the capabilities")?;
    if left.permitted != CapabilitySet::empty() || left.effective != CapabilitySet::empty() {
        bail!("capabilities are left after the user id is dropped");
    }
    // Best effort: a second wall where the kernel has it; the first is that there are no files.
    let rules =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(AccessFs::from_all(ABI::V5));
    rules
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self)
        .context("restrict file access")?;
    Ok(())
}

/// A read-only tmpfs without anything becomes the root, and the host's tree is let go.
fn empty_root() -> rustix::io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let filesystem = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(filesystem.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = fsmount(filesystem.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // The current directory is the pod's; any directory would do for the moment until it is the root itself.
    move_mount(root.as_fd(), "", rustix::fs::CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&root)?;
    pivot_root(".", ".")?;
    // The old root lies on top of the new one now.
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

fn drop_bounding(capability: u32) -> Result<()> {
    match super::sys::drop_bounding_capability(capability) {
        // This kernel has fewer.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        result => result.map_err(Into::into),
    }
}

/// Of both kinds of thread: memory, locks, interrupts by eventfd, and the end.
const COMMON: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

/// Of the device thread: its loop, disks, the channel, virtiofsd, random bytes.
const DEVICES: &[i64] = &[
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_fdatasync,
    libc::SYS_getrandom,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_writev,
];

/// The filter of a CPU's thread, installed by itself.
pub(super) fn confine_cpu_thread() -> Result<()> {
    let run = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, KVM_RUN)?;
    install(COMMON, Some((libc::SYS_ioctl, run)))
}

/// The filter of the device thread, installed by itself.
pub(super) fn confine_device_thread() -> Result<()> {
    // A network card's, to say which checksums the guest's driver makes itself.
    let offload = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::TUNSETOFFLOAD)?;
    install(&[COMMON, DEVICES].concat(), Some((libc::SYS_ioctl, offload)))
}

/// Anything else kills the process: a thread alone would leave a machine that hangs.
fn install(allowed: &[i64], extra: Option<(i64, SeccompCondition)>) -> Result<()> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed.iter().map(|number| (*number, Vec::new())).collect();
    if let Some((number, condition)) = extra {
        rules.insert(number, vec![SeccompRule::new(vec![condition])?]);
    }
    // Memory may be mapped and protected, never to be executed.
    let executable = SeccompCmpOp::MaskedEq(u64::from(libc::PROT_EXEC.unsigned_abs()));
    for number in [libc::SYS_mmap, libc::SYS_mprotect] {
        let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, executable.clone(), 0)?;
        rules.insert(number, vec![SeccompRule::new(vec![condition])?]);
    }
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program).context("install the seccomp filter")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    /// Runs `act` in a copy of this test's process, since what it does to itself has no way back.
    fn signal_of(test: &str, act: fn()) -> Option<i32> {
        if std::env::var_os("CONFINED").is_some() {
            act();
            std::process::exit(0);
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env("CONFINED", "1").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap().signal()
    }

    #[test]
    fn a_thread_of_devices_may_not_open_files() {
        let signal = signal_of("builtin::jail::tests::a_thread_of_devices_may_not_open_files", || {
            confine_device_thread().unwrap();
            let _ = std::fs::File::open("/dev/null");
        });
        assert_eq!(signal, Some(libc::SIGSYS));
    }

    #[test]
    fn a_thread_of_devices_may_not_use_other_ioctls() {
        let signal = signal_of("builtin::jail::tests::a_thread_of_devices_may_not_use_other_ioctls", || {
            confine_device_thread().unwrap();
            let _ = rustix::termios::tcgetwinsize(std::io::stdin());
        });
        assert_eq!(signal, Some(libc::SIGSYS));
    }

    #[test]
    fn a_cpus_thread_may_not_use_other_ioctls() {
        let signal = signal_of("builtin::jail::tests::a_cpus_thread_may_not_use_other_ioctls", || {
            confine_cpu_thread().unwrap();
            let _ = rustix::termios::tcgetwinsize(std::io::stdin());
        });
        assert_eq!(signal, Some(libc::SIGSYS));
    }

    #[test]
    fn memory_may_not_become_executable() {
        let signal = signal_of("builtin::jail::tests::memory_may_not_become_executable", || {
            confine_device_thread().unwrap();
            super::super::sys::map_executable();
        });
        assert_eq!(signal, Some(libc::SIGSYS));
    }

    #[test]
    fn what_threads_need_is_allowed() {
        let signal = signal_of("builtin::jail::tests::what_threads_need_is_allowed", || {
            confine_device_thread().unwrap();
            drop(vec![0_u8; 8 << 20]);
            let _ = super::super::sys::set_tap_offload(std::io::stdin().as_fd(), 0); // No tap, but no death either.
            let _ = rustix::rand::getrandom(&mut [0_u8; 8], rustix::rand::GetRandomFlags::empty());
        });
        assert_eq!(signal, None);
    }
}

//! virtiofsd: a process for each host volume that serves one directory to the guest, and sees nothing else of the host.

use super::jail;
use crate::machine::VolumeServer;
use crate::plan::Share;
use crate::sys::die_with_parent;
use anyhow::{Context, Result, bail};
use contract::kernel::Capability;
use contract::text::Advised;
use rustix::fs::CWD;
use rustix::io::FdFlags;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change, mount_remount, move_mount,
    open_tree,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where distributions put it.
const PROGRAMS: [&str; 3] = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd"];
/// What it needs to confine itself (sys_admin for namespaces and a root, setpcap; it drops both then), and to act for any user of
/// the guest.
const CAPABILITIES: [Capability; 9] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysAdmin,
];
/// As many files as virtiofsd itself would ask for, if it had the capability.
const OPEN_FILES_MAX: u64 = 1_000_000;
/// What it has no use for: what reaches other processes, the kernel or the machine. (It asks for userfaultfd at its start.)
const FORBIDDEN: [libc::c_long; 27] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
];
/// The served directory in the process's own mount namespace. It exists on every host.
const SERVED: &str = "/mnt";

/// Starts one process a share, and gives it with the socket that a hypervisor speaks to it through.
pub(crate) fn start(shares: &[Share], report: &OwnedFd) -> Result<Vec<(VolumeServer, OwnedFd)>> {
    shares
        .iter()
        .map(|share| serve(share, report).with_context(|| format!("share `{}`", share.source.display())))
        .collect()
}

/// The program, or what to install.
pub(crate) fn program() -> Result<&'static str> {
    PROGRAMS.iter().find(|path| Path::new(path).exists()).copied().ok_or_else(|| {
        Advised::new("virtiofsd is not installed", "install `virtiofsd`, or on Debian 12 `qemu-system-common`").into()
    })
}

fn serve(share: &Share, report: &OwnedFd) -> Result<(VolumeServer, OwnedFd)> {
    let program = program()?;
    // Connected before the program runs and then without a name, so nobody else can be first. The directory is the pod's.
    let name = format!("virtiofsd-{}", share.tag);
    let _ = std::fs::remove_file(&name); // Of a start that was killed here.
    let listener = UnixListener::bind(&name).context("make a socket")?;
    let stream = UnixStream::connect(&name).context("connect to the socket");
    std::fs::remove_file(&name).context("remove the socket's name")?;
    let source: OwnedFd = rustix::fs::open(
        &share.source,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .context("open it")?;
    rustix::io::fcntl_setfd(&listener, FdFlags::empty()).context("pass the socket")?;
    rustix::io::fcntl_setfd(&source, FdFlags::empty()).context("pass the directory")?;
    let own = std::env::current_exe().context("find this program's own file")?;
    let mode = if share.read_only { "read-only" } else { "read-write" };
    let name = share.file.as_deref().unwrap_or(".");
    let mut command = Command::new(own);
    command.args(["virtiofsd", &std::process::id().to_string(), program, mode]);
    command.args([&source.as_raw_fd().to_string(), name, &listener.as_raw_fd().to_string()]);
    command.env_clear().process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
    // With qemu's and the kernel's: read when the machine ends before its pod.
    command.stderr(report.try_clone().context("clone a pipe")?);
    let process = die_with_parent(&mut command).spawn().context("start virtiofsd")?;
    let name = format!("virtiofsd of the volume `{}`", share.source.display());
    Ok((VolumeServer { process, name }, stream?.into()))
}

/// `stage1-kvm virtiofsd PARENT PROGRAM MODE SOURCE-FD NAME SOCKET-FD` (a NAME of `.`: the source is a directory): as root, in a mount namespace where the volume is at one
/// place and with the rights it has in the pod, so that a read-only one is so whatever the guest asks for. virtiofsd then
/// makes that place its root and drops the capabilities it does not need.
pub(crate) fn main(parent: &str, words: &[&str]) -> Result<u8> {
    let [program, mode, source, name, socket] = words else { bail!("virtiofsd takes six words") };
    let source = format!("/proc/self/fd/{}", source.parse::<u32>().context("the number of the source")?);
    let _: u32 = socket.parse().context("the number of the socket")?;
    // A copy of its mounts, made while they are still those of this process's namespace.
    let clone = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
    let volume = open_tree(CWD, &source, clone).context("clone the volume's mounts")?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context("part from the host's mounts")?;
    let place = if *name == "." {
        PathBuf::from(SERVED)
    } else {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("volume", SERVED, "tmpfs", flags, Some(c"mode=0755,size=4k")).context("mount a tmpfs")?;
        let file = Path::new(SERVED).join(name);
        File::create(&file).context("make a place for the file")?;
        mount_remount(SERVED, flags | MountFlags::RDONLY, c"").context("make the file's directory read-only")?;
        file
    };
    move_mount(&volume, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).context("mount the volume")?;
    crate::sys::restrict_mounts(&place, *mode == "read-only").context("restrict the volume's mounts")?;
    jail::no_core_files()?;
    // While CAP_SYS_RESOURCE is there, which goes now.
    raise_open_files().context("raise the limit of open files")?;
    confine().context("confine virtiofsd")?;
    jail::die_with(parent)?;
    let options = format!("source={SERVED},sandbox=namespace,cache=auto,xattr,modcaps=-mknod,log_level=err");
    jail::execute(program, &[&format!("--fd={socket}"), "--rlimit-nofile=0", "-o", &options])
}

/// virtiofsd keeps a file open for each inode that the guest knows, and the caller's limit is often 1024.
fn raise_open_files() -> Result<()> {
    let text = std::fs::read_to_string("/proc/sys/fs/nr_open").context("read `/proc/sys/fs/nr_open`")?;
    let most = text.trim().parse::<u64>().context("read `/proc/sys/fs/nr_open`")?.min(OPEN_FILES_MAX);
    let before = getrlimit(Resource::Nofile);
    // None: without a limit, which the kernel does not have for this one.
    let hard = before.maximum.unwrap_or(most);
    let most = Rlimit { current: Some(hard.max(most)), maximum: Some(hard.max(most)) };
    match setrlimit(Resource::Nofile, most) {
        // Root of a user namespace, or without the capability.
        Err(rustix::io::Errno::PERM) => {
            let limit = Rlimit { current: Some(hard), maximum: Some(hard) };
            setrlimit(Resource::Nofile, limit).context("setrlimit")
        }
        result => result.context("setrlimit"),
    }
}

/// What all of its threads have in common. virtiofsd confines the thread that serves, and those which that one makes, further; but
/// Debian 12's has another already, which keeps whatever the program was started with.
fn confine() -> Result<()> {
    for capability in Capability::ALL.iter().filter(|capability| !CAPABILITIES.contains(capability)) {
        jail::drop_from_bounding_set(capability.number())?;
    }
    rustix::thread::set_no_new_privs(true).context("forbid new privileges")?;
    let rules = FORBIDDEN.into_iter().map(|number| (number, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, TargetArch::x86_64)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program).context("install the system call filter")
}

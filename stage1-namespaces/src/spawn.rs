//! From the supervisor to stage2: the processes and namespaces in between.
//!
//! Without a user namespace there is one child. It is PID 1 of the pod from its first instruction, builds the pod root in
//! its own mount namespace with the privileges of the host's root, lets go of everything of the host and becomes stage2.
//!
//! With one there are two. The *builder* is an ordinary child with the privileges of the host's root in a mount namespace of
//! its own, because only such a process may show files through a mapping and honour `trusted.*` attributes. It then
//! enters the user namespace and clones PID 1, as a child of the supervisor, into namespaces that the user namespace owns.
//!
//! Every process here dies with the supervisor: parent death signal, and the PID namespace below.

use crate::network;
use crate::plan::Plan;
use crate::pod_root::{self, PodRoot};
use crate::sys::{self, MountAttributes, Side};
use anyhow::{Context, Result, bail};
use contract::channel::Event;
use contract::pod::{Ipc, Network};
use contract::{exit, stage2};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Mode;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, UnmountFlags};
use rustix::process::{PidfdFlags, Signal};
use rustix::thread::LinkNameSpaceType;
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use supervisor::report;
use wire::packet;

/// What stage2 gets, and where it runs.
pub(crate) struct Start<'a> {
    /// What to make.
    pub(crate) plan: &'a Plan,
    /// `pod.json`, at its start.
    pub(crate) pod_file: OwnedFd,
    /// stage2's end of the channel.
    pub(crate) channel: OwnedFd,
    /// The namespace of [`Network::Joined`].
    pub(crate) network: Option<OwnedFd>,
    /// The pod's user namespace.
    pub(crate) users: Option<OwnedFd>,
    /// Where stage2 lies.
    pub(crate) stage2: PathBuf,
    /// The signal mask that stage2 is to have.
    pub(crate) mask: nix::sys::signal::SigSet,
}

/// The child of the supervisor.
pub(crate) enum Child {
    /// PID 1 of the pod.
    First(OwnedFd),
    /// The builder, and the socket over which PID 1's pidfd will come.
    Builder(OwnedFd, OwnedFd),
}

/// Where stage2 lies: beside this program.
pub(crate) fn stage2_path() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program's own file")?;
    Ok(own.with_file_name("stage2"))
}

/// Starts the child. In the child this does not return; in the parent `start` is to be dropped, or the channel has no end.
pub(crate) fn spawn(start: &Start<'_>) -> Result<Child> {
    let supervisor = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .context("open a pidfd of the supervisor")?;
    let (ours, theirs) = packet::pair()?;
    if start.users.is_none() {
        // A network namespace of its own comes from the supervisor, at the same time.
        let flags = libc::CLONE_NEWNS | pod_namespaces(start.plan) & !libc::CLONE_NEWNET;
        return match sys::clone(flags).context("clone into new namespaces")? {
            Side::Parent(pidfd) => {
                if start.plan.network == Network::None {
                    network::make(ours.as_fd())?;
                }
                Ok(Child::First(pidfd))
            }
            Side::Child => {
                drop(ours);
                end(&start.channel, become_stage2(start, &supervisor, &theirs))
            }
        };
    }
    match sys::clone(libc::CLONE_NEWNS).context("clone the builder of the pod")? {
        Side::Parent(pidfd) => Ok(Child::Builder(pidfd, ours)),
        Side::Child => {
            drop(ours);
            end(&start.channel, build_for_users(start, &supervisor, &theirs))
        }
    }
}

/// The namespaces of every pod but the mount namespace.
fn pod_namespaces(plan: &Plan) -> libc::c_int {
    let ipc = if plan.ipc == Ipc::Private { libc::CLONE_NEWIPC } else { 0 };
    let network = if plan.network == Network::None { libc::CLONE_NEWNET } else { 0 };
    libc::CLONE_NEWPID | libc::CLONE_NEWUTS | ipc | network
}

/// The child has not become stage2: the supervisor learns why, in stage2's own words.
fn end(channel: &OwnedFd, result: Result<Infallible>) -> ! {
    let Err(error) = result;
    if let Ok(bytes) = serde_json::to_vec(&Event::Failed { message: report::describe(&error) }) {
        let _ = packet::send(channel.as_fd(), &bytes, &[]); // The supervisor may be gone; then nobody asks.
    }
    std::process::exit(exit::FAILURE.into());
}

/// PID 1, all its life before stage2, without a user namespace.
fn become_stage2(start: &Start<'_>, supervisor: &OwnedFd, handover: &OwnedFd) -> Result<Infallible> {
    let_go_of_lock(start)?;
    die_with(supervisor)?;
    let site = build(start)?;
    let program = sealed(&start.stage2, &site)?;
    leave_host(site.root.as_fd())?;
    match start.plan.network {
        // Last: the supervisor was making it until now.
        Network::None => network::take(handover.as_fd())?,
        Network::Host | Network::Joined => network::join(start.network.as_ref())?,
    }
    execute(start, &program)
}

/// The builder, and in its child PID 1 of a pod with a user namespace.
fn build_for_users(start: &Start<'_>, supervisor: &OwnedFd, handover: &OwnedFd) -> Result<Infallible> {
    let_go_of_lock(start)?;
    die_with(supervisor)?;
    let site = build(start)?;
    let program = sealed(&start.stage2, &site)?;
    // A copy of the whole pod root: PID 1's mount namespace gets it as its own, where it is not locked as the host's mounts are.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(&site.root, "", flags).context("copy the pod root")?;
    // PID 1 mounts its copy over this one, because it may not even look into the pod directory.
    rustix::process::fchdir(&site.root).context("enter the pod root")?;
    if let Some(users) = &start.users {
        let kind = Some(LinkNameSpaceType::User);
        rustix::thread::move_into_link_name_space(users.as_fd(), kind).context("enter the pod's user namespace")?;
    }
    let flags = libc::CLONE_PARENT | libc::CLONE_NEWNS | pod_namespaces(start.plan);
    match sys::clone(flags).context("clone into namespaces of the pod's users")? {
        Side::Parent(first) => {
            packet::send(handover.as_fd(), b"1", &[first.as_fd()]).context("hand over the pidfd of PID 1")?;
            std::process::exit(0);
        }
        Side::Child => enter_users(start, supervisor, &tree, &program),
    }
}

/// PID 1 in its user namespace, until it is stage2.
fn enter_users(start: &Start<'_>, supervisor: &OwnedFd, tree: &OwnedFd, program: &OwnedFd) -> Result<Infallible> {
    // Group ids first: the right to set them goes with the user id.
    nix::unistd::setgroups(&[]).context("drop the groups of the host")?;
    nix::unistd::setresgid(0.into(), 0.into(), 0.into()).context("become the pod's group 0")?;
    nix::unistd::setresuid(0.into(), 0.into(), 0.into()).context("become the pod's root")?;
    // Only now: a change of ids takes the parent death signal away.
    die_with(supervisor)?;
    match start.plan.network {
        Network::None => network::loopback_up()?,
        Network::Host | Network::Joined => network::join(start.network.as_ref())?,
    }
    pod_root::attach(tree.as_fd(), rustix::fs::CWD, Path::new(".")).context("mount the pod root")?;
    // While the host's own are still in sight: the kernel lets a user namespace mount these two only if it could see
    // complete ones before. stage2 mounts those of the apps, for the same reason, while it sees these.
    mount_kernel("proc", tree.as_fd())?;
    if start.plan.network != Network::Host {
        mount_kernel("sysfs", tree.as_fd())?;
    }
    leave_host(tree.as_fd())?;
    execute(start, program)
}

/// The lock says that the pod lives. It must end with the supervisor, not a moment later with a child that is still dying.
fn let_go_of_lock(start: &Start<'_>) -> Result<()> {
    sys::place(start.pod_file.as_fd(), contract::dir::LOCK_FD).context("let go of the pod's lock")
}

/// The kernel kills this process when the supervisor dies, which it may have done before it was asked to.
fn die_with(supervisor: &OwnedFd) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("set the parent death signal")?;
    let mut watched = [PollFd::new(supervisor, PollFlags::IN)];
    let dead = rustix::event::poll(&mut watched, Some(&Timespec::default())).context("look at the supervisor")?;
    if dead > 0 {
        bail!("the supervisor is gone");
    }
    Ok(())
}

fn build(start: &Start<'_>) -> Result<PodRoot> {
    // Modes of what is made from here on are the plan's.
    rustix::process::umask(Mode::empty());
    let users =
        start.users.as_ref().map(OwnedFd::try_clone).transpose().context("copy the fd of the user namespace")?;
    let owner = start.plan.private_users.map_or(0, |range| range.first);
    let mut site = PodRoot::new(users, owner)?;
    for operation in &start.plan.operations {
        site.carry_out(operation)?;
    }
    site.clear().context("clear the pod root")?;
    Ok(site)
}

/// stage2 as a read-only file: a program in the pod that reaches it through /proc/1/exe cannot write to it, whatever its
/// privileges, also not when it waits for the end of PID 1 (CVE-2019-5736).
fn sealed(path: &Path, site: &PodRoot) -> Result<OwnedFd> {
    let program = pod_root::clone_tree(path, false).with_context(|| format!("open `{}`", path.display()))?;
    let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    let attributes = MountAttributes { set, propagation: libc::MS_PRIVATE, id_mapping: None, recursive: false };
    sys::mount_setattr(program.as_fd(), &attributes).context("make stage2 read-only")?;
    // Attached, because closing a detached mount waits for an RCU grace period, and an attached one ends with the pod.
    let name = Path::new("stage2");
    pod_root::make_mount_point(site.root.as_fd(), name, false).context("make the mount point of stage2")?;
    pod_root::attach(program.as_fd(), site.root.as_fd(), name).context("mount stage2")?;
    Ok(program)
}

fn mount_kernel(kind: &str, root: BorrowedFd<'_>) -> Result<()> {
    let run = || -> rustix::io::Result<()> {
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&context)?;
        let flags =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
        pod_root::attach(mount.as_fd(), root, Path::new(if kind == "proc" { "proc" } else { "sys" }))
    };
    run().with_context(|| format!("mount `{kind}` in the pod"))
}

/// Makes the pod root `/` and takes every mount of the host out of this namespace.
fn leave_host(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root).context("enter the pod root")?;
    // The old root ends up on top of the new one, where the current directory still is the new one: no directory for it.
    rustix::process::pivot_root(".", ".").context("make the pod root `/`")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).context("detach the host's mounts")?;
    rustix::process::chdir("/").context("enter the pod root")
}

fn execute(start: &Start<'_>, program: &OwnedFd) -> Result<Infallible> {
    rustix::process::umask(Mode::from(0o022));
    // Above the numbers that are filled below.
    let program = rustix::io::fcntl_dupfd_cloexec(program, 10).context("move fds")?;
    let pod_file = rustix::io::fcntl_dupfd_cloexec(&start.pod_file, 10).context("move fds")?;
    let channel = rustix::io::fcntl_dupfd_cloexec(&start.channel, 10).context("move fds")?;
    supervisor::sys::close_on_exec_from(3).context("close fds")?;
    sys::place(pod_file.as_fd(), stage2::POD_FD).context("pass `pod.json`")?;
    sys::place(channel.as_fd(), stage2::CHANNEL_FD).context("pass the channel")?;
    start.mask.thread_set_mask().context("restore the signal mask")?;
    let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
    let environment: [&std::ffi::CStr; 0] = [];
    nix::unistd::execveat(&program, c"", &[c"stage2", c"namespaces"], &environment, flags)
        .with_context(|| format!("execute `{}`", start.stage2.display()))
}

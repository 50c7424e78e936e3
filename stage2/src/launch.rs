//! Starting a process: a child that confines itself and becomes the program, and its report to stage2.
//!
//! The report is a socket that execve closes: its end means that the program runs. Before that it may bring the master of
//! the terminal and the socket that the child made in its own /dev, who the app runs as, and if a step went wrong, which one
//! and why.

use crate::confine::{self, Program};
use crate::failure::Failure;
use crate::root::Root;
use crate::streams::{self, Streams};
use crate::sys::{self, Forked};
use crate::{cgroup, device, mount, notify, report, world};
use anyhow::{Context, Result};
use contract::pod::Pod;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::ThreadNameSpaceType;
use std::convert::Infallible;
use std::path::Path;

/// A process that stage2 started.
pub(crate) struct Started {
    /// For comparing with what wait(2) says, never for signals.
    pub(crate) pid: i32,
    /// For signals.
    pub(crate) process: OwnedFd,
    /// See the module's text.
    pub(crate) report: OwnedFd,
}

/// Where a program runs.
pub(crate) enum Place<'a> {
    /// In a world of its own: the app's first process.
    New(&'a Pod),
    /// In the world of the app whose first process this is.
    Beside(BorrowedFd<'a>),
}

/// Starts a program. `cgroups` are the files by which it joins the app's cgroups.
pub(crate) fn start(
    place: &Place<'_>,
    program: &Program<'_>,
    cgroups: &[OwnedFd],
    streams: &Streams,
) -> Result<Started> {
    let (report, childs_end) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .context("make a socket pair")?;
    // The copy of the mount namespace is part of the fork, which saves a call.
    match sys::fork(matches!(place, Place::New(_))).context("start a process")? {
        Forked::Parent(pid, process) => Ok(Started { pid, process, report }),
        Forked::Child => {
            let Err(failure) = become_program(place, program, cgroups, streams, &childs_end);
            report::send_failure(&childs_end, &failure);
            sys::exit_now(failure.exit)
        }
    }
}

/// In the child, to the end.
fn become_program(
    place: &Place<'_>,
    program: &Program<'_>,
    cgroups: &[OwnedFd],
    streams: &Streams,
    report: &OwnedFd,
) -> Result<Infallible, Failure> {
    sys::reset_broken_pipe(); // PID 1 has reset all others.
    nix::sys::signal::SigSet::empty().thread_set_mask().context("unblock signals")?;
    // First of all, so that everything from here on is counted and limited.
    cgroup::join(cgroups)?;
    // No terminal of the caller's can be the controlling one (CVE-2017-5226).
    rustix::process::setsid().context("start a session")?;
    // Modes of what is made for the app are exact.
    rustix::process::umask(Mode::empty());
    match place {
        Place::New(pod) => {
            // After joining, so that the app's own cgroups are the roots of what it sees.
            sys::new_cgroup_namespace().context("make a cgroup namespace")?;
            let world = world::build(pod, program.app)?;
            device::refuse_unconfined(pod, program.app, cgroups.len(), &world.dev)?;
            let who = confine::identity(&world.root, program)?;
            report::send_identity(report, &who)?;
            streams::connect(streams, &world.dev, &world.pts, who.uid, report)?;
            if program.app.notify {
                notify::make(&world.dev, report)?;
            }
            confine::reset_umask();
            confine::execute(&world.root, Some(&world.proc), program, &who)
        }
        Place::Beside(first) => {
            // While the pod root is still here: inside the app's world its masks would make the kernel refuse it.
            let needed = program.app.oom_score_adj.is_some() || program.app.label.is_some();
            let proc = needed.then(|| mount::detached("proc", &[], mount::INERT)).transpose()?;
            enter(*first)?;
            let root = Root::open(Path::new("/"))?;
            let who = confine::identity(&root, program)?;
            let (dev, pts) = streams::existing(&root)?;
            streams::connect(streams, &dev, &pts, who.uid, report)?;
            confine::reset_umask();
            confine::execute(&root, proc.as_ref(), program, &who)
        }
    }
}

/// Joins the mount and cgroup namespaces of an app, whose root becomes ours by that.
fn enter(first: BorrowedFd<'_>) -> Result<()> {
    let namespaces = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::CONTROL_GROUP;
    rustix::thread::move_into_thread_name_spaces(first, namespaces).context("enter the app's namespaces")
}

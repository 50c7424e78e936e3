//! The pod's network namespace: taken from stage0, or made here for a pod with the loopback interface only.
//!
//! Making one costs as much as all mounts of a pod together (0.35 ms of 0.45 ms of the clone), and nothing of it depends on them. So the
//! supervisor makes it while its child mounts, sends it over, and goes back to the host's.

use crate::sys;
use anyhow::{Context, Result, bail};
use nix::sched::CloneFlags;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wire::packet::{self, Packet};

/// In the supervisor: makes a network namespace, sends it to `child`, and returns to the host's.
pub(crate) fn make(child: BorrowedFd<'_>) -> Result<()> {
    let host = own().context("open the host's network namespace")?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    loopback_up()?;
    let pod = own().context("open the pod's network namespace")?;
    match packet::send(child, b"1", &[pod.as_fd()]) {
        // A child that is dead already has said why.
        Ok(()) | Err(Errno::PIPE) => {}
        Err(error) => return Err(error).context("hand over the pod's network namespace"),
    }
    enter(host.as_fd()).context("return to the host's network namespace")
}

/// In the child: waits for what [`make`] sends and enters it.
pub(crate) fn take(supervisor: BorrowedFd<'_>) -> Result<()> {
    let mut watched = [PollFd::from_borrowed_fd(supervisor, PollFlags::IN)];
    while let Err(error) = rustix::event::poll(&mut watched, None) {
        if error != Errno::INTR {
            return Err(error).context("wait for the pod's network namespace");
        }
    }
    let mut byte = [0; 1];
    match packet::receive(supervisor, &mut byte, 1)? {
        Packet::Message(_, fds) => join(fds.first()),
        Packet::Nothing | Packet::End => bail!("the supervisor made no network namespace"),
    }
}

/// Enters the pod's network namespace, if it has one that is not the host's.
pub(crate) fn join(network: Option<&OwnedFd>) -> Result<()> {
    network.map_or(Ok(()), |fd| enter(fd.as_fd()).context("enter the pod's network namespace"))
}

/// Gives this network namespace its 127.0.0.1 and ::1.
pub(crate) fn loopback_up() -> Result<()> {
    // Any socket will do; this kind needs no protocol.
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).context("open a socket")?;
    sys::loopback_up(socket.as_fd()).context("bring the loopback interface up")
}

fn own() -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(CWD, "/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn enter(network: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::thread::move_into_link_name_space(network, Some(LinkNameSpaceType::Network))
}

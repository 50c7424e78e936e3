//! The life of the supervisor of namespaces: what it waits for beside what every supervisor waits for, and how its pod is killed.
//!
//! Runs as the host's root, outside of the pod. PID 1 is reached by its pidfd; its death is, by the kernel's doing, that of
//! everything in the PID namespace.

use crate::spawn::Child;
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus};
use std::os::fd::{AsFd, OwnedFd};
use supervisor::{End, Outcome, Supervisor};
use wire::packet::{self, Packet};

/// Until the pod is dead.
pub(crate) fn supervise(mut supervisor: Supervisor<'_>, child: Child) -> Result<Outcome> {
    let first = match child {
        Child::First(pidfd) => pidfd,
        Child::Builder(builder, handover) => match first_of(&builder, &handover)? {
            Some(first) => first,
            None => return supervisor.finish(End::Code(contract::exit::FAILURE)),
        },
    };
    loop {
        let turn = supervisor.turn(&[first.as_fd()])?;
        if turn.kill {
            kill(&first)?;
        }
        if !turn.ready.is_empty() {
            return supervisor.finish(end_of(&first)?);
        }
    }
}

/// PID 1's pidfd from the builder. None: the builder could not build; it has said why on the channel.
fn first_of(builder: &OwnedFd, handover: &OwnedFd) -> Result<Option<OwnedFd>> {
    let mut watched = [PollFd::new(handover, PollFlags::IN)];
    while let Err(error) = rustix::event::poll(&mut watched, None) {
        if error != Errno::INTR {
            return Err(error).context("wait for the builder of the pod");
        }
    }
    let first = match packet::receive(handover.as_fd(), &mut [0; 1], 1)? {
        Packet::Message(_, fds) => fds.into_iter().next(),
        Packet::Nothing | Packet::End => None,
    };
    end_of(builder)?; // Reaps it.
    Ok(first)
}

fn kill(first: &OwnedFd) -> Result<()> {
    match rustix::process::pidfd_send_signal(first, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("kill the pod"),
    }
}

/// Waits for the process and says how it ended.
fn end_of(process: &OwnedFd) -> Result<End> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(end(&status)),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("learn how the pod ended"),
        }
    }
}

fn end(status: &WaitIdStatus) -> End {
    let number = |value: Option<i32>| value.and_then(|value| u8::try_from(value).ok());
    match (number(status.exit_status()), number(status.terminating_signal())) {
        (Some(code), _) => End::Code(code),
        (None, Some(signal)) => End::Signal(signal),
        (None, None) => End::Code(contract::exit::FAILURE),
    }
}

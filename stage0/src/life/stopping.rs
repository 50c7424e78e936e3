//! Ending a running pod from outside, within a bound.
//!
//! The supervisor is asked to stop the pod. One that does not answer (stopped by SIGSTOP, or wedged), or that takes longer
//! than the grace time and a margin, is killed through its pidfd; the kernel then kills the pod. What is left in the pod's
//! cgroups is killed next. If the lock is held even then, the process that holds it is named: it may be any process to which
//! the fd was given, so this program does not kill it.

use super::pods::PodDir;
use super::supervisor::{self, Connection};
use super::{holder, release};
use crate::failure::Failure;
use crate::output;
use anyhow::{Context, Result};
use contract::control::{Reply, Request};
use contract::dir::{POD, Phase};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// A supervisor answers a request within milliseconds; one that needs longer than this does not run.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// What the pod may take beyond its grace time. A supervisor kills its pod sooner than this itself.
const MARGIN: Duration = Duration::from_secs(25);
/// What the kernel may take to end a killed process.
const DEATH_MAX: Duration = Duration::from_secs(10);
/// No event tells that a lock is free; it is tried this often at most.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// The lock is tried this often while the supervisor lives, in case it no longer holds the lock.
const LIVING_PAUSE: Duration = Duration::from_secs(1);
/// No grace time is longer.
const GRACE_MAX: Duration = Duration::from_secs(86_400);

/// What the user asked for.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// The stop signal of each app, then SIGKILL after this time, or after the app's own.
    Ask(Option<Duration>),
    /// SIGKILL at once.
    Kill,
}

/// A pod on its way to its end.
pub(crate) struct Stopping<'a> {
    pod: &'a PodDir,
    how: How,
    grace: Duration,
    begun: Instant,
    told: Told,
}

/// Who knows by now that the pod shall end.
enum Told {
    /// Nobody needs to: it is dead.
    Dead,
    /// The supervisor, who has not answered yet.
    Asked(Connection),
    /// The supervisor, by a signal that is no SIGKILL.
    Signalled,
    /// The kernel.
    Killed,
    /// No supervisor could be found.
    Nobody,
}

impl<'a> Stopping<'a> {
    /// Tells the supervisor, without waiting for an answer.
    pub(crate) fn begin(pod: &'a PodDir, how: How) -> Result<Self> {
        let grace = match how {
            How::Ask(Some(grace)) => grace,
            How::Ask(None) => longest_grace(pod),
            How::Kill => Duration::ZERO,
        };
        let told = if pod.phase == Phase::Run && pod.is_locked()? { tell(pod, how)? } else { Told::Dead };
        Ok(Self { pod, how, grace: grace.min(GRACE_MAX), begun: Instant::now(), told })
    }

    /// Waits for the pod's death, and brings it about when it takes too long.
    pub(crate) fn finish(mut self) -> Result<()> {
        let late = self.begun + self.grace + MARGIN;
        while matches!(self.told, Told::Nobody) && self.begun.elapsed() < ANSWER_MAX {
            // The supervisor may just be starting: it has the lock before it has a socket.
            if wait_for_death(self.pod, None, Instant::now() + PAUSE_MAX)? {
                return Ok(());
            }
            self.told = tell(self.pod, self.how)?;
        }
        let process = supervisor::process(self.pod)?;
        let until = match &self.told {
            Told::Dead => return Ok(()),
            Told::Asked(connection) if !answered(connection, self.begun + self.grace.max(ANSWER_MAX))? => {
                // It may have died without an answer.
                Instant::now()
            }
            Told::Asked(_) | Told::Signalled => late,
            Told::Killed => Instant::now() + DEATH_MAX,
            Told::Nobody => Instant::now(),
        };
        if wait_for_death(self.pod, process.as_ref(), until)? {
            return Ok(());
        }
        self.kill(process)
    }

    fn kill(&self, process: Option<OwnedFd>) -> Result<()> {
        if let Some(process) = process.filter(|_| !matches!(self.told, Told::Killed)) {
            output::notice(&format!("pod `{}`: the supervisor did not end the pod; it is killed", self.pod.uuid));
            signal(process.as_fd(), libc::SIGKILL)?;
            if wait_for_death(self.pod, Some(&process), Instant::now() + DEATH_MAX)? {
                return Ok(());
            }
        }
        release::kill_all(self.pod)?;
        if wait_for_death(self.pod, None, Instant::now() + LIVING_PAUSE)? {
            return Ok(());
        }
        Err(holder::still_held(self.pod.fd()).into())
    }
}

/// The longest grace time of the pod's apps.
fn longest_grace(pod: &PodDir) -> Duration {
    #[derive(Deserialize)]
    struct Apps {
        apps: Vec<App>,
    }
    #[derive(Deserialize)]
    struct App {
        stop: Stop,
    }
    #[derive(Deserialize)]
    struct Stop {
        grace_millis: u64,
    }
    // A pod without a readable pod.json has no grace time, and still has to end.
    let apps: Option<Apps> = pod.read(POD).unwrap_or_default();
    let longest = apps.iter().flat_map(|pod| &pod.apps).map(|app| app.stop.grace_millis).max();
    Duration::from_millis(longest.unwrap_or(0))
}

fn tell(pod: &PodDir, how: How) -> Result<Told> {
    let process = supervisor::process(pod)?;
    let (grace, fallback) = match how {
        How::Kill => {
            if let Some(process) = process {
                // The kernel kills the rest of the pod with its supervisor.
                return signal(process.as_fd(), libc::SIGKILL).map(|()| Told::Killed);
            }
            (Some(Duration::ZERO), Told::Nobody)
        }
        How::Ask(grace) => (grace, Told::Signalled),
    };
    if let Some(connection) = supervisor::connect_within(pod, ANSWER_MAX)? {
        let grace_millis = grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        return Ok(match connection.send(&Request::Stop { grace_millis }, &[]) {
            Ok(()) => Told::Asked(connection),
            Err(_) => fallback, // It is ending, or it takes nothing; the deadline decides.
        });
    }
    // SIGTERM means the same to a supervisor.
    match process {
        Some(process) => signal(process.as_fd(), libc::SIGTERM).map(|()| Told::Signalled),
        None => Ok(Told::Nobody),
    }
}

/// Whether the supervisor accepts the request, or is gone, before `until`.
fn answered(connection: &Connection, until: Instant) -> Result<bool> {
    let mut watched = [PollFd::from_borrowed_fd(connection.fd(), PollFlags::IN)];
    if rustix::io::retry_on_intr(|| poll(&mut watched, Some(&until_then(until)))).context("wait for an answer")? == 0 {
        return Ok(false);
    }
    match connection.receive()? {
        None | Some((Reply::Accepted, _)) => Ok(true),
        Some((Reply::Refused { message }, _)) => Err(Failure::new(message).into()),
        Some(_) => Err(Failure::new("the supervisor gave an answer that fits no stop").into()),
    }
}

/// Whether the lock is free before `until`. The kernel frees it before it reports the death of the last process that has it.
fn wait_for_death(pod: &PodDir, mut process: Option<&OwnedFd>, until: Instant) -> Result<bool> {
    let mut pause = Duration::from_millis(1);
    loop {
        if !pod.is_locked()? {
            return Ok(true);
        }
        let now = Instant::now();
        if now >= until {
            return Ok(false);
        }
        if let Some(living) = process {
            let mut watched = [PollFd::new(living, PollFlags::IN)];
            let timeout = until_then(until.min(now + LIVING_PAUSE));
            if rustix::io::retry_on_intr(|| poll(&mut watched, Some(&timeout))).context("wait for the supervisor")? > 0
            {
                process = None;
            }
        } else {
            std::thread::sleep(pause.min(until - now));
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

fn until_then(until: Instant) -> Timespec {
    let left = until.saturating_duration_since(Instant::now());
    Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
}

fn signal(process: BorrowedFd<'_>, signal: i32) -> Result<()> {
    match crate::sys::pidfd_signal(process, signal) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error).context("signal the supervisor"),
        _ => Ok(()),
    }
}

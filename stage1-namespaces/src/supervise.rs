//! The supervisor's life after stage2 was started: it waits, and does one thing for each thing that happens.
//!
//! Runs as the host's root, outside of the pod. What the pod says decides nothing here but texts and exit codes; a pod that
//! does not end when it is told to is killed through its pidfd.

use crate::channel::{Channel, Packet, Received};
use crate::control::{Control, Heard};
use crate::record::Statuses;
use crate::report::Outcome;
use crate::spawn::Child;
use crate::sys;
use crate::terminal::{End, Terminal};
use anyhow::{Context, Result, bail};
use contract::channel::{Command, Event};
use contract::control::{Reply, Request};
use contract::exit;
use contract::pod::Pod;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

/// A pod that was told to stop gets its longest grace time and this for stage2 itself.
const STOP_MARGIN: Duration = Duration::from_secs(5);
/// A start is written down when the app has lived this long, or has ended: most short apps need one file, not two.
const RECORD_DELAY: Duration = Duration::from_millis(20);
/// When nothing has happened for this long, the supervisor gives its memory back.
const SETTLE_DELAY: Duration = Duration::from_secs(1);
/// At most this many events are taken before others get their turn.
const EVENTS_IN_TURN: usize = 64;

/// Signals that the supervisor takes as messages. Those that stop the pod, then those that go to the apps.
const STOPPING: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];
const PASSED_ON: [Signal; 4] = [Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Turns signals into a file to wait for. Before the first child, so that none is lost.
pub(crate) fn catch_signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    STOPPING.into_iter().chain(PASSED_ON).chain([Signal::SIGWINCH]).for_each(|signal| set.add(signal));
    set.thread_block().context("block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("take signals as a file")
}

/// Everything that a running pod has outside of itself.
pub(crate) struct Supervisor<'a> {
    pod: &'a Pod,
    directory: OwnedFd,
    channel: Channel,
    channel_open: bool,
    control: Control,
    signals: SignalFd,
    statuses: Statuses,
    terminal: Option<Terminal>,
    failure: Option<String>,
    /// When the pod is killed.
    kill_at: Option<Instant>,
    stops: u32,
    /// When it is time to give memory back.
    settle_at: Option<Instant>,
    /// That time has come.
    settled: bool,
}

/// What one waiting was ended by.
#[derive(Clone, Copy)]
enum Source {
    First,
    Channel,
    Signals,
    Listener,
    Client(u32),
    Terminal(End, PollFlags),
}

impl<'a> Supervisor<'a> {
    /// Takes over what `run` has made.
    #[allow(clippy::too_many_arguments)] // Each is of another type and made by another module.
    pub(crate) fn new(
        pod: &'a Pod,
        directory: OwnedFd,
        channel: Channel,
        control: Control,
        signals: SignalFd,
        statuses: Statuses,
        terminal: Option<Terminal>,
    ) -> Self {
        Self {
            pod,
            directory,
            channel,
            channel_open: true,
            control,
            signals,
            statuses,
            terminal,
            failure: None,
            kill_at: None,
            stops: 0,
            settle_at: Some(Instant::now() + SETTLE_DELAY),
            settled: false,
        }
    }

    /// Until the pod is dead.
    pub(crate) fn supervise(mut self, child: Child) -> Result<Outcome> {
        let first = match child {
            Child::First(pidfd) => pidfd,
            Child::Builder(builder, handover) => match first_of(&builder, &handover)? {
                Some(first) => first,
                None => return self.outcome(exit::FAILURE),
            },
        };
        while !self.turn(&first)? {}
        let code = exit_code(&first)?;
        self.outcome(code)
    }

    /// Waits once and handles what happened. True: PID 1 is dead.
    fn turn(&mut self, first: &OwnedFd) -> Result<bool> {
        let ready = self.wait(first)?;
        let now = Instant::now();
        self.settled = false;
        if ready.is_empty() {
            self.statuses.write(self.directory.as_fd())?;
        } else {
            self.settle_at = Some(now + SETTLE_DELAY);
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            kill(first)?;
            self.kill_at = None;
        }
        if self.settle_at.is_some_and(|at| at <= now) {
            self.settle_at = None;
            self.settled = true;
        }
        let mut dead = false;
        for source in ready {
            match source {
                Source::First => dead = true,
                Source::Channel => self.take_events(first),
                Source::Signals => self.take_signals()?,
                Source::Listener => self.control.accept()?,
                Source::Client(id) => self.take_request(id),
                Source::Terminal(end, flags) => self.terminal.iter_mut().for_each(|joined| joined.relay(end, flags)),
            }
        }
        Ok(dead)
    }

    fn wait(&self, first: &OwnedFd) -> Result<Vec<Source>> {
        let mut sources = vec![Source::First, Source::Signals];
        let mut watched = vec![PollFd::new(first, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        let mut watch = |source, fd, flags| {
            sources.push(source);
            watched.push(PollFd::from_borrowed_fd(fd, flags));
        };
        if self.channel_open {
            watch(Source::Channel, self.channel.as_fd(), PollFlags::IN);
        }
        self.control.clients().for_each(|(id, fd)| watch(Source::Client(id), fd, PollFlags::IN));
        // After the clients: who left has made room.
        watch(Source::Listener, self.control.listener(), PollFlags::IN);
        for (end, fd, flags) in self.terminal.iter().flat_map(Terminal::interests) {
            watch(Source::Terminal(end, flags), fd, flags);
        }
        let timeout = self.timeout();
        if self.settled {
            // Right before the call that waits, so that no more than its own page comes back.
            sys::drop_code();
        }
        match rustix::event::poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the pod"),
        }
        let happened = sources.into_iter().zip(watched).filter(|(_, polled)| !polled.revents().is_empty());
        Ok(happened
            .map(|(source, polled)| match source {
                Source::Terminal(end, _) => Source::Terminal(end, polled.revents()),
                source => source,
            })
            .collect())
    }

    fn timeout(&self) -> Option<Timespec> {
        let record = self.statuses.unwritten().then_some(RECORD_DELAY);
        let times = [self.kill_at, self.settle_at].into_iter().flatten();
        let until = times.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = record.into_iter().chain(until).min()?;
        Some(Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        })
    }

    /// What stage2 says. What it may not say is the end of the pod.
    fn take_events(&mut self, first: &OwnedFd) {
        for _ in 0..EVENTS_IN_TURN {
            let taken = self.channel.receive().and_then(|received| match received {
                Received::Nothing => Ok(false),
                Received::End => {
                    self.channel_open = false;
                    Ok(false)
                }
                Received::Event(event, fds) => self.happened(event, fds).map(|()| true),
            });
            match taken {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.failure.get_or_insert(format!("{error:#}"));
                    self.channel_open = false;
                    let _ = kill(first); // It is dead already; its pidfd says so next.
                    return;
                }
            }
        }
    }

    fn happened(&mut self, event: Event, fds: Vec<OwnedFd>) -> Result<()> {
        let now = SystemTime::now();
        match event {
            Event::Started { app } => {
                if !self.statuses.started(&app, now) {
                    bail!("stage2 reports the start of an app that the pod does not have");
                }
                if let (Some(terminal), Some(master)) = (&mut self.terminal, fds.into_iter().next()) {
                    terminal.join(master);
                }
            }
            Event::Ended { app, end, again: _ } => {
                if !self.statuses.ended(&app, end, now) {
                    bail!("stage2 reports the end of an app that the pod does not have");
                }
                self.statuses.write(self.directory.as_fd())?;
            }
            Event::Ready { app } => {
                if !self.statuses.ready(&app) {
                    bail!("stage2 reports the readiness of an app that the pod does not have");
                }
            }
            Event::ExecStarted { session } => {
                self.control.started(session, fds.into_iter().next());
            }
            Event::ExecEnded { session, end } => {
                self.control.tell(session, &Reply::Exited { end }, &[]);
                self.control.close(session);
            }
            Event::Failed { message } => {
                self.failure.get_or_insert(message);
            }
            Event::Output { .. } | Event::PodEnded { .. } | Event::Taken { .. } | Event::Booted => {
                bail!("stage2 sent an event of a guest")
            }
        }
        Ok(())
    }

    fn take_signals(&mut self) -> Result<()> {
        while let Some(info) = self.signals.read_signal().context("read a signal")? {
            let Some(signal) = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
            else {
                continue;
            };
            if STOPPING.contains(&signal) {
                // Who asks twice does not want to wait.
                let grace_millis = (self.stops > 0).then_some(0);
                self.stop(grace_millis);
            } else if signal == Signal::SIGWINCH {
                self.terminal.iter().for_each(Terminal::resize);
            } else {
                self.tell_stage2(&Command::Signal { signal: signal as i32 }, &[]);
            }
        }
        Ok(())
    }

    fn stop(&mut self, grace_millis: Option<u64>) {
        self.stops += 1;
        let longest = self.pod.apps.iter().map(|app| app.stop.grace_millis).max().unwrap_or(0);
        let at = Instant::now().checked_add(Duration::from_millis(grace_millis.unwrap_or(longest)) + STOP_MARGIN);
        // A second request never gives the pod more time.
        self.kill_at = self.kill_at.into_iter().chain(at).min();
        self.tell_stage2(&Command::Stop { grace_millis }, &[]);
    }

    /// False: stage2 did not take it. It is dying, or it does not read; a stop has its deadline.
    fn tell_stage2(&self, command: &Command, fds: &[BorrowedFd<'_>]) -> bool {
        self.channel.send(command, fds).is_ok()
    }

    fn take_request(&mut self, id: u32) {
        match self.control.hear(id) {
            Heard::Nothing | Heard::Gone => {}
            // Its terminal or pipes are gone as well.
            Heard::Abandoned => {
                self.tell_stage2(&Command::ExecSignal { session: id, signal: Signal::SIGHUP as i32 }, &[]);
            }
            Heard::Request(request, fds) => {
                let refused = match self.carry_out(id, request, &fds) {
                    Ok(None) => return,
                    Ok(Some(reply)) => reply,
                    Err(error) => Reply::Refused { message: format!("{error:#}") },
                };
                self.control.tell(id, &refused, &[]);
            }
        }
    }

    /// The reply to give at once, if there is one.
    fn carry_out(&mut self, id: u32, request: Request, fds: &[OwnedFd]) -> Result<Option<Reply>> {
        let session = self.control.in_session(id);
        let command = match request {
            Request::Status => {
                return Ok(Some(Reply::Status { apps: self.statuses.all(), ready: self.statuses.all_ready() }));
            }
            Request::Stop { grace_millis } => {
                self.stop(grace_millis);
                return Ok(Some(Reply::Accepted));
            }
            Request::Exec(_) if session => bail!("this connection has a session already"),
            Request::Exec(exec) => {
                let wanted = if exec.tty.is_some() { 0 } else { 3 };
                if fds.len() != wanted {
                    bail!("the request carries {} fds instead of {wanted}", fds.len());
                }
                if !self.pod.apps.iter().any(|app| app.name == exec.app) {
                    bail!("the pod has no app `{}`", exec.app);
                }
                self.control.open_session(id);
                Command::Exec { session: id, exec }
            }
            Request::Signal { .. } | Request::Resize { .. } if !session => bail!("this connection has no session"),
            Request::Signal { signal } => Command::ExecSignal { session: id, signal },
            Request::Resize { rows, columns } => {
                self.control.resize(id, (rows, columns));
                return Ok(None);
            }
        };
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        self.channel.send(&command, &fds)?;
        Ok(None)
    }

    /// PID 1 is dead, and so is everything in the pod.
    fn outcome(mut self, exit: u8) -> Result<Outcome> {
        while self.channel_open {
            match self.channel.receive() {
                Ok(Received::Event(event, fds)) => self.happened(event, fds)?,
                Ok(Received::Nothing | Received::End) => break,
                Err(error) => {
                    self.failure.get_or_insert(format!("{error:#}"));
                    break;
                }
            }
        }
        let apps = self.statuses.failures().map(|(name, message)| format!("app `{name}`: {message}"));
        let messages = self.failure.iter().cloned().chain(apps).collect();
        self.statuses.killed(SystemTime::now());
        if let Some(message) = &self.failure {
            self.statuses.never_started(message.lines().next().unwrap_or_default());
        }
        self.statuses.write(self.directory.as_fd())?;
        if let Some(terminal) = &mut self.terminal {
            terminal.finish();
        }
        Ok(Outcome { exit, messages })
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
    let mut byte = [0; 1];
    let first = match crate::channel::receive(handover.as_fd(), &mut byte)? {
        Packet::Message(fds, _) => fds.into_iter().next(),
        Packet::Nothing | Packet::End => None,
    };
    exit_code(builder)?; // Reaps it.
    Ok(first)
}

fn kill(first: &OwnedFd) -> Result<()> {
    match rustix::process::pidfd_send_signal(first, rustix::process::Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("kill the pod"),
    }
}

/// Waits for the process and gives its exit code as a shell would.
fn exit_code(process: &OwnedFd) -> Result<u8> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(code_of(&status)),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("learn how the pod ended"),
        }
    }
}

fn code_of(status: &WaitIdStatus) -> u8 {
    let number = |value: Option<i32>| value.and_then(|value| u8::try_from(value).ok());
    match (number(status.exit_status()), number(status.terminating_signal())) {
        (Some(code), _) => code,
        (None, Some(signal)) => exit::SIGNAL_BASE.wrapping_add(signal),
        (None, None) => exit::FAILURE,
    }
}

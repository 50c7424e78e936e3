//! The event loop of a supervisor: waits for the channel, the clients, the signals, the caller's terminal, and what the stage
//! itself has to wait for; asks [`Life`] what follows, and does it.

use crate::control::{Control, Received};
use crate::life::{ClientId, Effect, End, Life, Now, Outcome};
use crate::link::Link;
use crate::record::{self, Records};
use crate::terminal::{self, Terminal};
use crate::{Place, report, sys};
use anyhow::{Context, Result};
use contract::channel::{Command, Event};
use contract::control::Reply;
use contract::name::AppName;
use contract::pod::{App, Pod, Stdio};
use contract::status::AppEnd;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::time::ClockId;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wire::mux::Token;

/// When nothing has happened for this long, the supervisor gives its memory back.
const SETTLE_MILLIS: u64 = 1000;
/// At most this many events are taken before others get their turn.
const EVENTS_IN_TURN: usize = 64;
/// Signals that the supervisor takes as messages: those that stop the pod, those that go to the apps, and a new size of the
/// caller's terminal. Job control and faults keep their default action.
const SIGNALS: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// The signals of a supervisor, as a file.
#[derive(Debug)]
pub struct Signals {
    file: SignalFd,
    /// The mask as it was, for programs that others have written.
    pub mask_before: SigSet,
}

impl Signals {
    /// From now on signals wait to be read. Before the pod is started, so that none is lost.
    pub fn catch() -> Result<Self> {
        let mask_before = SigSet::thread_get_mask().context("read the signal mask")?;
        let set: SigSet = SIGNALS.into_iter().collect();
        set.thread_block().context("block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { file: SignalFd::with_flags(&set, flags).context("take signals as a file")?, mask_before })
    }

    fn next(&self) -> Result<Option<i32>> {
        let info = self.file.read_signal().context("read a signal")?;
        Ok(info.map(|info| i32::try_from(info.ssi_signo).unwrap_or_default()))
    }
}

/// Everything that a running pod has outside of itself.
#[derive(Debug)]
pub struct Supervisor<'a> {
    pod: &'a Pod,
    directory: BorrowedFd<'a>,
    life: Life,
    link: Link,
    /// The link carries what is no event; it is not heard any more.
    broken: bool,
    control: Control,
    signals: Signals,
    records: Records,
    terminal: Option<Terminal>,
    /// What stands for the master of the app's terminal in a guest, until the app runs.
    guest_terminal: Option<OwnedFd>,
    /// Sessions whose process has ended and whose client has not taken all output.
    ending: BTreeMap<ClientId, AppEnd>,
    kill: bool,
    /// More events than one turn takes were there.
    more: bool,
    settle_at: Option<u64>,
    settled: bool,
}

/// What a turn leaves to the stage.
#[derive(Debug, Default)]
pub struct Turn {
    /// Everything in the pod is to be killed now.
    pub kill: bool,
    /// Which of the stage's own descriptors are ready, by their place.
    pub ready: Vec<usize>,
}

/// What one waiting was ended by.
#[derive(Clone, Copy)]
enum Source {
    Link(Token),
    Signals,
    Listener,
    Client(ClientId),
    Terminal(terminal::End),
    Stage(usize),
}

impl<'a> Supervisor<'a> {
    /// Listens on `control.sock`. A guest has to speak for the first time within `boot_millis`.
    pub fn new(place: &'a Place, link: Link, signals: Signals, boot_millis: Option<u64>) -> Result<Self> {
        let tty = place.pod.apps.iter().any(|app| app.stdio == Stdio::Tty);
        let now = now();
        let mut supervisor = Self {
            pod: &place.pod,
            directory: place.directory.as_fd(),
            life: Life::new(&place.pod, boot_millis, now),
            link,
            broken: false,
            control: Control::bind()?,
            signals,
            records: Records::default(),
            terminal: if tty { Terminal::of_caller() } else { None },
            guest_terminal: None,
            ending: BTreeMap::new(),
            kill: false,
            more: false,
            settle_at: Some(now.millis + SETTLE_MILLIS),
            settled: false,
        };
        supervisor.connect_streams()?;
        Ok(supervisor)
    }

    /// The streams of the apps of a guest: the caller's, or a terminal.
    fn connect_streams(&mut self) -> Result<()> {
        if self.terminal.is_some() {
            self.guest_terminal = self.link.add_terminal(0)?;
        }
        let Link::Frames(mux) = &mut self.link else { return Ok(()) };
        let own = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 6).ok();
        let reads = |app: &App| matches!(app.stdio, Stdio::Tty | Stdio::Inherit { stdin: true });
        let streams = mux.session(0);
        if self.terminal.is_none() {
            let input = self.pod.apps.iter().any(reads).then(|| own(std::io::stdin().as_fd())).flatten();
            input.into_iter().for_each(|fd| streams.add_reader(0, fd));
            own(std::io::stdout().as_fd()).into_iter().for_each(|fd| streams.add_writer(1, fd));
        }
        own(std::io::stderr().as_fd()).into_iter().for_each(|fd| streams.add_writer(2, fd));
        Ok(())
    }

    /// Lets stage2 start the apps. `fds` are the files by which each app joins its cgroups, so many as `cgroups` says.
    pub fn start(&mut self, cgroups: Vec<(AppName, usize)>, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let tty = self.terminal.as_ref().map(Terminal::size);
        match self.link.send(&Command::Start { cgroups, tty }, fds) {
            // Whoever was to hear it is dead already. Why, is the last thing that it said.
            Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::PIPE) => Ok(()),
            sent => sent.context("start the apps"),
        }
    }

    /// Waits once, also for the stage's own descriptors, and handles what happened.
    pub fn turn(&mut self, stage: &[BorrowedFd<'_>]) -> Result<Turn> {
        let sources = self.wait(stage)?;
        let now = now();
        if !sources.is_empty() {
            self.settle_at = Some(now.millis + SETTLE_MILLIS);
        }
        self.settled = self.settle_at.take_if(|at| *at <= now.millis).is_some();
        let mut ready = Vec::new();
        for (source, flags) in sources {
            match source {
                Source::Link(token) => {
                    if let Err(error) = self.link.ready(token, flags) {
                        self.break_link(&error);
                    }
                }
                Source::Signals => self.take_signals()?,
                Source::Listener => self.control.accept()?,
                Source::Client(client) => self.take_request(client)?,
                Source::Terminal(end) => self.terminal.iter_mut().for_each(|terminal| terminal.relay(end, flags)),
                Source::Stage(place) => ready.push(place),
            }
        }
        self.take_events(EVENTS_IN_TURN)?;
        let effects = self.life.due(now);
        self.carry_out(effects)?;
        self.end_sessions()?;
        Ok(Turn { kill: std::mem::take(&mut self.kill), ready })
    }

    fn wait(&mut self, stage: &[BorrowedFd<'_>]) -> Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Signals];
        let mut watched = vec![PollFd::new(&self.signals.file, PollFlags::IN)];
        let mut watch = |source, fd, flags| {
            sources.push(source);
            watched.push(PollFd::from_borrowed_fd(fd, flags));
        };
        if !self.broken {
            self.link.interests().into_iter().for_each(|(token, fd, flags)| watch(Source::Link(token), fd, flags));
        }
        self.control.clients().for_each(|(client, fd)| watch(Source::Client(client), fd, PollFlags::IN));
        // After the clients: one that left has made room.
        watch(Source::Listener, self.control.listener(), PollFlags::IN);
        for (end, fd, flags) in self.terminal.iter().flat_map(Terminal::interests) {
            watch(Source::Terminal(end), fd, flags);
        }
        stage.iter().enumerate().for_each(|(place, fd)| watch(Source::Stage(place), *fd, PollFlags::IN));
        let timeout = self.timeout();
        if self.settled {
            // Right before the call that waits, so that no more than its own page comes back.
            sys::drop_code();
        }
        match rustix::event::poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the pod"),
        }
        let happened = sources.into_iter().zip(watched.iter().map(PollFd::revents));
        Ok(happened.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn timeout(&self) -> Option<Timespec> {
        let now = now().millis;
        let until = [self.life.next(), self.settle_at].into_iter().flatten().map(|at| at.saturating_sub(now));
        let wait = if self.more || self.kill { 0 } else { until.min()? };
        Some(Timespec {
            tv_sec: i64::try_from(wait / 1000).unwrap_or(i64::MAX),
            tv_nsec: (wait % 1000 * 1_000_000) as _,
        })
    }

    /// What stage2 says. What it may not say is the end of the pod.
    fn take_events(&mut self, count_max: usize) -> Result<()> {
        self.more = false;
        for _ in 0..count_max {
            if self.broken {
                return Ok(());
            }
            match self.link.receive() {
                Ok(Some((event, fd))) => self.happened(event, fd)?,
                Ok(None) => return Ok(()),
                Err(error) => self.break_link(&error),
            }
        }
        self.more = true;
        Ok(())
    }

    fn break_link(&mut self, error: &anyhow::Error) {
        if !std::mem::replace(&mut self.broken, true) {
            self.fail(report::describe(error));
        }
    }

    /// The pod cannot go on, for this reason.
    pub fn fail(&mut self, cause: String) {
        self.kill |= self.life.fail(cause).contains(&Effect::Kill);
    }

    fn happened(&mut self, event: Event, mut fd: Option<OwnedFd>) -> Result<()> {
        match &event {
            Event::Started { app } if self.pod.apps.iter().any(|one| one.name == *app && one.stdio == Stdio::Tty) => {
                if let (Some(terminal), Some(master)) = (&mut self.terminal, fd.take().or(self.guest_terminal.take())) {
                    terminal.join(master);
                }
            }
            Event::ExecStarted { session } if fd.is_some() => self.control.set_terminal(*session, fd),
            _ => {}
        }
        match self.life.event(event, now()) {
            Ok(effects) => self.carry_out(effects),
            Err(law) => {
                self.break_link(&anyhow::anyhow!(law));
                Ok(())
            }
        }
    }

    fn take_signals(&mut self) -> Result<()> {
        while let Some(signal) = self.signals.next()? {
            if signal == libc::SIGWINCH {
                self.resize();
            } else {
                let effects = self.life.signal(signal, now());
                self.carry_out(effects)?;
            }
        }
        Ok(())
    }

    fn resize(&mut self) {
        let Some(terminal) = &self.terminal else { return };
        if matches!(self.link, Link::Packets(_)) {
            terminal.resize();
        } else {
            let (rows, columns) = terminal.size();
            let _ = self.link.send(&Command::Resize { session: 0, rows, columns }, &[]); // The guest is at its end.
        }
    }

    fn take_request(&mut self, client: ClientId) -> Result<()> {
        let effects = match self.control.receive(client) {
            Received::Nothing => return Ok(()),
            Received::Request(request, fds) => self.life.request(client, request, fds, now()),
            Received::Gone => {
                self.control.close(client);
                self.life.client_gone(client)
            }
        };
        self.carry_out(effects)
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Result<()> {
        for effect in effects {
            match effect {
                // stage2 is dying, or does not read; a stop has its deadline.
                Effect::Send(command) => drop(self.link.send(&command, &[])),
                Effect::Open(client, exec) => {
                    let fds = self.control.take_fds(client);
                    match self.link.open(client, exec, fds) {
                        Ok(terminal) => self.control.set_terminal(client, terminal),
                        Err(error) => {
                            self.life.not_opened(client);
                            self.control.reply(client, &Reply::Refused { message: report::describe(&error) });
                            self.control.close(client);
                        }
                    }
                }
                Effect::Resize(client, rows, columns) => self.resize_session(client, (rows, columns)),
                Effect::Started(client) => {
                    let heard = self.control.started(client);
                    if matches!(self.link, Link::Frames(_)) {
                        // The client has it; the other side ends with it.
                        self.control.set_terminal(client, None);
                    }
                    self.unless_heard(client, heard)?;
                }
                Effect::Exited(client, end) => drop(self.ending.insert(client, end)),
                Effect::Reply(client, reply) => {
                    let heard = self.control.reply(client, &reply);
                    self.unless_heard(client, heard)?;
                }
                Effect::Close(client) => self.control.close(client),
                Effect::Record(app) => self.record(&app)?,
                Effect::DropOutput => {
                    if let Link::Frames(mux) = &mut self.link {
                        mux.give_up()?;
                    }
                }
                Effect::Kill => self.kill = true,
            }
        }
        Ok(())
    }

    /// A client that does not read is disconnected.
    fn unless_heard(&mut self, client: ClientId, heard: bool) -> Result<()> {
        if heard {
            return Ok(());
        }
        self.control.close(client);
        let effects = self.life.client_gone(client);
        self.carry_out(effects)
    }

    fn resize_session(&mut self, client: ClientId, size: (u16, u16)) {
        if matches!(self.link, Link::Packets(_)) {
            self.control.terminal(client).into_iter().for_each(|master| terminal::set_size(master, size));
        } else {
            let (rows, columns) = size;
            let _ = self.link.send(&Command::Resize { session: client, rows, columns }, &[]); // As for any command.
        }
    }

    fn record(&mut self, app: &AppName) -> Result<()> {
        match self.life.apps().status(app) {
            Some(status) => self.records.write(self.directory, app, status),
            None => Ok(()),
        }
    }

    /// Tells the clients whose process has ended and who have all of its output.
    fn end_sessions(&mut self) -> Result<()> {
        let done: Vec<ClientId> = self.ending.keys().copied().filter(|client| self.link.is_written(*client)).collect();
        for client in done {
            let Some(end) = self.ending.remove(&client) else { continue };
            // A terminal ends before its process is said to have ended.
            self.link.close(client);
            self.control.set_terminal(client, None);
            self.control.reply(client, &Reply::Exited { end });
            self.control.close(client);
        }
        Ok(())
    }

    /// The exit code of a guest's pod that is over, once its output and the ends of its sessions are out.
    pub fn guest_over(&self) -> Option<u8> {
        let written = if let Link::Frames(mux) = &self.link { mux.is_written() } else { true };
        self.life.guest_over(written && self.ending.is_empty(), now())
    }

    /// The hypervisor has ended: takes what the guest has said before, and gives its exit code if it is among that.
    pub fn last_words(&mut self) -> Result<Option<u8>> {
        while !self.broken && self.link.is_readable() {
            if let Err(error) = self.link.ready(Token::Channel, PollFlags::IN) {
                self.break_link(&error);
            }
            self.take_events(usize::MAX)?;
        }
        Ok(self.life.guest_ended())
    }

    /// The pod is dead, and so is everything in it.
    pub fn finish(mut self, end: End) -> Result<Outcome> {
        if matches!(self.link, Link::Packets(_)) {
            self.take_events(usize::MAX)?;
        }
        let effects = self.life.close_sessions();
        self.carry_out(effects)?;
        self.end_sessions()?;
        let outcome = self.life.over(end, now());
        for app in self.life.unwritten() {
            self.record(&app)?;
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.finish();
        }
        Ok(outcome)
    }
}

fn now() -> Now {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let millis = now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000;
    Now { millis, unix_nanos: record::unix_nanos() }
}

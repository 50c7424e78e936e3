//! The supervisor's loop: one thread that waits for the guest, the caller's signals and terminal, and control clients.
//! It ends when the guest says that the pod is over, or when the hypervisor ends.

use crate::channel::Channel;
use crate::console::Console;
use crate::control::{Ask, Control, Source, read_input, taken};
use crate::hypervisor::Machine;
use crate::record;
use crate::run::Hint;
use crate::sink::Sink;
use crate::terminal::{self, RawTerminal};
use anyhow::{Context, Result, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use contract::channel::{Command, Event, WINDOW_BYTES};
use contract::control::Reply;
use contract::name::AppName;
use contract::pod::{Pod, Stdio};
use contract::status::{AppEnd, AppStatus};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::{Duration, Instant};

/// What the hypervisor may say about its failure.
const REPORT_BYTES_MAX: usize = 8 << 10;
/// How long readers of our output may keep a finished pod waiting.
const DRAIN_SECS_MAX: u64 = 5;
/// What a stopped guest may take beyond the longest grace time.
const STOP_SECS_EXTRA: u64 = 15;

/// How a pod ended.
pub(crate) struct Ended {
    /// Its exit code.
    pub(crate) exit: u8,
    /// Why apps could not be started; the guest's words.
    pub(crate) failures: Vec<String>,
}

/// Runs `machine` until the pod is over. The hypervisor is gone when this returns.
pub(crate) fn supervise(pod: &Pod, machine: Machine) -> Result<Ended> {
    let mut guard = Processes(machine);
    let signals = watch_signals()?;
    let tty = pod.apps.iter().any(|app| app.stdio == Stdio::Tty);
    let _raw = if tty { RawTerminal::enter()? } else { None };
    let channel = guard.0.channel.try_clone().context("clone the channel")?;
    let mut supervisor = Supervisor::new(pod, Channel::new(channel)?, signals, guard.0.boot_secs_max)?;
    supervisor.channel.send(&Command::Start { cgroups: Vec::new(), tty: terminal::size().filter(|_| tty) })?;
    let result = supervisor.run(&mut guard.0);
    guard.kill();
    Ok(Ended { exit: result?, failures: supervisor.failures() })
}

/// The hypervisor and its helpers, killed when this goes.
struct Processes(Machine);

impl Processes {
    fn kill(&mut self) {
        for process in std::iter::once(&mut self.0.process).chain(&mut self.0.helpers) {
            let _ = process.kill(); // It may have ended by itself.
            let _ = process.wait();
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Supervisor<'a> {
    pod: &'a Pod,
    channel: Channel,
    control: Control,
    signals: SignalFd,
    input: Option<OwnedFd>,
    /// Bytes of input that the guest has not passed on yet.
    under_way: usize,
    outputs: [Sink; 2],
    apps: BTreeMap<AppName, AppStatus>,
    ready: BTreeMap<AppName, bool>,
    /// With `--debug`.
    console: Option<Console>,
    report: Vec<u8>,
    report_open: bool,
    exit: Option<u8>,
    /// A stop was asked for.
    stopping: bool,
    /// When the output of a pod that was stopped, and whose apps have ended, is dropped if nobody takes it. The guest is not
    /// over before its output is gone.
    drained_until: Option<Instant>,
    deadline: Option<(Instant, &'static str)>,
}

#[derive(Clone, Copy)]
enum Token {
    Signal,
    Channel,
    Report,
    Input,
    Output(usize),
    Control(Source),
}

impl<'a> Supervisor<'a> {
    fn new(pod: &'a Pod, channel: Channel, signals: SignalFd, boot_secs_max: u64) -> Result<Self> {
        record::make_status_directory()?;
        let takes_input = |app: &contract::pod::App| matches!(app.stdio, Stdio::Tty | Stdio::Inherit { stdin: true });
        let input = pod.apps.iter().any(takes_input).then(|| std::io::stdin().as_fd().try_clone_to_owned());
        let stdout = std::io::stdout().as_fd().try_clone_to_owned();
        let stderr = std::io::stderr().as_fd().try_clone_to_owned();
        let waiting = AppStatus { end: None, started_unix_nanos: None, ended_unix_nanos: None, restarts: 0 };
        let deadline = Instant::now() + Duration::from_secs(boot_secs_max);
        Ok(Self {
            pod,
            channel,
            control: Control::listen()?,
            signals,
            input: input.transpose().context("clone stdin")?,
            under_way: 0,
            outputs: [Sink::new(stdout.ok()), Sink::new(stderr.ok())],
            apps: pod.apps.iter().map(|app| (app.name.clone(), waiting.clone())).collect(),
            ready: pod.apps.iter().map(|app| (app.name.clone(), false)).collect(),
            console: pod.machine.as_ref().filter(|machine| machine.debug).map(|_| Console::default()),
            report: Vec::new(),
            report_open: true,
            exit: None,
            stopping: false,
            drained_until: None,
            deadline: Some((deadline, "the guest did not start in time")),
        })
    }

    fn run(&mut self, machine: &mut Machine) -> Result<u8> {
        loop {
            for (token, flags) in self.wait(&machine.report)? {
                self.handle(token, flags, &machine.report)?;
            }
            self.control.tidy();
            self.give_up_output()?;
            let drained = self.outputs.iter().all(|sink| sink.pending().is_none()) && self.control.is_quiet();
            let late = self.deadline.filter(|(at, _)| *at <= Instant::now());
            match (self.exit, late) {
                (Some(code), Some(_)) => return Ok(code),
                (Some(code), None) if drained => return Ok(code),
                (None, Some((_, what))) => {
                    return Err(Hint::error(what, "look at its console with `--debug`"));
                }
                _ => {}
            }
            if self.exit.is_none() && !self.channel.is_open() && !self.report_open {
                return Err(self.ended_early(&mut machine.process));
            }
        }
    }

    fn give_up_output(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.stopping && self.apps.values().all(|status| status.end.is_some()) {
            self.stopping = false;
            self.drained_until = Some(now + Duration::from_secs(DRAIN_SECS_MAX));
        }
        if self.drained_until.take_if(|at| *at <= now).is_some() {
            for sink in &mut self.outputs {
                taken(0, sink.give_up(), &mut self.channel)?;
            }
        }
        Ok(())
    }

    /// Waits for something to do.
    fn wait(&self, report: &OwnedFd) -> Result<Vec<(Token, PollFlags)>> {
        let mut polled: Vec<(Token, BorrowedFd<'_>, PollFlags)> =
            vec![(Token::Signal, self.signals.as_fd(), PollFlags::IN)];
        if self.channel.is_open() {
            let give = if self.channel.is_pending() { PollFlags::OUT } else { PollFlags::empty() };
            polled.push((Token::Channel, self.channel.as_fd(), PollFlags::IN | give));
        }
        if self.report_open {
            polled.push((Token::Report, report.as_fd(), PollFlags::IN));
        }
        let takes_input = !self.channel.is_congested();
        if let Some(input) = self.input.as_ref().filter(|_| takes_input && self.under_way < WINDOW_BYTES) {
            polled.push((Token::Input, input.as_fd(), PollFlags::IN));
        }
        for (index, sink) in self.outputs.iter().enumerate() {
            polled.extend(sink.pending().map(|fd| (Token::Output(index), fd, PollFlags::OUT)));
        }
        for (source, fd) in self.control.sources(takes_input) {
            let flags = if matches!(source, Source::Output(..)) { PollFlags::OUT } else { PollFlags::IN };
            polled.push((Token::Control(source), fd, flags));
        }
        let mut fds: Vec<PollFd<'_>> =
            polled.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let next = self.deadline.map(|(at, _)| at).into_iter().chain(self.drained_until).min();
        let timeout = next.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error).context("wait for the guest"),
        }
        let ready = |(fd, (token, ..)): (&PollFd<'_>, &(Token, BorrowedFd<'_>, PollFlags))| {
            (!fd.revents().is_empty()).then(|| (*token, fd.revents()))
        };
        Ok(fds.iter().zip(&polled).filter_map(ready).collect())
    }

    fn handle(&mut self, token: Token, flags: PollFlags, report: &OwnedFd) -> Result<()> {
        match token {
            Token::Signal => self.signal(),
            Token::Report => self.read_report(report),
            Token::Output(index) => taken(0, self.outputs[index].write(), &mut self.channel),
            Token::Input => self.read_input(),
            Token::Channel => {
                if flags.contains(PollFlags::OUT) {
                    self.channel.flush()?;
                }
                if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                    self.channel.fill()?;
                    while let Some(event) = self.channel.next()? {
                        self.event(event)?;
                    }
                }
                Ok(())
            }
            Token::Control(source) => {
                let ask = self.control.ready(source, &mut self.channel)?;
                ask.map_or(Ok(()), |ask| self.answer(ask))
            }
        }
    }

    fn signal(&mut self) -> Result<()> {
        let Some(info) = self.signals.read_signal().context("read a signal")? else { return Ok(()) };
        let number = i32::try_from(info.ssi_signo).context("read a signal")?;
        match Signal::try_from(number) {
            Ok(Signal::SIGTERM | Signal::SIGINT) => self.stop(None),
            Ok(Signal::SIGWINCH) => match terminal::size() {
                Some((rows, columns)) => self.channel.send(&Command::Resize { session: 0, rows, columns }),
                None => Ok(()),
            },
            _ => self.channel.send(&Command::Signal { signal: number }),
        }
    }

    fn stop(&mut self, grace_millis: Option<u64>) -> Result<()> {
        let longest = self.pod.apps.iter().map(|app| app.stop.grace_millis).max().unwrap_or(0);
        let grace = Duration::from_millis(grace_millis.unwrap_or(longest).min(86_400_000));
        let at = Instant::now() + grace + Duration::from_secs(STOP_SECS_EXTRA);
        self.stopping = true;
        if self.exit.is_none() {
            self.deadline = Some((at, "the guest did not stop in time and was killed"));
        }
        self.channel.send(&Command::Stop { grace_millis })
    }

    fn read_report(&mut self, report: &OwnedFd) -> Result<()> {
        let mut buffer = [0; 1024];
        match rustix::io::read(report, &mut buffer) {
            Ok(0) => self.report_open = false,
            Ok(count) => {
                if let Some(console) = &mut self.console {
                    console.show(&buffer[..count], &mut std::io::stderr());
                }
                let room = REPORT_BYTES_MAX.saturating_sub(self.report.len());
                self.report.extend(&buffer[..count.min(room)]);
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error).context("read from the hypervisor"),
        }
        Ok(())
    }

    fn read_input(&mut self) -> Result<()> {
        let Some(input) = &self.input else { return Ok(()) };
        let Some(bytes) = read_input(input.as_fd(), WINDOW_BYTES - self.under_way) else { return Ok(()) };
        self.under_way += bytes.len();
        if bytes.is_empty() {
            self.input = None;
        }
        self.channel.send(&Command::Input { session: 0, data: BASE64_STANDARD.encode(bytes) })
    }

    fn answer(&mut self, ask: Ask) -> Result<()> {
        match ask {
            Ask::Stop(grace_millis) => self.stop(grace_millis),
            Ask::Status(client) => {
                let ready = self.ready.values().all(|ready| *ready);
                self.control.answer(client, &Reply::Status { apps: self.apps.clone(), ready });
                Ok(())
            }
            Ask::Exec(client, exec, fds) => {
                if self.ready.contains_key(&exec.app) {
                    return self.control.exec(client, exec, fds, &mut self.channel);
                }
                self.control.refuse(client, format!("the pod has no app `{}`", exec.app));
                Ok(())
            }
        }
    }

    fn event(&mut self, event: Event) -> Result<()> {
        if self.exit.is_some() {
            return Ok(()); // The pod is over; whoever still speaks is not stage2.
        }
        match event {
            Event::Booted => self.booted(),
            Event::Taken { session: 0, bytes } => {
                self.under_way = self.under_way.saturating_sub(bytes as usize);
                Ok(())
            }
            Event::Taken { session, bytes } => {
                self.control.passed_on(session, bytes as usize);
                Ok(())
            }
            Event::Started { app } => self.started(app),
            Event::Ended { app, end, again } => {
                let status = self.status(&app)?;
                status.end = Some(end).filter(|_| !again);
                status.ended_unix_nanos = Some(record::unix_nanos());
                status.restarts = status.restarts.saturating_add(u32::from(again));
                record::status(&app, &status.clone())
            }
            Event::Ready { app } => {
                self.status(&app)?;
                self.ready.insert(app, true);
                Ok(())
            }
            Event::ExecStarted { session } => {
                self.control.started(session);
                Ok(())
            }
            Event::ExecEnded { session, end } => {
                self.control.ended(session, end);
                Ok(())
            }
            Event::Output { session, stream, data } => self.output(session, stream, &data),
            Event::PodEnded { exit } => {
                self.exit = Some(exit);
                self.deadline = Some((Instant::now() + Duration::from_secs(DRAIN_SECS_MAX), ""));
                Ok(())
            }
            // What a guest says is not ours to interpret: control characters would reach the caller's terminal.
            Event::Failed { message } => bail!("{}", plain(&message)),
        }
    }

    /// The first word of the guest ends its boot deadline, but not one that a stop has set since.
    fn booted(&mut self) -> Result<()> {
        self.deadline = self.deadline.filter(|(_, what)| what.contains("stop"));
        Ok(())
    }

    fn started(&mut self, app: AppName) -> Result<()> {
        let status = self.status(&app)?;
        status.started_unix_nanos.get_or_insert_with(record::unix_nanos);
        record::status(&app, &status.clone())?;
        let waits = self.pod.apps.iter().any(|known| known.name == app && known.notify);
        self.ready.entry(app).and_modify(|ready| *ready |= !waits);
        Ok(())
    }

    fn status(&mut self, app: &AppName) -> Result<&mut AppStatus> {
        self.apps.get_mut(app).with_context(|| format!("the guest spoke of app `{app}`, which the pod has not"))
    }

    fn output(&mut self, session: u32, stream: u8, data: &str) -> Result<()> {
        let bytes = BASE64_STANDARD.decode(data).context("the guest sent output that is not base64")?;
        let stream = match stream {
            1 => 0,
            2 => 1,
            _ => bail!("the guest sent output for stream {stream}"),
        };
        if session != 0 {
            return self.control.output(session, stream, &bytes, &mut self.channel);
        }
        if bytes.len() + self.outputs.iter().map(Sink::len).sum::<usize>() > WINDOW_BYTES {
            bail!("the guest sent more output than it may");
        }
        taken(0, self.outputs[stream].push(&bytes), &mut self.channel)
    }

    fn failures(&self) -> Vec<String> {
        let failed = self.apps.iter().filter_map(|(name, status)| match &status.end {
            Some(AppEnd::Failed { message, .. }) => Some(format!("app `{name}`: {message}")),
            _ => None,
        });
        failed.collect()
    }

    /// The hypervisor has closed everything, so it is at its end or past it.
    fn ended_early(&self, process: &mut Child) -> anyhow::Error {
        if let Some(signal) = process.wait().ok().and_then(|status| status.signal()) {
            return anyhow::anyhow!("the hypervisor was killed by signal {signal}");
        }
        let report = String::from_utf8_lossy(&self.report);
        let report = report.trim();
        if report.is_empty() {
            return Hint::error(
                "the guest ended before the pod did; its kernel may have panicked",
                "look at its console with `--debug`",
            );
        }
        // What the guest's init or its kernel says of its end, else whatever came last.
        let tells = |line: &&str| line.contains("stage2: guest: ") || line.contains("Kernel panic - not syncing");
        let line = report.lines().rfind(tells).or(report.lines().last()).unwrap_or_default();
        Hint::error(plain(line), "look at the guest's console with `--debug`")
    }
}

/// Text from the guest without what would command a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// The signals that the supervisor acts on. Job control and faults keep their default action.
fn watch_signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
    ] {
        set.add(signal);
    }
    set.thread_block().context("block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("watch signals")
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

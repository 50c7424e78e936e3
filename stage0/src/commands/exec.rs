//! `pod exec`: a program beside an app, started by the supervisor and confined as the app is. This process only passes the
//! standard streams, or carries bytes between two terminals; it never enters the pod.

use crate::arguments::commands::Exec;
use crate::arguments::globals::Globals;
use crate::failure::Failure;
use crate::life::find;
use crate::life::pods::{PodDir, Pods};
use crate::life::supervisor::{self, Connection};
use crate::stage1;
use ::supervisor::terminal::{End, Terminal};
use anyhow::{Context, Result};
use contract::control::{self, Reply, Request};
use contract::dir::{CONTROL, HOST, PID, POD, State};
use contract::exit;
use contract::features::Feature;
use contract::host::Host;
use contract::name::AppName;
use contract::pod::Pod;
use contract::status::AppEnd;
use contract::text::HINT;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::IsTerminal;
use std::os::fd::AsFd;

/// Signals that the program in the pod gets instead of this one.
const FORWARDED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// A stage1 that does not declare `exec` is not asked. One that was uninstalled while its pod runs is: it is the supervisor that
/// answers.
fn refuse_without_exec(pod: &PodDir) -> Result<()> {
    let Some(host @ Host { stage1: Some(_), .. }) = pod.read(HOST)? else { return Ok(()) };
    match stage1::recorded(&host) {
        Ok(located) if !located.stage1.features.contains(&Feature::Exec) => {
            let needs = Feature::Exec.name();
            Err(Failure::new(format!("{} cannot do what this command needs: {needs}", located.shown())).into())
        }
        _ => Ok(()),
    }
}

/// Runs the program and gives its exit code.
pub(crate) fn exec(globals: &Globals, arguments: &Exec) -> Result<u8> {
    let pods = Pods::open(&globals.dir)?;
    let pod = find::find(&pods, &arguments.pod)?;
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let on_terminal = stdin.is_terminal() && stdout.is_terminal();
    if arguments.tty && !stdin.is_terminal() {
        return Err(Failure::new("`--tty` needs a terminal on the standard input").into());
    }
    let terminal = (on_terminal || arguments.tty).then(Terminal::of_caller).flatten();
    // Before the program runs, so that no signal falls between.
    let signals = block_signals(terminal.is_some())?;
    let (pod, connection) = match connect(&pods, pod, &signals)? {
        Reached::Supervisor(pod, connection) => (pod, connection),
        Reached::Signal(signal) => return Ok(interrupted(signal)),
    };
    let description: Pod = pod.read(POD)?.ok_or_else(|| not_running(&pod))?;
    let request = Request::Exec(control::Exec {
        app: app(arguments, &description)?,
        arguments: match arguments.command.as_slice() {
            [] => vec!["/bin/sh".to_owned()],
            command => command.to_vec(),
        },
        environment: environment(arguments),
        user: arguments.user.clone(),
        working_directory: arguments.working_dir.clone(),
        tty: terminal.as_ref().map(Terminal::size),
    });
    if terminal.is_some() {
        connection.send(&request, &[])?;
    } else {
        connection.send(&request, &[stdin.as_fd(), stdout.as_fd(), std::io::stderr().as_fd()])?;
    }
    let mut session = Session { connection, signals, terminal, started: false };
    session.run()
}

fn not_running(pod: &PodDir) -> Failure {
    Failure::new(format!("pod `{}` is not running", pod.uuid))
}

/// The pod has its lock and a `pid`, and yet no control socket.
fn not_listening(pod: &PodDir) -> Failure {
    Failure::new(format!("pod `{}` runs, but no process listens on its `{CONTROL}`", pod.uuid))
        .hint(format!("it may be ending, then `pod status --wait {}` waits for its end", &pod.uuid.as_str()[..8]))
}

/// How the wait for a supervisor ended.
enum Reached {
    Supervisor(PodDir, Connection),
    Signal(i32),
}

/// Connects to the supervisor, and waits for one that is just starting.
fn connect(pods: &Pods, mut pod: PodDir, signals: &SignalFd) -> Result<Reached> {
    let pause = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    loop {
        match pod.state()? {
            State::Embryo | State::Preparing => {}
            State::Running => {
                refuse_without_exec(&pod)?;
                // A supervisor listens before it writes `pid`.
                let began = pod.open_file(PID)?.is_some();
                if let Some(connection) = supervisor::connect(&pod)? {
                    return Ok(Reached::Supervisor(pod, connection));
                }
                if began && pod.is_locked()? {
                    return Err(not_listening(&pod).into());
                }
            }
            _ => return Err(not_running(&pod).into()),
        }
        // Nothing tells that the supervisor listens; it does within milliseconds.
        let mut fds = [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&pause))).context("wait for the pod")?;
        while let Some(info) = signals.read_signal().context("read a signal")? {
            match i32::try_from(info.ssi_signo).unwrap_or_default() {
                libc::SIGWINCH => {}
                signal => return Ok(Reached::Signal(signal)),
            }
        }
        // It may be in its next phase by now.
        pod = find::find(pods, pod.uuid.as_str())?;
    }
}

/// As a shell says that a signal ended a program.
fn interrupted(signal: i32) -> u8 {
    exit::SIGNAL_BASE.wrapping_add(u8::try_from(signal).unwrap_or(0))
}

/// The app that is meant: the one that is named, or the only one.
fn app(arguments: &Exec, pod: &Pod) -> Result<AppName, Failure> {
    let names: Vec<&str> = pod.apps.iter().map(|app| app.name.as_str()).collect();
    match (&arguments.app, pod.apps.as_slice()) {
        (Some(name), apps) if apps.iter().any(|app| app.name == *name) => Ok(name.clone()),
        (Some(name), _) => {
            Err(Failure::new(format!("the pod has no app `{name}`")).hint(format!("its apps: {}", names.join(", "))))
        }
        (None, [only]) => Ok(only.name.clone()),
        (None, _) => {
            Err(Failure::new("the pod has several apps").hint(format!("name one by `--app`: {}", names.join(", "))))
        }
    }
}

fn environment(arguments: &Exec) -> Vec<(String, String)> {
    let resolve = |(key, value): &(String, Option<String>)| {
        Some((key.clone(), value.clone().or_else(|| std::env::var(key).ok())?))
    };
    arguments.environment.iter().filter_map(resolve).collect()
}

/// On a terminal in raw mode Ctrl-C is a byte, so only changes of its size are a matter of signals.
fn block_signals(tty: bool) -> Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGWINCH);
    if !tty {
        FORWARDED.into_iter().for_each(|signal| set.add(signal));
    }
    set.thread_block().context("block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("make a signalfd")
}

struct Session {
    connection: Connection,
    signals: SignalFd,
    /// The caller's; joined to the program's when that runs.
    terminal: Option<Terminal>,
    /// The program runs.
    started: bool,
}

impl Session {
    fn run(&mut self) -> Result<u8> {
        loop {
            let ready = self.wait()?;
            let flags = |source| ready.iter().find(|(known, _)| *known == source).map(|(_, flags)| *flags);
            // Output before the end: what the program wrote last must not be lost.
            for end in [End::Input, End::Output, End::Master] {
                if let (Some(flags), Some(terminal)) = (flags(Source::Terminal(end)), &mut self.terminal) {
                    terminal.relay(end, flags);
                }
            }
            if flags(Source::Signals).is_some()
                && let Some(code) = self.carry_signals()?
            {
                return Ok(code);
            }
            if flags(Source::Supervisor).is_some()
                && let Some(code) = self.receive()?
            {
                return Ok(code);
            }
        }
    }

    /// Sleeps until something happens: a reply, a signal, bytes from the caller, bytes from the program.
    fn wait(&self) -> Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Supervisor, Source::Signals];
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.connection.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        for (end, fd, flags) in self.terminal.iter().flat_map(Terminal::interests) {
            sources.push(Source::Terminal(end));
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        rustix::io::retry_on_intr(|| poll(&mut fds, None)).context("wait")?;
        let happened = sources.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(happened.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn receive(&mut self) -> Result<Option<u8>> {
        match self.connection.receive()? {
            None => Err(Failure::new("the pod ended").into()),
            Some((Reply::Started, master)) => {
                self.started = true;
                if let (Some(terminal), Some(master)) = (&mut self.terminal, master) {
                    terminal.join(master);
                }
                Ok(None)
            }
            Some((Reply::Accepted, _)) => Ok(None),
            Some((Reply::Exited { end }, _)) => {
                self.terminal.iter_mut().for_each(Terminal::finish);
                match end {
                    AppEnd::Failed { exit, message } => Err(failed(&message, exit).into()),
                    end => Ok(Some(end.exit_code())),
                }
            }
            Some((Reply::Refused { message }, _)) => Err(Failure::new(message).into()),
            Some((Reply::Status { .. }, _)) => {
                Err(Failure::new("the supervisor gave an answer that fits no exec").into())
            }
        }
    }

    /// Passes signals on. A program that does not run yet, because its app or its guest does not, is not waited for any more.
    fn carry_signals(&mut self) -> Result<Option<u8>> {
        while let Some(info) = self.signals.read_signal().context("read a signal")? {
            let request = match (i32::try_from(info.ssi_signo).unwrap_or_default(), &self.terminal) {
                (libc::SIGWINCH, None) => continue,
                (libc::SIGWINCH, Some(terminal)) => {
                    let (rows, columns) = terminal.size();
                    Request::Resize { rows, columns }
                }
                (signal, _) if !self.started => return Ok(Some(interrupted(signal))),
                (signal, _) => Request::Signal { signal },
            };
            self.connection.send(&request, &[])?;
        }
        Ok(None)
    }
}

/// stage2's words: a line, and perhaps advice in a second one.
fn failed(message: &str, exit: u8) -> Failure {
    match message.split_once(HINT) {
        Some((message, hint)) => Failure::with_exit(message, exit).hint(hint),
        None => Failure::with_exit(message, exit),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Supervisor,
    Signals,
    Terminal(End),
}

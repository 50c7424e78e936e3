//! `pod exec`: a program beside an app, started by the supervisor and confined as the app is. This process only passes the
//! standard streams, or carries bytes between two terminals; it never enters the pod.

use crate::arguments::commands::Exec;
use crate::arguments::globals::Globals;
use crate::failure::Failure;
use crate::life::find;
use crate::life::pods::{PodDir, Pods};
use crate::life::supervisor::Connection;
use crate::stage1;
use anyhow::{Context, Result};
use contract::control::{self, Reply, Request};
use contract::dir::{CONTROL, HOST, POD, State};
use contract::features::Feature;
use contract::host::Host;
use contract::name::AppName;
use contract::pod::Pod;
use contract::status::AppEnd;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{self, OptionalActions, Termios};
use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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
    if pod.state()? != State::Running {
        return Err(not_running(&pod).into());
    }
    refuse_without_exec(&pod)?;
    let description: Pod = pod.read(POD)?.ok_or_else(|| not_running(&pod))?;
    let app = app(arguments, &description)?;
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let on_terminal = stdin.is_terminal() && stdout.is_terminal();
    if arguments.tty && !stdin.is_terminal() {
        return Err(Failure::new("`--tty` needs a terminal on the standard input").into());
    }
    let tty = (on_terminal || arguments.tty).then(|| size(stdin.as_fd()));
    let request = Request::Exec(control::Exec {
        app,
        arguments: match arguments.command.as_slice() {
            [] => vec!["/bin/sh".to_owned()],
            command => command.to_vec(),
        },
        environment: environment(arguments),
        user: arguments.user.clone(),
        working_directory: arguments.working_dir.clone(),
        tty,
    });
    let connection = match Connection::open(&pod)? {
        Some(connection) => connection,
        None => return Err(not_listening(&pod)?.into()),
    };
    // Before the program runs, so that no signal falls between.
    let signals = block_signals(tty.is_some())?;
    if tty.is_some() {
        connection.send(&request, &[])?;
    } else {
        connection.send(&request, &[stdin.as_fd(), stdout.as_fd(), std::io::stderr().as_fd()])?;
    }
    let mut session = Session { connection, signals, terminal: None };
    session.run()
}

fn not_running(pod: &PodDir) -> Failure {
    Failure::new(format!("pod `{}` is not running", pod.uuid))
}

/// The pod had its lock a moment ago, and has no control socket.
fn not_listening(pod: &PodDir) -> Result<Failure> {
    if !pod.is_locked()? {
        return Ok(not_running(pod));
    }
    Ok(Failure::new(format!("pod `{}` runs, but no process listens on its `{CONTROL}`", pod.uuid)).hint(format!(
        "it may be just starting, then try again; or it is ending, then `pod status --wait {}` waits for its end",
        &pod.uuid.as_str()[..8]
    )))
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

fn size(terminal: BorrowedFd<'_>) -> (u16, u16) {
    termios::tcgetwinsize(terminal).map_or((24, 80), |size| (size.ws_row, size.ws_col))
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
    /// The pod's side of the terminal, once the program runs.
    terminal: Option<Terminal>,
}

/// The caller's terminal in raw mode, and the master of the program's.
struct Terminal {
    master: OwnedFd,
    before: Termios,
    input_open: bool,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.before); // The terminal may be gone.
    }
}

impl Session {
    fn run(&mut self) -> Result<u8> {
        loop {
            let (reply, signal, input, output) = self.wait()?;
            if input {
                self.carry_input()?;
            }
            // Output before the end: what the program wrote last must not be lost.
            if output {
                self.carry_output()?;
            }
            if signal {
                self.carry_signals()?;
            }
            if reply && let Some(code) = self.hear()? {
                return Ok(code);
            }
        }
    }

    /// Sleeps until something happens: a reply, a signal, bytes from the caller, bytes from the program.
    fn wait(&self) -> Result<(bool, bool, bool, bool)> {
        let stdin = std::io::stdin();
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.connection.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        let mut listens = false;
        if let Some(terminal) = &self.terminal {
            fds.push(PollFd::new(&terminal.master, PollFlags::IN));
            listens = terminal.input_open;
            if listens {
                fds.push(PollFd::new(&stdin, PollFlags::IN));
            }
        }
        rustix::io::retry_on_intr(|| poll(&mut fds, None)).context("wait")?;
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Ok((ready(0), ready(1), listens && ready(3), ready(2)))
    }

    fn hear(&mut self) -> Result<Option<u8>> {
        match self.connection.receive()? {
            None => Err(Failure::new("the pod ended").into()),
            Some((Reply::Started, Some(master))) => {
                self.terminal = Some(raw(master)?);
                Ok(None)
            }
            Some((Reply::Started | Reply::Accepted, _)) => Ok(None),
            Some((Reply::Exited { end }, _)) => {
                self.drain();
                self.terminal = None;
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

    fn carry_input(&mut self) -> Result<()> {
        let Some(terminal) = &mut self.terminal else { return Ok(()) };
        let mut buffer = [0_u8; 4096];
        match rustix::io::read(std::io::stdin(), &mut buffer) {
            Ok(0) => terminal.input_open = false,
            Ok(length) => {
                write_all(terminal.master.as_fd(), &buffer[..length]).context("write to the program's terminal")?;
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error).context("read the terminal"),
        }
        Ok(())
    }

    /// EIO on a master means that no process has the other side open; the end is told by the supervisor.
    fn carry_output(&mut self) -> Result<()> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        let mut buffer = [0_u8; 16 << 10];
        match rustix::io::read(&terminal.master, &mut buffer) {
            Ok(0) | Err(Errno::IO) => self.await_end(),
            Ok(length) => write_all(std::io::stdout().as_fd(), &buffer[..length]).context("write to the terminal"),
            Err(Errno::INTR | Errno::AGAIN) => Ok(()),
            Err(error) => Err(error).context("read the program's terminal"),
        }
    }

    /// Nothing more comes out of the terminal; only the supervisor's word is left to wait for.
    fn await_end(&self) -> Result<()> {
        let mut fds = [PollFd::from_borrowed_fd(self.connection.fd(), PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, None)).context("wait for the end").map(|_| ())
    }

    /// What is still in the terminal when the program is dead.
    fn drain(&self) {
        let Some(terminal) = &self.terminal else { return };
        let mut buffer = [0_u8; 16 << 10];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            let mut fds = [PollFd::new(&terminal.master, PollFlags::IN)];
            if !poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) {
                return;
            }
            match rustix::io::read(&terminal.master, &mut buffer) {
                Ok(length) if length > 0 && write_all(std::io::stdout().as_fd(), &buffer[..length]).is_ok() => {}
                _ => return,
            }
        }
    }

    fn carry_signals(&mut self) -> Result<()> {
        while let Some(info) = self.signals.read_signal().context("read a signal")? {
            let request = match i32::try_from(info.ssi_signo).unwrap_or_default() {
                libc::SIGWINCH if self.terminal.is_none() => continue,
                libc::SIGWINCH => {
                    let (rows, columns) = size(std::io::stdin().as_fd());
                    Request::Resize { rows, columns }
                }
                signal => Request::Signal { signal },
            };
            self.connection.send(&request, &[])?;
        }
        Ok(())
    }
}

/// stage2's words: a line, and perhaps advice in a second one.
fn failed(message: &str, exit: u8) -> Failure {
    match message.split_once("\nhint: ") {
        Some((message, hint)) => Failure::with_exit(message, exit).hint(hint),
        None => Failure::with_exit(message, exit),
    }
}

fn raw(master: OwnedFd) -> Result<Terminal> {
    let stdin = std::io::stdin();
    let before = termios::tcgetattr(&stdin).context("read the terminal's mode")?;
    let mut mode = before.clone();
    mode.make_raw();
    termios::tcsetattr(&stdin, OptionalActions::Drain, &mode).context("set the terminal's mode")?;
    Ok(Terminal { master, before, input_open: true })
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(fd, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

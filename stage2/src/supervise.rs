//! The main loop of PID 1: starts what is due, reaps everything, answers commands, and ends with the pod's exit code.
//!
//! One poll(2) over a signalfd for SIGCHLD, the channel, and the reports of processes that are being started.

use crate::channel::{Channel, Received};
use crate::confine::Program;
use crate::failure::describe;
use crate::launch::{self, Place};
use crate::life::{Action, Life, Millis};
use crate::notify;
use crate::process::{Process, Role};
use crate::remains::Processes;
use crate::report::{self, Report};
use crate::streams::Streams;
use crate::sys;
use crate::user::Identity;
use anyhow::{Context, Result};
use contract::channel::{Command, Event};
use contract::control::Exec;
use contract::exit;
use contract::pod::{Pod, RestartPolicy};
use contract::status::AppEnd;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::WaitOptions;
use rustix::time::ClockId;
use std::path::Path;

/// At most this many processes of `exec` at once in a pod.
const SESSIONS_MAX: usize = 256;
/// A pod that has been quiet for so long goes on for longer: time to give memory back.
const QUIET_MILLIS: Millis = 1000;

/// A running pod.
pub(crate) struct Supervisor<'a> {
    pod: &'a Pod,
    channel: &'a Channel,
    /// Of each app, by its place: the files by which it joins its cgroups.
    cgroups: Vec<Vec<OwnedFd>>,
    terminal_size: Option<(u16, u16)>,
    /// Of each app: who it runs as, as it was when it was started last.
    identities: Vec<Option<Identity>>,
    life: Life,
    processes: Vec<Process>,
    /// Whether an app can end without the pod.
    outlived: bool,
    /// Made when it is needed.
    all: Option<Processes>,
    /// Memory was given back.
    settled: bool,
}

impl<'a> Supervisor<'a> {
    /// `cgroups` are in the order of the pod's apps.
    pub(crate) fn new(
        pod: &'a Pod,
        channel: &'a Channel,
        cgroups: Vec<Vec<OwnedFd>>,
        terminal_size: Option<(u16, u16)>,
    ) -> Self {
        let restarts = pod.apps.iter().any(|app| app.restart.policy != RestartPolicy::No);
        Self {
            pod,
            channel,
            cgroups,
            terminal_size,
            identities: vec![None; pod.apps.len()],
            life: Life::new(&pod.apps),
            processes: Vec::new(),
            outlived: restarts || pod.apps.len() > 1,
            all: None,
            settled: false,
        }
    }

    /// Runs the pod to its end.
    pub(crate) fn run(mut self, signals: &SignalFd) -> Result<u8> {
        loop {
            self.carry_out_due()?;
            if let Some(code) = self.life.over() {
                return Ok(code);
            }
            let ready = self.wait(signals)?;
            if ready.commands && !self.commands()? {
                // Nobody is left who wants this pod. The kernel kills what still runs in it.
                return Ok(exit::FAILURE);
            }
            self.reports()?;
            if ready.children {
                while signals.read_signal().is_ok_and(|signal| signal.is_some()) {}
                self.reap()?;
            }
        }
    }

    /// Sleeps until something happens.
    fn wait(&mut self, signals: &SignalFd) -> Result<Ready> {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(self.channel, PollFlags::IN)];
        let reports = self.processes.iter().filter(|one| one.starting).map(|one| &one.started.report);
        let notify = self.processes.iter().filter_map(|one| one.notify.as_ref());
        fds.extend(reports.chain(notify).map(|fd| PollFd::new(fd, PollFlags::IN)));
        let due = self.life.next().map(|then| then.saturating_sub(now()));
        let quiet = (!self.settled).then_some(QUIET_MILLIS);
        let timeout = due
            .into_iter()
            .chain(quiet)
            .min()
            .map(|millis| Timespec { tv_sec: (millis / 1000) as i64, tv_nsec: (millis % 1000 * 1_000_000) as _ });
        let mut ready = rustix::event::poll(&mut fds, timeout.as_ref());
        if ready == Ok(0) && due.is_none() && !self.settled {
            self.settled = true;
            // Right before the call that waits, so that no more than its own page comes back.
            sys::drop_code();
            ready = rustix::event::poll(&mut fds, None);
        }
        match ready {
            Ok(_) => Ok(Ready { children: !fds[0].revents().is_empty(), commands: !fds[1].revents().is_empty() }),
            Err(Errno::INTR) => Ok(Ready::default()),
            Err(error) => Err(error).context("wait for events"),
        }
    }

    fn carry_out_due(&mut self) -> Result<()> {
        // Starting can fail, and a failure can stop others: until nothing new is due.
        loop {
            let actions = self.life.due(now());
            if actions.is_empty() {
                return Ok(());
            }
            self.carry_out(&actions)?;
        }
    }

    fn carry_out(&mut self, actions: &[Action]) -> Result<()> {
        for action in actions {
            match *action {
                Action::Start(index) => self.start_app(index)?,
                Action::Signal(index, signal) => self.signal(Role::App(index), signal),
            }
        }
        Ok(())
    }

    fn start_app(&mut self, index: usize) -> Result<()> {
        let app = &self.pod.apps[index];
        let streams = Streams::of(app.stdio, self.terminal_size);
        let place = Place::New(self.pod);
        match launch::start(&place, &Program::of(app), &self.cgroups[index], &streams) {
            Ok(started) => {
                let mut process = Process::new(Role::App(index), started);
                if self.outlived {
                    // It was born into its mount namespace, and may be gone by the time that its report is read.
                    let all = self.all.take().map_or_else(Processes::new, Ok)?;
                    process.namespace = all.namespace(process.started.pid);
                    self.all = Some(all);
                }
                self.processes.push(process);
                Ok(())
            }
            Err(error) => {
                self.ended(Role::App(index), AppEnd::Failed { exit: exit::FAILURE, message: describe(&error) })
            }
        }
    }

    /// Sends a signal to the process in this role, if there is one.
    fn signal(&self, role: Role, signal: i32) {
        if let Some(process) = self.processes.iter().find(|process| process.role == role) {
            // It may have ended just now, which is as good.
            let _ = sys::send_signal(process.started.process.as_fd(), signal);
        }
    }

    /// Takes all commands there are; false if stage1 is gone.
    fn commands(&mut self) -> Result<bool> {
        loop {
            match self.channel.receive()? {
                Received::Nothing => return Ok(true),
                Received::Closed => return Ok(false),
                Received::Command(command, fds) => self.command(command, fds)?,
            }
        }
    }

    fn command(&mut self, command: Command, fds: Vec<OwnedFd>) -> Result<()> {
        match command {
            Command::Stop { grace_millis } => {
                let actions = self.life.stop(grace_millis, now());
                self.carry_out(&actions)
            }
            Command::Signal { signal } => {
                (0..self.pod.apps.len()).for_each(|index| self.signal(Role::App(index), signal));
                Ok(())
            }
            Command::Exec { session, exec } => self.exec(session, &exec, fds),
            Command::ExecSignal { session, signal } => {
                let role = self.processes.iter().map(|process| process.role);
                let role = role.clone().find(|role| matches!(role, Role::Session(one, _) if *one == session));
                role.into_iter().for_each(|role| self.signal(role, signal));
                Ok(())
            }
            // Whoever holds the other end has the terminals' masters, and does this itself.
            Command::Resize { .. } => Ok(()),
            Command::Start { .. } => anyhow::bail!("a second `start`"),
        }
    }

    fn exec(&mut self, session: u32, exec: &Exec, fds: Vec<OwnedFd>) -> Result<()> {
        match self.start_session(session, exec, fds) {
            Ok(process) => self.processes.push(process),
            Err(error) => {
                let end = AppEnd::Failed { exit: exit::FAILURE, message: describe(&error) };
                self.channel.send(&Event::ExecEnded { session, end }, None)?;
            }
        }
        Ok(())
    }

    fn start_session(&self, session: u32, exec: &Exec, fds: Vec<OwnedFd>) -> Result<Process> {
        let sessions = self.processes.iter().filter(|process| matches!(process.role, Role::Session(..))).count();
        anyhow::ensure!(sessions < SESSIONS_MAX, "more than {SESSIONS_MAX} processes beside the apps");
        anyhow::ensure!(!exec.arguments.is_empty(), "nothing to execute");
        let index = self.pod.apps.iter().position(|app| app.name == exec.app);
        let index = index.with_context(|| format!("the pod has no app `{}`", exec.app))?;
        let first = self.processes.iter().find(|process| process.role == Role::App(index) && !process.starting);
        let first = first.with_context(|| format!("the app `{}` is not running", exec.app))?;
        let streams = match (exec.tty, <[OwnedFd; 3]>::try_from(fds)) {
            (Some(size), _) => Streams::Terminal(Some(size)),
            (None, Ok(fds)) => Streams::Given(fds),
            (None, Err(_)) => anyhow::bail!("exec without a terminal needs three descriptors"),
        };
        let app = &self.pod.apps[index];
        let mut program = Program::of(app);
        program.arguments = &exec.arguments;
        program.notify = false;
        program.environment = &exec.environment;
        if let Some(user) = &exec.user {
            let (user, group) = user.split_once(':').map_or((user.as_str(), None), |(user, group)| (user, Some(group)));
            (program.user, program.group) = (user, group);
        } else {
            program.who = self.identities[index].as_ref();
        }
        if let Some(directory) = &exec.working_directory {
            program.working_directory = Path::new(directory);
        }
        let place = Place::Beside(first.started.process.as_fd());
        let started = launch::start(&place, &program, &self.cgroups[index], &streams)?;
        Ok(Process::new(Role::Session(session, index), started))
    }

    /// Reads what processes say that are being started.
    fn reports(&mut self) -> Result<()> {
        for at in 0..self.processes.len() {
            self.report(at)?;
            self.notification(at)?;
        }
        Ok(())
    }

    /// Whether an app says that it is ready.
    fn notification(&self, at: usize) -> Result<()> {
        let process = &self.processes[at];
        match (&process.notify, process.role) {
            (Some(socket), Role::App(index)) if notify::ready(socket)? => {
                self.channel.send(&Event::Ready { app: self.pod.apps[index].name.clone() }, None)
            }
            _ => Ok(()),
        }
    }

    fn report(&mut self, at: usize) -> Result<()> {
        while self.processes[at].starting {
            let process = &mut self.processes[at];
            match report::receive(&process.started.report)? {
                Report::Nothing => return Ok(()),
                Report::Terminal(master) => process.terminal = Some(master),
                Report::Notify(socket) => process.notify = Some(socket),
                Report::Identity(who) => {
                    if let Role::App(index) = process.role {
                        self.identities[index] = Some(who);
                    }
                }
                Report::Failed(failure) => process.failure = Some(failure),
                Report::Executed => {
                    process.starting = false;
                    if process.failure.is_none() {
                        let event = match process.role {
                            Role::App(index) => Event::Started { app: self.pod.apps[index].name.clone() },
                            Role::Session(session, _) => Event::ExecStarted { session },
                        };
                        // The master is stage1's from here on, so that a hang-up is one.
                        let terminal = process.terminal.take();
                        self.channel.send(&event, terminal.as_ref().map(AsFd::as_fd))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Collects every dead process: ours, and the orphans that the kernel gave to PID 1.
    fn reap(&mut self) -> Result<()> {
        loop {
            let (pid, status) = match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => (pid.as_raw_nonzero().get(), status),
                Ok(None) | Err(Errno::CHILD) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error).context("wait for children"),
            };
            let Some(at) = self.processes.iter().position(|process| process.started.pid == pid) else { continue };
            // What it said before it died comes first.
            self.report(at)?;
            self.notification(at)?;
            let process = self.processes.swap_remove(at);
            let end = match (process.failure, status.exit_status(), status.terminating_signal()) {
                (Some(failure), ..) => AppEnd::Failed { exit: failure.exit, message: failure.message },
                (None, Some(code), _) => AppEnd::Code(code as u8),
                (None, None, signal) => AppEnd::Signal(signal.unwrap_or(0) as u8),
            };
            if let (Role::App(_), Some(namespace), Some(all)) = (process.role, process.namespace, &self.all) {
                all.end(namespace)?;
            }
            self.ended(process.role, end)?;
        }
    }

    fn ended(&mut self, role: Role, end: AppEnd) -> Result<()> {
        match role {
            Role::Session(session, _) => self.channel.send(&Event::ExecEnded { session, end }, None),
            Role::App(index) => {
                let (again, actions) = self.life.ended(index, &end, now());
                self.channel.send(&Event::Ended { app: self.pod.apps[index].name.clone(), end, again }, None)?;
                // What was started beside an app goes with it, also if it is not in the app's namespaces yet.
                for process in &self.processes {
                    if matches!(process.role, Role::Session(_, one) if one == index) {
                        let _ = sys::send_signal(process.started.process.as_fd(), libc::SIGKILL); // Gone already.
                    }
                }
                self.carry_out(&actions)
            }
        }
    }
}

#[derive(Default)]
struct Ready {
    children: bool,
    commands: bool,
}

/// SIGCHLD by descriptor. PID 1 ignores all other signals from inside, because it has no handlers for them.
pub(crate) fn child_signals() -> Result<SignalFd> {
    let mut mask = nix::sys::signal::SigSet::empty();
    mask.add(nix::sys::signal::Signal::SIGCHLD);
    mask.thread_block().context("block SIGCHLD")?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("make a signalfd")
}

fn now() -> Millis {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

//! The loop of the guest's PID 1: streams, commands and events between stage2 and the host, until stage2 has ended and all
//! that the apps wrote is on its way.

use super::port;
use super::start::{self, Core};
use anyhow::{Context, Result};
use contract::channel::{Command, Event, FDS_MAX, MESSAGE_BYTES_MAX};
use contract::status::AppEnd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, waitpid};
use rustix::termios::{Winsize, tcsetwinsize};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wire::mux::{Mux, Token};
use wire::packet::{self, Packet};
use wire::session::Session;

/// Carries all of it, and gives the last event.
pub(super) fn run(core: Core, port: &mut Mux) -> Result<Event> {
    let Core { pid, pidfd, channel, stdin, stdout, stderr } = core;
    add_pipes(port.session(0), stdin, [stdout, stderr])?;
    let mut bridge = Bridge { port, channel: Some(channel), ended: BTreeMap::new(), pending: Vec::new() };
    let mut status = None;
    // More than the first command may have come with it.
    bridge.commands()?;
    loop {
        for (source, flags) in bridge.wait(status.is_none().then_some(&pidfd))? {
            match source {
                Source::Ended => {
                    status =
                        waitpid(Some(pid), WaitOptions::empty()).context("wait for stage2")?.map(|(_, status)| status);
                }
                source => bridge.handle(source, flags)?,
            }
        }
        bridge.end_sessions()?;
        if let Some(status) = status.filter(|_| bridge.is_drained()) {
            let signal = status.terminating_signal().unwrap_or(0);
            let code = status.exit_status().unwrap_or(i32::from(contract::exit::SIGNAL_BASE) + signal);
            return Ok(Event::PodEnded { exit: u8::try_from(code).unwrap_or(contract::exit::FAILURE) });
        }
    }
}

/// Our ends of the pipes that are the streams of a process. Each is made non-blocking.
fn add_pipes(streams: &mut Session, stdin: Option<OwnedFd>, outputs: [OwnedFd; 2]) -> Result<()> {
    for fd in outputs.iter().chain(&stdin) {
        rustix::io::ioctl_fionbio(fd, true).context("make a pipe non-blocking")?;
    }
    stdin.into_iter().for_each(|fd| streams.add_own_writer(0, fd));
    (1..).zip(outputs).for_each(|(stream, fd)| streams.add_reader(stream, fd));
    Ok(())
}

#[derive(Clone, Copy)]
enum Source {
    /// The channel to the host, or a stream that it carries.
    Port(Token),
    Core,
    Ended,
}

struct Bridge<'a> {
    port: &'a mut Mux,
    /// To stage2; none when it has closed its end.
    channel: Option<OwnedFd>,
    /// Sessions whose process has ended: what is left of their output is read, then the host is told.
    ended: BTreeMap<u32, AppEnd>,
    /// Commands that stage2's socket did not take yet, with the fds that go along.
    pending: Vec<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Bridge<'_> {
    /// Waits for something to do.
    fn wait(&self, pidfd: Option<&OwnedFd>) -> Result<Vec<(Source, PollFlags)>> {
        let mut sources: Vec<Source> = Vec::new();
        let mut polled: Vec<PollFd<'_>> = Vec::new();
        let mut watch = |source, fd, flags| {
            sources.push(source);
            polled.push(PollFd::from_borrowed_fd(fd, flags));
        };
        self.port.interests().for_each(|(token, fd, flags)| watch(Source::Port(token), fd, flags));
        pidfd.into_iter().for_each(|pidfd| watch(Source::Ended, pidfd.as_fd(), PollFlags::IN));
        if let Some(channel) = &self.channel {
            let take = if self.port.has_room() { PollFlags::IN } else { PollFlags::empty() };
            let give = if self.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            watch(Source::Core, channel.as_fd(), take | give);
        }
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the apps"),
        }
        let happened = sources.into_iter().zip(polled.iter().map(PollFd::revents));
        Ok(happened.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn handle(&mut self, source: Source, flags: PollFlags) -> Result<()> {
        match source {
            Source::Port(Token::Channel) => {
                port::fill(self.port, flags)?;
                self.commands()
            }
            Source::Port(token) => self.port.ready(token, flags),
            Source::Core => {
                self.write_pending()?;
                self.read_events()
            }
            Source::Ended => Ok(()),
        }
    }

    /// Does all that the host has asked for.
    fn commands(&mut self) -> Result<()> {
        while let Some(command) = port::command(self.port)? {
            self.command(command)?;
        }
        Ok(())
    }

    fn command(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Resize { session, rows, columns } => {
                let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                for fd in self.port.session(session).readers() {
                    let _ = tcsetwinsize(fd, size); // A pipe has no size and says so.
                }
                Ok(())
            }
            Command::Exec { session, exec } => {
                let mut fds = Vec::new();
                if exec.tty.is_none() {
                    let (stdin, input) = start::pipe()?;
                    let (output, stdout) = start::pipe()?;
                    let (errors, stderr) = start::pipe()?;
                    add_pipes(self.port.session(session), Some(input), [output, errors])?;
                    fds = vec![stdin, stdout, stderr];
                }
                self.forward(&Command::Exec { session, exec }, fds)
            }
            command @ (Command::Stop { .. } | Command::Signal { .. } | Command::ExecSignal { .. }) => {
                self.forward(&command, Vec::new())
            }
            // Answered before stage2 was started; a second one means nothing.
            Command::Start { .. } => Ok(()),
        }
    }

    fn forward(&mut self, command: &Command, fds: Vec<OwnedFd>) -> Result<()> {
        self.pending.push((serde_json::to_vec(command)?, fds));
        self.write_pending()
    }

    fn write_pending(&mut self) -> Result<()> {
        while let Some((packet, fds)) = self.pending.first() {
            let Some(channel) = &self.channel else {
                self.pending.clear(); // stage2 is gone, and the pod with it.
                return Ok(());
            };
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match packet::send(channel.as_fd(), packet, &borrowed) {
                Ok(()) => drop(self.pending.remove(0)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::PIPE | Errno::CONNRESET) => self.pending.clear(),
                Err(error) => return Err(error).context("write to stage2"),
            }
        }
        Ok(())
    }

    fn read_events(&mut self) -> Result<()> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        while let Some(channel) = self.channel.as_ref().filter(|_| self.port.has_room()) {
            match packet::receive(channel.as_fd(), &mut buffer, FDS_MAX).context("read from stage2")? {
                Packet::Nothing => return Ok(()),
                Packet::End => self.channel = None,
                Packet::Message(length, mut fds) => {
                    let event = serde_json::from_slice(&buffer[..length]).context("parse an event of stage2")?;
                    self.event(event, fds.pop())?;
                }
            }
        }
        Ok(())
    }

    fn event(&mut self, event: Event, fd: Option<OwnedFd>) -> Result<()> {
        let session = match &event {
            Event::Started { .. } => Some(0),
            Event::ExecStarted { session } => Some(*session),
            _ => None,
        };
        if let Some((session, master)) = session.zip(fd) {
            rustix::io::ioctl_fionbio(&master, true).context("make a terminal non-blocking")?;
            let input = master.try_clone().context("clone a terminal's fd")?;
            let streams = self.port.session(session);
            streams.add_own_writer(0, input);
            streams.add_reader(1, master);
        }
        match event {
            Event::ExecEnded { session, end } => {
                // Told after the last of its output.
                self.ended.insert(session, end);
                Ok(())
            }
            event => self.port.send(&event),
        }
    }

    /// Reads what ended processes left in their pipes, and tells the host of those that left nothing. What comes later was
    /// written by other processes that they started, and is not waited for.
    fn end_sessions(&mut self) -> Result<()> {
        let sessions: Vec<u32> = self.ended.keys().copied().collect();
        for session in sessions {
            if self.port.read_rest(session)?
                && let Some(end) = self.ended.remove(&session)
            {
                self.port.remove(session);
                self.port.send(&Event::ExecEnded { session, end })?;
            }
        }
        Ok(())
    }

    /// Whether nothing more can come: stage2's end of the channel is closed, and so is every pipe, as their holders are dead.
    fn is_drained(&self) -> bool {
        self.channel.is_none() && self.port.sessions().all(|(_, session)| session.is_read())
    }
}

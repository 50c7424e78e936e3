//! The loop of the guest's PID 1: streams, commands and events between stage2 and the host, until stage2 has ended and all
//! that the apps wrote is on its way.

use super::port::Port;
use super::session::Session;
use super::start::{self, Core};
use anyhow::{Context, Result};
use contract::channel::{Command, Event, FDS_MAX, MESSAGE_BYTES_MAX};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{WaitOptions, waitpid};
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Carries all of it, and gives the last event.
pub(super) fn run(core: Core, port: &mut Port) -> Result<Event> {
    let Core { pid, pidfd, channel, stdin, stdout, stderr } = core;
    let apps = Session::on_pipes(stdin, stdout, stderr)?;
    let mut bridge =
        Bridge { port, channel: Some(channel), sessions: BTreeMap::from([(0, apps)]), pending: Vec::new() };
    let mut status = None;
    // More than the first command may have come with it.
    bridge.commands()?;
    loop {
        for (token, flags) in bridge.wait(status.is_none().then_some(&pidfd))? {
            match token {
                Token::Ended => {
                    status =
                        waitpid(Some(pid), WaitOptions::empty()).context("wait for stage2")?.map(|(_, status)| status);
                }
                token => bridge.handle(token, flags)?,
            }
        }
        bridge.finish_sessions()?;
        if let Some(status) = status.filter(|_| bridge.is_drained()) {
            let signal = status.terminating_signal().unwrap_or(0);
            let code = status.exit_status().unwrap_or(i32::from(contract::exit::SIGNAL_BASE) + signal);
            return Ok(Event::PodEnded { exit: u8::try_from(code).unwrap_or(contract::exit::FAILURE) });
        }
    }
}

#[derive(Clone, Copy)]
enum Token {
    Host,
    Core,
    Ended,
    Output { session: u32, index: usize },
    Input { session: u32 },
}

struct Bridge<'a> {
    port: &'a mut Port,
    /// To stage2; none when it has closed its end.
    channel: Option<OwnedFd>,
    sessions: BTreeMap<u32, Session>,
    /// Commands that stage2's socket did not take yet, with the fds that go along.
    pending: Vec<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Bridge<'_> {
    /// Waits for something to do.
    fn wait(&self, pidfd: Option<&OwnedFd>) -> Result<Vec<(Token, PollFlags)>> {
        let mut polled: Vec<(Token, BorrowedFd<'_>, PollFlags)> =
            vec![(Token::Host, self.port.as_fd(), self.port.interest())];
        polled.extend(pidfd.map(|pidfd| (Token::Ended, pidfd.as_fd(), PollFlags::IN)));
        let room = self.port.has_room();
        if let Some(channel) = &self.channel {
            let take = if room { PollFlags::IN } else { PollFlags::empty() };
            let give = if self.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            polled.push((Token::Core, channel.as_fd(), take | give));
        }
        for (&session, streams) in &self.sessions {
            if room {
                polled.extend(
                    streams.readable().map(|(index, fd)| (Token::Output { session, index }, fd, PollFlags::IN)),
                );
            }
            polled.extend(streams.writable().map(|fd| (Token::Input { session }, fd, PollFlags::OUT)));
        }
        let mut fds: Vec<PollFd<'_>> =
            polled.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the apps"),
        }
        let ready = fds.iter().zip(&polled).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(fd, (token, ..))| (*token, fd.revents())).collect())
    }

    fn handle(&mut self, token: Token, flags: PollFlags) -> Result<()> {
        match token {
            Token::Host => {
                self.port.flush()?;
                if flags.intersects(PollFlags::IN | PollFlags::HUP) {
                    self.port.fill()?;
                }
                self.commands()
            }
            Token::Core => {
                self.write_pending()?;
                self.read_events()
            }
            Token::Ended => Ok(()),
            Token::Output { session, index } => {
                let Some(streams) = self.sessions.get_mut(&session) else { return Ok(()) };
                match streams.read(session, index)? {
                    Some(event) => self.send(&event),
                    None => Ok(()),
                }
            }
            Token::Input { session } => {
                let Some(streams) = self.sessions.get_mut(&session) else { return Ok(()) };
                let bytes = streams.write()?;
                self.taken(session, bytes)
            }
        }
    }

    /// Does all that the host has asked for.
    fn commands(&mut self) -> Result<()> {
        while let Some(command) = self.port.command()? {
            self.command(command)?;
        }
        Ok(())
    }

    fn command(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Input { session, data } => {
                // A session that has ended leaves nobody to tell; the host forgets its window with it.
                let Some(streams) = self.sessions.get_mut(&session) else { return Ok(()) };
                let bytes = streams.feed(&data)?;
                self.taken(session, bytes)
            }
            Command::Taken { session, bytes } => {
                if let Some(streams) = self.sessions.get_mut(&session) {
                    streams.passed_on(bytes);
                }
                Ok(())
            }
            Command::Resize { session, rows, columns } => {
                if let Some(streams) = self.sessions.get(&session) {
                    streams.resize(rows, columns);
                }
                Ok(())
            }
            Command::Exec { session, exec } => {
                let fds = if exec.tty.is_some() {
                    self.sessions.insert(session, Session::default());
                    Vec::new()
                } else {
                    let (stdin, input) = start::pipe()?;
                    let (output, stdout) = start::pipe()?;
                    let (errors, stderr) = start::pipe()?;
                    self.sessions.insert(session, Session::on_pipes(Some(input), output, errors)?);
                    vec![stdin, stdout, stderr]
                };
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
            match start::send(channel, packet, &borrowed)? {
                Ok(()) => drop(self.pending.remove(0)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::PIPE | Errno::CONNRESET) => self.pending.clear(),
                Err(error) => return Err(error).context("write to stage2"),
            }
        }
        Ok(())
    }

    fn read_events(&mut self) -> Result<()> {
        let mut packet = vec![0; MESSAGE_BYTES_MAX];
        while let Some(channel) = self.channel.as_ref().filter(|_| self.port.has_room()) {
            let mut fds = Vec::new();
            let length = match receive(channel, &mut packet, &mut fds) {
                Ok(length) => length,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET) => 0,
                Err(error) => return Err(error).context("read from stage2"),
            };
            if length == 0 {
                self.channel = None;
                return Ok(());
            }
            let event: Event = serde_json::from_slice(&packet[..length]).context("parse an event of stage2")?;
            self.event(event, fds.pop())?;
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
            self.sessions.entry(session).or_default().use_terminal(master)?;
        }
        match event {
            Event::ExecEnded { session, end } => {
                // Told after the last of its output.
                self.sessions.entry(session).or_default().ended = Some(end);
                Ok(())
            }
            event => self.send(&event),
        }
    }

    /// Reads what ended exec sessions left in their pipes, and tells the host of those that left nothing.
    fn finish_sessions(&mut self) -> Result<()> {
        let ended = self.sessions.iter().filter(|(_, streams)| streams.ended.is_some());
        let ended: Vec<u32> = ended.map(|(&session, _)| session).collect();
        for session in ended {
            let Some(streams) = self.sessions.get_mut(&session) else { continue };
            let readable: Vec<usize> = streams.readable().map(|(index, _)| index).collect();
            for index in readable {
                if let Some(event) = streams.read(session, index)? {
                    self.port.send(&event)?;
                }
            }
            if streams.is_drained() {
                let streams = self.sessions.remove(&session);
                if let Some(end) = streams.and_then(|streams| streams.ended) {
                    self.send(&Event::ExecEnded { session, end })?;
                }
            }
        }
        self.port.flush()
    }

    fn taken(&mut self, session: u32, bytes: usize) -> Result<()> {
        match u32::try_from(bytes) {
            Ok(0) | Err(_) => Ok(()),
            Ok(bytes) => self.send(&Event::Taken { session, bytes }),
        }
    }

    fn send(&mut self, event: &Event) -> Result<()> {
        self.port.send(event)
    }

    /// Whether nothing more can come: stage2's end of the channel is closed, and so is every pipe, as their holders are dead.
    fn is_drained(&self) -> bool {
        self.channel.is_none() && self.sessions.values().all(Session::is_drained)
    }
}

fn receive(channel: &OwnedFd, packet: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(channel, &mut [IoSliceMut::new(packet)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(received.bytes)
}

//! The channel to stage2, as packets on one kernel or as frames into a guest.
//!
//! Everything received here is hostile: an app that broke out of its confinement may be PID 1 by now. What is too long, is no
//! event, or carries more descriptors than any event may, is an error, which ends the pod.

use anyhow::{Context, Result};
use contract::channel::{Command, Event, MESSAGE_BYTES_MAX};
use contract::control::Exec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use wire::mux::{Mux, Token};
use wire::packet::{self, Packet};

/// No event carries more.
const FDS_RECEIVED_MAX: usize = 1;

/// The supervisor's end.
#[derive(Debug)]
pub enum Link {
    /// Descriptors pass by it, so the streams are none of its business.
    Packets(Packets),
    /// The streams of all sessions pass by it.
    Frames(Mux),
}

/// A SOCK_SEQPACKET socket.
#[derive(Debug)]
pub struct Packets {
    socket: OwnedFd,
    buffer: Vec<u8>,
    open: bool,
}

impl Link {
    /// A SOCK_SEQPACKET socket. The buffer costs memory only as far as packets ever reach into it.
    pub fn packets(socket: OwnedFd) -> Self {
        Self::Packets(Packets { socket, buffer: vec![0; MESSAGE_BYTES_MAX], open: true })
    }

    /// A byte stream into a guest.
    pub fn frames(stream: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&stream, true).context("set up the channel to the guest")?;
        Ok(Self::Frames(Mux::new(stream)))
    }

    /// What to wait for.
    pub(crate) fn interests(&self) -> Vec<(Token, BorrowedFd<'_>, PollFlags)> {
        match self {
            Self::Packets(packets) if packets.open => vec![(Token::Channel, packets.socket.as_fd(), PollFlags::IN)],
            Self::Packets(_) => Vec::new(),
            Self::Frames(mux) => mux.interests().collect(),
        }
    }

    /// Does what a descriptor is ready for.
    pub(crate) fn ready(&mut self, token: Token, flags: PollFlags) -> Result<()> {
        match self {
            Self::Packets(_) => Ok(()),
            Self::Frames(mux) => mux.ready(token, flags),
        }
    }

    /// The next event, and the descriptor that may come with it.
    pub(crate) fn receive(&mut self) -> Result<Option<(Event, Option<OwnedFd>)>> {
        let understood = |bytes: &[u8]| serde_json::from_slice(bytes).context("understand an event of stage2");
        match self {
            Self::Frames(mux) => mux.receive()?.map(|json| Ok((understood(&json)?, None))).transpose(),
            Self::Packets(packets) => {
                let packet = packet::receive(packets.socket.as_fd(), &mut packets.buffer, FDS_RECEIVED_MAX);
                match packet.context("receive an event of stage2")? {
                    Packet::Nothing => Ok(None),
                    Packet::End => {
                        packets.open = false;
                        Ok(None)
                    }
                    Packet::Message(length, fds) => {
                        Ok(Some((understood(&packets.buffer[..length])?, fds.into_iter().next())))
                    }
                }
            }
        }
    }

    /// Sends one command.
    pub(crate) fn send(&mut self, command: &Command, fds: &[BorrowedFd<'_>]) -> Result<()> {
        match self {
            Self::Packets(packets) => {
                let bytes = serde_json::to_vec(command).context("write a command")?;
                anyhow::ensure!(
                    bytes.len() <= MESSAGE_BYTES_MAX,
                    "the command is longer than {MESSAGE_BYTES_MAX} bytes"
                );
                packet::send_many(packets.socket.as_fd(), &bytes, fds).context("send a command to stage2")
            }
            Self::Frames(mux) => mux.send(command),
        }
    }

    /// Starts a session with the descriptors of its client. Gives the client's side of a terminal that is made here.
    pub(crate) fn open(&mut self, session: u32, exec: Exec, fds: Vec<OwnedFd>) -> Result<Option<OwnedFd>> {
        let tty = exec.tty.is_some();
        let command = Command::Exec { session, exec };
        let Self::Frames(mux) = self else {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            return self.send(&command, &fds).map(|()| None);
        };
        let mut client = None;
        if tty {
            client = Some(terminal(mux, session)?);
        } else {
            let streams = mux.session(session);
            for (stream, fd) in (0..).zip(fds) {
                if stream == 0 { streams.add_reader(stream, fd) } else { streams.add_writer(stream, fd) }
            }
        }
        let sent = mux.send(&command);
        if sent.is_err() {
            mux.remove(session);
        }
        sent.map(|()| client)
    }

    /// Lets a terminal in the guest be this session, and gives the side that others use as its master.
    pub(crate) fn add_terminal(&mut self, session: u32) -> Result<Option<OwnedFd>> {
        match self {
            Self::Packets(_) => Ok(None),
            Self::Frames(mux) => terminal(mux, session).map(Some),
        }
    }

    /// Whether this session's client has everything that was written for it.
    pub(crate) fn is_written(&self, session: u32) -> bool {
        match self {
            Self::Packets(_) => true,
            Self::Frames(mux) => mux.sessions().all(|(id, streams)| id != session || streams.is_written()),
        }
    }

    /// Forgets a session.
    pub(crate) fn close(&mut self, session: u32) {
        if let Self::Frames(mux) = self {
            mux.remove(session);
        }
    }

    /// Whether something came, the end included, that was not received.
    pub(crate) fn is_readable(&self) -> bool {
        let channel = self.interests().into_iter().find(|(token, ..)| *token == Token::Channel);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        channel.is_some_and(|(_, fd, _)| {
            poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
        })
    }

    /// Whether the other end is open.
    #[cfg(test)]
    fn is_open(&self) -> bool {
        match self {
            Self::Packets(packets) => packets.open,
            Self::Frames(mux) => mux.is_open(),
        }
    }
}

/// A socket pair stands for a terminal: only bytes pass, sizes go as messages.
fn terminal(mux: &mut Mux, session: u32) -> Result<OwnedFd> {
    let context = "make a socket pair for a terminal";
    let (ours, theirs) = UnixStream::pair().context(context)?;
    ours.set_nonblocking(true).context(context)?;
    let writer = ours.try_clone().context(context)?;
    let streams = mux.session(session);
    streams.add_reader(0, ours.into());
    streams.add_own_writer(1, writer.into());
    Ok(theirs.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(bytes: &[u8], fds: usize) -> Result<Option<(Event, Option<OwnedFd>)>> {
        let (ours, theirs) = packet::pair().unwrap();
        let fd = rustix::io::dup(&theirs).unwrap();
        packet::send(theirs.as_fd(), bytes, &vec![fd.as_fd(); fds]).unwrap();
        Link::packets(ours).receive()
    }

    #[test]
    fn events_pass() {
        let event = received(br#"{"event":"started","app":"a"}"#, 1).unwrap();
        assert!(matches!(event, Some((Event::Started { .. }, Some(_)))));
        let (ours, theirs) = packet::pair().unwrap();
        drop(theirs);
        let mut link = Link::packets(ours);
        assert!(matches!(link.receive(), Ok(None)) && !link.is_open() && link.interests().is_empty());
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        for bytes in [
            &b"x"[..],
            b"{}",
            br#"{"event":"started"}"#,
            br#"{"event":"started","app":"../x"}"#,
            br#"{"event":"started","app":"a","more":1}"#,
            br#"{"event":"ended","app":"a","end":{"code":256},"again":false}"#,
            "[".repeat(200).as_bytes(),
        ] {
            assert!(received(bytes, 0).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        assert!(received(br#"{"event":"started","app":"a"}"#, 2).is_err(), "more descriptors than any event carries");
    }

    #[test]
    fn a_terminal_of_a_guest_is_a_socket() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (mut link, mut guest) = (Link::frames(ours.into()).unwrap(), Mux::new(theirs.into()));
        let exec = Exec {
            app: "a".parse().unwrap(),
            arguments: Vec::new(),
            environment: Vec::new(),
            user: None,
            working_directory: None,
            tty: Some((1, 2)),
        };
        let terminal = link.open(5, exec, Vec::new()).unwrap().expect("a terminal");
        guest.ready(Token::Channel, PollFlags::IN).unwrap();
        assert!(guest.receive().unwrap().is_some());
        rustix::io::write(&terminal, b"typed").unwrap();
        assert!(!guest.sessions().any(|(id, _)| id == 5));
        link.close(5);
        assert_eq!(rustix::io::write(&terminal, b"more"), Err(rustix::io::Errno::PIPE));
    }
}

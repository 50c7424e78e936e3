//! The supervisor's end of the channel to stage2: one JSON message in a packet, fds beside it.
//!
//! Everything received here is hostile: an app that broke out of its confinement may be PID 1 by now. A packet that is too
//! long, that is no event, or that carries more fds than any event may, ends the pod.

use anyhow::{Context, Result, bail};
use contract::channel::{Command, Event, FDS_MAX, MESSAGE_BYTES_MAX};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// No event or request carries more than three.
const FDS_RECEIVED_MAX: usize = 3;

/// One packet of a SOCK_SEQPACKET socket.
pub(crate) enum Packet {
    /// Nothing is there now.
    Nothing,
    /// The other side is gone.
    End,
    /// A message and its fds.
    Message(Vec<OwnedFd>, usize),
}

/// A new channel: our end, and stage2's.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context("make the channel to stage2")
}

/// Sends without waiting: who does not read must not stop the supervisor.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    if fds.len() > FDS_MAX {
        return Err(Errno::TOOMANYREFS);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    Ok(())
}

/// Sends one command to stage2; fds that one packet cannot carry follow in packets of one byte.
pub(crate) fn command(socket: BorrowedFd<'_>, command: &Command, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let bytes = serde_json::to_vec(command).context("write a command")?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        bail!("the command is longer than {MESSAGE_BYTES_MAX} bytes");
    }
    let mut parts = fds.chunks(FDS_MAX);
    send(socket, &bytes, parts.next().unwrap_or_default()).context("send a command to stage2")?;
    for part in parts {
        send(socket, b"+", part).context("send a command to stage2")?;
    }
    Ok(())
}

/// Takes one packet into `buffer` without waiting.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Packet> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_RECEIVED_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut take = || rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags);
    let received = match take() {
        // Said once, before what is still in the queue: the peer ended without having read everything.
        Err(Errno::CONNRESET) => take(),
        result => result,
    };
    let received = match received {
        Ok(received) => received,
        Err(Errno::AGAIN) => return Ok(Packet::Nothing),
        Err(error) => return Err(error).context("receive a packet"),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    // The kernel rounds the room for fds up, so one more than was meant may come without a sign.
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || fds.len() > FDS_RECEIVED_MAX {
        bail!("a packet is longer than {} bytes or carries more than {FDS_RECEIVED_MAX} fds", buffer.len());
    }
    // An empty packet and the end look the same; no message is empty.
    if received.bytes == 0 { Ok(Packet::End) } else { Ok(Packet::Message(fds, received.bytes)) }
}

/// The supervisor's end.
pub(crate) struct Channel {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// What came from stage2.
pub(crate) enum Received {
    /// Nothing now.
    Nothing,
    /// stage2 closed its end.
    End,
    /// An event and its fds.
    Event(Event, Vec<OwnedFd>),
}

impl Channel {
    /// Wraps our end. The buffer costs memory only as far as packets ever reach into it.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, buffer: vec![0; MESSAGE_BYTES_MAX] }
    }

    /// Sends one command.
    pub(crate) fn send(&self, what: &Command, fds: &[BorrowedFd<'_>]) -> Result<()> {
        command(self.socket.as_fd(), what, fds)
    }

    /// Takes one event, if one is there.
    pub(crate) fn receive(&mut self) -> Result<Received> {
        Ok(match receive(self.socket.as_fd(), &mut self.buffer)? {
            Packet::Nothing => Received::Nothing,
            Packet::End => Received::End,
            Packet::Message(fds, length) => {
                let event = serde_json::from_slice(&self.buffer[..length]).context("understand stage2's event")?;
                Received::Event(event, fds)
            }
        })
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(bytes: &[u8], fds: usize) -> Result<Received> {
        let (ours, theirs) = pair().unwrap();
        let fd = rustix::io::dup(&theirs).unwrap();
        send(theirs.as_fd(), bytes, &vec![fd.as_fd(); fds]).unwrap();
        Channel::new(ours).receive()
    }

    #[test]
    fn events_pass() {
        let event = received(br#"{"event":"started","app":"a"}"#, 1).unwrap();
        assert!(matches!(event, Received::Event(Event::Started { .. }, fds) if fds.len() == 1));
        let (ours, theirs) = pair().unwrap();
        drop(theirs);
        assert!(matches!(Channel::new(ours).receive(), Ok(Received::End)));
    }

    #[test]
    fn last_words_of_a_peer_that_did_not_listen_are_heard() {
        let (ours, theirs) = pair().unwrap();
        send(ours.as_fd(), b"unread", &[]).unwrap();
        send(theirs.as_fd(), br#"{"event":"failed","message":"x"}"#, &[]).unwrap();
        drop(theirs);
        let mut channel = Channel::new(ours);
        assert!(matches!(channel.receive(), Ok(Received::Event(Event::Failed { .. }, _))));
        assert!(matches!(channel.receive(), Ok(Received::End)));
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
            b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        ] {
            assert!(received(bytes, 0).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        assert!(received(br#"{"event":"started","app":"a"}"#, 4).is_err(), "more fds than any event carries");
    }

    #[test]
    fn a_long_packet_is_an_error() {
        let (ours, theirs) = pair().unwrap();
        send(theirs.as_fd(), &[b' '; 32], &[]).unwrap();
        assert!(receive(ours.as_fd(), &mut [0; 16]).is_err());
    }

    #[test]
    fn fds_beyond_one_packet_follow() {
        let (ours, theirs) = pair().unwrap();
        let fds = vec![theirs.as_fd(); FDS_MAX + 1];
        command(theirs.as_fd(), &Command::Stop { grace_millis: None }, &fds).unwrap();
        // Nobody receives so many but stage2; that they came in two packets is what counts.
        assert!(receive(ours.as_fd(), &mut [0; 64]).is_err());
        assert!(matches!(receive(ours.as_fd(), &mut [0; 64]), Ok(Packet::Message(fds, 1)) if fds.len() == 1));
    }
}

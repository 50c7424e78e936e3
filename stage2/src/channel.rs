//! stage2's end of the channel to stage1: packets, some with descriptors. In a guest it leads to the process that carries
//! it on as frames, which is of no concern here.

use anyhow::{Context, Result, bail, ensure};
use contract::channel::{Command, Event, FDS_MAX, MESSAGE_BYTES_MAX};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// The channel.
pub(crate) struct Channel(OwnedFd);

/// What one look at the channel gave.
pub(crate) enum Received {
    /// A command with the descriptors that came along.
    Command(Command, Vec<OwnedFd>),
    /// Nothing complete yet.
    Nothing,
    /// stage1 is gone.
    Closed,
}

impl Channel {
    /// `socket` is one end of a SOCK_SEQPACKET pair.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Waits for one command.
    pub(crate) fn wait(&self) -> Result<(Command, Vec<OwnedFd>)> {
        loop {
            match self.receive()? {
                Received::Command(command, fds) => return Ok((command, fds)),
                Received::Closed => bail!("stage1 closed the channel"),
                Received::Nothing => {
                    let mut fds = [rustix::event::PollFd::new(self, rustix::event::PollFlags::IN)];
                    match rustix::event::poll(&mut fds, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error).context("wait for the channel"),
                    }
                }
            }
        }
    }

    /// Takes one command, without waiting.
    pub(crate) fn receive(&self) -> Result<Received> {
        let (mut buffer, mut fds) = (vec![0; MESSAGE_BYTES_MAX], Vec::new());
        let Some(length) = packet(self.as_fd(), &mut buffer, &mut fds)? else { return Ok(Received::Nothing) };
        if length == 0 {
            return Ok(Received::Closed);
        }
        let command: Command = serde_json::from_slice(&buffer[..length]).context("understand a command of stage1")?;
        if let Command::Start { cgroups, .. } = &command {
            let announced: usize = cgroups.iter().map(|(_, count)| count).sum();
            let mut byte = [0];
            while fds.len() < announced {
                // What does not fit into one packet follows in others that stage1 has already sent.
                let more = packet(self.as_fd(), &mut byte, &mut fds)?;
                ensure!(more == Some(1), "`start` announced {announced} descriptors and brought {}", fds.len());
            }
            ensure!(fds.len() == announced, "`start` announced {announced} descriptors and brought {}", fds.len());
        }
        Ok(Received::Command(command, fds))
    }

    /// Sends one event, with a descriptor if it brings one.
    pub(crate) fn send(&self, event: &Event, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let bytes = serde_json::to_vec(event).context("write an event")?;
        send_packet(self.as_fd(), &bytes, fd).context("send an event to stage1")
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Receives one packet: its length, or `None` if there is none. Descriptors are added to `fds`.
pub(crate) fn packet(socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<Option<usize>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            // The other end was closed with packets unread.
            Err(Errno::CONNRESET) => return Ok(Some(0)),
            other => break other.context("receive a packet")?,
        }
    };
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    ensure!(!message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC), "a packet is too long");
    Ok(Some(message.bytes))
}

/// Sends one packet.
pub(crate) fn send_packet(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fd.into_iter().collect();
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, Channel) {
        let (stage1, stage2) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (stage1, Channel::new(stage2))
    }

    fn start(count: usize) -> Vec<u8> {
        let cgroups = vec![(contract::name::AppName::parse("app").unwrap(), count)];
        serde_json::to_vec(&Command::Start { cgroups, tty: None }).unwrap()
    }

    #[test]
    fn descriptors_may_follow() {
        let (stage1, channel) = pair();
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        send_packet(stage1.as_fd(), &start(3), Some(null.as_fd())).unwrap();
        send_packet(stage1.as_fd(), b"+", Some(null.as_fd())).unwrap();
        send_packet(stage1.as_fd(), b"+", Some(null.as_fd())).unwrap();
        let Received::Command(_, fds) = channel.receive().unwrap() else { panic!("no command") };
        assert_eq!(fds.len(), 3);
        assert!(matches!(channel.receive().unwrap(), Received::Nothing));
        drop(stage1);
        assert!(matches!(channel.receive().unwrap(), Received::Closed));
    }

    #[test]
    fn bad_packets_are_refused() {
        for packet in [start(1), b"{}".to_vec(), b"{\"command\":\"stop\",\"more\":1}".to_vec()] {
            let (stage1, channel) = pair();
            send_packet(stage1.as_fd(), &packet, None).unwrap();
            assert!(channel.receive().is_err(), "{}", String::from_utf8_lossy(&packet));
        }
    }
}

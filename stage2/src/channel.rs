//! stage2's end of the channel to stage1: packets, some with descriptors. In a guest it leads to the process that carries
//! it on as frames, which is of no concern here.

use anyhow::{Context, Result, bail, ensure};
use contract::channel::{Command, Event, FDS_MAX, MESSAGE_BYTES_MAX};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use wire::packet::{self, Packet};

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
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let (length, mut fds) = match self.packet(&mut buffer)? {
            Packet::Nothing => return Ok(Received::Nothing),
            Packet::End => return Ok(Received::Closed),
            Packet::Message(length, fds) => (length, fds),
        };
        let command: Command = serde_json::from_slice(&buffer[..length]).context("understand a command of stage1")?;
        if let Command::Start { cgroups, .. } = &command {
            let announced: usize = cgroups.iter().map(|(_, count)| count).sum();
            while fds.len() < announced {
                // What does not fit into one packet follows in others that stage1 has already sent.
                let Packet::Message(1, more) = self.packet(&mut [0])? else { break };
                fds.extend(more);
            }
            ensure!(fds.len() == announced, "`start` announced {announced} descriptors and brought {}", fds.len());
        }
        Ok(Received::Command(command, fds))
    }

    fn packet(&self, buffer: &mut [u8]) -> Result<Packet> {
        packet::receive(self.as_fd(), buffer, FDS_MAX).context("receive a packet")
    }

    /// Sends one event, with a descriptor if it brings one.
    pub(crate) fn send(&self, event: &Event, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let bytes = serde_json::to_vec(event).context("write an event")?;
        packet::send_blocking(self.as_fd(), &bytes, fd.as_slice()).context("send an event to stage1")
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (OwnedFd, Channel) {
        let (stage1, stage2) = packet::pair().unwrap();
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
        packet::send_many(stage1.as_fd(), &start(FDS_MAX + 2), &vec![null.as_fd(); FDS_MAX + 2]).unwrap();
        let Received::Command(_, fds) = channel.receive().unwrap() else { panic!("no command") };
        assert_eq!(fds.len(), FDS_MAX + 2);
        assert!(matches!(channel.receive().unwrap(), Received::Nothing));
        drop(stage1);
        assert!(matches!(channel.receive().unwrap(), Received::Closed));
    }

    #[test]
    fn bad_packets_are_refused() {
        for packet in [start(1), b"{}".to_vec(), b"{\"command\":\"stop\",\"more\":1}".to_vec()] {
            let (stage1, channel) = pair();
            packet::send(stage1.as_fd(), &packet, &[]).unwrap();
            assert!(channel.receive().is_err(), "{}", String::from_utf8_lossy(&packet));
        }
    }
}

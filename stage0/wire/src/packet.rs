//! Packets of a SOCK_SEQPACKET socket, with descriptors by SCM_RIGHTS.

use contract::channel::FDS_MAX;
use rustix::io::{Errno, IoSlice, IoSliceMut, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// What one look at a socket gave.
#[derive(Debug)]
pub enum Packet {
    /// No packet is there now.
    Nothing,
    /// The other end is closed, and everything that it sent was received.
    End,
    /// A packet of this length, and its descriptors.
    Message(usize, Vec<OwnedFd>),
}

/// Both ends of a new channel.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends one packet without waiting. EAGAIN: the other end does not read.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    send_with(socket, bytes, fds, SendFlags::DONTWAIT)
}

/// Sends one packet, and waits until the other end has room for it.
pub fn send_blocking(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    send_with(socket, bytes, fds, SendFlags::empty())
}

/// Sends one packet; descriptors that it cannot carry follow in packets of one byte.
pub fn send_many(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut parts = fds.chunks(FDS_MAX);
    send(socket, bytes, parts.next().unwrap_or_default())?;
    parts.try_for_each(|part| send(socket, b"+", part))
}

fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: SendFlags) -> Result<()> {
    if fds.len() > FDS_MAX {
        return Err(Errno::TOOMANYREFS);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    // Without SIGPIPE: a closed other end is an error like any.
    let flags = flags | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags))?;
    Ok(())
}

/// Receives one packet without waiting. EMSGSIZE: it is longer than `buffer` or carries more than `fds_max` descriptors.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], fds_max: usize) -> Result<Packet> {
    receive_with(socket, buffer, fds_max, RecvFlags::DONTWAIT)
}

/// Receives one packet, and waits for it.
pub fn receive_blocking(socket: BorrowedFd<'_>, buffer: &mut [u8], fds_max: usize) -> Result<Packet> {
    receive_with(socket, buffer, fds_max, RecvFlags::empty())
}

fn receive_with(socket: BorrowedFd<'_>, buffer: &mut [u8], fds_max: usize, flags: RecvFlags) -> Result<Packet> {
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut reset = false;
    let received = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(Errno::INTR) => {}
            // Reported once, before what is still queued: the other end was closed with packets unread.
            Err(Errno::CONNRESET) if !reset => reset = true,
            Err(Errno::CONNRESET) => return Ok(Packet::End),
            Err(Errno::AGAIN) => return Ok(Packet::Nothing),
            Err(error) => return Err(error),
            Ok(received) => break received,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || fds.len() > fds_max {
        return Err(Errno::MSGSIZE);
    }
    // An empty packet and the end look the same; no message is empty.
    Ok(if received.bytes == 0 { Packet::End } else { Packet::Message(received.bytes, fds) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_last_packets_of_a_closed_end_are_received() {
        let (ours, theirs) = pair().unwrap();
        send(ours.as_fd(), b"unread", &[]).unwrap();
        send(theirs.as_fd(), b"last words", &[theirs.as_fd()]).unwrap();
        drop(theirs);
        let mut buffer = [0; 16];
        assert!(matches!(receive(ours.as_fd(), &mut buffer, 1), Ok(Packet::Message(10, fds)) if fds.len() == 1));
        assert!(matches!(receive(ours.as_fd(), &mut buffer, 1), Ok(Packet::End)));
    }

    #[test]
    fn too_much_is_an_error() {
        let (ours, theirs) = pair().unwrap();
        let mut buffer = [0; 16];
        assert!(matches!(receive(ours.as_fd(), &mut buffer, 1), Ok(Packet::Nothing)));
        send(theirs.as_fd(), &[b' '; 17], &[]).unwrap();
        assert!(matches!(receive(ours.as_fd(), &mut buffer, 1), Err(Errno::MSGSIZE)));
        send(theirs.as_fd(), b"x", &[theirs.as_fd(), theirs.as_fd()]).unwrap();
        assert!(matches!(receive(ours.as_fd(), &mut buffer, 1), Err(Errno::MSGSIZE)));
    }

    #[test]
    fn descriptors_beyond_one_packet_follow() {
        let (ours, theirs) = pair().unwrap();
        let fds = vec![theirs.as_fd(); FDS_MAX + 1];
        assert!(matches!(send(theirs.as_fd(), b"x", &fds), Err(Errno::TOOMANYREFS)));
        send_many(theirs.as_fd(), b"x", &fds).unwrap();
        let mut buffer = [0; 16];
        for count in [FDS_MAX, 1] {
            let packet = receive(ours.as_fd(), &mut buffer, FDS_MAX);
            assert!(matches!(packet, Ok(Packet::Message(1, fds)) if fds.len() == count));
        }
    }

    #[test]
    fn an_end_that_does_not_read_is_an_error() {
        let (_ours, theirs) = pair().unwrap();
        let error = (0..10_000).find_map(|_| send(theirs.as_fd(), &[0; 4096], &[]).err());
        assert_eq!(error, Some(Errno::AGAIN));
    }
}

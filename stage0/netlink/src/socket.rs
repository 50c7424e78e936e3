//! A netlink socket that sends requests and waits for their answers.
//!
//! Every request has a sequence number, and only the kernel's answers to that number count: an answer that an earlier request
//! left behind, or a message of another process, is skipped.

use crate::message::{Answer, Message, answers};
use crate::uapi::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recvfrom, send, socket_with};
use std::cell::Cell;
use std::os::fd::OwnedFd;

/// The kernel makes no larger datagram of a dump.
const RECEIVE_BYTES: usize = 64 << 10;
/// A dump beyond this is refused.
const DUMP_BYTES_MAX: usize = 16 << 20;
/// How often a dump is taken again because something changed while it was read.
const DUMP_TRIES_MAX: usize = 3;

/// A connection to the kernel.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// Of the next request.
    sequence: Cell<u32>,
}

impl Socket {
    /// To rtnetlink(7) of the network namespace that this thread is in.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn route() -> Result<Self, Errno> {
        Self::open(None) // NETLINK_ROUTE is protocol 0.
    }

    /// To netfilter of the network namespace that this thread is in.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn netfilter() -> Result<Self, Errno> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> Result<Self, Errno> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { fd, sequence: Cell::new(1) })
    }

    /// Sends requests as one datagram, and gives the first error. The kernel carries them out before send(2) returns, so all
    /// answers are there by then.
    ///
    /// # Errors
    /// What the kernel answers to a request; ENOMSG when it does not answer one.
    pub fn execute(&self, messages: &[&Message]) -> Result<(), Errno> {
        let first = self.sequence.get();
        let numbered = messages.iter().zip(first..);
        let bytes: Vec<u8> = numbered.flat_map(|(message, sequence)| message.finished(sequence)).collect();
        let next = first.wrapping_add(u32::try_from(messages.len()).map_err(|_| Errno::MSGSIZE)?);
        self.sequence.set(next);
        send(&self.fd, &bytes, SendFlags::empty())?;
        let mut wanted = messages.iter().filter(|message| message.is_acknowledged()).count();
        let mut result = Ok(());
        let mut buffer = vec![0; RECEIVE_BYTES];
        while let Some(length) = self.receive(&mut buffer, RecvFlags::DONTWAIT)? {
            let ours = |answer: &Answer<'_>| answer.kind == NLMSG_ERROR && (first..next).contains(&answer.sequence);
            for answer in answers(&buffer[..length]).filter(ours) {
                wanted = wanted.saturating_sub(1);
                result = result.and(verdict(answer.body));
            }
        }
        // The kernel answers every request that asks for it, or refuses the whole datagram with a word.
        if result.is_ok() && wanted > 0 { Err(Errno::NOMSG) } else { result }
    }

    /// All objects of a kind: the type and the body of each message. `head` is the structure that the request begins with.
    ///
    /// # Errors
    /// What the kernel answers; EAGAIN when the objects changed each time that they were read; EMSGSIZE for too many.
    pub fn dump(&self, kind: u16, head: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, Errno> {
        for _ in 1..DUMP_TRIES_MAX {
            match self.dump_once(kind, head) {
                Err(Errno::AGAIN) => {}
                result => return result,
            }
        }
        self.dump_once(kind, head)
    }

    fn dump_once(&self, kind: u16, head: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, Errno> {
        let sequence = self.sequence.replace(self.sequence.get().wrapping_add(1));
        let mut message = Message::new(kind, 0, head);
        message.set_flags(NLM_F_REQUEST | NLM_F_DUMP);
        send(&self.fd, &message.finished(sequence), SendFlags::empty())?;
        let mut found = Vec::new();
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut total = 0;
        let mut interrupted = false;
        loop {
            let Some(length) = self.receive(&mut buffer, RecvFlags::empty())? else { return Err(Errno::NOMSG) };
            total += length;
            if total > DUMP_BYTES_MAX {
                return Err(Errno::MSGSIZE);
            }
            for answer in answers(&buffer[..length]).filter(|answer| answer.sequence == sequence) {
                // Read to its end all the same, or the rest would be taken for the next answer.
                interrupted |= answer.flags & NLM_F_DUMP_INTR != 0;
                match answer.kind {
                    NLMSG_DONE if interrupted => return Err(Errno::AGAIN),
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => return verdict(answer.body).map(|()| found),
                    kind => found.push((kind, answer.body.to_vec())),
                }
            }
        }
    }

    /// The length of the next datagram of the kernel; none if nothing is there.
    fn receive(&self, buffer: &mut [u8], flags: RecvFlags) -> Result<Option<usize>, Errno> {
        loop {
            let (length, _, sender) = match recvfrom(&self.fd, &mut *buffer, flags) {
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error),
            };
            // Another process of the namespace can send, too; its number is not 0.
            let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
            if sender.is_some_and(|sender| sender.pid() == 0) {
                return Ok(Some(length));
            }
        }
    }
}

/// struct nlmsgerr begins with a negative errno, or zero.
fn verdict(body: &[u8]) -> Result<(), Errno> {
    match body.first_chunk().map_or(-libc::EBADMSG, |bytes| i32::from_ne_bytes(*bytes)) {
        0 => Ok(()),
        negative => Err(Errno::from_raw_os_error(negative.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;
    use crate::uapi::{IFINFOMSG_BYTES, IFLA_IFNAME, RTM_GETLINK, RTM_NEWLINK};
    use rustix::net::{recv, sendto};

    fn names(socket: &Socket) -> Vec<String> {
        let links = socket.dump(RTM_GETLINK, &[0; IFINFOMSG_BYTES]).unwrap();
        links.iter().filter_map(|(_, body)| text(body, IFINFOMSG_BYTES, IFLA_IFNAME)).collect()
    }

    /// No interface has this number.
    fn nonsense() -> Message {
        let mut head = [0; IFINFOMSG_BYTES];
        head[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        Message::new(RTM_NEWLINK, 0, &head)
    }

    #[test]
    fn the_kernel_answers() {
        let socket = Socket::route().unwrap();
        assert!(names(&socket).contains(&"lo".to_owned()));
        let error = socket.execute(&[&nonsense()]).unwrap_err();
        assert!(matches!(error, Errno::NODEV | Errno::PERM), "{error}");
    }

    #[test]
    fn answers_to_other_requests_do_not_count() {
        let socket = Socket::route().unwrap();
        // The answer to this one, an error, is left in the socket.
        send(&socket.fd, &nonsense().finished(0x7777), SendFlags::empty()).unwrap();
        assert!(names(&socket).contains(&"lo".to_owned()));
    }

    #[test]
    fn messages_of_other_processes_do_not_count() {
        let (socket, other) = (Socket::route().unwrap(), Socket::route().unwrap());
        let address = rustix::net::getsockname(&socket.fd).unwrap();
        // "Done", with the number that the next request will have.
        let mut lie = Message::new(NLMSG_DONE, 0, &[0; 4]);
        lie.set_flags(0);
        match sendto(&other.fd, &lie.finished(1), SendFlags::empty(), &address) {
            Ok(_) => assert!(names(&socket).contains(&"lo".to_owned())),
            // rtnetlink lets only the kernel send, which is as good.
            Err(error) => assert_eq!(error, Errno::PERM),
        }
        assert_eq!(recv(&other.fd, &mut [0; 16][..], RecvFlags::DONTWAIT).unwrap_err(), Errno::AGAIN);
    }
}

//! netlink(7), as far as networks of pods and guests need it: a socket that waits for its answers, messages made of attributes,
//! and attributes read one by one.
//!
//! The kernel's own answers are read, so what is malformed is a bug and not an attack; still nothing here reads beyond a
//! message. What is not asked for is skipped, so that a newer kernel may say more than this program knows.

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use std::os::fd::OwnedFd;

/// struct nlmsghdr.
const HEADER_BYTES: usize = 16;
/// The kernel makes no larger datagram of a dump.
const RECEIVE_BYTES: usize = 64 << 10;
/// A dump beyond this is refused.
const DUMP_BYTES_MAX: usize = 16 << 20;

const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const FLAG_REQUEST: u16 = 1;
const FLAG_ACK: u16 = 4;
const FLAG_DUMP: u16 = 0x300;
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
const NESTED: u16 = 1 << 15;

/// Make what is not there.
pub const CREATE: u16 = 0x400;
/// And fail if it is.
pub const EXCLUSIVE: u16 = 0x200;
/// After what is there already.
pub const APPEND: u16 = 0x800;

/// A connection to the kernel.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// A request in the making.
#[derive(Clone, Debug)]
pub struct Message(Vec<u8>);

/// One message of an answer.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

impl Socket {
    /// To rtnetlink(7) of the network namespace that this thread is in.
    pub fn route() -> Result<Self, Errno> {
        Self::open(None) // The first of the protocols.
    }

    /// To netfilter of the network namespace that this thread is in.
    pub fn netfilter() -> Result<Self, Errno> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> Result<Self, Errno> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends requests as one datagram, and gives the first error. The kernel carries them out before send(2) returns, so all
    /// answers are there by then.
    pub fn execute(&self, messages: &[&Message]) -> Result<(), Errno> {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| message.finished()).collect();
        send(&self.0, &bytes, SendFlags::empty())?;
        let mut wanted = messages.iter().filter(|message| message.flags() & FLAG_ACK != 0).count();
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut result = Ok(());
        while let Some(length) = received(recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT))? {
            for answer in answers(&buffer[..length]).filter(|answer| answer.kind == MESSAGE_ERROR) {
                wanted = wanted.saturating_sub(1);
                result = result.and(verdict(answer.body));
            }
        }
        // The kernel answers every request that asks for it, or refuses the whole datagram with a word.
        if result.is_ok() && wanted > 0 { Err(Errno::NOMSG) } else { result }
    }

    /// Asks for everything of a kind, and shows each message's kind and body to `each`.
    pub fn dump(&self, mut message: Message, mut each: impl FnMut(u16, &[u8])) -> Result<(), Errno> {
        message.set_flags(FLAG_REQUEST | FLAG_DUMP);
        send(&self.0, &message.finished(), SendFlags::empty())?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut total = 0;
        loop {
            let (length, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            total += length;
            if total > DUMP_BYTES_MAX {
                return Err(Errno::MSGSIZE);
            }
            for answer in answers(&buffer[..length]) {
                if answer.flags & FLAG_DUMP_INTERRUPTED != 0 {
                    return Err(Errno::AGAIN); // Something changed while it was read.
                }
                match answer.kind {
                    MESSAGE_DONE => return Ok(()),
                    MESSAGE_ERROR => return verdict(answer.body),
                    kind => each(kind, answer.body),
                }
            }
        }
    }
}

/// What a receive without waiting gave: nothing more, or so many bytes.
fn received(result: Result<(usize, usize), Errno>) -> Result<Option<usize>, Errno> {
    match result {
        Ok((length, _)) => Ok(Some(length)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}

/// struct nlmsgerr begins with a negative errno, or zero.
fn verdict(body: &[u8]) -> Result<(), Errno> {
    match body.first_chunk().map_or(-libc::EBADMSG, |bytes| i32::from_ne_bytes(*bytes)) {
        0 => Ok(()),
        negative => Err(Errno::from_raw_os_error(negative.saturating_neg())),
    }
}

fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let (kind, flags) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?);
        let body = bytes.get(HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer { kind, flags, body })
    })
}

impl Message {
    /// A request of this kind that is acknowledged; `head` is the structure that the kind begins with.
    pub fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        let mut message = Self(vec![0; HEADER_BYTES]);
        message.0[4..6].copy_from_slice(&kind.to_ne_bytes());
        message.set_flags(FLAG_REQUEST | FLAG_ACK | flags);
        message.0.extend_from_slice(head);
        message.pad();
        message
    }

    /// As [`Self::new`], of a kind that the kernel does not acknowledge.
    pub fn without_answer(kind: u16, head: &[u8]) -> Self {
        let mut message = Self::new(kind, 0, head);
        message.set_flags(FLAG_REQUEST);
        message
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("attributes are names, numbers and addresses");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
        self
    }

    /// Adds a text that ends with a zero byte, as most names do.
    #[must_use]
    pub fn with_text(self, kind: u16, text: &str) -> Self {
        self.with(kind, &[text.as_bytes(), b"\0"].concat())
    }

    /// Adds an attribute made of those that `inside` adds.
    #[must_use]
    pub fn with_nested(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self = inside(self.with(kind | NESTED, b""));
        let length = u16::try_from(self.0.len() - start).expect("attributes are names, numbers and addresses");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.0[6], self.0[7]])
    }

    fn set_flags(&mut self, flags: u16) {
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    fn finished(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        let length = u32::try_from(bytes.len()).expect("requests are short");
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }
}

/// The attributes of a body after its first `head_bytes`: kind without flags, and value.
pub fn attributes(body: &[u8], head_bytes: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut bytes = body.get(head_bytes.next_multiple_of(4)..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A number of the kernel's own byte order.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// A number of the kernel's own byte order.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let message =
            Message::new(16, CREATE, &[1; 16]).with_text(3, "lo").with_nested(26, |inner| inner.with(8, &[1]));
        let bytes = message.finished();
        assert_eq!(u32_at(&bytes, 0), Some(u32::try_from(bytes.len()).unwrap()));
        let found: Vec<(u16, &[u8])> = attributes(&bytes[HEADER_BYTES..], 16).collect();
        assert_eq!(found, [(3, &b"lo\0"[..]), (26, &[5, 0, 8, 0, 1, 0, 0, 0][..])]);
    }

    #[test]
    fn the_kernel_answers() {
        let socket = Socket::route().unwrap();
        let mut names = Vec::new();
        // RTM_GETLINK, IFLA_IFNAME.
        socket
            .dump(Message::new(18, 0, &[0; 16]), |_, body| {
                names.extend(attributes(body, 16).filter(|(kind, _)| *kind == 3).map(|(_, name)| name.to_vec()));
            })
            .unwrap();
        assert!(names.contains(&b"lo\0".to_vec()), "{names:?}");
        // No interface has this number.
        let mut head = [0; 16];
        head[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let error = socket.execute(&[&Message::new(19, 0, &head)]).unwrap_err();
        assert!(matches!(error, Errno::NODEV | Errno::PERM), "{error}");
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for answer in answers(&bytes) {
                let _ = verdict(answer.body);
                prop_assert!(attributes(answer.body, 16).count() < 200);
            }
        }
    }
}

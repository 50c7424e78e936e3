//! The channel to stage2 in the guest: frames over a byte stream that never blocks the supervisor. Every byte that comes up
//! is hostile: a length beyond the limit or a frame that is not an event ends the pod.

use anyhow::{Context, Result, bail};
use contract::channel::{Command, Event, MESSAGE_BYTES_MAX};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Beyond this no more input is read for the guest until it takes some.
const OUTGOING_BYTES_HIGH: usize = 256 << 10;
/// A guest that lets this much pile up does not read at all.
const OUTGOING_BYTES_MAX: usize = 4 << 20;
/// Bytes before each message.
const HEADER_BYTES: usize = 4;

/// Our end.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: UnixStream,
    incoming: Frames,
    outgoing: VecDeque<u8>,
    open: bool,
}

impl Channel {
    /// Takes the stream over.
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_nonblocking(true).context("set up the channel to the guest")?;
        Ok(Self { stream, incoming: Frames::default(), outgoing: VecDeque::new(), open: true })
    }

    /// Reads once what is there. The hypervisor's end of the stream may be gone with unread events before it.
    pub(crate) fn fill(&mut self) -> Result<()> {
        let mut buffer = [0; 64 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.open = false,
            Ok(count) => self.incoming.push(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.open = false,
            Err(error) => return Err(error).context("read from the guest"),
        }
        Ok(())
    }

    /// The next complete event.
    pub(crate) fn next(&mut self) -> Result<Option<Event>> {
        let Some(frame) = self.incoming.pop()? else { return Ok(None) };
        serde_json::from_slice(&frame).map(Some).context("the guest sent a message that is not an event")
    }

    /// Queues a command.
    pub(crate) fn send(&mut self, command: &Command) -> Result<()> {
        if !self.open {
            return Ok(()); // The guest is gone; the supervisor learns it from the channel's end.
        }
        let message = serde_json::to_vec(command)?;
        let length = u32::try_from(message.len()).ok().filter(|length| *length as usize <= MESSAGE_BYTES_MAX);
        let length = length.context("a command for the guest is too long")?;
        if self.outgoing.len() + message.len() > OUTGOING_BYTES_MAX {
            bail!("the guest does not read its control channel");
        }
        self.outgoing.extend(length.to_le_bytes());
        self.outgoing.extend(message);
        self.flush()
    }

    /// Writes what the stream takes.
    pub(crate) fn flush(&mut self) -> Result<()> {
        while self.open && !self.outgoing.is_empty() {
            match self.stream.write(self.outgoing.as_slices().0) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The reading side may still hold the guest's last words, so this is not yet the end.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    self.outgoing.clear();
                }
                Err(error) => return Err(error).context("write to the guest"),
            }
        }
        Ok(())
    }

    /// Whether something waits to be written.
    pub(crate) fn is_pending(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether no more input should be read for the guest now.
    pub(crate) fn is_congested(&self) -> bool {
        self.outgoing.len() > OUTGOING_BYTES_HIGH
    }

    /// Whether the hypervisor still holds its end.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Cuts a byte stream into messages.
#[derive(Debug, Default)]
struct Frames {
    bytes: VecDeque<u8>,
}

impl Frames {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    fn pop(&mut self) -> Result<Option<Vec<u8>>> {
        if self.bytes.len() < HEADER_BYTES {
            return Ok(None);
        }
        let header = [self.bytes[0], self.bytes[1], self.bytes[2], self.bytes[3]];
        let length = u32::from_le_bytes(header) as usize;
        if length > MESSAGE_BYTES_MAX {
            bail!("the guest sent a message of {length} bytes");
        }
        if self.bytes.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.bytes.drain(..HEADER_BYTES);
        Ok(Some(self.bytes.drain(..length).collect()))
    }
}

/// What a guest may send.
#[cfg(any(test, feature = "hostile"))]
pub(crate) mod hostile {
    use super::*;

    /// Any bytes in pieces of any length: no piece changes what is understood, no more is held than one message and a piece, and
    /// what was understood can be said again.
    pub(crate) fn events(bytes: &[u8]) {
        let Some((cut, bytes)) = bytes.split_first() else { return };
        let whole = read(bytes, bytes.len().max(1));
        let pieces = read(bytes, usize::from(*cut).max(1));
        assert_eq!(whole, pieces, "the cut changes the meaning");
    }

    fn read(bytes: &[u8], cut: usize) -> Vec<Event> {
        let mut frames = Frames::default();
        let mut events = Vec::new();
        for piece in bytes.chunks(cut) {
            frames.push(piece);
            assert!(frames.bytes.len() < HEADER_BYTES + MESSAGE_BYTES_MAX + cut, "unbounded");
            loop {
                match frames.pop() {
                    Ok(Some(frame)) => match serde_json::from_slice::<Event>(&frame) {
                        Ok(event) => events.push(event),
                        Err(_) => return events, // The pod ends here.
                    },
                    Ok(None) => break,
                    Err(_) => return events,
                }
            }
        }
        for event in &events {
            let said = serde_json::to_vec(event).expect("what was read can be written");
            assert_eq!(&serde_json::from_slice::<Event>(&said).expect("what was written can be read"), event);
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let frame = |message: &Vec<u8>| {
            let mut bytes = u32::try_from(message.len()).unwrap().to_le_bytes().to_vec();
            bytes.extend(message);
            bytes
        };
        messages.iter().flat_map(frame).collect()
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8), cut in 1_usize..50) {
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for piece in framed(&messages).chunks(cut) {
                frames.push(piece);
                while let Some(message) = frames.pop().unwrap() {
                    got.push(message);
                }
            }
            prop_assert_eq!(got, messages);
        }

        #[test]
        fn any_bytes_are_an_event_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut channel = Channel::new(ours).unwrap();
            (&theirs).write_all(&bytes).unwrap();
            channel.fill().unwrap();
            while let Ok(Some(_)) = channel.next() {}
        }
    }

    #[test]
    fn a_long_message_is_refused_before_it_is_read() {
        let mut frames = Frames::default();
        frames.push(&u32::MAX.to_le_bytes());
        assert!(frames.pop().unwrap_err().to_string().contains("4294967295"));
    }

    #[test]
    fn a_guest_that_does_not_read_is_an_error() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut channel = Channel::new(ours).unwrap();
        let input = Command::Input { session: 0, data: "x".repeat(100_000) };
        let error = (0..100).find_map(|_| channel.send(&input).err()).unwrap();
        assert!(error.to_string().contains("does not read"));
    }
}

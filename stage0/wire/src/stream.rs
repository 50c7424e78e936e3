//! A byte stream that carries frames, with a queue for each direction. It never blocks.

use crate::frame::Frame;
use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Beyond this nothing more is read that would have to be sent.
const WAITING_BYTES_HIGH: usize = 256 << 10;
/// An end that lets this much pile up does not read at all.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// One end.
#[derive(Debug)]
pub(crate) struct Stream {
    fd: OwnedFd,
    inbox: Vec<u8>,
    /// So much of `inbox` was given away.
    given: usize,
    outbox: Vec<u8>,
    /// So much of `outbox` was sent.
    sent: usize,
    open: bool,
}

impl Stream {
    /// `fd` is non-blocking.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, inbox: Vec::new(), given: 0, outbox: Vec::new(), sent: 0, open: true }
    }

    /// Reads once.
    pub(crate) fn fill(&mut self) -> Result<()> {
        self.inbox.drain(..std::mem::take(&mut self.given));
        let before = self.inbox.len();
        self.inbox.resize(before + CHUNK_BYTES, 0);
        let result = rustix::io::read(&self.fd, &mut self.inbox[before..]);
        self.inbox.truncate(before + *result.as_ref().unwrap_or(&0));
        match result {
            // The other end may be closed with something unread.
            Ok(0) | Err(Errno::CONNRESET) => self.open = false,
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error).context("read from the channel"),
        }
        Ok(())
    }

    /// The next complete frame that was read.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>> {
        let Some((frame, length)) = Frame::decode(&self.inbox[self.given..])? else { return Ok(None) };
        self.given += length;
        Ok(Some(frame))
    }

    /// Queues a frame, unless the other end is closed.
    pub(crate) fn push(&mut self, frame: &Frame) -> Result<()> {
        if !self.open {
            return Ok(());
        }
        if self.sent == self.outbox.len() {
            self.outbox.clear();
            self.sent = 0;
        }
        if self.waiting() > WAITING_BYTES_MAX {
            bail!("the other end does not read its channel");
        }
        frame.encode(&mut self.outbox)
    }

    /// Sends what the stream takes.
    pub(crate) fn flush(&mut self) -> Result<()> {
        while self.waiting() > 0 {
            match rustix::io::write(&self.fd, &self.outbox[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // What the other end sent before it was closed may still be unread, so this is not yet the end.
                Err(Errno::PIPE | Errno::CONNRESET) => self.sent = self.outbox.len(),
                Err(error) => return Err(error).context("write to the channel"),
            }
        }
        Ok(())
    }

    /// Bytes that are queued and not sent.
    pub(crate) fn waiting(&self) -> usize {
        self.outbox.len() - self.sent
    }

    /// Whether what has to be sent should still be produced.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting() < WAITING_BYTES_HIGH
    }

    /// Whether the other end is open.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_end_that_does_not_read_is_an_error() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut stream = Stream::new(ours.into());
        let frame = Frame::Message(vec![b'x'; 100_000]);
        let error = (0..100).find_map(|_| stream.push(&frame).and_then(|()| stream.flush()).err()).unwrap();
        assert!(error.to_string().contains("does not read"));
        assert!(!stream.has_room());
    }

    #[test]
    fn last_words_come_before_the_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut ours, mut theirs) = (Stream::new(ours.into()), Stream::new(theirs.into()));
        theirs.push(&Frame::Message(b"last".to_vec())).unwrap();
        theirs.flush().unwrap();
        drop(theirs);
        ours.push(&Frame::Message(b"unread".to_vec())).unwrap();
        ours.flush().unwrap();
        ours.fill().unwrap();
        assert_eq!(ours.next().unwrap(), Some(Frame::Message(b"last".to_vec())));
        ours.fill().unwrap();
        assert!(!ours.is_open());
    }
}

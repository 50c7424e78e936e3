//! Output on its way from the guest to a file descriptor of the host that may be slow. The supervisor never blocks on it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A pipe that polls as writable takes this much without blocking (PIPE_BUF).
const WRITE_BYTES_MAX: usize = 4096;

/// One output.
#[derive(Debug)]
pub(crate) struct Sink {
    to: Option<OwnedFd>,
    queue: VecDeque<u8>,
}

impl Sink {
    /// Writes to `to`; without it, what comes is dropped.
    pub(crate) fn new(to: Option<OwnedFd>) -> Self {
        Self { to, queue: VecDeque::new() }
    }

    /// Queues bytes, and says how many were dropped because nobody takes them any more.
    #[must_use]
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        if self.to.is_none() {
            return bytes.len();
        }
        self.queue.extend(bytes);
        0
    }

    /// Writes once; the caller has polled. Says how many bytes left the queue. A reader that went away makes a sink that
    /// drops.
    #[must_use]
    pub(crate) fn write(&mut self) -> usize {
        let before = self.queue.len();
        let Some(to) = &self.to else { return 0 };
        let bytes = self.queue.as_slices().0;
        let bytes = &bytes[..bytes.len().min(WRITE_BYTES_MAX)];
        match rustix::io::write(to, bytes) {
            Ok(count) => drop(self.queue.drain(..count)),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => {
                self.to = None;
                self.queue.clear();
            }
        }
        before - self.queue.len()
    }

    /// Waits for the reader no longer: drops what is queued, says how much, and drops what comes.
    #[must_use]
    pub(crate) fn give_up(&mut self) -> usize {
        self.to = None;
        std::mem::take(&mut self.queue).len()
    }

    /// The fd to poll for writing, if anything waits.
    pub(crate) fn pending(&self) -> Option<BorrowedFd<'_>> {
        self.to.as_ref().filter(|_| !self.queue.is_empty()).map(AsFd::as_fd)
    }

    /// How much waits. The guest was told how much may (`WINDOW_BYTES`).
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_is_dropped_and_counted() {
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        let mut sink = Sink::new(Some(writer));
        assert_eq!(sink.push(&[b'x'; 5000]), 0);
        assert_eq!((sink.write(), sink.len()), (4096, 904));
        assert_eq!((sink.give_up(), sink.len()), (904, 0));
        assert_eq!(sink.push(b"more"), 4);
        assert!(sink.pending().is_none());
    }
}

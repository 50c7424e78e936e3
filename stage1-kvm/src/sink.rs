//! Output on its way from the guest to a file descriptor of the host that may be slow. The supervisor never blocks on it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Beyond this the supervisor stops reading from the guest (or drops an exec session).
const QUEUE_BYTES_HIGH: usize = 512 << 10;
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

    /// Queues bytes and writes them if the reader is ready.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.to.is_some() {
            self.queue.extend(bytes);
        }
    }

    /// Writes once; the caller has polled. A reader that went away makes a sink that drops.
    pub(crate) fn write(&mut self) {
        let Some(to) = &self.to else { return };
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
    }

    /// The fd to poll for writing, if anything waits.
    pub(crate) fn pending(&self) -> Option<BorrowedFd<'_>> {
        self.to.as_ref().filter(|_| !self.queue.is_empty()).map(AsFd::as_fd)
    }

    /// Whether too much waits.
    pub(crate) fn is_congested(&self) -> bool {
        self.queue.len() > QUEUE_BYTES_HIGH
    }
}

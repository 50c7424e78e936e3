//! The streams of one session, between the apps' pipes or terminal and the channel.

use anyhow::{Context, Result};
use base64::prelude::{BASE64_STANDARD, Engine};
use contract::channel::{DATA_BYTES_MAX, Event, WINDOW_BYTES};
use contract::status::AppEnd;
use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Indexes of [`Session::outputs`].
const STDERR: usize = 1;
const TERMINAL: usize = 2;

/// One session: 0 is the apps', the others are those of `pod exec`.
#[derive(Debug, Default)]
pub(super) struct Session {
    input: Option<OwnedFd>,
    queue: VecDeque<u8>,
    /// The host said that no more comes: the fd is closed behind what is queued.
    input_ends: bool,
    /// Standard output, standard error, and the terminal.
    outputs: [Option<OwnedFd>; 3],
    /// Bytes of output that the host has not passed on yet.
    under_way: usize,
    /// Set when its process has ended: what is left is drained, then the host is told.
    pub(super) ended: Option<AppEnd>,
}

impl Session {
    /// A session on pipes. Each fd is made non-blocking.
    pub(super) fn on_pipes(input: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd) -> Result<Self> {
        for fd in [Some(&stdout), Some(&stderr), input.as_ref()].into_iter().flatten() {
            rustix::io::ioctl_fionbio(fd, true).context("make a pipe non-blocking")?;
        }
        Ok(Self { input, outputs: [Some(stdout), Some(stderr), None], ..Self::default() })
    }

    /// From now on the terminal with this master is the input, and one more output.
    pub(super) fn use_terminal(&mut self, master: OwnedFd) -> Result<()> {
        rustix::io::ioctl_fionbio(&master, true).context("make a terminal non-blocking")?;
        self.input = Some(master.try_clone().context("clone a terminal's fd")?);
        self.outputs[TERMINAL] = Some(master);
        Ok(())
    }

    /// What to read from now: nothing while the host has enough.
    pub(super) fn readable(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let open = self.under_way < WINDOW_BYTES;
        let outputs = self.outputs.iter().enumerate();
        outputs.filter_map(move |(index, fd)| fd.as_ref().filter(|_| open).map(|fd| (index, fd.as_fd())))
    }

    /// What to write to when it can take something.
    pub(super) fn writable(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().filter(|_| !self.queue.is_empty()).map(AsFd::as_fd)
    }

    /// Whether all output was read to its end.
    pub(super) fn is_drained(&self) -> bool {
        self.outputs.iter().all(Option::is_none)
    }

    /// Reads once from an output, and gives the event for the host.
    pub(super) fn read(&mut self, number: u32, index: usize) -> Result<Option<Event>> {
        let Some(fd) = &self.outputs[index] else { return Ok(None) };
        let room = (WINDOW_BYTES - self.under_way).min(DATA_BYTES_MAX);
        let mut buffer = [0; DATA_BYTES_MAX];
        match rustix::io::read(fd, &mut buffer[..room]) {
            // A terminal's master says EIO when no process holds the other side any more.
            Ok(0) | Err(Errno::IO) if room > 0 => {
                self.outputs[index] = None;
                Ok(None)
            }
            Ok(count) => {
                self.under_way += count;
                let data = BASE64_STANDARD.encode(&buffer[..count]);
                let stream = if index == STDERR { 2 } else { 1 };
                Ok(Some(Event::Output { session: number, stream, data }))
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                // Of an ended process, what is not there now was written by somebody it left behind.
                if self.ended.is_some() && number != 0 {
                    self.outputs[index] = None;
                }
                Ok(None)
            }
            Err(error) => Err(error).context("read an app's output"),
        }
    }

    /// The host passed on so much.
    pub(super) fn passed_on(&mut self, bytes: u32) {
        self.under_way = self.under_way.saturating_sub(bytes as usize);
    }

    /// Bytes from the host; none: the end. Says how many are done with.
    pub(super) fn feed(&mut self, data: &str) -> Result<usize> {
        let bytes = BASE64_STANDARD.decode(data).context("parse input of the host")?;
        self.input_ends |= bytes.is_empty();
        let unread = if self.input.is_none() { bytes.len() } else { 0 };
        if unread == 0 {
            self.queue.extend(&bytes);
        }
        Ok(unread + self.write()?)
    }

    /// Writes what the process takes. Says how many bytes are done with.
    pub(super) fn write(&mut self) -> Result<usize> {
        let before = self.queue.len();
        while let Some(fd) = self.input.as_ref().filter(|_| !self.queue.is_empty()) {
            match rustix::io::write(fd, self.queue.as_slices().0) {
                Ok(count) => drop(self.queue.drain(..count)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // Nobody reads any more, nor will.
                Err(Errno::PIPE | Errno::IO) => {
                    self.queue.clear();
                    self.input = None;
                }
                Err(error) => return Err(error).context("write an app's input"),
            }
        }
        if self.input_ends && self.queue.is_empty() {
            self.input = None;
        }
        Ok(before - self.queue.len())
    }

    /// Sets the size of its terminal, if it has one. A pipe has no size and says so.
    pub(super) fn resize(&self, rows: u16, columns: u16) {
        if let Some(terminal) = &self.outputs[TERMINAL] {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = tcsetwinsize(terminal, size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;

    fn session() -> (Session, OwnedFd, OwnedFd, OwnedFd) {
        let (input, writer) = pipe().unwrap();
        let (stdout, out) = pipe().unwrap();
        let (stderr, err) = pipe().unwrap();
        (Session::on_pipes(Some(writer), stdout, stderr).unwrap(), input, out, err)
    }

    #[test]
    fn output_stops_at_the_window() {
        let (mut session, _input, out, _err) = session();
        rustix::io::ioctl_fionbio(&out, true).unwrap();
        let mut sent = 0;
        loop {
            while rustix::io::write(&out, &[b'x'; 4096]).is_ok() {}
            if session.readable().next().is_none() {
                break;
            }
            let Some(Event::Output { data, stream: 1, .. }) = session.read(0, 0).unwrap() else { panic!("no output") };
            sent += BASE64_STANDARD.decode(data).unwrap().len();
        }
        assert_eq!(sent, WINDOW_BYTES);
        session.passed_on(1000);
        assert_eq!(session.readable().count(), 2);
    }

    #[test]
    fn input_is_counted_whether_read_or_not() {
        let (mut session, input, _out, _err) = session();
        assert_eq!(session.feed(&BASE64_STANDARD.encode("hello")).unwrap(), 5);
        drop(input);
        // The test's process ignores SIGPIPE, as Rust's start-up code has it.
        assert_eq!(session.feed(&BASE64_STANDARD.encode("more")).unwrap(), 4);
        assert_eq!(session.feed(&BASE64_STANDARD.encode("and more")).unwrap(), 8);
    }

    #[test]
    fn the_end_of_input_closes_behind_the_queue() {
        let (mut session, input, _out, _err) = session();
        session.feed(&BASE64_STANDARD.encode("last")).unwrap();
        session.feed("").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(rustix::io::read(&input, &mut buffer).unwrap(), 4);
        assert_eq!(rustix::io::read(&input, &mut buffer).unwrap(), 0);
    }
}

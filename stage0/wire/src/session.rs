//! The standard streams of one session at one end of a channel: descriptors that are read here and written at the other end,
//! and the reverse. Session 0 is the apps', the others are those of `exec`.
//!
//! At most [`WINDOW_BYTES`] of a session are under way in each direction, until the other end has passed them on. So neither end
//! queues more, and a reader that stands still stops its own session only.

use crate::frame::Frame;
use anyhow::{Result, ensure};
use contract::channel::{DATA_BYTES_MAX, WINDOW_BYTES};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Written at once to a descriptor of others, which may block: a pipe that polls as writable takes so much (PIPE_BUF).
const WRITE_BYTES_MAX: usize = 4096;
/// Standard input, whose end is told to the other end.
const INPUT: u8 = 0;

/// A descriptor that is written by this process.
#[derive(Debug)]
struct Writer {
    stream: u8,
    fd: Option<OwnedFd>,
    /// The descriptor is this process's own and non-blocking.
    own: bool,
    queue: VecDeque<u8>,
    /// No more will come: the descriptor is closed behind the queue.
    ends: bool,
}

/// One session.
#[derive(Debug, Default)]
pub struct Session {
    /// By a number that stays: the stream, and the descriptor until its end.
    readers: Vec<(u8, Option<OwnedFd>)>,
    /// Bytes that were read and that the other end has not passed on.
    under_way: usize,
    writers: Vec<Writer>,
}

/// What became of bytes that came from the other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// So many are passed on or dropped.
    pub bytes: usize,
    /// This stream has no reader any more.
    pub closed: Option<u8>,
}

impl Session {
    /// What is read from `fd` is sent as `stream`. Several descriptors may be one stream.
    pub fn add_reader(&mut self, stream: u8, fd: OwnedFd) {
        self.readers.push((stream, Some(fd)));
    }

    /// What comes as `stream` is written to `fd`, which others may have open and which may block.
    pub fn add_writer(&mut self, stream: u8, fd: OwnedFd) {
        self.writers.push(Writer { stream, fd: Some(fd), own: false, queue: VecDeque::new(), ends: false });
    }

    /// What comes as `stream` is written to `fd`, which is this process's own and non-blocking.
    pub fn add_own_writer(&mut self, stream: u8, fd: OwnedFd) {
        self.writers.push(Writer { stream, fd: Some(fd), own: true, queue: VecDeque::new(), ends: false });
    }

    /// What to read from now, by number: nothing while enough is under way.
    pub fn readable(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let open = self.under_way < WINDOW_BYTES;
        let readers = self.readers.iter().enumerate().filter(move |_| open);
        readers.filter_map(|(number, (_, fd))| Some((number, fd.as_ref()?.as_fd())))
    }

    /// What to write to when it takes something, by number.
    pub fn writable(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let waiting = self.writers.iter().enumerate().filter(|(_, writer)| !writer.queue.is_empty());
        waiting.filter_map(|(number, writer)| Some((number, writer.fd.as_ref()?.as_fd())))
    }

    /// The descriptors that are read.
    pub fn readers(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.readers.iter().filter_map(|(_, fd)| fd.as_ref().map(AsFd::as_fd))
    }

    /// Whether everything was read that will ever come.
    pub fn is_read(&self) -> bool {
        self.readers.iter().all(|(_, fd)| fd.is_none())
    }

    /// Whether nothing waits to be written.
    pub fn is_written(&self) -> bool {
        self.writers.iter().all(|writer| writer.queue.is_empty())
    }

    /// Reads once, and gives the frame of session `id` for the other end. None: nothing is there now, or the stream ended.
    pub fn read(&mut self, id: u32, number: usize) -> Option<Frame> {
        let room = (WINDOW_BYTES - self.under_way).min(DATA_BYTES_MAX);
        let (stream, slot) = self.readers.get_mut(number).filter(|_| room > 0)?;
        let stream = *stream;
        let mut bytes = vec![0; room];
        match rustix::io::read(slot.as_ref()?, &mut bytes) {
            Ok(count) if count > 0 => {
                bytes.truncate(count);
                self.under_way += count;
                Some(Frame::Data { session: id, stream, bytes })
            }
            Err(Errno::AGAIN | Errno::INTR) => None,
            // Its end. A terminal's master says EIO when no process holds the other side any more.
            _ => {
                *slot = None;
                (stream == INPUT).then(|| Frame::Data { session: id, stream, bytes: Vec::new() })
            }
        }
    }

    /// Reads this descriptor no more.
    pub fn close_reader(&mut self, number: usize) {
        if let Some((_, fd)) = self.readers.get_mut(number) {
            *fd = None;
        }
    }

    /// The reader of this stream at the other end is gone.
    pub fn reader_is_gone(&mut self, stream: u8) {
        self.readers.iter_mut().filter(|(known, _)| *known == stream).for_each(|(_, fd)| *fd = None);
    }

    /// The other end has passed on so much.
    pub fn passed_on(&mut self, bytes: u32) {
        self.under_way = self.under_way.saturating_sub(bytes as usize);
    }

    /// Takes bytes of `stream`; none: its end.
    pub fn take(&mut self, stream: u8, bytes: &[u8]) -> Result<Passed> {
        let queued: usize = self.writers.iter().map(|writer| writer.queue.len()).sum();
        ensure!(queued + bytes.len() <= WINDOW_BYTES, "more bytes of a stream came than may be under way");
        let number = self.writers.iter().position(|writer| writer.stream == stream && writer.fd.is_some());
        let Some(number) = number else { return Ok(Passed { bytes: bytes.len(), closed: None }) };
        let writer = &mut self.writers[number];
        writer.queue.extend(bytes);
        writer.ends |= bytes.is_empty();
        if writer.own || writer.queue.is_empty() {
            return Ok(self.write(number));
        }
        Ok(Passed::default())
    }

    /// Writes what the descriptor takes; one that may block was polled before.
    pub fn write(&mut self, number: usize) -> Passed {
        let Some(writer) = self.writers.get_mut(number) else { return Passed::default() };
        let before = writer.queue.len();
        let mut closed = None;
        while let Some(fd) = writer.fd.as_ref().filter(|_| !writer.queue.is_empty()) {
            let bytes = writer.queue.as_slices().0;
            let limit = if writer.own { bytes.len() } else { bytes.len().min(WRITE_BYTES_MAX) };
            match rustix::io::write(fd, &bytes[..limit]) {
                Ok(count) => drop(writer.queue.drain(..count)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(_) => {
                    writer.queue.clear();
                    writer.fd = None;
                    closed = Some(writer.stream);
                }
            }
            if !writer.own {
                break;
            }
        }
        if writer.ends && writer.queue.is_empty() {
            writer.fd = None;
        }
        Passed { bytes: before - writer.queue.len(), closed }
    }

    /// Drops what waits and what will come, and says how much waited.
    pub fn give_up(&mut self) -> usize {
        let waiting = self.writers.iter().map(|writer| writer.queue.len()).sum();
        self.writers.clear();
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::NONBLOCK).unwrap()
    }

    #[test]
    fn reading_stops_at_the_window() {
        let (reader, writer) = pipe();
        let mut session = Session::default();
        session.add_reader(1, reader);
        let mut sent = 0;
        loop {
            while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
            if session.readable().next().is_none() {
                break;
            }
            let Some(Frame::Data { session: 7, stream: 1, bytes }) = session.read(7, 0) else { panic!("no output") };
            sent += bytes.len();
        }
        assert_eq!(sent, WINDOW_BYTES);
        assert_eq!(session.read(7, 0), None);
        session.passed_on(1000);
        assert_eq!(session.readable().count(), 1);
        session.reader_is_gone(1);
        assert!(session.is_read());
        assert!(rustix::io::write(&writer, b"x").is_err(), "the writer sees that its reader is gone");
    }

    #[test]
    fn the_end_of_an_input_is_told_and_that_of_an_output_is_not() {
        for (stream, told) in [(0, true), (1, false)] {
            let (reader, writer) = pipe();
            let mut session = Session::default();
            session.add_reader(stream, reader);
            assert_eq!(session.read(1, 0), None, "nothing is there");
            drop(writer);
            assert_eq!(session.read(1, 0).is_some(), told);
            assert!(session.is_read());
        }
    }

    #[test]
    fn bytes_are_counted_whether_read_or_not() {
        let (reader, writer) = pipe();
        let mut session = Session::default();
        session.add_own_writer(0, writer);
        assert_eq!(session.take(0, b"hello").unwrap(), Passed { bytes: 5, closed: None });
        drop(reader);
        // The test's process ignores SIGPIPE, as Rust's start-up code has it.
        assert_eq!(session.take(0, b"more").unwrap(), Passed { bytes: 4, closed: Some(0) });
        assert_eq!(session.take(0, b"and more").unwrap(), Passed { bytes: 8, closed: None });
        assert_eq!(session.take(2, b"nobody's").unwrap(), Passed { bytes: 8, closed: None });
    }

    #[test]
    fn the_end_closes_behind_the_queue() {
        let (reader, writer) = pipe();
        let mut session = Session::default();
        session.add_writer(0, writer);
        session.take(0, b"last").unwrap();
        session.take(0, b"").unwrap();
        assert_eq!(session.write(0), Passed { bytes: 4, closed: None });
        let mut buffer = [0; 16];
        assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 4);
        assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 0);
    }

    #[test]
    fn a_descriptor_of_others_gets_a_little_at_once_and_may_be_given_up() {
        let (_reader, writer) = pipe();
        let mut session = Session::default();
        session.add_writer(1, writer);
        session.take(1, &[b'x'; 5000]).unwrap();
        assert!(!session.is_written());
        assert_eq!(session.write(0).bytes, 4096);
        assert_eq!(session.give_up(), 904);
        assert!(session.is_written() && session.writable().next().is_none());
        assert_eq!(session.take(1, b"more").unwrap().bytes, 4);
        assert!(session.take(1, &[0; WINDOW_BYTES + 1]).is_err());
    }
}

//! One end of a guest's channel: messages, and the standard streams of all sessions, over one byte stream. The same code runs
//! in the supervisor and in the guest.

use crate::frame::Frame;
use crate::session::{Passed, Session};
use crate::stream::Stream;
use anyhow::{Context, Result};
use rustix::event::PollFlags;
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One end.
#[derive(Debug)]
pub struct Mux {
    stream: Stream,
    sessions: BTreeMap<u32, Session>,
}

/// A descriptor to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The channel itself.
    Channel,
    /// A descriptor of this session that is read.
    Reader(u32, usize),
    /// A descriptor of this session that is written.
    Writer(u32, usize),
}

impl Mux {
    /// `fd` is a byte stream, non-blocking.
    pub fn new(fd: OwnedFd) -> Self {
        Self { stream: Stream::new(fd), sessions: BTreeMap::new() }
    }

    /// What to wait for. Streams are read only while the channel has room for what they give.
    pub fn interests(&self) -> impl Iterator<Item = (Token, BorrowedFd<'_>, PollFlags)> {
        let flags = if self.stream.waiting() > 0 { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let channel = self.stream.is_open().then(|| (Token::Channel, self.stream.as_fd(), flags));
        let room = self.stream.has_room();
        let sessions = self.sessions.iter().flat_map(move |(&id, session)| {
            let readers = session.readable().filter(move |_| room);
            let readers = readers.map(move |(number, fd)| (Token::Reader(id, number), fd, PollFlags::IN));
            let writers = session.writable().map(move |(number, fd)| (Token::Writer(id, number), fd, PollFlags::OUT));
            readers.chain(writers)
        });
        channel.into_iter().chain(sessions)
    }

    /// Does what a descriptor is ready for.
    pub fn ready(&mut self, token: Token, flags: PollFlags) -> Result<()> {
        match token {
            Token::Channel => {
                if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                    self.stream.fill()?;
                }
            }
            Token::Reader(id, number) => {
                let frame = self.sessions.get_mut(&id).and_then(|session| session.read(id, number));
                if let Some(frame) = frame {
                    self.stream.push(&frame)?;
                }
            }
            Token::Writer(id, number) => {
                let passed = self.sessions.get_mut(&id).map(|session| session.write(number));
                self.acknowledge(id, passed.unwrap_or_default())?;
            }
        }
        self.stream.flush()
    }

    /// The next message that came, as JSON. What came for streams before it is dealt with.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        while let Some(frame) = self.stream.next()? {
            match frame {
                Frame::Message(json) => return Ok(Some(json)),
                // A session that has ended at this end has nobody to tell; the other end forgets it, too.
                Frame::Data { session: id, stream, bytes } => {
                    if let Some(session) = self.sessions.get_mut(&id) {
                        let passed = session.take(stream, &bytes).with_context(|| format!("session {id}"))?;
                        self.acknowledge(id, passed)?;
                    }
                }
                Frame::Taken { session, bytes } => {
                    self.sessions.get_mut(&session).into_iter().for_each(|session| session.passed_on(bytes));
                }
                Frame::Closed { session, stream } => {
                    self.sessions.get_mut(&session).into_iter().for_each(|session| session.reader_is_gone(stream));
                }
            }
        }
        Ok(None)
    }

    /// Sends a message.
    pub fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let json = serde_json::to_vec(message).context("write a message")?;
        self.stream.push(&Frame::Message(json))?;
        self.stream.flush()
    }

    /// The streams of a session; made if they are not there.
    pub fn session(&mut self, id: u32) -> &mut Session {
        self.sessions.entry(id).or_default()
    }

    /// All sessions.
    pub fn sessions(&self) -> impl Iterator<Item = (u32, &Session)> {
        self.sessions.iter().map(|(&id, session)| (id, session))
    }

    /// Closes the streams of a session.
    pub fn remove(&mut self, id: u32) {
        self.sessions.remove(&id);
    }

    /// The session's processes are dead: reads once more from each of its descriptors, and closes those that have nothing now.
    /// Whether all are closed.
    pub fn read_rest(&mut self, id: u32) -> Result<bool> {
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(true) };
        let numbers: Vec<usize> = session.readable().map(|(number, _)| number).collect();
        for number in numbers {
            match session.read(id, number) {
                Some(frame) => self.stream.push(&frame)?,
                None => session.close_reader(number),
            }
        }
        let read = session.is_read();
        self.stream.flush()?;
        Ok(read)
    }

    /// Drops what waits for readers at this end, and what will come for them.
    pub fn give_up(&mut self) -> Result<()> {
        let ids: Vec<u32> = self.sessions.keys().copied().collect();
        for id in ids {
            let bytes = self.session(id).give_up();
            self.acknowledge(id, Passed { bytes, closed: None })?;
        }
        self.stream.flush()
    }

    /// Whether all that came was passed on.
    pub fn is_written(&self) -> bool {
        self.sessions.values().all(Session::is_written)
    }

    /// Whether what was sent has left this process.
    pub fn is_sent(&self) -> bool {
        self.stream.waiting() == 0
    }

    /// Whether there is room for what has to be sent.
    pub fn has_room(&self) -> bool {
        self.stream.has_room()
    }

    /// Whether the other end is open.
    pub fn is_open(&self) -> bool {
        self.stream.is_open()
    }

    fn acknowledge(&mut self, session: u32, passed: Passed) -> Result<()> {
        if let Some(stream) = passed.closed {
            self.stream.push(&Frame::Closed { session, stream })?;
        }
        match u32::try_from(passed.bytes) {
            Ok(bytes) if bytes > 0 => self.stream.push(&Frame::Taken { session, bytes }),
            _ => Ok(()),
        }
    }
}

impl AsFd for Mux {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// For what fuzz targets send.
#[doc(hidden)]
pub mod hostile {
    use super::*;
    use serde::de::DeserializeOwned;
    use std::fmt::Debug;

    /// Any bytes in pieces of any length: no piece changes what is understood, no more is held than one frame, and what was
    /// understood can be said again.
    pub fn messages<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
        let Some((cut, bytes)) = bytes.split_first() else { return };
        let whole = read::<T>(bytes, bytes.len().max(1));
        assert_eq!(whole, read::<T>(bytes, usize::from(*cut).max(1)), "the cut changes the meaning");
        for message in &whole {
            let said = serde_json::to_vec(message).expect("what was read can be written");
            assert_eq!(&serde_json::from_slice::<T>(&said).expect("what was written can be read"), message);
        }
    }

    fn read<T: DeserializeOwned>(bytes: &[u8], cut: usize) -> Vec<T> {
        let (mut inbox, mut messages) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(cut) {
            inbox.extend_from_slice(piece);
            loop {
                match Frame::decode(&inbox) {
                    Ok(Some((frame, length))) => {
                        let mut again = Vec::new();
                        frame.encode(&mut again).expect("what was read can be written");
                        assert_eq!(again, inbox[..length], "a frame has one spelling");
                        inbox.drain(..length);
                        if let Frame::Message(json) = frame {
                            match serde_json::from_slice(&json) {
                                Ok(message) => messages.push(message),
                                Err(_) => return messages, // The channel ends here.
                            }
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return messages,
                }
            }
            assert!(inbox.len() < 8 + contract::channel::MESSAGE_BYTES_MAX + cut, "unbounded");
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::channel::{Command, Event, WINDOW_BYTES};
    use proptest::prelude::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::os::unix::net::UnixStream;

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            hostile::messages::<Event>(&bytes);
        }
    }

    fn ends() -> (Mux, Mux) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Mux::new(ours.into()), Mux::new(theirs.into()))
    }

    /// Lets both ends do all that they can without waiting; the messages that came to each.
    fn turn(ends: &mut [Mux; 2]) -> [Vec<Vec<u8>>; 2] {
        let mut messages = [Vec::new(), Vec::new()];
        for _ in 0..200 {
            for (end, messages) in ends.iter_mut().zip(&mut messages) {
                let ready: Vec<(Token, PollFlags)> = end.interests().map(|(token, _, flags)| (token, flags)).collect();
                ready.into_iter().for_each(|(token, flags)| end.ready(token, flags).unwrap());
                messages.extend(std::iter::from_fn(|| end.receive().unwrap()));
            }
        }
        messages
    }

    #[test]
    fn streams_and_messages_pass_both_ways() {
        let (host, guest) = ends();
        let mut ends = [host, guest];
        let pipe = || pipe_with(PipeFlags::NONBLOCK).unwrap();
        let ((app, out), (caller_end, caller)) = (pipe(), pipe());
        ends[1].session(0).add_reader(1, app);
        ends[0].session(0).add_writer(1, caller);
        rustix::io::write(&out, b"printed").unwrap();
        ends[0].send(&Command::Stop { grace_millis: None }).unwrap();
        let [_, to_guest] = turn(&mut ends);
        assert_eq!(to_guest, [br#"{"command":"stop"}"#]);
        let mut buffer = [0; 16];
        assert_eq!(rustix::io::read(&caller_end, &mut buffer).unwrap(), 7);
        // The caller's reader goes: so does the app's.
        drop(caller_end);
        rustix::io::write(&out, b"more").unwrap();
        turn(&mut ends);
        assert_eq!(rustix::io::write(&out, b"x"), Err(rustix::io::Errno::PIPE));
        assert!(ends[0].is_written() && ends[1].sessions().all(|(_, session)| session.is_read()));
    }

    #[test]
    fn a_reader_that_stands_still_holds_up_its_own_session_only() {
        let (host, guest) = ends();
        let mut ends = [host, guest];
        let pipe = || pipe_with(PipeFlags::NONBLOCK).unwrap();
        let ((app, out), (_caller_end, caller)) = (pipe(), pipe());
        ends[1].session(1).add_reader(1, app);
        ends[0].session(1).add_writer(1, caller);
        let mut written = 0;
        for _ in 0..20 {
            while let Ok(count) = rustix::io::write(&out, &[b'x'; 4096]) {
                written += count;
            }
            turn(&mut ends);
        }
        assert!(written < 3 * WINDOW_BYTES, "{written}");
        ends[1].send(&Event::Booted).unwrap();
        let [to_host, _] = turn(&mut ends);
        assert_eq!(to_host.len(), 1);
        ends[0].give_up().unwrap();
        turn(&mut ends);
        assert!(rustix::io::write(&out, b"x").is_ok(), "there is room again");
    }

    #[test]
    fn more_than_the_window_is_refused() {
        let (mut host, mut guest) = ends();
        let (_reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        host.session(0).add_writer(1, writer);
        let mut error = None;
        for _ in 0..10 {
            guest.stream.push(&Frame::Data { session: 0, stream: 1, bytes: vec![0; 32 << 10] }).unwrap();
            guest.stream.flush().unwrap();
            host.ready(Token::Channel, PollFlags::IN).unwrap();
            error = error.or(host.receive().err());
        }
        assert!(format!("{:#}", error.unwrap()).contains("more bytes"));
    }
}

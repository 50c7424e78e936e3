//! Joins a terminal in the pod to the caller's: bytes both ways, size, and the caller's terminal as it was at the end.
//!
//! stage2 makes the terminal inside the pod and sends its master side up; out of a guest comes a socket that stands for it. Only
//! bytes pass; the caller's terminal is never given to the pod (CVE-2017-5226).

use rustix::event::PollFlags;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, Winsize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const CHUNK: usize = 4096;
/// Control-D: what a terminal says at the end of its input.
const END_OF_INPUT: u8 = 4;
/// The last output of the pod waits this long for a caller that does not read.
const FLUSH_SECS_MAX: i64 = 5;

/// The caller's terminal and, once the app runs, the app's.
#[derive(Debug)]
pub struct Terminal {
    /// The settings to go back to, once they were changed.
    saved: Option<Termios>,
    master: Option<OwnedFd>,
    input: OwnedFd,
    output: OwnedFd,
    input_ended: bool,
    to_app: Vec<u8>,
    to_caller: Vec<u8>,
}

/// The three places where bytes come from or go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The caller's standard input.
    Input,
    /// The caller's standard output.
    Output,
    /// The app's terminal.
    Master,
}

impl Terminal {
    /// On the caller's standard input and output.
    pub fn of_caller() -> Option<Self> {
        let input = own(std::io::stdin().as_fd(), "/proc/self/fd/0", OFlags::RDONLY)?;
        let output = own(std::io::stdout().as_fd(), "/proc/self/fd/1", OFlags::WRONLY)?;
        let (to_app, to_caller) = (Vec::new(), Vec::new());
        Some(Self { saved: None, master: None, input, output, input_ended: false, to_app, to_caller })
    }

    /// Rows and columns.
    pub fn size(&self) -> (u16, u16) {
        rustix::termios::tcgetwinsize(&self.input).map_or((24, 80), |size| (size.ws_row, size.ws_col))
    }

    /// The app's terminal is there: from now on keys go to it untouched, control-C included.
    pub fn join(&mut self, master: OwnedFd) {
        if self.master.is_some() {
            return; // One app has the caller's terminal; stage2 says so once.
        }
        if rustix::io::ioctl_fionbio(&master, true).is_err() {
            return;
        }
        if let Ok(settings) = rustix::termios::tcgetattr(&self.input) {
            let mut raw = settings.clone();
            raw.make_raw();
            if rustix::termios::tcsetattr(&self.input, OptionalActions::Flush, &raw).is_ok() {
                self.saved = Some(settings);
            }
        }
        self.master = Some(master);
    }

    /// The caller's terminal has a new size; the kernel tells the app.
    pub fn resize(&self) {
        if let Some(master) = &self.master {
            set_size(master.as_fd(), self.size());
        }
    }

    /// What to wait for.
    pub fn interests(&self) -> impl Iterator<Item = (End, BorrowedFd<'_>, PollFlags)> {
        let input = (self.to_app.is_empty() && !self.input_ended && self.master.is_some()).then_some(PollFlags::IN);
        let output = (!self.to_caller.is_empty()).then_some(PollFlags::OUT);
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.to_caller.is_empty());
        flags.set(PollFlags::OUT, !self.to_app.is_empty());
        let master = self.master.as_ref().filter(|_| !flags.is_empty()).map(|fd| (End::Master, fd.as_fd(), flags));
        let input = input.map(|flags| (End::Input, self.input.as_fd(), flags));
        let output = output.map(|flags| (End::Output, self.output.as_fd(), flags));
        [input, output, master].into_iter().flatten()
    }

    /// Moves the bytes that can be moved now.
    pub fn relay(&mut self, end: End, ready: PollFlags) {
        match end {
            End::Input => self.read_input(),
            End::Output => self.write_output(),
            End::Master => {
                if ready.contains(PollFlags::OUT) {
                    self.write_master();
                }
                if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                    self.read_master();
                }
            }
        }
    }

    fn read_input(&mut self) {
        let mut bytes = [0; CHUNK];
        match rustix::io::read(&self.input, &mut bytes) {
            Ok(0) => {
                self.input_ended = true;
                self.to_app.push(END_OF_INPUT);
            }
            Ok(length) => self.to_app.extend_from_slice(&bytes[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.input_ended = true, // The caller's terminal is gone.
        }
    }

    fn write_master(&mut self) {
        let Some(master) = &self.master else { return };
        match rustix::io::write(master, &self.to_app) {
            Ok(length) => drop(self.to_app.drain(..length)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.to_app.clear(), // Nobody holds the app's side any more.
        }
    }

    fn read_master(&mut self) {
        let Some(master) = &self.master else { return };
        let mut bytes = [0; CHUNK];
        match rustix::io::read(master, &mut bytes) {
            Ok(length) if length > 0 => self.to_caller.extend_from_slice(&bytes[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EIO: the app's side was closed by everybody.
            Ok(_) | Err(_) => self.master = None,
        }
        self.write_output();
    }

    fn write_output(&mut self) {
        match rustix::io::write(&self.output, &self.to_caller) {
            Ok(length) => drop(self.to_caller.drain(..length)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.to_caller.clear(), // The caller does not want it; the app goes on.
        }
    }

    /// Passes on what the app wrote last, and leaves the caller's terminal as it was found.
    pub fn finish(&mut self) {
        let wait = rustix::event::Timespec { tv_sec: FLUSH_SECS_MAX, tv_nsec: 0 };
        loop {
            while !self.to_caller.is_empty() {
                let mut watched = [rustix::event::PollFd::new(&self.output, PollFlags::OUT)];
                match rustix::event::poll(&mut watched, Some(&wait)) {
                    Ok(0) => self.to_caller.clear(),
                    Ok(_) => self.write_output(),
                    Err(Errno::INTR) => {}
                    Err(_) => self.to_caller.clear(),
                }
            }
            if self.master.is_none() {
                break;
            }
            self.read_master();
            if self.to_caller.is_empty() {
                // Nothing came: all that will ever come has come, as the pod is dead.
                self.master = None;
            }
        }
        self.restore();
    }

    fn restore(&mut self) {
        if let Some(settings) = self.saved.take() {
            // The terminal itself may be gone; then there is nothing to restore.
            let _ = rustix::termios::tcsetattr(&self.input, OptionalActions::Drain, &settings);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Rows and columns of the terminal that `master` is the other side of.
pub fn set_size(master: BorrowedFd<'_>, (rows, columns): (u16, u16)) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let _ = rustix::termios::tcsetwinsize(master, size); // It has hung up; its size does not matter.
}

/// The same terminal or pipe by an open file description of our own: O_NONBLOCK on the caller's would be seen by the caller.
fn own(fd: BorrowedFd<'_>, path: &str, access: OFlags) -> Option<OwnedFd> {
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let kind = rustix::fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    // A file opened again would begin at its start. A socket cannot be opened again; there, what poll says has to do.
    let again = matches!(kind, Ok(FileType::CharacterDevice | FileType::Fifo));
    let opened = again.then(|| rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()).flatten();
    opened.or_else(|| rustix::io::fcntl_dupfd_cloexec(fd, 6).ok())
}

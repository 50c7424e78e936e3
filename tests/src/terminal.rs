//! A terminal of the test's own, on which a command runs as it would on a person's.

use crate::outcome::{code_of, line_of, wait_at_most};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// How long the other side may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A command on a terminal.
pub struct Terminal {
    master: File,
    // Held so that the terminal outlives the command and its modes can be read.
    slave: OwnedFd,
    child: Child,
    line: String,
    seen: String,
}

impl Terminal {
    /// Runs `command` with a controlling terminal of this size.
    pub fn run(command: &Command, rows: u16, columns: u16) -> Self {
        let line = line_of(command);
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname").into_string().expect("a path of ASCII");
        let slave = OpenOptions::new().read(true).write(true).open(name).expect("the other side");
        let stream = || slave.try_clone().expect("dup");
        // setsid(1) makes the terminal the controlling one, which takes a system call between fork and exec.
        let mut leader = Command::new("setsid");
        leader.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            leader.env(name, value.unwrap_or_default());
        }
        let child = leader.stdin(stream()).stdout(stream()).stderr(stream()).spawn().expect("setsid");
        let terminal = Self { master: File::from(master), slave: slave.into(), child, line, seen: String::new() };
        terminal.resize(rows, columns);
        terminal
    }

    /// Gives the terminal another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("the terminal is open");
    }

    /// The modes of the terminal, to be compared before and after.
    pub fn modes(&self) -> Termios {
        tcgetattr(&self.slave).expect("the terminal is open")
    }

    /// Types.
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal is open");
    }

    /// Reads until the screen has shown `text`.
    pub fn await_text(&mut self, text: &str) {
        let begin = Instant::now();
        while !self.seen.contains(text) {
            assert!(begin.elapsed() < SILENCE_MAX, "`{text}` did not come: {} {:?}", self.line, self.seen);
            self.read();
        }
    }

    fn read(&mut self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut polled = [PollFd::new(&self.master, PollFlags::IN)];
        let limit = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        if poll(&mut polled, Some(&limit)).is_ok_and(|ready| ready > 0) {
            let mut bytes = [0; 4096];
            let length = self.master.read(&mut bytes).unwrap_or(0);
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    }

    /// Waits for the end: the exit code and all that was shown.
    pub fn wait(&mut self) -> (i32, String) {
        let ended = wait_at_most(&self.child, SILENCE_MAX);
        self.read();
        assert!(ended, "still running: {} {:?}", self.line, self.seen);
        let status = self.child.wait().expect("a child");
        (code_of(status), self.seen.clone())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It has ended, unless the test failed.
        let _ = self.child.wait();
    }
}

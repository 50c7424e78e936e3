//! What became of a command: exit code and both streams, with assertions that print all of it when they fail.

use serde_json::Value;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

/// The longest that any command of a test may take.
const COMMAND_MAX: Duration = Duration::from_secs(120);

/// The end of one command.
#[derive(Debug)]
pub struct Outcome {
    /// The command, for messages.
    pub line: String,
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A machine that is emulated says so on every start; what a test compares is the rest.
fn without_notice(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.contains(": the machine is emulated in software")).collect()
}

/// Exit code, or 128 + signal.
pub(crate) fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The command as one would type it.
pub(crate) fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Waits for the end of a child, at most `time`; false if it still runs.
pub(crate) fn wait_at_most(child: &Child, time: Duration) -> bool {
    let pid = rustix::process::Pid::from_child(child);
    let Ok(fd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return true };
    let mut polled = [rustix::event::PollFd::from_borrowed_fd(fd.as_fd(), rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
    rustix::event::poll(&mut polled, Some(&limit)).is_ok_and(|ready| ready > 0)
}

impl Outcome {
    /// Runs a command to its end, without a standard input.
    pub fn of(command: &mut Command) -> Self {
        Self::of_at_most(command, COMMAND_MAX)
    }

    /// As [`Self::of`], for what may take longer than anything of ours.
    pub fn of_at_most(command: &mut Command, time: Duration) -> Self {
        let line = line_of(command);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.unwrap_or_else(|error| panic!("`{line}`: {error}"));
        Self::collect_at_most(line, child, time)
    }

    /// Waits for a child whose output streams are pipes.
    pub(crate) fn collect(line: String, child: Child) -> Self {
        Self::collect_at_most(line, child, COMMAND_MAX)
    }

    fn collect_at_most(line: String, mut child: Child, time: Duration) -> Self {
        let out = child.stdout.take().map(drain);
        let err = child.stderr.take().map(drain);
        let ended = wait_at_most(&child, time);
        if !ended {
            let _ = child.kill(); // It may have ended just now.
        }
        let status = child.wait().unwrap_or_else(|error| panic!("wait for `{line}`: {error}"));
        let text = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
            let bytes = reader.map(|reader| reader.join().expect("the reader does not panic")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let stderr = without_notice(&text(err));
        let outcome = Self { line, code: code_of(status), stdout: text(out), stderr };
        assert!(ended, "still running after {} s: {outcome}", time.as_secs());
        outcome
    }

    /// The exit code is this.
    #[track_caller]
    pub fn assert_exit(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// Exit code 0.
    #[track_caller]
    pub fn assert_ok(&self) -> &Self {
        self.assert_exit(0)
    }

    /// Standard output is exactly this, but for white space at its end.
    #[track_caller]
    pub fn assert_stdout(&self, text: &str) -> &Self {
        assert_eq!(self.stdout.trim_end(), text, "{self}");
        self
    }

    /// Standard output holds this.
    #[track_caller]
    pub fn assert_stdout_has(&self, text: &str) -> &Self {
        assert!(self.stdout.contains(text), "`{text}` is not on stdout of {self}");
        self
    }

    /// Standard error holds this.
    #[track_caller]
    pub fn assert_stderr_has(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "`{text}` is not in {self}");
        self
    }

    /// Standard error is one error of the one format: `pod: …` and at most a hint; the exit code is `code`.
    #[track_caller]
    pub fn assert_refused(&self, code: i32, text: &str) -> &Self {
        self.assert_exit(code).assert_stderr_has(text);
        let lines: Vec<&str> = self.stderr.lines().collect();
        let first = lines.first().copied().unwrap_or_default();
        assert!(first.starts_with("pod: ") || first.starts_with("image-tools: "), "no error line in {self}");
        assert!(lines.len() <= 2 && lines[1..].iter().all(|line| line.starts_with("hint: ")), "more lines in {self}");
        assert!(!first.ends_with('.') && !first.contains("panicked"), "not a clean sentence in {self}");
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {self}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\n$ {}\nexit {}\n--- stdout\n{}--- stderr\n{}---", self.line, self.code, self.stdout, self.stderr)
    }
}

fn drain(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes); // What came before an error is what the test sees.
        bytes
    })
}

//! A pod that runs while the test looks at it.

use crate::apps::status_of;
use crate::fixture::Test;
use crate::outcome::{Outcome, line_of, wait_at_most};
use contract::status::AppStatus;
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a pod may take to start; with software emulation of a machine that is seconds.
const START_MAX: Duration = Duration::from_secs(60);

/// A running pod. Dropped, it is killed.
pub struct Running<'a> {
    test: &'a Test,
    child: Option<Child>,
    line: String,
    /// The pod's UUID.
    pub uuid: String,
}

impl<'a> Running<'a> {
    pub(crate) fn start(test: &'a Test, mut command: Command, uuid_file: &Path, apps: usize) -> Self {
        let line = line_of(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|error| panic!("`{line}`: {error}"));
        let mut running = Self { test, child: Some(child), line, uuid: String::new() };
        let begin = Instant::now();
        while !running.started(uuid_file, apps) {
            let over = running.child.as_ref().is_some_and(|child| wait_at_most(child, Duration::from_millis(5)));
            if over {
                let outcome = running.wait();
                panic!("the pod ended before all apps ran: {outcome}");
            }
            assert!(begin.elapsed() < START_MAX, "the pod did not start: {}", running.line);
        }
        running
    }

    /// Whether every app has a status with a start time.
    fn started(&mut self, uuid_file: &Path, apps: usize) -> bool {
        self.uuid = fs::read_to_string(uuid_file).unwrap_or_default().trim().to_owned();
        let status = self.test.data().join("pods/run").join(&self.uuid).join(contract::dir::STATUS);
        if self.uuid.is_empty() {
            return false;
        }
        let files = fs::read_dir(status).into_iter().flatten().flatten();
        let started = files.filter(|file| {
            let status = fs::read(file.path()).ok().and_then(|text| serde_json::from_slice::<AppStatus>(&text).ok());
            status.is_some_and(|status| status.started_unix_nanos.is_some())
        });
        started.count() == apps
    }

    /// Pid of `pod run`, which is the supervisor by now.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the pod runs").id()
    }

    /// The process in which the pod lives: PID 1, or the hypervisor. It is the supervisor's child that serves no volume.
    pub fn container(&self) -> u32 {
        let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let children = crate::confined::children(self.pid(), &[]);
        let found: Vec<u32> = children.into_iter().filter(|pid| !name(pid).starts_with("virtiofsd")).collect();
        let [process] = found.as_slice() else { panic!("several processes could be the pod: {found:?}") };
        *process
    }

    /// Sends a signal to [`Self::container`].
    pub fn signal_container(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_raw(self.container().cast_signed()).expect("not 0");
        rustix::process::kill_process(pid, signal).expect("the pod runs");
    }

    /// Sends a signal to the supervisor.
    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("the pod runs"));
        rustix::process::kill_process(pid, signal).expect("the pod runs");
    }

    /// Reads lines of standard output until one is `text`.
    pub fn await_line(&mut self, text: &str) {
        let child = self.child.as_mut().expect("the pod runs");
        let mut reader = BufReader::with_capacity(1, child.stdout.take().expect("stdout is a pipe"));
        let mut line = String::new();
        while line.trim_end() != text {
            line.clear();
            let length = reader.read_line(&mut line).expect("read the pod's output");
            assert!(length > 0, "the output ended before `{text}`: {}", self.line);
        }
        child.stdout = Some(reader.into_inner());
    }

    /// Waits for the end of the pod.
    pub fn wait(&mut self) -> Outcome {
        Outcome::collect(self.line.clone(), self.child.take().expect("waited for once"))
    }

    /// `status/NAME` of an app.
    #[track_caller]
    pub fn status(&self, app: &str) -> AppStatus {
        status_of(self.test, &self.uuid, app)
    }

    /// `pod exec` in an app.
    pub fn exec(&self, app: &str, words: &[&str]) -> Outcome {
        let app = format!("--app={app}");
        self.test.cli(["exec", &app, &self.uuid, "--"].iter().chain(words))
    }

    /// SIGTERM, and the end of the pod.
    pub fn stop(&mut self) -> Outcome {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill(); // It may have ended by itself.
            let _ = child.wait();
        }
    }
}

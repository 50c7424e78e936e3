//! A pod of probe apps, put together the way a command line is: flags of the pod, then each image with its own flags and
//! the words for the probe.

use crate::fixture::Test;
use crate::outcome::Outcome;
use crate::running::Running;
use crate::testbed::inside::HYPERVISOR;
use contract::status::AppStatus;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

struct App {
    image: String,
    flags: Vec<String>,
    words: Vec<String>,
}

/// A pod to be run.
pub struct PodBuilder<'a> {
    test: &'a Test,
    flags: Vec<String>,
    apps: Vec<App>,
}

impl<'a> PodBuilder<'a> {
    pub(crate) fn new(test: &'a Test) -> Self {
        Self { test, flags: vec!["--net=none".into()], apps: Vec::new() }
    }

    /// Adds flags of the pod, separated by spaces.
    #[must_use]
    pub fn flag(mut self, flags: &str) -> Self {
        self.flags.extend(flags.split_whitespace().map(str::to_owned));
        self
    }

    /// Another network than `none`.
    #[must_use]
    pub fn net(mut self, network: &str) -> Self {
        self.flags.retain(|flag| !flag.starts_with("--net="));
        self.flags.push(format!("--net={network}"));
        self
    }

    /// Adds an app of the probe image that does `words`.
    #[must_use]
    pub fn app(self, name: &str, words: &str) -> Self {
        let image = self.test.probe().to_owned();
        self.app_of(&image, name, words)
    }

    /// Adds an app of any image.
    #[must_use]
    pub fn app_of(mut self, image: &str, name: &str, words: &str) -> Self {
        let words = words.split_whitespace().map(str::to_owned).collect();
        self.apps.push(App { image: image.to_owned(), flags: vec![format!("--name={name}")], words });
        self
    }

    /// Adds flags to the app added last, separated by spaces.
    #[must_use]
    pub fn with(mut self, flags: &str) -> Self {
        let app = self.apps.last_mut().expect("an app was added before its flags");
        app.flags.extend(flags.split_whitespace().map(str::to_owned));
        self
    }

    /// Adds one argument to the app added last, spaces and all.
    #[must_use]
    pub fn with_one(mut self, flag: &str) -> Self {
        self.apps.last_mut().expect("an app was added before its flags").flags.push(flag.to_owned());
        self
    }

    /// The hypervisor that all machines of this run are to have, unless the test says another.
    fn hypervisor(&self) -> Option<String> {
        let asked = self.flags.iter().any(|flag| flag.starts_with("--hypervisor="));
        let name = std::env::var(HYPERVISOR).ok().filter(|_| self.test.stage1() == "kvm" && !asked)?;
        Some(format!("--hypervisor={name}"))
    }

    fn words(&self, verb: &str) -> Vec<String> {
        let mut words = vec![verb.to_owned()];
        // A test may bring a stage1 of its own.
        if !self.flags.iter().any(|flag| flag.starts_with("--stage1=")) {
            words.push(format!("--stage1={}", self.test.stage1()));
        }
        words.extend(self.hypervisor());
        words.extend(self.flags.iter().cloned());
        for (index, app) in self.apps.iter().enumerate() {
            if index > 0 {
                words.push("---".into());
            }
            words.push(app.image.clone());
            words.extend(app.flags.iter().cloned());
            words.push("--".into());
            words.extend(app.words.iter().cloned());
        }
        words
    }

    /// The command that runs the pod and saves its UUID in `uuid_file`.
    pub(crate) fn command(&self, uuid_file: &std::path::Path) -> Command {
        let mut words = self.words("run");
        words.insert(1, format!("--uuid-file-save={}", uuid_file.display()));
        self.test.pod_command(words)
    }

    fn uuid_file(&self) -> PathBuf {
        tempfile::Builder::new()
            .prefix("uuid-")
            .tempfile_in(self.test.path(""))
            .expect("a temporary file")
            .keep()
            .expect("kept")
            .1
    }

    /// `pod prepare`: the UUID of the prepared pod.
    pub fn prepare(&self) -> String {
        let outcome = self.test.cli(self.words("prepare").into_iter().filter(|word| !word.starts_with("--net=")));
        outcome.assert_ok().stdout.trim().to_owned()
    }

    /// Runs the pod to its end.
    pub fn run(&self) -> Ran<'a> {
        let file = self.uuid_file();
        let outcome = Outcome::of(&mut self.command(&file));
        let uuid = fs::read_to_string(file).unwrap_or_default().trim().to_owned();
        Ran { outcome, uuid, test: self.test }
    }

    /// Starts the pod and returns once all its apps run.
    pub fn start(&self) -> Running<'a> {
        let file = self.uuid_file();
        Running::start(self.test, self.command(&file), &file, self.apps.len())
    }

    /// The command that would run the pod, for tests that race with it.
    pub fn spawnable(&self) -> (Command, PathBuf) {
        let file = self.uuid_file();
        (self.command(&file), file)
    }
}

/// A pod that has run.
pub struct Ran<'a> {
    /// Exit code and output of `pod run`.
    pub outcome: Outcome,
    /// The pod's UUID; empty if it never got one.
    pub uuid: String,
    test: &'a Test,
}

impl std::ops::Deref for Ran<'_> {
    type Target = Outcome;
    fn deref(&self) -> &Outcome {
        &self.outcome
    }
}

impl Ran<'_> {
    /// `status/NAME` of an app.
    #[track_caller]
    pub fn status(&self, app: &str) -> AppStatus {
        status_of(self.test, &self.uuid, app)
    }
}

/// `status/NAME` of an app, as the contract has it.
#[track_caller]
pub(crate) fn status_of(test: &Test, uuid: &str, app: &str) -> AppStatus {
    let file = test.pod_directory(uuid).join(contract::dir::STATUS).join(app);
    let text = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

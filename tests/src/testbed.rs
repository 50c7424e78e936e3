//! The testbed VM: a whole Linux with what the build machine lacks, in qemu's software emulation.
//!
//! It runs a stock Debian kernel on the build machine's own files (read-only, under a layer in memory), with a working
//! `/dev/kvm` (an emulated AMD-V), cgroup v2 and, if asked, systemd as PID 1. One boot runs one command, brings back its
//! output and exit code, and is gone: its disk is a file without a name, and nothing is left. What is built on the host is seen
//! inside at once.
//!
//! The same executable (`testbed`) is the host's side, which runs as root, and the init of the machine (`guest`).

mod archive;
pub mod guest;
mod host;
pub mod inside;
mod modules;

use anyhow::Result;
use std::path::PathBuf;
use std::time::Duration;

/// What to run.
#[derive(Clone, Debug)]
pub struct Job {
    /// A program of the build machine, by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// Its working directory.
    pub directory: PathBuf,
    /// Variables beside `PATH`, `HOME` and `TMPDIR`.
    pub environment: Vec<(String, String)>,
    /// systemd is PID 1 of the machine, and the command a service of it; otherwise the command is started alone.
    pub systemd: bool,
    /// The machine is killed after this.
    pub time_max: Duration,
    /// Memory of the machine.
    pub memory_mib: u32,
    /// Words added to the command line of the machine's kernel.
    pub kernel_arguments: String,
    /// What the machine's kernel says goes to stderr.
    pub console: bool,
}

impl Job {
    /// A command with the ordinary machine around it: one CPU, 3 GiB, ten minutes. Its temporary files lie on a disk of
    /// its own, because on the layer over the build machine's files no other overlay can lie.
    pub fn new(command: &[&str]) -> Self {
        Self {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            directory: PathBuf::from("/"),
            environment: Vec::new(),
            systemd: false,
            time_max: Duration::from_secs(600),
            memory_mib: 3072,
            kernel_arguments: String::new(),
            console: false,
        }
    }
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Exit code of the command (128 + signal); none if the machine ended or was killed before the command did.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// The machine ran into its time limit.
    pub late: bool,
    /// The last lines of the machine's console, for a job without a code.
    pub console: String,
}

/// Why no testbed can run here, or nothing: for `skip`.
pub fn missing() -> Option<String> {
    host::missing()
}

/// Boots, runs, and brings back.
pub fn run(job: &Job) -> Result<Report> {
    host::run(job)
}

//! What a test may leave on the machine: nothing. Looks for mounts, cgroups, processes and pod directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "POD_TEST_MARKER";
/// cgroup directories are looked at down to this depth.
const DEPTH_MAX: usize = 6;

/// An environment variable that every process started by a test carries, so that it can be found again.
pub(crate) struct Marker(String);

impl Marker {
    pub(crate) fn new(directory: &Path) -> Self {
        Self(directory.display().to_string())
    }

    pub(crate) fn set(&self, command: &mut Command) {
        command.env(NAME, &self.0);
    }

    /// Processes that carry the marker, without this one.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let wanted = format!("{NAME}={}\0", self.0).into_bytes();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
        let marked = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.windows(wanted.len()).any(|window| window == wanted)
        };
        pids.filter(|pid| *pid != std::process::id()).filter(marked).collect()
    }

    /// Ends all processes of the test. Each is held by a pidfd while its marker is looked at again, so that a reused
    /// number is never signalled.
    pub(crate) fn kill_all(&self) {
        for pid in self.processes() {
            let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { continue };
            let Ok(fd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { continue };
            if self.processes().contains(&pid.as_raw_pid().cast_unsigned()) {
                let _ = rustix::process::pidfd_send_signal(&fd, rustix::process::Signal::KILL); // Gone already.
            }
        }
    }
}

/// A line for everything that is left of these pods.
pub(crate) fn find(directory: &Path, uuids: &[String], marker: &Marker) -> Vec<String> {
    let mut left: Vec<String> = mounts(directory).into_iter().map(|mount| format!("mount {mount}")).collect();
    left.extend(cgroups(uuids).iter().map(|path| format!("cgroup {}", path.display())));
    left.extend(marker.processes().into_iter().map(|pid| format!("process {pid} {}", command_line(pid))));
    let phases = fs::read_dir(directory.join("data/pods")).into_iter().flatten().flatten();
    let pods = phases.flat_map(|phase| fs::read_dir(phase.path()).into_iter().flatten().flatten());
    left.extend(pods.map(|pod| format!("pod directory {}", pod.path().display())));
    left
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Mount points below `directory`, in this mount namespace.
fn mounts(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let directory = directory.display().to_string();
    text.lines().filter(|line| line.contains(&directory)).map(str::to_owned).collect()
}

/// cgroup directories, of any hierarchy, whose name holds one of the UUIDs.
pub(crate) fn cgroups(uuids: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_cgroup = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    for root in text.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(4)) {
        walk(Path::new(root), DEPTH_MAX, &mut |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if uuids.iter().any(|uuid| name.contains(uuid.as_str())) {
                found.push(path.to_owned());
            }
        });
    }
    found
}

fn walk(directory: &Path, depth: usize, visit: &mut impl FnMut(&Path)) {
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path());
            walk(&entry.path(), depth - 1, visit);
        }
    }
}

//! What a supervisor writes into the pod directory: `pid` and `status/NAME`.

use anyhow::{Context, Result, bail};
use contract::dir;
use contract::name::AppName;
use contract::pod::Pod;
use contract::status::AppStatus;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::SystemTime;

/// No `status/NAME` is longer.
const STATUS_BYTES_MAX: usize = 64 << 10;

/// Writes `pid`: this process and when it started, so that a reused pid is recognised.
pub(crate) fn write_pid(directory: BorrowedFd<'_>) -> Result<()> {
    let Some(start) = start_time("self").context("read `/proc/self/stat`")? else {
        bail!("`/proc/self/stat` has no start time");
    };
    let text = format!("{} {start}\n", std::process::id());
    write_file(directory, Path::new(dir::PID), text.as_bytes()).context("write `pid`")
}

/// When a process started, in the kernel's ticks; none: its `stat` cannot be understood.
pub(crate) fn start_time(process: &str) -> rustix::io::Result<Option<u64>> {
    let path = format!("/proc/{process}/stat");
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = [0; 1024];
    let length = rustix::io::read(&file, &mut bytes)?;
    Ok(start_field(&String::from_utf8_lossy(&bytes[..length])))
}

/// Field 22 of /proc/PID/stat. The command's name, field 2, may hold spaces and parentheses; the last `)` ends it.
fn start_field(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn write_file(directory: BorrowedFd<'_>, path: &Path, bytes: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(directory, path, flags, Mode::from(0o600))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = &rest[written..];
    }
    Ok(())
}

/// The directory `status`, made when it is needed.
#[derive(Debug, Default)]
pub(crate) struct Records {
    directory: Option<OwnedFd>,
}

impl Records {
    /// Replaces `status/NAME`.
    pub(crate) fn write(&mut self, pod_directory: BorrowedFd<'_>, app: &AppName, status: &AppStatus) -> Result<()> {
        let directory = match self.directory.take() {
            Some(directory) => directory,
            None => open_directory(pod_directory).context("make `status`")?,
        };
        let directory = self.directory.insert(directory);
        replace(directory.as_fd(), app, status).with_context(|| format!("write `status/{app}`"))
    }
}

fn open_directory(pod_directory: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::mkdirat(pod_directory, dir::STATUS, Mode::from(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(pod_directory, dir::STATUS, flags, Mode::empty())
}

fn replace(directory: BorrowedFd<'_>, app: &AppName, status: &AppStatus) -> Result<()> {
    // No app is named so: a name starts with a letter or a digit.
    let temporary = format!(".{app}");
    write_file(directory, Path::new(&temporary), &serde_json::to_vec(status)?)?;
    Ok(rustix::fs::renameat(directory, &temporary, directory, app.as_ref() as &Path)?)
}

/// The stage itself failed, whatever the pod was doing: every app whose record has no end gets one with this cause.
pub(crate) fn failed(pod_directory: BorrowedFd<'_>, pod: &Pod, cause: &str) -> Result<()> {
    let directory = open_directory(pod_directory).context("make `status`")?;
    for app in &pod.apps {
        let mut status = read(directory.as_fd(), &app.name).unwrap_or_default();
        if status.end.is_none() {
            crate::apps::end_without_word(&mut status, Some(cause), unix_nanos());
            replace(directory.as_fd(), &app.name, &status)?;
        }
    }
    Ok(())
}

fn read(directory: BorrowedFd<'_>, app: &AppName) -> Option<AppStatus> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(directory, app.as_ref() as &Path, flags, Mode::empty()).ok()?;
    let mut bytes = vec![0; STATUS_BYTES_MAX];
    let length = rustix::io::read(&file, &mut bytes).ok()?;
    serde_json::from_slice(&bytes[..length]).ok()
}

/// Now, as status files count it.
pub(crate) fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Opens a file of the pod directory.
pub fn open(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(directory, name, flags, Mode::empty()).with_context(|| format!("open `{name}`"))
}

/// Opens the file of a cgroup by which a process moves itself there, by a path that stage0 wrote.
///
/// On v1 that is `tasks`, not `cgroup.procs`: moving a whole process takes a lock against every fork of the machine, which
/// on an idle machine waits 10 to 20 ms for an RCU grace period. A thread that moves itself takes no such lock, and the
/// process that joins has one thread. On v2 a thread may not leave its process's cgroup, so there it is `cgroup.procs`.
pub fn open_cgroup(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let open = |name: &str| rustix::fs::openat(CWD, path.join(name), flags, Mode::empty());
    match open("tasks") {
        Err(Errno::NOENT) => open("cgroup.procs"),
        other => other,
    }
    .with_context(|| format!("open cgroup `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_survives_hostile_names() {
        let rest = "S 1 1 1 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 4711 1000 100";
        for name in ["pod", "a b", ") R 9 9 9", "((", ""] {
            assert_eq!(start_field(&format!("12 ({name}) {rest}")), Some(4711), "{name}");
        }
        assert_eq!(start_field("12 (pod) S 1"), None);
    }
}

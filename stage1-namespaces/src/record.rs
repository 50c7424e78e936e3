//! What the supervisor writes into the pod directory: `pid` and `status/NAME`.

use anyhow::{Context, Result, bail};
use contract::name::AppName;
use contract::pod::Pod;
use contract::status::{AppEnd, AppStatus};
use contract::{dir, exit};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::SystemTime;

/// Writes `pid`: this process and when it started, so that a reused pid is recognised.
pub(crate) fn write_pid(directory: BorrowedFd<'_>) -> Result<()> {
    let stat = read_small(Path::new("/proc/self/stat")).context("read `/proc/self/stat`")?;
    let Some(start) = start_time(&stat) else { bail!("`/proc/self/stat` has no start time") };
    let text = format!("{} {start}\n", std::process::id());
    write_file(directory, Path::new(dir::PID), text.as_bytes()).context("write `pid`")
}

/// Field 22 of /proc/PID/stat. The command's name, field 2, may hold spaces and parentheses; the last `)` ends it.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn read_small(path: &Path) -> Result<String> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = [0; 1024];
    let length = rustix::io::read(&file, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
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

/// How each app is, and which of it the files under `status` do not say yet.
pub(crate) struct Statuses {
    apps: BTreeMap<AppName, Entry>,
    directory: Option<OwnedFd>,
}

struct Entry {
    status: AppStatus,
    ready: bool,
    notifies: bool,
    unwritten: bool,
}

impl Entry {
    const fn new(notifies: bool) -> Self {
        let status = AppStatus { end: None, started_unix_nanos: None, ended_unix_nanos: None, restarts: 0 };
        Self { status, ready: false, notifies, unwritten: false }
    }
}

impl Statuses {
    /// All apps of the pod, none started.
    pub(crate) fn new(pod: &Pod) -> Self {
        let apps = pod.apps.iter().map(|app| (app.name.clone(), Entry::new(app.notify))).collect();
        Self { apps, directory: None }
    }

    /// The app's program runs. False: there is no such app.
    pub(crate) fn started(&mut self, app: &AppName, now: SystemTime) -> bool {
        let Some(entry) = self.apps.get_mut(app) else { return false };
        match entry.status.started_unix_nanos {
            None => entry.status.started_unix_nanos = Some(nanos(now)),
            Some(_) => entry.status.restarts = entry.status.restarts.saturating_add(1),
        }
        entry.status.end = None;
        entry.unwritten = true;
        true
    }

    /// The app ended. False: there is no such app.
    pub(crate) fn ended(&mut self, app: &AppName, end: AppEnd, now: SystemTime) -> bool {
        let Some(entry) = self.apps.get_mut(app) else { return false };
        entry.status.end = Some(end);
        entry.status.ended_unix_nanos = Some(nanos(now));
        entry.unwritten = true;
        true
    }

    /// The app said that it is ready. False: there is no such app.
    pub(crate) fn ready(&mut self, app: &AppName) -> bool {
        self.apps.get_mut(app).map(|entry| entry.ready = true).is_some()
    }

    /// stage2 is dead, and with it every app that had not ended.
    pub(crate) fn killed(&mut self, now: SystemTime) {
        const SIGKILL: u8 = 9;
        for entry in self.apps.values_mut().filter(|entry| entry.status.end.is_none()) {
            // One that never started has no end either.
            if entry.status.started_unix_nanos.is_some() {
                entry.status.end = Some(AppEnd::Signal(SIGKILL));
                entry.status.ended_unix_nanos = Some(nanos(now));
                entry.unwritten = true;
            }
        }
    }

    /// The pod failed before these apps were started.
    pub(crate) fn never_started(&mut self, message: &str) {
        for entry in self.apps.values_mut() {
            if entry.status.started_unix_nanos.is_none() && entry.status.end.is_none() {
                entry.status.end = Some(AppEnd::Failed { exit: exit::FAILURE, message: message.to_owned() });
                entry.unwritten = true;
            }
        }
    }

    /// Whether the pod as a whole is up: each app has started, and those that say when they are ready have said so.
    pub(crate) fn all_ready(&self) -> bool {
        self.apps.values().all(|entry| entry.status.started_unix_nanos.is_some() && (entry.ready || !entry.notifies))
    }

    /// A copy for a client.
    pub(crate) fn all(&self) -> BTreeMap<AppName, AppStatus> {
        self.apps.iter().map(|(name, entry)| (name.clone(), entry.status.clone())).collect()
    }

    /// The apps that could not be started, with the step that failed.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&AppName, &str)> {
        self.apps.iter().filter_map(|(name, entry)| match &entry.status.end {
            Some(AppEnd::Failed { message, .. }) => Some((name, message.as_str())),
            _ => None,
        })
    }

    /// Whether [`Self::write`] has something to do.
    pub(crate) fn unwritten(&self) -> bool {
        self.apps.values().any(|entry| entry.unwritten)
    }

    /// Brings the files under `status` up to date, each by rename.
    pub(crate) fn write(&mut self, pod_directory: BorrowedFd<'_>) -> Result<()> {
        if self.directory.is_none() && self.unwritten() {
            self.directory = Some(open_directory(pod_directory).context("make `status`")?);
        }
        let Some(directory) = &self.directory else { return Ok(()) };
        for (name, entry) in self.apps.iter_mut().filter(|(_, entry)| entry.unwritten) {
            write_status(directory.as_fd(), name, &entry.status).with_context(|| format!("write `status/{name}`"))?;
            entry.unwritten = false;
        }
        Ok(())
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

fn write_status(directory: BorrowedFd<'_>, name: &AppName, status: &AppStatus) -> Result<()> {
    // No app is named so: a name starts with a letter or a digit.
    let temporary = format!(".{name}");
    write_file(directory, Path::new(&temporary), &serde_json::to_vec(status)?)?;
    Ok(rustix::fs::renameat(directory, &temporary, directory, name.as_ref() as &Path)?)
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Opens the pod directory's `pod.json` or `host.json`.
pub(crate) fn open(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(directory, name, flags, Mode::empty()).with_context(|| format!("open `{name}`"))
}

/// Opens the file of a cgroup by which a process moves itself there, by a path that stage0 wrote.
///
/// On v1 that is `tasks`, not `cgroup.procs`: moving a whole process takes a lock against every fork of the machine, which
/// on an idle machine waits 10 to 20 ms for an RCU grace period. A thread that moves itself takes no such lock, and the
/// process that joins has one thread. On v2 a thread may not leave its process's cgroup, so there it is `cgroup.procs`.
pub(crate) fn open_cgroup(path: &Path) -> Result<OwnedFd> {
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
            assert_eq!(start_time(&format!("12 ({name}) {rest}")), Some(4711), "{name}");
        }
        assert_eq!(start_time("12 (pod) S 1"), None);
    }

    #[test]
    fn end_of_stage2_ends_what_had_started() {
        let (a, b, c) = ("a".parse().unwrap(), "b".parse().unwrap(), "c".parse().unwrap());
        let apps = [&a, &b, &c].map(|name: &AppName| (name.clone(), Entry::new(false))).into();
        let mut statuses = Statuses { apps, directory: None };
        let now = SystemTime::UNIX_EPOCH;
        assert!(statuses.started(&a, now) && statuses.started(&b, now));
        assert!(statuses.ended(&b, AppEnd::Code(3), now));
        assert!(!statuses.started(&"x".parse().unwrap(), now));
        statuses.killed(now);
        let all = statuses.all();
        assert_eq!(all[&a].end, Some(AppEnd::Signal(9)));
        assert_eq!(all[&b].end, Some(AppEnd::Code(3)));
        assert_eq!(all[&c].end, None);
        assert!(!statuses.all_ready());
        statuses.never_started("mount it");
        assert_eq!(
            statuses.failures().map(|(name, message)| (name.as_str(), message)).collect::<Vec<_>>(),
            [("c", "mount it")]
        );
    }
}

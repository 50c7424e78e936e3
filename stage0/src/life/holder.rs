//! Which process holds the lock of a pod. flock(2) locks belong to an open file, which a process can inherit or be sent, so
//! the pid in /proc/locks may be that of a process that died; /proc/PID/fdinfo tells who has the open file now.

use crate::failure::Failure;
use rustix::fs::{AtFlags, CWD, fstat, statat};
use std::fs;
use std::os::fd::BorrowedFd;

/// A process and its command name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pid: u32,
    command: String,
}

/// The error that names the processes which hold the exclusive lock of `directory`.
pub(crate) fn still_held(directory: BorrowedFd<'_>) -> Failure {
    let holders = holders(directory);
    let named: Vec<String> = holders.iter().map(|holder| format!("{} ({})", holder.pid, holder.command)).collect();
    let pids: Vec<String> = holders.iter().map(|holder| holder.pid.to_string()).collect();
    match named.as_slice() {
        [] => Failure::new("a process that is not visible here still holds the pod's lock")
            .hint("look for it in the PID namespace of the host"),
        [one] => Failure::new(format!("process {one} still holds the pod's lock"))
            .hint(format!("`kill -9 {}` ends that process", pids[0])),
        several => Failure::new(format!("processes {} still hold the pod's lock", several.join(", ")))
            .hint(format!("`kill -9 {}` ends these processes", pids.join(" "))),
    }
}

/// All processes that have the open file with the lock. Processes that end meanwhile are left out.
fn holders(directory: BorrowedFd<'_>) -> Vec<Holder> {
    let Ok(wanted) = fstat(directory) else { return Vec::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let holds = |pid: &u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
        fds.into_iter().any(|fd| {
            let locked = fs::read_to_string(fd.path()).is_ok_and(|text| is_exclusively_locked(&text));
            let file = format!("/proc/{pid}/fd/{}", fd.file_name().to_string_lossy());
            let same = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino) == (wanted.st_dev, wanted.st_ino);
            locked && statat(CWD, file, AtFlags::empty()).is_ok_and(same)
        })
    };
    let mut found: Vec<Holder> =
        pids.filter(holds).map(|pid| Holder { pid, command: command(pid).unwrap_or_default() }).collect();
    found.sort_by_key(|holder| holder.pid);
    found
}

fn command(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Whether a text of /proc/PID/fdinfo has a line such as `lock: 1: FLOCK  ADVISORY  WRITE 12 fe:01:77 0 EOF`. Shared locks
/// are those of commands that ask whether a pod lives.
fn is_exclusively_locked(fdinfo: &str) -> bool {
    fdinfo.lines().filter_map(|line| line.strip_prefix("lock:")).any(|lock| {
        let words: Vec<&str> = lock.split_whitespace().collect();
        words.contains(&"FLOCK") && words.contains(&"WRITE")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FlockOperation, flock};
    use std::os::fd::AsFd;

    #[test]
    fn the_exclusive_lock_counts_and_the_shared_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let open = || fs::File::open(directory.path()).unwrap();
        let (holder, other) = (open(), open());
        assert_eq!(holders(other.as_fd()), []);
        flock(&holder, FlockOperation::LockShared).unwrap();
        assert_eq!(holders(other.as_fd()), []);
        flock(&holder, FlockOperation::LockExclusive).unwrap();
        let found = holders(other.as_fd());
        assert_eq!(found.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [std::process::id()]);
        assert_eq!(found[0].command, command(std::process::id()).unwrap());
        let (text, hint) = (still_held(other.as_fd()).to_string(), format!("kill -9 {}", std::process::id()));
        assert!(text.starts_with(&format!("process {} (", std::process::id())), "{text}");
        assert!(still_held(other.as_fd()).advice().is_some_and(|advice| advice.contains(&hint)));
        // Another directory's lock is not this one's.
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(holders(fs::File::open(elsewhere.path()).unwrap().as_fd()), []);
    }
}

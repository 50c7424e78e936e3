//! The programs of a stage1: where they may lie, and running those that must end in time.
//!
//! They run with all privileges of `pod`. A program is named relative to its `stage1.json` and lies below the directory of that
//! file, on a path without links, so that what runs is what was installed or verified with it. It is executed by its path and not
//! by a descriptor: a script's interpreter must be able to open it again, and the path shows in lists of processes.

use crate::failure::Failure;
use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path};
use std::process::{Child, Command, ExitStatus};

/// How long killed processes may take to die.
const DEATH_SECS_MAX: u64 = 10;

/// The program and the arguments of an entrypoint of the stage1 that `file` describes.
pub(super) fn command(file: &Path, entrypoint: &[String]) -> Result<Command> {
    let program = entrypoint.first().context("the entrypoint names no program")?;
    let directory = file.parent().context("stage1.json lies in a directory")?;
    refuse_outside(directory, program)?;
    let mut command = Command::new(directory.join(program));
    command.arg0(program).args(&entrypoint[1..]);
    Ok(command)
}

fn refuse_outside(directory: &Path, program: &str) -> Result<()> {
    let shown = crate::escape::escape(program).into_owned();
    let outside = || {
        Failure::new(format!("the program `{shown}` of a stage1 is not a path below the directory of its stage1.json"))
            .hint("name it relative to that file, without `..`")
    };
    if program.is_empty() || !Path::new(program).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(outside().into());
    }
    let context = || format!("open the program `{shown}` in `{}`", directory.display());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let base = openat(CWD, directory, flags | OFlags::DIRECTORY, Mode::empty()).with_context(context)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let opened = match openat2(&base, program, flags, Mode::empty(), resolve) {
        Err(Errno::LOOP) => {
            return Err(Failure::new(format!("the program `{shown}` of a stage1 is a link, or lies behind one"))
                .hint("put the program itself beside its stage1.json")
                .into());
        }
        Err(Errno::XDEV) => return Err(outside().into()),
        other => other.with_context(context)?,
    };
    let kind = FileType::from_raw_mode(fstat(&opened).with_context(context)?.st_mode);
    ensure!(kind == FileType::RegularFile, "the program `{shown}` of a stage1 is no regular file");
    Ok(())
}

/// Runs a program to its end, with all that it starts. `None`: it took longer than `secs_max` and was killed.
///
/// This process becomes the parent of what the program leaves behind, so that it can be killed as well: such a process would hold
/// descriptors of ours, the pod's lock among them. It has no other children meanwhile.
pub(super) fn run(command: &mut Command, secs_max: u64) -> Result<(Option<ExitStatus>, Child)> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become a reaper")?;
    let result = run_alone(command, secs_max);
    rustix::process::set_child_subreaper(None).context("be no reaper any more")?;
    result
}

fn run_alone(command: &mut Command, secs_max: u64) -> Result<(Option<ExitStatus>, Child)> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let mut child = command.process_group(0).spawn().with_context(|| format!("execute `{shown}`"))?;
    let pid = Pid::from_child(&child);
    let process = pidfd_open(pid, PidfdFlags::empty()).context("open a process")?;
    let in_time = ends(&process, secs_max)?;
    // The group first: what is in it cannot fork while all of it is killed. Its number is not reused before the child is reaped.
    let _ = rustix::process::kill_process_group(pid, Signal::KILL); // It may be empty.
    let mut status = None;
    if in_time || ends(&process, DEATH_SECS_MAX)? {
        status = Some(child.wait().context("wait for a process")?);
    }
    kill_orphans()?;
    Ok((status.filter(|_| in_time), child))
}

/// Kills what left the group of its parent and then lost the parent, until nothing is left.
fn kill_orphans() -> Result<()> {
    // What forks while it is killed is met in the next round.
    for _ in 0..100 {
        let orphans = children();
        if orphans.is_empty() {
            return Ok(());
        }
        for pid in orphans {
            // A child that is not reaped keeps its number, so this is the right process.
            let _ = rustix::process::kill_process(pid, Signal::KILL); // It may be dead already.
            let process = pidfd_open(pid, PidfdFlags::empty()).context("open a process")?;
            ensure!(ends(&process, DEATH_SECS_MAX)?, "a process did not die within {DEATH_SECS_MAX} s");
            rustix::process::waitpid(Some(pid), WaitOptions::NOHANG).context("wait for a process")?;
        }
    }
    Err(Failure::new("processes are started faster than they are killed").into())
}

/// The children of this process, which has one thread. None where the kernel was built without CONFIG_PROC_CHILDREN.
fn children() -> Vec<Pid> {
    let text = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|word| Pid::from_raw(word.parse().ok()?)).collect()
}

/// Waits for the end of a process; false if that takes longer.
fn ends(process: &OwnedFd, secs_max: u64) -> Result<bool> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(secs_max);
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().try_into()?, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for a process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn programs_lie_beside_their_stage1() {
        let scratch = tempfile::tempdir().unwrap();
        let base = scratch.path().join("stage");
        std::fs::create_dir_all(base.join("bin")).unwrap();
        for file in ["run", "bin/run", "../outside"] {
            std::fs::write(base.join(file), "").unwrap();
        }
        symlink("run", base.join("link")).unwrap();
        symlink("bin", base.join("linked")).unwrap();
        symlink("/bin/echo", base.join("away")).unwrap();
        let file = base.join("stage1.json");
        let of = |program: &str| command(&file, &[program.to_owned(), "word".to_owned()]).map_err(|e| format!("{e:#}"));
        for good in ["run", "bin/run"] {
            let command = of(good).unwrap();
            assert_eq!(command.get_program(), base.join(good));
            assert_eq!(command.get_args().collect::<Vec<_>>(), ["word"]);
        }
        for (bad, text) in [
            ("/bin/echo", "not a path below"),
            ("../outside", "not a path below"),
            ("bin/../run", "not a path below"),
            ("", "not a path below"),
            (".", "not a path below"),
            ("link", "is a link"),
            ("linked/run", "is a link"),
            ("away", "is a link"),
            ("bin", "no regular file"),
            ("missing", "No such file"),
        ] {
            let error = of(bad).unwrap_err();
            assert!(error.contains(text), "{bad}: {error}");
        }
        assert!(command(&file, &[]).is_err());
    }

    #[test]
    fn what_ends_in_time_leaves_nothing_behind() {
        let (status, _) = run(Command::new("/bin/sh").args(["-c", "exit 3"]), 30).unwrap();
        assert_eq!(status.unwrap().code(), Some(3));
    }
}

//! Releases what `host.json` names. Idempotent: each thing may never have come to be, or be gone already.

use super::pods::{PodDir, Pods};
use super::remains::{is_cut_short, members};
use super::{lease, names};
use crate::cgroup::make;
use crate::failure::Failure;
use anyhow::{Context, Result};
use contract::dir::HOST;
use contract::host::Host;
use contract::name::PodUuid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};
use std::os::fd::AsFd;
use std::path::{Component, Path};

/// How long killed processes may take to die.
const DEATH_SECS_MAX: i64 = 10;

/// Releases everything that the pod holds of the host. The caller has the pod's lock.
pub(crate) fn release(pods: &Pods, pod: &PodDir) -> Result<()> {
    let host = match pod.read::<Host>(HOST) {
        Ok(Some(host)) => host,
        // Absent, or not yet whole: the pod died before it had anything, since each entry is written before its thing is made.
        Ok(None) => return Ok(()),
        Err(error) if is_cut_short(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    collect_stage1(pods, pod, &host)?;
    for cgroup in host.cgroups.iter().rev() {
        refuse_foreign(cgroup, &pod.uuid)?;
        kill_members(cgroup).with_context(|| format!("kill what is in cgroup `{}`", cgroup.display()))?;
        remove_cgroup(cgroup).with_context(|| format!("remove cgroup `{}`", cgroup.display()))?;
        make::remove_empty_parent(cgroup);
    }
    if let Some(range) = host.id_range {
        lease::release(pods, &pod.uuid, range)?;
    }
    Ok(())
}

/// Kills everything in the pod's cgroups. What is not in them is left alone.
pub(crate) fn kill_all(pod: &PodDir) -> Result<()> {
    // A pod without a whole host.json has no cgroups yet.
    let Ok(Some(host)) = pod.read::<Host>(HOST) else { return Ok(()) };
    for cgroup in host.cgroups.iter().rev() {
        refuse_foreign(cgroup, &pod.uuid)?;
        kill_members(cgroup).with_context(|| format!("kill what is in cgroup `{}`", cgroup.display()))?;
    }
    Ok(())
}

/// What the stage1 left outside of `host.json`, it removes itself. One that is gone cannot, so its pods stay until it is back.
fn collect_stage1(pods: &Pods, pod: &PodDir, host: &Host) -> Result<()> {
    let Some(file) = host.stage1.as_ref().filter(|_| host.stage1_gc) else { return Ok(()) };
    if !file.exists() {
        let text =
            format!("stage1 `{}` is gone, and only its `gc` can release what it left of the pod", file.display());
        return Err(Failure::new(text).hint("install it again at that place").into());
    }
    crate::stage1::recorded(host)?.collect(pod.fd(), &pods.path(pod.phase, &pod.uuid), &pod.uuid)
}

/// Frees the pod's name, which is in `pod.json`.
pub(crate) fn release_name(pods: &Pods, pod: &PodDir) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Named {
        name: Option<contract::name::PodName>,
    }
    // A torn pod.json is that of a pod that was killed while it was written; the name is then freed by its next claim.
    match pod.read::<Named>(contract::dir::POD) {
        Ok(Some(Named { name: Some(name) })) => names::release(pods, &name, &pod.uuid),
        _ => Ok(()),
    }
}

/// Only what carries the pod's UUID, below the cgroup mounts, is killed and removed, whatever the file says.
fn refuse_foreign(cgroup: &Path, uuid: &PodUuid) -> Result<()> {
    let own = cgroup.starts_with("/sys/fs/cgroup")
        && cgroup.components().all(|part| !matches!(part, Component::ParentDir))
        && cgroup.to_str().is_some_and(|text| text.contains(uuid.as_str()));
    if own {
        return Ok(());
    }
    Err(Failure::new(format!("cgroup `{}` in `{HOST}` is not one of pod `{uuid}`", cgroup.display())).into())
}

/// Kills all processes of a cgroup and waits until they are dead.
fn kill_members(cgroup: &Path) -> Result<()> {
    // Processes that fork while they are killed are met in the next round; each round waits for deaths.
    for _ in 0..100 {
        let mut waiting = Vec::new();
        for pid in members(cgroup)? {
            let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => pidfd,
                Err(Errno::SRCH | Errno::INVAL) => continue,
                Err(error) => return Err(error).context("open a process"),
            };
            // The number may have been reused between the list and the fd; who is in the list now is the one to kill.
            if members(cgroup)?.contains(&pid) {
                match crate::sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL) {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                        return Err(error).context("kill a process");
                    }
                    _ => waiting.push(pidfd),
                }
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        for pidfd in waiting {
            let timeout = Timespec { tv_sec: DEATH_SECS_MAX, tv_nsec: 0 };
            let mut watched = [PollFd::new(&pidfd, PollFlags::IN)];
            if rustix::io::retry_on_intr(|| poll(&mut watched, Some(&timeout)))? == 0 {
                return Err(Failure::new(format!("a process did not die within {DEATH_SECS_MAX} s")).into());
            }
        }
    }
    Err(Failure::new("processes are started faster than they are killed").into())
}

/// rmdir, first of what is below it: on v2 an app that was given its cgroup may have made more.
fn remove_cgroup(cgroup: &Path) -> Result<()> {
    match rustix::fs::rmdir(cgroup) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let directory = rustix::fs::open(cgroup, flags, rustix::fs::Mode::empty())?;
    for entry in rustix::fs::Dir::new(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type() == rustix::fs::FileType::Directory && name != "." && name != ".." {
            let child = cgroup.join(name);
            kill_members(&child)?;
            remove_cgroup(&child)?;
        }
    }
    match rustix::fs::rmdir(cgroup) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

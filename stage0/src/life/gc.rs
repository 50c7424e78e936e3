//! Garbage collection: the only cleaner. First it marks, by renaming what has ended; then it deletes what was marked and
//! has been dead for the grace period. It may run at any moment, several times at once, beside starting and running
//! pods, and may be killed at any step: the next one goes on.

use super::pods::{PodDir, Pods};
use super::{delete, lease, names, release, view};
use anyhow::{Context, Result};
use contract::dir::{HOST, POD, Phase};
use contract::name::PodUuid;
use rustix::fs::{AtFlags, Timespec, Timestamps, fstat, futimens, statat};
use serde::Deserialize;
use std::time::Duration;

/// What is garbage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// How long ended pods are kept, counted from their end.
    pub(crate) grace: Duration,
    /// How long prepared pods are kept.
    pub(crate) expire_prepared: Duration,
    /// Only rename.
    pub(crate) mark_only: bool,
}

/// What a run did, pod by pod; one that cannot be collected does not keep the others.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Deleted.
    pub(crate) removed: Vec<PodUuid>,
    /// Not collected, and why.
    pub(crate) faults: Vec<(PodUuid, anyhow::Error)>,
}

/// Marks and sweeps.
pub(crate) fn collect(pods: &Pods, policy: Policy, now: Duration) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for phase in [Phase::Embryo, Phase::Prepare, Phase::Prepared, Phase::Run] {
        for uuid in pods.uuids(phase)? {
            if let Err(error) = mark(pods, phase, &uuid, policy, now) {
                outcome.faults.push((uuid, error));
            }
        }
    }
    if policy.mark_only {
        return Ok(outcome);
    }
    for phase in [Phase::Garbage, Phase::ExitedGarbage] {
        for uuid in pods.uuids(phase)? {
            match sweep(pods, phase, &uuid, policy, now) {
                Ok(true) => outcome.removed.push(uuid),
                Ok(false) => {}
                Err(error) => outcome.faults.push((uuid, error)),
            }
        }
    }
    lease::sweep(pods)?;
    names::sweep(pods)?;
    Ok(outcome)
}

/// Renames a pod that nobody holds, if it has come to its end.
fn mark(pods: &Pods, phase: Phase, uuid: &PodUuid, policy: Policy, now: Duration) -> Result<()> {
    let Some(mut pod) = pods.open_pod(phase, uuid)? else { return Ok(()) };
    if !pod.try_lock()? || !is_there(pods, &pod)? {
        return Ok(());
    }
    let to = match phase {
        Phase::Run => Phase::ExitedGarbage,
        Phase::Prepared if now.saturating_sub(modified(&pod, POD)) < policy.expire_prepared => return Ok(()),
        _ => Phase::Garbage,
    };
    if phase == Phase::Run && recorded_end(&pod).is_none() {
        // Killed: nobody wrote down when. The grace period starts now, in the directory's own time stamp.
        let nanos = i64::from(now.subsec_nanos());
        let stamp = Timespec { tv_sec: now.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: nanos };
        futimens(pod.fd(), &Timestamps { last_access: stamp, last_modification: stamp }).context("stamp the end")?;
    }
    pods.advance(&mut pod, to)
}

/// Deletes a marked pod when its time has come.
fn sweep(pods: &Pods, phase: Phase, uuid: &PodUuid, policy: Policy, now: Duration) -> Result<bool> {
    let Some(pod) = pods.open_pod(phase, uuid)? else { return Ok(false) };
    if phase == Phase::ExitedGarbage && now.saturating_sub(ended(&pod)) < policy.grace {
        return Ok(false);
    }
    if !pod.try_lock()? || !is_there(pods, &pod)? {
        return Ok(false);
    }
    remove(pods, &pod).map(|()| true)
}

/// Deletes a pod in a garbage phase; the caller has its lock. The description goes last, so that whoever comes after a kill
/// still knows what to release.
pub(crate) fn remove(pods: &Pods, pod: &PodDir) -> Result<()> {
    release::release(pods, pod)?;
    delete::content(pod.fd(), &[POD, HOST]).with_context(|| format!("delete the files of pod `{}`", pod.uuid))?;
    release::release_name(pods, pod)?;
    delete::content(pod.fd(), &[]).with_context(|| format!("delete the files of pod `{}`", pod.uuid))?;
    pods.remove_empty(pod).with_context(|| format!("delete the directory of pod `{}`", pod.uuid))
}

/// After a lock was taken: the directory may have been renamed or deleted between open and lock.
pub(crate) fn is_there(pods: &Pods, pod: &PodDir) -> Result<bool> {
    let own = fstat(pod.fd()).with_context(|| format!("look at pod `{}`", pod.uuid))?;
    Ok(pods.open_pod(pod.phase, &pod.uuid)?.is_some_and(|there| {
        fstat(there.fd()).is_ok_and(|there| there.st_ino == own.st_ino && there.st_dev == own.st_dev)
    }))
}

/// When the pod ended: as recorded, or when it was marked.
fn ended(pod: &PodDir) -> Duration {
    recorded_end(pod).unwrap_or_else(|| modified(pod, "."))
}

/// The last end of an app, if all apps have one.
fn recorded_end(pod: &PodDir) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Apps {
        apps: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        name: contract::name::AppName,
    }
    let apps: Apps = pod.read(POD).ok().flatten()?;
    let ends = apps.apps.iter().map(|app| view::status(pod, &app.name).and_then(|status| status.ended_unix_nanos));
    let ends: Option<Vec<u64>> = ends.collect();
    ends?.into_iter().max().map(Duration::from_nanos)
}

fn modified(pod: &PodDir, name: &str) -> Duration {
    statat(pod.fd(), name, AtFlags::SYMLINK_NOFOLLOW)
        .ok()
        .and_then(|stat| u64::try_from(stat.st_mtime).ok())
        .map_or(Duration::ZERO, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life::pods::new_uuid;

    fn policy(grace: u64, expire_prepared: u64) -> Policy {
        let secs = Duration::from_secs;
        Policy { grace: secs(grace), expire_prepared: secs(expire_prepared), mark_only: false }
    }

    fn now() -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn ended_pods_go_after_their_grace() {
        let data = tempfile::tempdir().unwrap();
        let pods = Pods::open(data.path()).unwrap();
        let uuid = new_uuid().unwrap();
        let mut pod = pods.create(uuid.clone()).unwrap();
        pods.advance(&mut pod, Phase::Run).unwrap();
        assert!(collect(&pods, policy(0, 0), now()).unwrap().removed.is_empty(), "it runs");
        drop(pod);
        assert!(collect(&pods, policy(60, 0), now()).unwrap().removed.is_empty(), "it is marked");
        assert_eq!(pods.uuids(Phase::ExitedGarbage).unwrap(), std::slice::from_ref(&uuid));
        assert!(collect(&pods, policy(60, 0), now() + Duration::from_secs(50)).unwrap().removed.is_empty());
        assert_eq!(collect(&pods, policy(60, 0), now() + Duration::from_secs(70)).unwrap().removed, [uuid]);
        assert!(pods.uuids(Phase::ExitedGarbage).unwrap().is_empty());
    }

    #[test]
    fn recorded_ends_count() {
        let data = tempfile::tempdir().unwrap();
        let pods = Pods::open(data.path()).unwrap();
        let uuid = new_uuid().unwrap();
        let mut pod = pods.create(uuid.clone()).unwrap();
        pod.write_new(POD, br#"{"apps": [{"name": "a"}]}"#).unwrap();
        rustix::fs::mkdirat(pod.fd(), "status", rustix::fs::Mode::RWXU).unwrap();
        let ended = now() - Duration::from_secs(100);
        let status = format!(r#"{{"end": {{"code": 0}}, "ended_unix_nanos": {}}}"#, ended.as_nanos());
        pod.write_new("status/a", status.as_bytes()).unwrap();
        pods.advance(&mut pod, Phase::Run).unwrap();
        drop(pod);
        // One pass marks and sweeps: the end was long ago.
        assert!(collect(&pods, policy(200, 0), now()).unwrap().removed.is_empty());
        assert_eq!(collect(&pods, policy(90, 0), now()).unwrap().removed, [uuid]);
    }

    #[test]
    fn aborted_and_expired_pods_go_at_once() {
        let data = tempfile::tempdir().unwrap();
        let pods = Pods::open(data.path()).unwrap();
        let aborted = new_uuid().unwrap();
        drop(pods.create(aborted.clone()).unwrap());
        let kept = new_uuid().unwrap();
        let mut pod = pods.create(kept.clone()).unwrap();
        pod.write_new(POD, b"{}").unwrap();
        pods.advance(&mut pod, Phase::Prepared).unwrap();
        drop(pod);
        assert_eq!(collect(&pods, policy(1000, 1000), now()).unwrap().removed, [aborted]);
        assert_eq!(collect(&pods, policy(1000, 1000), now() + Duration::from_secs(2000)).unwrap().removed, [kept]);
    }

    #[test]
    fn foreign_cgroups_are_not_touched() {
        let data = tempfile::tempdir().unwrap();
        let pods = Pods::open(data.path()).unwrap();
        for cgroup in ["/sys/fs/cgroup/pids", "/tmp/UUID", "/sys/fs/cgroup/../../tmp/UUID"] {
            let uuid = new_uuid().unwrap();
            let pod = pods.create(uuid.clone()).unwrap();
            let host = format!(r#"{{"version": 1, "cgroups": ["{}"]}}"#, cgroup.replace("UUID", uuid.as_str()));
            pod.write_new(HOST, host.as_bytes()).unwrap();
            drop(pod);
            assert_eq!(collect(&pods, policy(0, 0), now()).unwrap().faults.len(), 1, "{cgroup}");
            rustix::fs::unlink(pods.path(Phase::Garbage, &uuid).join(HOST)).unwrap();
        }
    }
}

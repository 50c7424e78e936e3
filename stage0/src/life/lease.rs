//! Leases of user id ranges: `$DATA/ids/FIRST` is a symlink whose text is the UUID of the pod that has the ids `FIRST` to
//! `FIRST + 65535`. Making the symlink is the lease, so two starts cannot have the same range, whoever is killed when.

use super::pods::Pods;
use crate::failure::Failure;
use anyhow::{Context, Result};
use contract::name::PodUuid;
use contract::pod::IdRange;
use rustix::io::Errno;
use std::path::PathBuf;

/// Every pod has a whole 16-bit range, so that `nobody` (65534) of every image is in it.
const COUNT: u32 = 65_536;
/// Above the ranges of subordinate ids that useradd gives (100000 to 600100000), in the part that systemd keeps for containers.
const FIRST: u32 = 0x3000_0000;
/// How many pods can have one at once.
const RANGES: u32 = 8192;

/// The range at which a pod begins to look: pods that start at once look at different places.
pub(crate) fn wanted(uuid: &PodUuid) -> u32 {
    u32::from_str_radix(&uuid.as_str()[..8], 16).unwrap_or(0) % RANGES
}

/// Takes a range for the pod, beginning to look at `wanted`.
pub(crate) fn take(pods: &Pods, uuid: &PodUuid) -> Result<IdRange> {
    let directory = directory(pods);
    match rustix::fs::mkdir(&directory, rustix::fs::Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error).with_context(|| format!("make `{}`", directory.display())),
    }
    for offset in 0..RANGES {
        let first = FIRST + (wanted(uuid) + offset) % RANGES * COUNT;
        match rustix::fs::symlink(uuid.as_str(), directory.join(first.to_string())) {
            Ok(()) => return Ok(IdRange { first, count: COUNT }),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error).context("lease a range of user ids"),
        }
    }
    Err(Failure::new("all ranges of user ids are leased").hint("`pod gc` frees those of pods that have ended").into())
}

/// Gives back every range that belongs to this pod; there is one at most, and none if the pod died before it was recorded.
pub(crate) fn release(pods: &Pods, uuid: &PodUuid, range: IdRange) -> Result<()> {
    let path = directory(pods).join(range.first.to_string());
    match rustix::fs::readlink(&path, Vec::new()) {
        Ok(owner) if owner.to_bytes() == uuid.as_str().as_bytes() => {
            rustix::fs::unlink(&path).with_context(|| format!("give back `{}`", path.display()))
        }
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("read `{}`", path.display())),
    }
}

/// Gives back the ranges of pods that are no more: those that were killed before they could write the lease down.
pub(crate) fn sweep(pods: &Pods) -> Result<()> {
    let directory = directory(pods);
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("read `{}`", directory.display()))?,
    };
    for entry in entries {
        let path = entry.with_context(|| format!("read `{}`", directory.display()))?.path();
        let owner = rustix::fs::readlink(&path, Vec::new()).ok();
        let Some(owner) = owner.and_then(|owner| PodUuid::parse(owner.to_str().ok()?).ok()) else { continue };
        // A pod takes its lease after its directory was made, and never comes back; so this cannot hit a living one.
        if !pods.exists(&owner)? {
            let _ = rustix::fs::unlink(&path); // Another gc was faster.
        }
    }
    Ok(())
}

fn directory(pods: &Pods) -> PathBuf {
    pods.data().join("ids")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life::pods::new_uuid;

    #[test]
    fn ranges_do_not_overlap() {
        let data = tempfile::tempdir().unwrap();
        let pods = Pods::open(data.path()).unwrap();
        let uuid = new_uuid().unwrap();
        let (a, b) = (take(&pods, &uuid).unwrap(), take(&pods, &uuid).unwrap());
        assert!(a.first.abs_diff(b.first) >= COUNT);
        assert!(a.first >= FIRST && b.first <= u32::MAX - COUNT);
        release(&pods, &new_uuid().unwrap(), a).unwrap();
        assert_ne!(take(&pods, &uuid).unwrap(), a, "another pod cannot give it back");
        let alive = pods.create(new_uuid().unwrap()).unwrap();
        let its = take(&pods, &alive.uuid).unwrap();
        sweep(&pods).unwrap();
        assert_eq!(std::fs::read_dir(directory(&pods)).unwrap().count(), 1, "only the living pod's lease is left");
        release(&pods, &alive.uuid, its).unwrap();
        let a = take(&pods, &uuid).unwrap();
        release(&pods, &uuid, a).unwrap();
        assert_eq!(take(&pods, &uuid).unwrap(), a);
    }
}

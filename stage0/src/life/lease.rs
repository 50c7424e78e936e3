//! Leases of user id ranges: `$DATA/ids/FIRST` is a symlink whose text is the UUID of the pod that has the ids `FIRST` to
//! `FIRST + 65535`.
//!
//! A lease holds as long as its pod lives, which the lock on the pod's directory says. The range of a dead pod can be given
//! away before gc has met that pod, but not before its cgroups are empty. It goes first to the next pod of the same
//! `--name` (`$DATA/ids/.NAME` is a symlink whose text is the last `FIRST` of that name), so that a service which is
//! restarted keeps the owners of its files; to others the range whose lease is the oldest goes first.

use super::names;
use super::pods::Pods;
use super::remains;
use crate::failure::Failure;
use anyhow::{Context, Result};
use contract::name::{PodName, PodUuid};
use contract::pod::IdRange;
use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, flock, openat, readlinkat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Every pod has a whole 16-bit range, so that `nobody` (65534) of every image is in it.
const COUNT: u32 = 65_536;
/// Behind the ranges that systemd-nspawn picks from (up to 0x6fff_ffff) and the users of microVMs, whose number is
/// 0x7000_0000 and a pid.
const FIRST: u32 = 0x7080_0000;
/// How many pods can have one at once. systemd uses the ids from 0x7ffe_0000 on for foreign images.
const RANGES: u32 = (0x7ffe_0000 - FIRST) / COUNT;
/// Files whose ids belong to somebody else: the field (from 0) of the first id, and that of the count if there is one.
const FOREIGN: [(&str, usize, Option<usize>); 4] =
    [("/etc/subuid", 1, Some(2)), ("/etc/subgid", 1, Some(2)), ("/etc/passwd", 2, None), ("/etc/group", 2, None)];

/// Takes a range for the pod. `name` is what the pod is called by its user.
pub(crate) fn take(pods: &Pods, uuid: &PodUuid, name: Option<&PodName>) -> Result<IdRange> {
    let path = directory(pods);
    match rustix::fs::mkdir(&path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error).with_context(|| format!("make `{}`", path.display())),
    }
    // The lock orders two starts, so that both cannot see a range free.
    let leases = locked(pods)?.context("open the leases of user ids")?;
    let first = choose(pods, &leases, uuid, name)?;
    let record = |target: &str, at: &str| {
        let temporary = format!(".{uuid}");
        symlinkat(target, &leases, &*temporary)?;
        renameat(&leases, &*temporary, &leases, at)
    };
    record(uuid.as_str(), &first.to_string()).context("lease a range of user ids")?;
    if let Some(name) = name {
        record(&first.to_string(), &format!(".{name}")).context("record the range of user ids of a name")?;
    }
    Ok(IdRange { first, count: COUNT })
}

/// The range of the name's last pod; else one without a lease, pods that start at once looking at different places; else the
/// one whose lease is the oldest of those that dead pods have.
fn choose(pods: &Pods, leases: &OwnedFd, uuid: &PodUuid, name: Option<&PodName>) -> Result<u32> {
    let foreign = foreign();
    let usable = |first: u32| {
        let ours = first >= FIRST && (first - FIRST).is_multiple_of(COUNT) && (first - FIRST) / COUNT < RANGES;
        ours && !foreign.iter().any(|other| overlap(*other, first))
    };
    let last = name.and_then(|name| text(leases, &format!(".{name}"))).and_then(|text| text.parse().ok());
    if let Some(first) = last.filter(|first| usable(*first))
        && is_free(pods, leases, first)?
    {
        return Ok(first);
    }
    let wanted = u32::from_str_radix(&uuid.as_str()[..8], 16).unwrap_or(0) % RANGES;
    let all = (0..RANGES).map(|offset| FIRST + (wanted + offset) % RANGES * COUNT).filter(|first| usable(*first));
    let mut leased = Vec::new();
    for first in all {
        match statat(leases, first.to_string(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(first),
            Err(error) => return Err(error).context("look for a range of user ids"),
            Ok(stat) => leased.push((stat.st_mtime, stat.st_mtime_nsec, first)),
        }
    }
    leased.sort_unstable();
    for (_, _, first) in leased {
        if is_free(pods, leases, first)? {
            return Ok(first);
        }
    }
    Err(Failure::new("all ranges of user ids are leased").hint("stop a pod that has `--private-users`").into())
}

/// Whether nobody has the range: no lease, or a lease of a dead pod none of whose processes is left.
fn is_free(pods: &Pods, leases: &OwnedFd, first: u32) -> Result<bool> {
    let Some(owner) = text(leases, &first.to_string()).and_then(|text| PodUuid::parse(&text).ok()) else {
        return Ok(true);
    };
    Ok(!names::is_alive(pods, &owner)? && remains::has_no_process(pods, &owner)?)
}

fn text(leases: &OwnedFd, name: &str) -> Option<String> {
    readlinkat(leases, Path::new(name), Vec::new()).ok()?.into_string().ok()
}

/// Ids that the administrator has given to others. A file that is not there gives none.
fn foreign() -> Vec<(u32, u32)> {
    let read = |(file, first, count): (&str, usize, Option<usize>)| {
        std::fs::read_to_string(file).map(|text| ranges(&text, first, count)).unwrap_or_default()
    };
    FOREIGN.into_iter().flat_map(read).collect()
}

/// `(first, count)` of each line of fields that are separated by colons.
fn ranges(text: &str, first: usize, count: Option<usize>) -> Vec<(u32, u32)> {
    let range = |line: &str| {
        let field = |index: usize| line.split(':').nth(index)?.parse().ok();
        Some((field(first)?, count.map_or(Some(1), field)?))
    };
    text.lines().filter_map(range).collect()
}

fn overlap((first, count): (u32, u32), ours: u32) -> bool {
    u64::from(first) < u64::from(ours) + u64::from(COUNT) && u64::from(ours) < u64::from(first) + u64::from(count)
}

/// Gives back the range if it still is this pod's.
pub(crate) fn release(pods: &Pods, uuid: &PodUuid, range: IdRange) -> Result<()> {
    let Some(leases) = locked(pods)? else { return Ok(()) };
    let first = range.first.to_string();
    if text(&leases, &first).as_deref() == Some(uuid.as_str()) {
        unlinkat(&leases, &*first, AtFlags::empty()).with_context(|| format!("give back the user ids from {first}"))?;
    }
    Ok(())
}

/// Gives back the ranges of pods that are no more: those that were killed before they could write the lease down. The last
/// range of a name is no lease; it stays for the next pod of that name.
pub(crate) fn sweep(pods: &Pods) -> Result<()> {
    let Some(leases) = locked(pods)? else { return Ok(()) };
    for entry in rustix::fs::Dir::read_from(&leases).context("read the leases of user ids")? {
        let entry = entry.context("read the leases of user ids")?;
        let Ok(first) = entry.file_name().to_str() else { continue };
        // A pod takes its lease after its directory was made, and never comes back; so this cannot hit a living one.
        if let Some(owner) = text(&leases, first).and_then(|text| PodUuid::parse(&text).ok())
            && !pods.exists(&owner)?
        {
            let _ = unlinkat(&leases, first, AtFlags::empty()); // The next gc tries again.
        }
    }
    Ok(())
}

/// The directory of leases, locked against other starts and collectors; none if no pod ever had a lease.
fn locked(pods: &Pods) -> Result<Option<OwnedFd>> {
    let path = directory(pods);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let leases = match openat(CWD, &path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.with_context(|| format!("open `{}`", path.display()))?,
    };
    flock(&leases, FlockOperation::LockExclusive).context("lock the leases of user ids")?;
    Ok(Some(leases))
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
        let living: Vec<_> = (0..20).map(|_| pods.create(new_uuid().unwrap()).unwrap()).collect();
        let mut taken: Vec<u32> = living.iter().map(|pod| take(&pods, &pod.uuid, None).unwrap().first).collect();
        taken.sort_unstable();
        assert!(taken.windows(2).all(|pair| pair[1] - pair[0] >= COUNT), "{taken:?}");
        assert!(taken[0] >= FIRST && taken[19] <= 0x7ffd_0000);
        release(&pods, &new_uuid().unwrap(), IdRange { first: taken[0], count: COUNT }).unwrap();
        sweep(&pods).unwrap();
        assert_eq!(std::fs::read_dir(directory(&pods)).unwrap().count(), 20, "another pod cannot give a range back");
        drop(living);
    }

    #[test]
    fn a_name_keeps_its_range_and_a_living_pod_too() {
        let data = tempfile::tempdir().unwrap();
        let pods = Pods::open(data.path()).unwrap();
        let (web, other) = (PodName::parse("web").unwrap(), PodName::parse("other").unwrap());
        let first = pods.create(new_uuid().unwrap()).unwrap();
        let range = take(&pods, &first.uuid, Some(&web)).unwrap();
        // It lives: neither its name's next pod nor another one gets its range.
        let second = pods.create(new_uuid().unwrap()).unwrap();
        assert_ne!(take(&pods, &second.uuid, Some(&web)).unwrap(), range);
        let third = pods.create(new_uuid().unwrap()).unwrap();
        let its = take(&pods, &third.uuid, Some(&other)).unwrap();
        drop(third);
        // It died and was not collected: its name's next pod has its range at once.
        let fourth = pods.create(new_uuid().unwrap()).unwrap();
        assert_eq!(take(&pods, &fourth.uuid, Some(&other)).unwrap(), its);
        drop(first);
    }

    #[test]
    fn the_oldest_lease_of_the_dead_goes_first() {
        let data = tempfile::tempdir().unwrap();
        let pods = Pods::open(data.path()).unwrap();
        let living = pods.create(new_uuid().unwrap()).unwrap();
        let its = take(&pods, &living.uuid, None).unwrap().first;
        // Every other range has the lease of a dead pod, the one of number 7 the oldest.
        let (dead, oldest) = (new_uuid().unwrap(), FIRST + 7 * COUNT);
        for first in (0..RANGES).map(|index| FIRST + index * COUNT).filter(|first| *first != its && *first != oldest) {
            std::os::unix::fs::symlink(dead.as_str(), directory(&pods).join(first.to_string())).unwrap();
        }
        if its != oldest {
            let path = directory(&pods).join(oldest.to_string());
            std::os::unix::fs::symlink(dead.as_str(), &path).unwrap();
            let time = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            assert_eq!(take(&pods, &new_uuid().unwrap(), None).unwrap().first, oldest);
        }
    }

    #[test]
    fn foreign_ranges_are_left_alone() {
        assert_eq!(ranges("a:100000:65536\n#x\nb:1:x\n", 1, Some(2)), [(100_000, 65_536)]);
        assert_eq!(ranges("root:x:0:0:root:/:/bin/sh\nbroken\n", 2, None), [(0, 1)]);
        for (other, expected) in [
            ((FIRST, 1), true),
            ((FIRST - 1, 1), false),
            ((FIRST - 1, 2), true),
            ((FIRST + COUNT - 1, 1), true),
            ((FIRST + COUNT, 9), false),
            ((0, u32::MAX), true),
        ] {
            assert_eq!(overlap(other, FIRST), expected, "{other:?}");
        }
    }
}

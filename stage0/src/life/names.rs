//! Pod names: `$DATA/names/NAME` is a symlink whose text is the UUID of the pod that has the name. So a start with `--name`
//! looks at one entry, and never reads a directory.

use super::pods::Pods;
use crate::failure::Failure;
use anyhow::{Context, Result};
use contract::dir::{Phase, State};
use contract::name::{PodName, PodUuid};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat, readlinkat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;

const DIRECTORY: &str = "names";

/// Gives the name to the pod, if no other living pod has it.
pub(crate) fn claim(pods: &Pods, name: &PodName, uuid: &PodUuid) -> Result<()> {
    // The lock orders two claims of one name, so that both cannot see it free.
    let directory = open(pods, true)?.context("open the directory of names")?;
    flock(&directory, FlockOperation::LockExclusive).context("lock the directory of names")?;
    if let Some(owner) = read(&directory, name.as_str())
        && owner != *uuid
        && is_alive(pods, &owner)?
    {
        return Err(Failure::new(format!("the name `{name}` belongs to pod {owner}"))
            .hint(format!("stop that pod by `pod stop {name}`, or choose another name"))
            .into());
    }
    let temporary = format!(".{uuid}");
    symlinkat(uuid.as_str(), &directory, &*temporary).with_context(|| format!("record the name `{name}`"))?;
    renameat(&directory, &*temporary, &directory, name.as_str()).with_context(|| format!("record the name `{name}`"))
}

/// The pod that has (or last had) the name.
pub(crate) fn owner(pods: &Pods, name: &PodName) -> Result<Option<PodUuid>> {
    Ok(open(pods, false)?.and_then(|directory| read(&directory, name.as_str())))
}

/// Frees the name if it still is this pod's.
pub(crate) fn release(pods: &Pods, name: &PodName, uuid: &PodUuid) -> Result<()> {
    let Some(directory) = open(pods, false)? else { return Ok(()) };
    flock(&directory, FlockOperation::LockExclusive).context("lock the directory of names")?;
    if read(&directory, name.as_str()).as_ref() == Some(uuid) {
        match unlinkat(&directory, name.as_str(), rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("free the name `{name}`")),
        }
    }
    Ok(())
}

/// Frees the names of pods that are no more: those that were killed before they could write their description.
pub(crate) fn sweep(pods: &Pods) -> Result<()> {
    let Some(directory) = open(pods, false)? else { return Ok(()) };
    flock(&directory, FlockOperation::LockExclusive).context("lock the directory of names")?;
    for entry in rustix::fs::Dir::read_from(&directory).context("read the directory of names")? {
        let entry = entry.context("read the directory of names")?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if let Some(owner) = read(&directory, name)
            && !pods.exists(&owner)?
        {
            let _ = unlinkat(&directory, name, rustix::fs::AtFlags::empty()); // The next gc tries again.
        }
    }
    Ok(())
}

/// A pod lives, for its name, while it is being made, is prepared, or runs.
pub(crate) fn is_alive(pods: &Pods, uuid: &PodUuid) -> Result<bool> {
    for phase in [Phase::Embryo, Phase::Prepare, Phase::Prepared, Phase::Run] {
        if let Some(pod) = pods.open_pod(phase, uuid)? {
            return Ok(matches!(pod.state()?, State::Embryo | State::Preparing | State::Prepared | State::Running));
        }
    }
    Ok(false)
}

fn open(pods: &Pods, make: bool) -> Result<Option<OwnedFd>> {
    let path = pods.data().join(DIRECTORY);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let describe = || format!("open `{}`", path.display());
    match openat(CWD, &path, flags, Mode::empty()) {
        Err(Errno::NOENT) if make => {
            match rustix::fs::mkdir(&path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).with_context(|| format!("make `{}`", path.display())),
            }
            openat(CWD, &path, flags, Mode::empty()).map(Some).with_context(describe)
        }
        Err(Errno::NOENT) => Ok(None),
        other => other.map(Some).with_context(describe),
    }
}

fn read(directory: &OwnedFd, name: &str) -> Option<PodUuid> {
    let text = readlinkat(directory, Path::new(name), Vec::new()).ok()?;
    PodUuid::parse(text.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life::pods::new_uuid;

    #[test]
    fn a_name_has_one_living_owner() {
        let data = tempfile::tempdir().unwrap();
        let pods = Pods::open(data.path()).unwrap();
        let name = PodName::parse("web").unwrap();
        let (a, b) = (new_uuid().unwrap(), new_uuid().unwrap());
        let first = pods.create(a.clone()).unwrap();
        claim(&pods, &name, &a).unwrap();
        let _second = pods.create(b.clone()).unwrap();
        assert!(claim(&pods, &name, &b).is_err());
        assert_eq!(owner(&pods, &name).unwrap(), Some(a.clone()));
        drop(first); // The lock goes: an aborted pod has no claim.
        claim(&pods, &name, &b).unwrap();
        release(&pods, &name, &a).unwrap();
        assert_eq!(owner(&pods, &name).unwrap(), Some(b.clone()));
        release(&pods, &name, &b).unwrap();
        assert_eq!(owner(&pods, &name).unwrap(), None);
    }
}

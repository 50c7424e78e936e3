//! The directory of all pods, and one pod's directory with its lock.

use anyhow::{Context, Result};
use contract::dir::{Phase, State};
use contract::name::PodUuid;
use image_tools::ownership;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// The phase whose directory is made after all others, so that where it is, they are.
const LAST_MADE: Phase = Phase::ALL[Phase::ALL.len() - 1];

/// `$DATA/pods`.
#[derive(Debug)]
pub(crate) struct Pods {
    fd: OwnedFd,
    /// `$DATA`, absolute.
    data: PathBuf,
}

/// One pod's directory, opened; whether it is locked is known to who opened it.
#[derive(Debug)]
pub(crate) struct PodDir {
    /// The identity of the pod.
    pub(crate) uuid: PodUuid,
    /// Where the directory was when it was opened; a rename may have moved it since.
    pub(crate) phase: Phase,
    fd: OwnedFd,
}

impl Pods {
    /// Opens `$DATA/pods`, and makes it with all phases if it is not there.
    pub(crate) fn open(data: &Path) -> Result<Self> {
        let data = std::path::absolute(data).with_context(|| format!("resolve `{}`", data.display()))?;
        let path = data.join("pods");
        ownership::check(&path).context("pods")?;
        // The directory itself says little: who makes it may just be making the phases, or was killed at it.
        let last = path.join(LAST_MADE.directory());
        if statat(CWD, last, AtFlags::SYMLINK_NOFOLLOW).is_err_and(|error| error == Errno::NOENT) {
            make_phases(&path).with_context(|| format!("make `{}`", path.display()))?;
            // In a directory such as `/tmp`, somebody else may have been faster.
            ownership::check(&path).context("pods")?;
        }
        let fd = openat(CWD, &path, DIRECTORY, Mode::empty()).with_context(|| format!("open `{}`", path.display()))?;
        Self { fd, data }.checked()
    }

    /// Opens `$DATA/pods` for reading about pods; `None` if there never was one.
    pub(crate) fn open_existing(data: &Path) -> Result<Option<Self>> {
        let data = std::path::absolute(data).with_context(|| format!("resolve `{}`", data.display()))?;
        let path = data.join("pods");
        ownership::check(&path).context("pods")?;
        match openat(CWD, &path, DIRECTORY, Mode::empty()) {
            Ok(fd) => Self { fd, data }.checked().map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("open `{}`", path.display())),
        }
    }

    /// What lies beside and below `pods` decides about pods as much: names, leases, phases. A pod's directory itself is 0700.
    fn checked(self) -> Result<Self> {
        let phases = Phase::ALL.map(|phase| self.data.join("pods").join(phase.directory()));
        for path in ["ids", "names"].map(|name| self.data.join(name)).iter().chain(&phases) {
            ownership::check_entry(path).context("pods")?;
        }
        Ok(self)
    }

    /// `$DATA`
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// `$DATA/pods/PHASE/UUID`, for messages and for programs that want a path.
    pub(crate) fn path(&self, phase: Phase, uuid: &PodUuid) -> PathBuf {
        self.data.join("pods").join(phase.directory()).join(uuid)
    }

    /// Makes the directory of a new pod, locked, in phase `prepare`.
    pub(crate) fn create(&self, uuid: PodUuid) -> Result<PodDir> {
        loop {
            let embryo = relative(Phase::Embryo, &uuid);
            mkdirat(&self.fd, &embryo, Mode::RWXU).with_context(|| format!("make pod directory `{uuid}`"))?;
            let fd = match openat(&self.fd, &embryo, DIRECTORY, Mode::empty()) {
                // gc met the directory before it was locked; make another one.
                Err(Errno::NOENT) => continue,
                other => other.with_context(|| format!("open pod directory `{uuid}`"))?,
            };
            flock(&fd, FlockOperation::LockExclusive).with_context(|| format!("lock pod directory `{uuid}`"))?;
            match renameat(&self.fd, &embryo, &self.fd, relative(Phase::Prepare, &uuid)) {
                Ok(()) => return Ok(PodDir { uuid, phase: Phase::Prepare, fd }),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error).with_context(|| format!("move pod `{uuid}` to prepare")),
            }
        }
    }

    /// Moves a pod whose lock the caller holds.
    pub(crate) fn advance(&self, pod: &mut PodDir, to: Phase) -> Result<()> {
        renameat(&self.fd, relative(pod.phase, &pod.uuid), &self.fd, relative(to, &pod.uuid))
            .with_context(|| format!("move pod `{}` from {} to {}", pod.uuid, pod.phase.directory(), to.directory()))?;
        pod.phase = to;
        Ok(())
    }

    /// Opens the directory of a pod in this phase; `None` if it is not (or no longer) there.
    pub(crate) fn open_pod(&self, phase: Phase, uuid: &PodUuid) -> Result<Option<PodDir>> {
        match openat(&self.fd, relative(phase, uuid), DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(PodDir { uuid: uuid.clone(), phase, fd })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("open pod `{uuid}`")),
        }
    }

    /// Whether there is a directory of this pod in any phase; looked for in the order in which a pod moves.
    pub(crate) fn exists(&self, uuid: &PodUuid) -> Result<bool> {
        for phase in Phase::ALL {
            if self.open_pod(phase, uuid)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The UUIDs of the pods in a phase, in no order. Other names are none of ours and stay untouched.
    pub(crate) fn uuids(&self, phase: Phase) -> Result<Vec<PodUuid>> {
        let read = || -> rustix::io::Result<Vec<PodUuid>> {
            let fd = match openat(&self.fd, phase.directory(), DIRECTORY, Mode::empty()) {
                Err(Errno::NOENT) => return Ok(Vec::new()),
                other => other?,
            };
            let mut uuids = Vec::new();
            for entry in rustix::fs::Dir::new(fd)? {
                let entry = entry?;
                uuids.extend(entry.file_name().to_str().ok().and_then(|name| PodUuid::parse(name).ok()));
            }
            Ok(uuids)
        };
        read().with_context(|| format!("read the pods in `{}`", phase.directory()))
    }

    /// Removes the emptied directory of a pod whose lock the caller holds.
    pub(crate) fn remove_empty(&self, pod: &PodDir) -> rustix::io::Result<()> {
        unlinkat(&self.fd, relative(pod.phase, &pod.uuid), AtFlags::REMOVEDIR)
    }
}

impl PodDir {
    /// The directory's fd, which carries the lock.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether somebody else holds the lock. Asks by a shared lock, so that two who ask do not see each other.
    pub(crate) fn is_locked(&self) -> Result<bool> {
        match flock(&self.fd, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                flock(&self.fd, FlockOperation::Unlock).with_context(|| format!("unlock pod `{}`", self.uuid))?;
                Ok(false)
            }
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error).with_context(|| format!("try the lock of pod `{}`", self.uuid)),
        }
    }

    /// Takes the lock if nobody has it.
    pub(crate) fn try_lock(&self) -> Result<bool> {
        match flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("lock pod `{}`", self.uuid)),
        }
    }

    /// Takes the lock unless a process that acts for the pod has it. Who only asks for the state (`pod list`) holds a shared
    /// lock for a moment, and must not make a pod look taken.
    pub(crate) fn lock_unless_held(&self) -> Result<bool> {
        for _ in 0..1000 {
            if self.try_lock()? {
                return Ok(true);
            }
            if self.is_locked()? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Sleeps until nobody holds the lock.
    pub(crate) fn wait_unlocked(&self) -> Result<()> {
        rustix::io::retry_on_intr(|| flock(&self.fd, FlockOperation::LockShared))
            .with_context(|| format!("wait for pod `{}`", self.uuid))?;
        flock(&self.fd, FlockOperation::Unlock).with_context(|| format!("unlock pod `{}`", self.uuid))
    }

    /// What users see.
    pub(crate) fn state(&self) -> Result<State> {
        Ok(State::of(self.phase, self.is_locked()?))
    }

    /// Writes a file that is not there yet. No fsync: what a crash of the host loses is a pod that died with the host.
    pub(crate) fn write_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let write = || -> std::io::Result<()> {
            let file = openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
            File::from(file).write_all(bytes)
        };
        write().with_context(|| format!("write `{name}` of pod `{}`", self.uuid))
    }

    /// Replaces a file by rename, so that a reader sees the old or the new one.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let temporary = format!(".{name}.new");
        let _ = unlinkat(&self.fd, &*temporary, AtFlags::empty()); // Left by a crash, or not there.
        self.write_new(&temporary, bytes)?;
        renameat(&self.fd, &*temporary, &self.fd, name)
            .with_context(|| format!("replace `{name}` of pod `{}`", self.uuid))
    }

    /// Opens a file of the pod for reading; `None` if it is not there.
    pub(crate) fn open_file(&self, name: &str) -> Result<Option<File>> {
        match openat(&self.fd, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("open `{name}` of pod `{}`", self.uuid)),
        }
    }

    /// Reads one of the contract's JSON files; `None` if it is not there.
    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(file) = self.open_file(name)? else { return Ok(None) };
        contract::json::read(file).map(Some).with_context(|| format!("read `{name}` of pod `{}`", self.uuid))
    }
}

fn relative(phase: Phase, uuid: &PodUuid) -> String {
    format!("{}/{uuid}", phase.directory())
}

fn make_phases(pods: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    for phase in Phase::ALL {
        // Root alone: a pod directory holds what an app wrote with whatever modes and owners it liked.
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(pods.parent().unwrap_or(pods))?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(pods.join(phase.directory()))?;
    }
    Ok(())
}

/// A random UUID, version 4.
pub(crate) fn new_uuid() -> Result<PodUuid> {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).context("get random bytes")?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let number = u128::from_be_bytes(bytes);
    let (a, b, c) = (number >> 96, number >> 80 & 0xffff, number >> 64 & 0xffff);
    let (d, e) = (number >> 48 & 0xffff, number & 0xffff_ffff_ffff);
    PodUuid::parse(&format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")).context("make a UUID")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_moves_through_its_phases() {
        let data = tempfile::tempdir().unwrap();
        assert!(Pods::open_existing(data.path()).unwrap().is_none());
        let pods = Pods::open(data.path()).unwrap();
        let uuid = new_uuid().unwrap();
        let mut pod = pods.create(uuid.clone()).unwrap();
        let seen = pods.open_pod(Phase::Prepare, &uuid).unwrap().unwrap();
        assert_eq!(seen.state().unwrap(), State::Preparing);
        assert!(!seen.try_lock().unwrap());
        pod.write_new("pod.json", b"{}").unwrap();
        assert!(pod.write_new("pod.json", b"{}").is_err());
        pods.advance(&mut pod, Phase::Run).unwrap();
        assert_eq!(pods.uuids(Phase::Run).unwrap(), std::slice::from_ref(&uuid));
        assert!(pods.open_pod(Phase::Prepare, &uuid).unwrap().is_none());
        drop(pod);
        assert_eq!(pods.open_pod(Phase::Run, &uuid).unwrap().unwrap().state().unwrap(), State::Exited);
    }

    #[test]
    fn phases_half_made_are_made_whole() {
        let data = tempfile::tempdir().unwrap();
        for made in 0..Phase::ALL.len() {
            let directory = data.path().join(made.to_string());
            for phase in &Phase::ALL[..made] {
                std::fs::create_dir_all(directory.join("pods").join(phase.directory())).unwrap();
            }
            let pods = Pods::open(&directory).unwrap();
            let mut pod = pods.create(new_uuid().unwrap()).unwrap();
            for phase in [Phase::Run, Phase::ExitedGarbage] {
                pods.advance(&mut pod, phase).unwrap();
            }
        }
    }

    #[test]
    fn who_asks_is_not_in_the_way() {
        let data = tempfile::tempdir().unwrap();
        let pods = Pods::open(data.path()).unwrap();
        let uuid = new_uuid().unwrap();
        let holder = pods.create(uuid.clone()).unwrap();
        let other = pods.open_pod(Phase::Prepare, &uuid).unwrap().unwrap();
        assert!(!other.lock_unless_held().unwrap());
        drop(holder);
        let asking = pods.open_pod(Phase::Prepare, &uuid).unwrap().unwrap();
        flock(asking.fd(), FlockOperation::LockShared).unwrap();
        assert!(!other.try_lock().unwrap());
        drop(asking);
        assert!(other.lock_unless_held().unwrap());
    }

    #[test]
    fn uuids_are_random_and_canonical() {
        let (a, b) = (new_uuid().unwrap(), new_uuid().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.as_str().as_bytes()[14], b'4');
    }
}

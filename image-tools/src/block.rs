//! One read-only EROFS image of all layers of an image, for a stage1 that boots instead of mounting.
//!
//! Made once by mkfs.erofs, as root, kept in the store by the image's id, and shared by all machines that run it: the host
//! has its pages once. It is visible only when it is complete, and a maker that is killed leaves nothing: the file has no
//! name until then, and the merged tree is mounted in a namespace that goes with the thread.
//!
//! `HEX.json` beside it says what it was made of, its size and its digest. A run compares layers and size, which costs no
//! reading; only [`damage`] takes the digest again.

use crate::digest::{Digest, Hasher};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use thiserror::Error;

/// The directory of the store that holds them: `HEX.erofs` each.
pub const DIRECTORY: &str = "block";
/// As many layers as the kernel's overlayfs stacks.
const LAYERS_MAX: usize = 500;

/// Why there is no image.
#[derive(Debug, Error)]
pub enum BlockError {
    /// mkfs.erofs is not installed.
    #[error("mkfs.erofs is not installed")]
    NoProgram,
    /// mkfs.erofs gave up.
    #[error("mkfs.erofs: {0}")]
    Program(String),
    /// The system said no.
    #[error("{what}")]
    Io {
        /// The operation and its object.
        what: String,
        /// Its errno.
        source: std::io::Error,
    },
}

impl BlockError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        matches!(self, Self::NoProgram).then_some("install `erofs-utils`")
    }
}

/// Where the image of `id` is, or will be.
pub fn path(store: &Path, id: &Digest) -> PathBuf {
    store.join(DIRECTORY).join(format!("{}.erofs", id.hex()))
}

/// `HEX.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    version: u32,
    /// Roots of the layers, relative to the store, lowest first.
    layers: Vec<PathBuf>,
    digest: Digest,
    size: u64,
}

/// Longest `HEX.json`.
const MADE_BYTES_MAX: u64 = 1 << 20;

fn relative(store: &Path, layers: &[PathBuf]) -> Vec<PathBuf> {
    layers.iter().map(|layer| layer.strip_prefix(store).unwrap_or(layer).to_owned()).collect()
}

/// What stands beside a block image of these layers, if all that a look can tell is as it was.
fn whole(path: &Path, layers: &[PathBuf]) -> Option<Made> {
    let mut bytes = Vec::new();
    let file = File::open(path.with_extension("json")).ok()?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MADE_BYTES_MAX), &mut bytes).ok()?;
    let made: Made = serde_json::from_slice(&bytes).ok()?;
    let metadata = path.symlink_metadata().ok()?;
    let fits = metadata.is_file() && metadata.len() == made.size && made.version == 1 && made.layers == layers;
    fits.then_some(made)
}

/// Whether there is a block image of `id`, and what is wrong with it. Reads all of it.
pub(crate) fn damage(store: &Path, id: &Digest, layers: &[PathBuf]) -> std::io::Result<(bool, Option<String>)> {
    let path = path(store, id);
    if path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Ok((false, None));
    }
    let wrong = |what: &str| Ok((true, Some(format!("the block image `{}` {what}", path.display()))));
    match whole(&path, &relative(store, layers)) {
        None => wrong("is not what was made of these layers"),
        Some(made) if digest(&File::open(&path)?)? != made.digest => wrong("was changed"),
        Some(_) => Ok((true, None)),
    }
}

/// Removes the image of `id`; the next run that needs it makes it anew.
pub(crate) fn remove(store: &Path, id: &Digest) -> std::io::Result<()> {
    let path = path(store, id);
    for path in [path.with_extension("json"), path] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn digest(file: &File) -> std::io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut reader = std::io::BufReader::with_capacity(1 << 20, file);
    std::io::copy(&mut reader, &mut hasher)?;
    Ok(hasher.finish())
}

/// The image of `id`, made of `layers` (overlayfs form, lowest first) if it is not there yet, or is not what was made of them.
pub fn image(store: &Path, id: &Digest, layers: &[PathBuf]) -> Result<PathBuf, BlockError> {
    let path = path(store, id);
    let parts = relative(store, layers);
    if whole(&path, &parts).is_some() {
        return Ok(path);
    }
    let directory = store.join(DIRECTORY);
    match std::fs::create_dir(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(io(format!("create `{}`", directory.display()))(error));
        }
        _ => {}
    }
    // One maker at a time, so that image and description belong together.
    let lock = store.join("locks").join(format!("block-{}", id.hex()));
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(lock)
        .map_err(io("lock the block image".into()))?;
    let locked = rustix::fs::flock(&lock, FlockOperation::LockExclusive);
    locked.map_err(|error| io("lock the block image".into())(error.into()))?;
    if whole(&path, &parts).is_some() {
        return Ok(path);
    }
    remove(store, id).map_err(io(format!("replace `{}`", path.display())))?;
    let (file, name) = new_file(&directory)?;
    let made = std::thread::scope(|scope| scope.spawn(|| make(&file, &directory, layers)).join());
    let result = made
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        .and_then(|()| publish(&file, &name, &path, parts));
    if let Some(name) = name {
        let _ = std::fs::remove_file(name); // Linked under its own name, or of no use.
    }
    result.map(|()| path)
}

/// A file without a name; on file systems that cannot have one (overlayfs before Linux 6.3), one with a name that gc removes.
fn new_file(directory: &Path) -> Result<(OwnedFd, Option<PathBuf>), BlockError> {
    let context = || io(format!("make a file in `{}`", directory.display()));
    let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o644));
    match rustix::fs::open(directory, flags | OFlags::TMPFILE, mode) {
        Ok(file) => return Ok((file, None)),
        Err(Errno::OPNOTSUPP) => {}
        Err(error) => return Err(context()(error.into())),
    }
    let name = directory.join(format!(".new-{}", std::process::id()));
    let file = rustix::fs::open(&name, flags | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW, mode);
    Ok((file.map_err(|error| context()(error.into()))?, Some(name)))
}

/// Writes down what it is, and gives the finished file its name.
fn publish(file: &OwnedFd, name: &Option<PathBuf>, path: &Path, layers: Vec<PathBuf>) -> Result<(), BlockError> {
    let context = || io("write the block image".into());
    rustix::fs::fsync(file).map_err(|error| context()(error.into()))?;
    // An open file description of its own, whose offset is 0.
    let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(context())?;
    let size = again.metadata().map_err(context())?.len();
    let made = Made { version: 1, layers, digest: digest(&again).map_err(context())?, size };
    let text = serde_json::to_vec(&made).expect("strings and numbers always serialise");
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, text).map_err(context())?;
    std::fs::rename(&temporary, path.with_extension("json")).map_err(context())?;
    let linked = match name {
        Some(name) => rustix::fs::linkat(CWD, name, CWD, path, AtFlags::empty()),
        None => {
            let name = format!("/proc/self/fd/{}", file.as_raw_fd());
            rustix::fs::linkat(CWD, name, CWD, path, AtFlags::SYMLINK_FOLLOW)
        }
    };
    match linked {
        Ok(()) => Ok(()),
        Err(error) => Err(io(format!("name `{}`", path.display()))(error.into())),
    }
}

/// Writes the merged layers to `file`. Runs in a thread of its own, which leaves the mount namespace of the others. The
/// merged tree is mounted over `directory`, which nobody else then needs here.
fn make(file: &OwnedFd, directory: &Path, layers: &[PathBuf]) -> Result<(), BlockError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|error| io("make a mount namespace".into())(error.into()))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| io("part from the host's mounts".into())(error.into()))?;
    merge(directory, layers)?;
    let input = file.try_clone().map_err(io("clone a file's fd".into()))?;
    let output = Command::new("mkfs.erofs")
        // Times as they are in the layers, so that an app sees the same on both stages.
        .args(["--quiet", "--preserve-mtime", "-U", "00000000-0000-0000-0000-000000000000"])
        .arg("/proc/self/fd/0")
        .arg(directory)
        .stdin(Stdio::from(input))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => BlockError::NoProgram,
            _ => io("run mkfs.erofs".into())(error),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Err(BlockError::Program(line.trim().escape_debug().to_string()))
}

/// Overlayfs takes away whiteouts. It wants two layers at least, so the store's own directory, empty below here, is one.
fn merge(directory: &Path, layers: &[PathBuf]) -> Result<(), BlockError> {
    let refuse = |what: &str| BlockError::Program(what.to_owned());
    if layers.len() > LAYERS_MAX {
        return Err(refuse("the image has too many layers"));
    }
    let open = |path: &PathBuf| File::open(path).map_err(io(format!("open the layer `{}`", path.display())));
    // Named by fd, as the paths of many layers would not fit the page that mount(2) takes.
    let mut opened = layers.iter().rev().map(open).collect::<Result<Vec<File>, BlockError>>()?;
    mount("none", directory, "tmpfs", MountFlags::NODEV, Some(c"mode=0755,size=4k"))
        .map_err(|error| io("mount a tmpfs".into())(error.into()))?;
    opened.push(File::open(directory).map_err(io("open a tmpfs".into()))?);
    let names: Vec<String> = opened.iter().map(|file| format!("/proc/self/fd/{}", file.as_raw_fd())).collect();
    let options = CString::new(format!("lowerdir={}", names.join(":"))).map_err(|_| refuse("a name has a NUL"))?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    mount("overlay", directory, "overlay", flags, Some(options.as_c_str()))
        .map_err(|error| io("merge the layers".into())(error.into()))
}

fn io(what: String) -> impl FnOnce(std::io::Error) -> BlockError {
    move |source| BlockError::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_merged_once() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skip: mounting needs root");
            return;
        }
        let store = tempfile::tempdir().unwrap();
        let (low, high) = (store.path().join("low"), store.path().join("high"));
        for directory in [&low, &high, &store.path().join("locks")] {
            std::fs::create_dir(directory).unwrap();
        }
        std::fs::write(low.join("gone"), b"secret-of-the-lower-layer").unwrap();
        std::fs::write(low.join("stays"), b"text-of-the-lower-layer").unwrap();
        rustix::fs::mknodat(CWD, high.join("gone"), rustix::fs::FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        let id = Digest::of(b"an image");
        let path = image(store.path(), &id, &[low, high]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(has(b"text-of-the-lower-layer"));
        assert!(!has(b"secret-of-the-lower-layer"));
        let inode = || std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
        let first = inode();
        // It is there, so it is not made again.
        let layers = [store.path().join("low"), store.path().join("high")];
        assert_eq!(image(store.path(), &id, &layers).unwrap(), path);
        assert_eq!(inode(), first);
        assert_eq!(std::fs::read_dir(store.path().join(DIRECTORY)).unwrap().count(), 2);
        assert_eq!(damage(store.path(), &id, &layers).unwrap(), (true, None));
        // A changed byte is seen by who reads all; other layers, another size and a link by everyone, who then makes it anew.
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &changed).unwrap();
        assert!(damage(store.path(), &id, &layers).unwrap().1.unwrap().contains("was changed"));
        assert!(damage(store.path(), &id, &layers[..1]).unwrap().1.unwrap().contains("of these layers"));
        let spoil: [&dyn Fn(); 4] = [
            &|| std::fs::write(&path, b"short").unwrap(),
            &|| {
                std::fs::rename(&path, path.with_extension("moved")).unwrap();
                std::os::unix::fs::symlink(path.with_extension("moved"), &path).unwrap();
            },
            &|| std::fs::remove_file(path.with_extension("json")).unwrap(),
            &|| std::fs::write(path.with_extension("json"), b"{}").unwrap(),
        ];
        for spoil in spoil {
            spoil();
            assert!(damage(store.path(), &id, &layers).unwrap().1.is_some());
            image(store.path(), &id, &layers).unwrap();
            assert_eq!(damage(store.path(), &id, &layers).unwrap(), (true, None));
        }
    }
}

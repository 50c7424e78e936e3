//! One read-only EROFS image of all layers of an image, for a stage1 that boots instead of mounting.
//!
//! Made once by mkfs.erofs, as root, kept in the store by the image's id, and shared by all machines that run it: the host
//! has its pages once. It is visible only when it is complete, and a maker that is killed leaves nothing: the file has no
//! name until then, and the merged tree is mounted in a namespace that goes with the thread.

use crate::digest::Digest;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
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

/// The image of `id`, made of `layers` (overlayfs form, lowest first) if it is not there yet.
pub fn image(store: &Path, id: &Digest, layers: &[PathBuf]) -> Result<PathBuf, BlockError> {
    let path = path(store, id);
    if path.exists() {
        return Ok(path);
    }
    let directory = store.join(DIRECTORY);
    match std::fs::create_dir(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(io(format!("create `{}`", directory.display()))(error));
        }
        _ => {}
    }
    let (file, name) = new_file(&directory)?;
    let made = std::thread::scope(|scope| scope.spawn(|| make(&file, &directory, layers)).join());
    let result =
        made.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and_then(|()| publish(&file, &name, &path));
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

/// Gives the finished file its name. Somebody else may have made the same image in the meantime.
fn publish(file: &OwnedFd, name: &Option<PathBuf>, path: &Path) -> Result<(), BlockError> {
    rustix::fs::fsync(file).map_err(|error| io("write the block image".into())(error.into()))?;
    let linked = match name {
        Some(name) => rustix::fs::linkat(CWD, name, CWD, path, AtFlags::empty()),
        None => {
            let name = format!("/proc/self/fd/{}", file.as_raw_fd());
            rustix::fs::linkat(CWD, name, CWD, path, AtFlags::SYMLINK_FOLLOW)
        }
    };
    match linked {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
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
        for directory in [&low, &high] {
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
        // There is nothing to make it of any more, and no need.
        assert_eq!(image(store.path(), &id, &[]).unwrap(), path);
        assert_eq!(std::fs::read_dir(store.path().join(DIRECTORY)).unwrap().count(), 1);
    }
}

//! Stacks the layers of one app by overlayfs, into a detached mount.
//!
//! Layers are given one by one (`lowerdir+`), each as the current directory: that has no limit on the length of a path or
//! on their sum, needs no escaping, and leaves no path of the host in the pod's /proc/mounts. Kernels before 6.8 take
//! one string of all layers, so for them each layer gets a short name under [`LAYERS`] first.
//!
//! With a user namespace each layer is mounted through the pod's ids first. The overlay itself is still made with the
//! rights of the host's root, so `trusted.overlay.*` marks of the layers count, and a pod cannot forge them.

use crate::plan::{Area, SKELETON};
use crate::pod_root::{LAYERS, PodRoot, attach, clone_tree, make_mount_point, tmpfs};
use crate::sys::{self, MountAttributes};
use anyhow::{Context, Result};
use contract::dir;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The root of an app.
#[derive(Clone, Copy)]
pub(crate) struct Stack<'a> {
    /// Lowest first.
    pub(crate) layers: &'a [PathBuf],
    /// Where the writable layer is.
    pub(crate) at: Area,
    /// The writable layer.
    pub(crate) writable: &'a Path,
    /// SELinux context of all files in it, whatever the layers' own are.
    pub(crate) context: Option<&'a str>,
}

/// Mounts it. Leaves the pod directory as current directory.
pub(crate) fn mount(site: &mut PodRoot, wanted: &Stack<'_>) -> Result<OwnedFd> {
    let mapped;
    let layers = if site.users.is_some() {
        mapped = map(site, wanted.layers)?;
        mapped.as_slice()
    } else {
        wanted.layers
    };
    let wanted = Stack { layers, ..*wanted };
    let mount = match stack(site, wanted) {
        Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::INVAL) => named(site, wanted),
        result => result,
    };
    rustix::process::fchdir(&site.pod_directory).context("return to the pod directory")?;
    mount
}

/// One `lowerdir+` for each layer, highest first.
fn stack(site: &PodRoot, Stack { layers, at, writable, context: label }: Stack<'_>) -> Result<OwnedFd> {
    let context = open()?;
    let run = || -> Result<()> {
        for layer in layers.iter().rev() {
            // Relative ones start from the pod root, where the mapped layers are.
            rustix::process::fchdir(&site.root)?;
            rustix::process::chdir(layer).with_context(|| format!("open layer `{}`", layer.display()))?;
            rustix::mount::fsconfig_set_string(&context, "lowerdir+", ".")?;
        }
        rustix::process::fchdir(&site.root)?;
        rustix::mount::fsconfig_set_string(&context, "lowerdir+", SKELETON.0)?;
        rustix::process::fchdir(site.area(at))?;
        rustix::process::chdir(writable)?;
        rustix::mount::fsconfig_set_string(&context, "upperdir", dir::UPPER)?;
        rustix::mount::fsconfig_set_string(&context, "workdir", dir::WORK)?;
        finish(context.as_fd(), label)
    };
    run().map_err(|error| explain(error, context.as_fd()))?;
    detached(context.as_fd())
}

/// All layers in one string, for kernels without `lowerdir+`.
fn named(site: &mut PodRoot, Stack { layers, at, writable, context: label }: Stack<'_>) -> Result<OwnedFd> {
    let mut names = Vec::with_capacity(layers.len());
    for layer in layers {
        names.push(if layer.is_absolute() { name(site, layer)? } else { layer.clone() });
    }
    let writable = if at == Area::PodDirectory { attach_one(site, writable, false)? } else { writable.to_owned() };
    rustix::process::fchdir(&site.root)?;
    rustix::process::chdir(LAYERS)?;
    let relative = |path: &Path| match path.strip_prefix(LAYERS) {
        Ok(name) => name.to_owned(),
        Err(_) => Path::new("..").join(path),
    };
    let mut lower = OsString::new();
    for name in names.iter().rev() {
        if !lower.is_empty() {
            lower.push(":");
        }
        lower.push(relative(name));
    }
    lower.push(":");
    lower.push(relative(Path::new(SKELETON.0)));
    let context = open()?;
    let run = || -> Result<()> {
        rustix::mount::fsconfig_set_string(&context, "lowerdir", lower.as_os_str())
            .with_context(|| format!("stack {} layers on a kernel before 6.8", layers.len()))?;
        let writable = relative(&writable);
        rustix::mount::fsconfig_set_string(&context, "upperdir", writable.join(dir::UPPER))?;
        rustix::mount::fsconfig_set_string(&context, "workdir", writable.join(dir::WORK))?;
        finish(context.as_fd(), label)
    };
    run().map_err(|error| explain(error, context.as_fd()))?;
    detached(context.as_fd())
}

fn open() -> Result<OwnedFd> {
    rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).context("open the file system `overlay`")
}

fn finish(context: BorrowedFd<'_>, label: Option<&str>) -> Result<()> {
    if let Some(label) = label {
        rustix::mount::fsconfig_set_string(context, "context", label).with_context(|| format!("label it `{label}`"))?;
    }
    // Layers are hostile: redirects and metadata-only copies in them could point across layers.
    rustix::mount::fsconfig_set_string(context, "redirect_dir", "nofollow")?;
    rustix::mount::fsconfig_set_string(context, "metacopy", "off")?;
    rustix::mount::fsconfig_set_string(context, "index", "off")?;
    // The layer dies with the pod and is never mounted again; without this, the unmount at the end of every pod would sync
    // the whole file system that the pod directory is on. Volumes sync as ever.
    rustix::mount::fsconfig_set_flag(context, "volatile")?;
    rustix::mount::fsconfig_create(context)?;
    Ok(())
}

fn detached(context: BorrowedFd<'_>) -> Result<OwnedFd> {
    // An image brings no device nodes; stage2 makes those of the pod on a file system of its own.
    Ok(rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?)
}

/// Adds what the kernel wrote about the error into the file system context.
fn explain(error: anyhow::Error, context: BorrowedFd<'_>) -> anyhow::Error {
    let mut text = [0; 256];
    match rustix::io::read(context, &mut text) {
        Ok(length) => {
            let line = String::from_utf8_lossy(&text[..length]);
            error.context(line.trim_end().trim_start_matches("e overlay: ").to_owned())
        }
        Err(_) => error, // No message was left; the errno stands alone.
    }
}

/// A symlink under [`LAYERS`], so that the string of all layers stays short.
fn name(site: &mut PodRoot, path: &Path) -> Result<PathBuf> {
    let name = scratch(site)?;
    rustix::fs::symlinkat(path, &site.root, &name)?;
    Ok(name)
}

/// Mounts each layer through the pod's ids. The results are relative to the pod root.
fn map(site: &mut PodRoot, layers: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut mapped = Vec::with_capacity(layers.len());
    for layer in layers {
        mapped.push(attach_one(site, layer, true).with_context(|| format!("layer `{}`", layer.display()))?);
    }
    Ok(mapped)
}

/// Mounts `path` under [`LAYERS`]. Also what has no mapping is mounted rather than linked if it lies in the pod directory: the
/// pod root covers it, so that only the current directory still leads there.
fn attach_one(site: &mut PodRoot, path: &Path, mapped: bool) -> Result<PathBuf> {
    rustix::process::fchdir(&site.pod_directory)?;
    let tree = clone_tree(path, false)?;
    let attributes = MountAttributes {
        set: 0,
        propagation: libc::MS_PRIVATE,
        id_mapping: site.users.as_ref().filter(|_| mapped).map(AsFd::as_fd),
        recursive: false,
    };
    sys::mount_setattr(tree.as_fd(), &attributes).with_context(|| site.not_restricted(path))?;
    let name = scratch(site)?;
    make_mount_point(site.root.as_fd(), &name, true)?;
    attach(tree.as_fd(), site.root.as_fd(), &name)?;
    Ok(name)
}

/// The next free name under [`LAYERS`], which is a mount of its own, so that one unmount ends all of it.
fn scratch(site: &mut PodRoot) -> Result<PathBuf> {
    if site.attached == 0 {
        make_mount_point(site.root.as_fd(), Path::new(LAYERS), true)?;
        attach(tmpfs(false, 0)?.as_fd(), site.root.as_fd(), Path::new(LAYERS))?;
    }
    site.attached += 1;
    Ok(Path::new(LAYERS).join(site.attached.to_string()))
}

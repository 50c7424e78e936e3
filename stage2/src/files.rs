//! /etc/hostname, /etc/hosts and /etc/resolv.conf: each app has copies of its own, bound over whatever the image has.
//!
//! They belong to root and have mode 0644, because the processes of root in the app resolve names by them. They lie on a tmpfs
//! of their app that has room for little more than them: what an app appends takes nothing from the pod root, which the start
//! of every app needs, and nothing from other apps.

use crate::mount::{self, INERT};
use crate::plan::{self, Wanted};
use crate::root::Root;
use anyhow::{Context, Result};
use contract::pod::{App, Pod};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where the tmpfs is mounted: below the pod root, in the app's mount namespace, so it goes when the app's root is entered.
const DIRECTORY: &str = "/files";
/// How much an app may add to its files.
const ROOM_BYTES: u64 = 64 << 10;
/// tmpfs counts whole pages.
const PAGE_BYTES: u64 = 4096;
/// Of the tmpfs: its root directory and the files, with some to spare.
const INODES: &str = "8";

/// Puts the files in place. Needs umask 0, for the modes.
pub(crate) fn put(root: &Root, pod: &Pod, app: &App, wanted: &[Wanted<'_>]) -> Result<()> {
    let hostname = format!("{}\n", pod.hostname);
    let contents = [
        ("hostname", Some(hostname.as_str())),
        ("hosts", pod.hosts.as_deref()),
        ("resolv.conf", pod.resolv_conf.as_deref()),
    ];
    let mut files = Vec::with_capacity(contents.len());
    for (name, content) in contents {
        let target = PathBuf::from(format!("/etc/{name}"));
        let Some(content) = content.filter(|_| !plan::covers(wanted, &target)) else { continue };
        // Inside a volume nothing is made: it may be a directory of the host.
        if plan::lies_in(wanted, &target) && root.existing(&target)?.is_none() {
            continue;
        }
        files.push((name, content, target));
    }
    if files.is_empty() {
        return Ok(());
    }
    let directory =
        directory(app, files.iter().map(|(_, content, _)| *content)).context("make room for files in /etc")?;
    for (name, content, _) in &files {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, *name, flags, Mode::from_raw_mode(0o644));
        let written = file.map_err(Into::into).and_then(|file| File::from(file).write_all(content.as_bytes()));
        written.with_context(|| format!("write the app's `/etc/{name}`"))?;
    }
    if app.root.read_only {
        // The copies that are bound inherit it.
        mount::restrict(directory.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY).context("make /etc's files read-only")?;
    }
    for (name, _, target) in &files {
        let bind = || -> Result<()> {
            let target = root.make_file(target)?;
            Ok(mount::attach(mount::copy_at(directory.as_fd(), name)?.as_fd(), target.as_fd())?)
        };
        bind().with_context(|| format!("put `{}` in place", target.display()))?;
    }
    Ok(())
}

/// An empty directory that can hold files of these contents. It is mounted, because closing a detached mount would wait for an
/// RCU grace period.
fn directory<'a>(app: &App, contents: impl Iterator<Item = &'a str>) -> Result<OwnedFd> {
    let size = (contents.map(pages_bytes).sum::<u64>() + ROOM_BYTES).to_string();
    let directory = mount::labelled(
        "tmpfs",
        &[("size", &size), ("nr_inodes", INODES), ("mode", "0755")],
        INERT,
        app.label.as_ref(),
    )?;
    match rustix::fs::mkdir(DIRECTORY, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error).with_context(|| format!("make `{DIRECTORY}` in the pod root")),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(CWD, Path::new(DIRECTORY), flags, Mode::empty())?;
    mount::attach(directory.as_fd(), target.as_fd())?;
    Ok(directory)
}

/// What a file of this content takes of a tmpfs.
fn pages_bytes(content: &str) -> u64 {
    (content.len() as u64).next_multiple_of(PAGE_BYTES)
}

//! Carries out a [`Plan`]. Each directory is in `host.json` before it is made.

use super::bpf;
use super::plan::{Devices, Group, PARENT, Plan, STANDARD_DEVICES};
use crate::failure::Failure;
use anyhow::{Context, Result};
use contract::devices;
use contract::host::Host;
use contract::limits::{Otherwise, Setting};
use contract::name::PodUuid;
use rustix::fs::{CWD, Mode, OFlags, mkdir, openat};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What `host.json` says about the plan.
pub(crate) fn record(plan: &Plan, uuid: &PodUuid, host: &mut Host) {
    host.cgroups = plan.groups.iter().map(|group| group.path.clone()).collect();
    for parent in standard_parents(plan) {
        host.cgroups.push(temporary(parent, uuid));
    }
    host.app_cgroups.clone_from(&plan.apps);
    host.supervisor_cgroups.clone_from(&plan.supervisor);
}

/// Makes all cgroups and moves this process where it belongs.
pub(crate) fn make(plan: &Plan, uuid: &PodUuid) -> Result<()> {
    for group in &plan.groups {
        make_directory(group, uuid).with_context(|| format!("make cgroup `{}`", group.path.display()))?;
    }
    // Before controllers are passed on below the cgroup that this process is in.
    for path in &plan.supervisor {
        write(&path.join("cgroup.procs"), "0").with_context(|| format!("join cgroup `{}`", path.display()))?;
    }
    for group in &plan.groups {
        group.settings.iter().try_for_each(|setting| apply(group, setting))?;
        limit_devices(group).with_context(|| format!("limit the devices of cgroup `{}`", group.path.display()))?;
    }
    Ok(())
}

/// mkdir, and its parent when there is none yet. gc removes an empty parent at any time, so this tries a few times.
fn make_directory(group: &Group, uuid: &PodUuid) -> Result<()> {
    for _ in 0..8 {
        match mkdir(&group.path, Mode::from_raw_mode(0o755)) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let parent = group.path.parent().context("a cgroup has a parent")?;
        if parent.ends_with(STANDARD_DEVICES) {
            make_standard(parent, uuid)?;
        } else {
            exists(mkdir(parent, Mode::from_raw_mode(0o755)))?;
        }
    }
    Err(Failure::new("its parent is removed again and again").into())
}

/// The parent whose children inherit the standard list. It is filled under another name and then renamed, so that no
/// child can ever be made below a list that is not complete.
fn make_standard(parent: &Path, uuid: &PodUuid) -> Result<()> {
    let new = temporary(parent, uuid);
    exists(mkdir(&new, Mode::from_raw_mode(0o755)))?;
    write_rules(&new, &devices::STANDARD)?;
    match rustix::fs::rename(&new, parent) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST | Errno::NOTEMPTY | Errno::BUSY) => rustix::fs::rmdir(&new).context("remove the spare list"),
        Err(error) => Err(error.into()),
    }
}

fn temporary(parent: &Path, uuid: &PodUuid) -> PathBuf {
    parent.with_file_name(format!("{STANDARD_DEVICES}.{uuid}"))
}

fn standard_parents(plan: &Plan) -> Vec<&Path> {
    let mut parents: Vec<&Path> = Vec::new();
    for group in plan.groups.iter().filter(|group| group.devices == Devices::Inherited) {
        parents.extend(group.path.parent().filter(|parent| !parents.contains(parent)));
    }
    parents
}

fn limit_devices(group: &Group) -> Result<()> {
    match &group.devices {
        Devices::Unlimited => Ok(()),
        // What is relied on is looked at: somebody may have changed the parent.
        Devices::Inherited => match std::fs::read_to_string(group.path.join("devices.list"))? {
            list if devices::is_standard(&list) => Ok(()),
            _ => write_rules(&group.path, &devices::STANDARD),
        },
        Devices::Written(rules) => write_rules(&group.path, rules),
        Devices::Program(rules) => {
            use std::os::fd::AsFd;
            bpf::attach(open(&group.path)?.as_fd(), rules).context("attach a BPF program")
        }
    }
}

fn write_rules(cgroup: &Path, rules: &[devices::Rule]) -> Result<()> {
    write(&cgroup.join("devices.deny"), "a").context("deny all devices")?;
    for rule in rules {
        write(&cgroup.join("devices.allow"), &rule.line())
            .with_context(|| format!("allow device `{}`", rule.line()))?;
    }
    Ok(())
}

fn apply(group: &Group, setting: &Setting) -> Result<()> {
    let describe = || format!("write `{}` to `{}`", setting.value, group.path.join(setting.file).display());
    match write(&group.path.join(setting.file), &setting.value) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match setting.otherwise {
            Otherwise::Nothing => Ok(()),
            Otherwise::NoSwappiness => write(&group.path.join("memory.swappiness"), "0").with_context(describe),
            Otherwise::Refuse => {
                pass_on(group, setting.controller)?;
                write(&group.path.join(setting.file), &setting.value).with_context(describe)
            }
        },
        Err(error) => Err(error).with_context(describe),
    }
}

/// v2: the file is not there because a cgroup above does not pass the controller on.
fn pass_on(group: &Group, controller: &str) -> Result<()> {
    for ancestor in &group.ancestors {
        let result = write(&ancestor.join("cgroup.subtree_control"), &format!("+{controller}"));
        if let Err(error) = result {
            let busy = error.raw_os_error() == Some(libc::EBUSY);
            let shown = ancestor.display();
            let failure =
                Failure::new(format!("cgroup `{shown}` does not pass the controller `{controller}` on: {error}"));
            return Err(if busy {
                failure
                    .hint("other processes are in that cgroup; run pod as the only process of its unit, or outside it")
                    .into()
            } else {
                failure.into()
            });
        }
    }
    Ok(())
}

/// Removes the parents that pods share, where they are empty.
pub(crate) fn remove_empty_parent(cgroup: &Path) {
    if let Some(parent) =
        cgroup.parent().filter(|parent| parent.ends_with(PARENT) || parent.ends_with(STANDARD_DEVICES))
    {
        let _ = rustix::fs::rmdir(parent); // Busy with other pods, or gone; a start makes it again.
    }
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn exists(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    if result == Err(Errno::EXIST) { Ok(()) } else { result }
}

/// One write(2): each write to a file of a cgroup is a command of its own.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let fd = openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&fd, text.as_bytes()).map(|_| ()).map_err(io::Error::from)
}

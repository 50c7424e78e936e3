//! The last steps before an app's program: limits, user, capabilities, filter, execve.
//!
//! Runs inside the app's root, which is `/`, with all capabilities of the pod's user namespace. The order of the steps is the
//! point of this file; each says what it needs that the next one takes away. An app's first process and `pod exec` both come
//! through here, so that they are confined alike.

use crate::failure::{Failure, describe};
use crate::root::Root;
use crate::user::{self, Identity};
use crate::{lookup, notify, seccomp, sys};
use anyhow::{Context, Result, ensure};
use contract::pod::{App, Label, Seccomp};
use contract::text::Advised;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::convert::Infallible;
use std::ffi::CString;
use std::io::Read;
use std::path::Path;

/// passwd and group files are at most this long.
const ACCOUNTS_BYTES_MAX: u64 = 1 << 20;

/// What to execute, and as whom: the app's own, or what `pod exec` asks for.
pub(crate) struct Program<'a> {
    /// The app whose confinement is meant.
    pub(crate) app: &'a App,
    /// argv.
    pub(crate) arguments: &'a [String],
    /// Added to the app's environment, or replacing what is there.
    pub(crate) environment: &'a [(String, String)],
    /// As in `pod.json`.
    pub(crate) user: &'a str,
    /// As in `pod.json`.
    pub(crate) group: Option<&'a str>,
    /// Who that is, if it is known already.
    pub(crate) who: Option<&'a Identity>,
    /// Created if missing.
    pub(crate) working_directory: &'a Path,
    /// Whether it is told of the socket for notifications.
    pub(crate) notify: bool,
}

impl<'a> Program<'a> {
    /// The app's own program.
    pub(crate) fn of(app: &'a App) -> Self {
        Self {
            app,
            arguments: &app.exec,
            environment: &[],
            user: &app.user,
            group: app.group.as_deref(),
            who: None,
            working_directory: &app.working_directory,
            notify: app.notify,
        }
    }
}

/// Who the program will run as.
pub(crate) fn identity(root: &Root, program: &Program<'_>) -> Result<Identity> {
    if let Some(who) = program.who {
        return Ok(who.clone());
    }
    let (passwd, group) = (accounts(root, "/etc/passwd"), accounts(root, "/etc/group"));
    let files = user::Files { passwd: passwd.file(), group: group.file() };
    let owner = |path: &str| {
        let fd =
            root.at(Path::new(path), OFlags::PATH).with_context(|| format!("open `{path}`, whose owner is meant"))?;
        let stat = rustix::fs::statat(&fd, "", AtFlags::EMPTY_PATH)?;
        Ok((stat.st_uid, stat.st_gid))
    };
    user::resolve(program.user, program.group, &program.app.supplementary_gids, files, owner)
}

/// The text of an account file, or why it cannot be read.
struct Accounts(Result<String, String>);

impl Accounts {
    fn file(&self) -> user::File<'_> {
        match &self.0 {
            Ok(text) => user::File { text, fault: None },
            Err(fault) => user::File { text: "", fault: Some(fault) },
        }
    }
}

/// One of the image's account files. The app can put anything in its place, which must not keep `pod exec` out.
fn accounts(root: &Root, path: &str) -> Accounts {
    Accounts(read_accounts(root, path).map_err(|error| describe(&error)))
}

/// Empty if it is not there.
///
/// A FIFO would block its reader for ever (CVE-2024-9676), a link may lead anywhere, and a large file fill the memory.
fn read_accounts(root: &Root, path: &str) -> Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let fd = match root.at(Path::new(path), flags) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(Errno::LOOP) => anyhow::bail!("`{path}` of the image is a symbolic link"),
        // A socket cannot be opened.
        Err(Errno::NXIO) => anyhow::bail!("`{path}` of the image is no regular file"),
        other => other.with_context(|| format!("open the image's `{path}`"))?,
    };
    let stat = rustix::fs::fstat(&fd)?;
    ensure!(FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile, "`{path}` of the image is no regular file");
    let mut bytes = Vec::with_capacity(4096);
    std::fs::File::from(fd)
        .take(ACCOUNTS_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read `{path}`"))?;
    ensure!(
        bytes.len() as u64 <= ACCOUNTS_BYTES_MAX,
        "`{path}` of the image is longer than {ACCOUNTS_BYTES_MAX} bytes"
    );
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Confines this process and becomes the program.
pub(crate) fn execute(
    root: &Root,
    proc: Option<&OwnedFd>,
    program: &Program<'_>,
    who: &Identity,
) -> Result<Infallible, Failure> {
    let app = program.app;
    oom_score(app, proc)?;
    limits(app)?;
    keyring()?;
    label(app, proc)?;
    working_directory(root, program.working_directory)?;
    let environment = environment(program, who)?;
    let arguments = strings(program.arguments.iter().cloned()).context("read the arguments")?;
    let filter = seccomp::compile(&app.seccomp, &app.capabilities).context("make the system call filter")?;
    let allowed = credentials(app, who)?;
    // As the app's user and with its capabilities, so that it finds what it may execute and nothing else.
    let name = program.arguments.first().context("the app has no program")?;
    let path = lookup::executable(name, lookup::path_of(&environment))?;
    if app.no_new_privileges {
        rustix::thread::set_no_new_privs(true).context("set no_new_privs")?;
    }
    // Every descriptor is opened close-on-exec; this catches what was inherited and what a mistake left open
    // (CVE-2024-21626).
    sys::close_on_exec_from(3).context("mark descriptors close-on-exec")?;
    if app.seccomp != Seccomp::Unconfined {
        install(&filter, app.no_new_privileges, allowed)?;
    }
    let error = sys::execute(&path, &arguments, &environment);
    let shown = path.to_string_lossy().escape_default().to_string();
    Err(Failure { exit: lookup::exit_code(&error), message: format!("execute `{shown}`: {}", lookup::explain(&error)) })
}

/// The filter comes last, so that it need not allow what the steps before it do. Without no_new_privs the kernel wants
/// CAP_SYS_ADMIN for it, which is therefore kept until execve, and execve takes it away: what a program gets is computed from
/// the bounding, inheritable and ambient sets, and it is in none of them unless the app is meant to have it.
fn install(filter: &[libc::sock_filter], no_new_privileges: bool, allowed: CapabilitySet) -> Result<()> {
    if !no_new_privileges {
        set_capabilities(allowed | CapabilitySet::SYS_ADMIN).context("keep CAP_SYS_ADMIN for the filter")?;
    }
    sys::install_filter(filter).context("install the seccomp filter")
}

/// Through the proc that stage2 made itself: a path could lead to a file of the image's (CVE-2025-52881).
fn oom_score(app: &App, proc: Option<&OwnedFd>) -> Result<()> {
    let Some(score) = app.oom_score_adj else { return Ok(()) };
    let proc = proc.context("no proc to set oom_score_adj by")?;
    crate::proc::write(proc.as_fd(), "self/oom_score_adj", &score.to_string()).with_context(|| Advised {
        message: format!("set oom_score_adj to {score}"),
        hint: "lowering it takes CAP_SYS_RESOURCE, which whoever runs `pod` must have".to_owned(),
    })
}

/// For the execve at the end. The filter, which is installed before it, may refuse to write files.
fn label(app: &App, proc: Option<&OwnedFd>) -> Result<()> {
    let Some(label) = &app.label else { return Ok(()) };
    let proc = proc.context("no proc to set a label by")?.as_fd();
    match label {
        Label::Selinux { process, .. } => {
            crate::proc::write(proc, "self/attr/exec", process).with_context(|| Advised {
                message: format!("confine it by SELinux context `{process}`"),
                hint: "see that the policy has this context, or run the app with `--selinux=unconfined`".to_owned(),
            })
        }
        Label::Apparmor { profile } => {
            let value = format!("exec {profile}");
            let written = match crate::proc::write(proc, "self/attr/apparmor/exec", &value) {
                // Before Linux 5.1 there is one file for all modules.
                Err(error) if error.downcast_ref() == Some(&Errno::NOENT) => {
                    crate::proc::write(proc, "self/attr/exec", &value)
                }
                other => other,
            };
            written.with_context(|| Advised {
                message: format!("confine it by AppArmor profile `{profile}`"),
                hint: "see that the profile is loaded: `aa-status`".to_owned(),
            })
        }
    }
}

/// Before the user changes: raising a hard limit takes CAP_SYS_RESOURCE.
fn limits(app: &App) -> Result<()> {
    for limit in &app.rlimits {
        let soft = limit.soft.unwrap_or(u64::MAX);
        let hard = limit.hard.unwrap_or(u64::MAX);
        sys::set_limit(limit.resource.number(), soft, hard).with_context(|| Advised {
            message: format!("set {} to {soft}, at most {hard}", limit.resource),
            hint: "raising a hard limit takes CAP_SYS_RESOURCE, which whoever runs `pod` must have".to_owned(),
        })?;
    }
    Ok(())
}

/// The session keyring of whoever started the pod is not for the app.
fn keyring() -> Result<()> {
    match sys::new_session_keyring() {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()), // A kernel without keys.
        other => other.context("make a session keyring"),
    }
}

/// By descriptor inside the root, then checked: a working directory such as `/proc/self/fd/7` must not lead out
/// (CVE-2024-21626). The kernel calls a directory outside the root `(unreachable)`.
fn working_directory(root: &Root, path: &Path) -> Result<()> {
    let shown = path.display();
    let directory = root.make_directory(path).context("make the working directory")?;
    rustix::process::fchdir(&directory).with_context(|| format!("enter the working directory `{shown}`"))?;
    let here =
        rustix::process::getcwd(Vec::new()).with_context(|| format!("find the working directory `{shown}` again"))?;
    ensure!(here.as_bytes().starts_with(b"/"), "the working directory `{shown}` is outside the app's root");
    Ok(())
}

/// The app's environment, then what was added; `HOME` from the image's passwd file if nobody set it.
fn environment(program: &Program<'_>, who: &Identity) -> Result<Vec<CString>> {
    let added = |name: &str| program.environment.iter().any(|(other, _)| other == name);
    let mut pairs: Vec<(&str, &str)> = program
        .app
        .environment
        .iter()
        .filter(|(name, _)| !added(name))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    pairs.extend(program.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    if program.notify {
        pairs.push(("NOTIFY_SOCKET", notify::PATH));
    }
    if !pairs.iter().any(|(name, _)| *name == "HOME") {
        pairs.push(("HOME", who.home.as_deref().unwrap_or("/")));
    }
    strings(pairs.into_iter().map(|(name, value)| format!("{name}={value}"))).context("read the environment")
}

fn strings(texts: impl Iterator<Item = String>) -> Result<Vec<CString>> {
    Ok(texts.map(CString::new).collect::<Result<_, _>>()?)
}

/// Groups, group, user and capabilities, in the only order that works. Gives what is permitted and effective afterwards.
fn credentials(app: &App, who: &Identity) -> Result<CapabilitySet> {
    let own = rustix::thread::capabilities(None).context("read capabilities")?.permitted;
    // A set larger than the pod's own cannot be given; one that is smaller confines more.
    let wanted: u64 = app.capabilities.iter().fold(0, |set, capability| set | 1 << capability.number());
    let wanted = CapabilitySet::from_bits_retain(wanted) & own;
    // CAP_SETPCAP is needed for this, so it comes before the rest.
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !wanted.contains(one) {
            match rustix::thread::remove_capability_from_bounding_set(one) {
                Err(Errno::INVAL) => break, // Beyond the last one that this kernel knows.
                other => other.context("drop a capability from the bounding set")?,
            }
        }
    }
    let groups: Vec<Gid> = who.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).context("set supplementary groups")?;
    let gid = Gid::from_raw(who.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).with_context(|| unmapped("group", who.gid))?;
    // Without this, leaving uid 0 would drop all capabilities at once; execve ends it.
    rustix::thread::set_keep_capabilities(true).context("keep capabilities")?;
    let uid = Uid::from_raw(who.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).with_context(|| unmapped("user", who.uid))?;
    let allowed = if who.uid == 0 { wanted } else { CapabilitySet::empty() };
    // With a filter and without no_new_privs CAP_SYS_ADMIN must stay permitted a little longer; see `install`.
    let kept = if app.seccomp != Seccomp::Unconfined && !app.no_new_privileges {
        CapabilitySet::SYS_ADMIN & own
    } else {
        CapabilitySet::empty()
    };
    let sets = CapabilitySets { effective: allowed, permitted: allowed | kept, inheritable: CapabilitySet::empty() };
    // An empty inheritable set empties the ambient one too (CVE-2022-27649).
    rustix::thread::set_capabilities(None, sets).context("set capabilities")?;
    Ok(allowed)
}

/// The one reason why a privileged process may not become this user or group.
fn unmapped(kind: &str, id: u32) -> Advised {
    let hint = "the pod's user namespace has no such id: use a smaller one, or run without --private-users";
    Advised::new(format!("become {kind} {id}"), hint)
}

fn set_capabilities(both: CapabilitySet) -> Result<()> {
    let sets = CapabilitySets { effective: both, permitted: both, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// New files of an app are as its program says, whatever the caller's mask was.
pub(crate) fn reset_umask() {
    rustix::process::umask(Mode::from_raw_mode(0o022));
}

//! Sets of names: capabilities, and the words of `--seccomp` and `--insecure-options`.

use crate::lsm::selinux::is_context;
use contract::kernel::Capability;

/// `NET_ADMIN`, `CAP_NET_ADMIN`, in any case.
pub(crate) fn capability(text: &str) -> Result<Capability, String> {
    let upper = text.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    Capability::from_name(&full).ok_or_else(|| format!("`{}` is not a capability", text.escape_debug()))
}

/// A capability or `all`.
pub(crate) fn capabilities(text: &str) -> Result<Vec<Capability>, String> {
    if text.eq_ignore_ascii_case("all") {
        return Ok(Capability::ALL.to_vec());
    }
    // `--caps-retain=` empties the set, so an empty list is one.
    text.split(',').filter(|name| !name.is_empty()).map(capability).collect()
}

/// What `--seccomp` says; names and groups are expanded by `pod_json::seccomp`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SeccompFlag {
    /// Retain, remove, or neither.
    pub(crate) mode: SeccompMode,
    /// `errno=EPERM`; absent: EPERM. `errno=kill` is `Some(None)`.
    pub(crate) errno: Option<Option<i32>>,
    /// System calls and `@groups`.
    pub(crate) names: Vec<String>,
}

/// The mode of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeccompMode {
    /// Only the named calls.
    Retain,
    /// All but the named calls.
    Remove,
    /// The profile of every app.
    Default,
    /// No filter.
    Unconfined,
}

/// `[mode=retain|remove,][errno=EPERM|kill,]NAME,@GROUP…`, `default` or `unconfined`.
pub(crate) fn seccomp(text: &str) -> Result<SeccompFlag, String> {
    let mut flag = SeccompFlag { mode: SeccompMode::Retain, errno: None, names: Vec::new() };
    match text {
        "default" => return Ok(SeccompFlag { mode: SeccompMode::Default, ..flag }),
        "unconfined" => return Ok(SeccompFlag { mode: SeccompMode::Unconfined, ..flag }),
        _ => {}
    }
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("mode", "retain")) => flag.mode = SeccompMode::Retain,
            Some(("mode", "remove")) => flag.mode = SeccompMode::Remove,
            Some(("mode", mode)) => return Err(format!("mode `{}` is neither retain nor remove", mode.escape_debug())),
            Some(("errno", "kill")) => flag.errno = Some(None),
            Some(("errno", name)) => flag.errno = Some(Some(errno(name)?)),
            Some((key, _)) => return Err(format!("`{}` is neither mode nor errno", key.escape_debug())),
            None if field.is_empty() => return Err("a name is empty".to_owned()),
            None => flag.names.push(field.to_owned()),
        }
    }
    if flag.names.is_empty() {
        return Err("it names no system call".to_owned());
    }
    Ok(flag)
}

/// What `--apparmor` and `--selinux` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LabelFlag {
    /// None.
    Unconfined,
    /// This one.
    Named(String),
}

/// The name of a profile, or `unconfined`.
pub(crate) fn apparmor(text: &str) -> Result<LabelFlag, String> {
    match text {
        "unconfined" => Ok(LabelFlag::Unconfined),
        // The kernel reads a line of `exec NAME`.
        name if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(LabelFlag::Named(name.to_owned()))
        }
        other => Err(format!("`{}` is not the name of a profile", other.escape_debug())),
    }
}

/// `USER:ROLE:TYPE[:LEVEL]`, or `unconfined`.
pub(crate) fn selinux(text: &str) -> Result<LabelFlag, String> {
    match text {
        "unconfined" => Ok(LabelFlag::Unconfined),
        context if is_context(&context) => Ok(LabelFlag::Named(context.to_owned())),
        other => Err(format!("`{}` is not `USER:ROLE:TYPE:LEVEL`", other.escape_debug())),
    }
}

/// The errors that a filter may sensibly answer with.
pub(crate) fn errno(name: &str) -> Result<i32, String> {
    const NAMES: [(&str, i32); 16] = [
        ("EPERM", libc::EPERM),
        ("ENOENT", libc::ENOENT),
        ("EIO", libc::EIO),
        ("ENXIO", libc::ENXIO),
        ("EBADF", libc::EBADF),
        ("EAGAIN", libc::EAGAIN),
        ("ENOMEM", libc::ENOMEM),
        ("EACCES", libc::EACCES),
        ("EFAULT", libc::EFAULT),
        ("EBUSY", libc::EBUSY),
        ("ENODEV", libc::ENODEV),
        ("EINVAL", libc::EINVAL),
        ("ENOSPC", libc::ENOSPC),
        ("ENOSYS", libc::ENOSYS),
        ("EXFULL", libc::EXFULL),
        ("EOPNOTSUPP", libc::EOPNOTSUPP),
    ];
    if let Ok(number) = super::number::integer(name, 1..=4095) {
        return Ok(number as i32);
    }
    let found = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    found.ok_or_else(|| format!("`{}` is not an error number", name.escape_debug()))
}

/// What the user gives up, per run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Insecure {
    /// Images need no trusted signature.
    pub(crate) image: bool,
    /// Servers may have any certificate.
    pub(crate) tls: bool,
    /// Servers may speak plain HTTP.
    pub(crate) http: bool,
    /// All capabilities.
    pub(crate) capabilities: bool,
    /// No masked and read-only paths.
    pub(crate) paths: bool,
    /// No filter of system calls.
    pub(crate) seccomp: bool,
    /// A stage1 need not isolate as every pod relies on it.
    pub(crate) isolation: bool,
}

impl Insecure {
    /// Whether both give up the same thing.
    pub(crate) fn intersects(self, other: Self) -> bool {
        let both = |one: fn(&Self) -> bool| one(&self) && one(&other);
        both(|set| set.image)
            || both(|set| set.tls)
            || both(|set| set.http)
            || both(|set| set.capabilities)
            || both(|set| set.paths)
            || both(|set| set.seccomp)
            || both(|set| set.isolation)
    }

    /// Adds one word of `--insecure-options`.
    pub(crate) fn add(self, word: InsecureWord) -> Self {
        let run = Self { capabilities: true, paths: true, seccomp: true, isolation: true, ..self };
        match word {
            InsecureWord::None => self,
            InsecureWord::Image => Self { image: true, ..self },
            InsecureWord::Tls => Self { tls: true, ..self },
            InsecureWord::Http => Self { http: true, ..self },
            InsecureWord::Capabilities => Self { capabilities: true, ..self },
            InsecureWord::Paths => Self { paths: true, ..self },
            InsecureWord::Seccomp => Self { seccomp: true, ..self },
            InsecureWord::Isolation => Self { isolation: true, ..self },
            InsecureWord::AllFetch => Self { image: true, tls: true, http: true, ..self },
            InsecureWord::AllRun => run,
            InsecureWord::All => Self { image: true, tls: true, http: true, ..run },
        }
    }
}

/// A word of `--insecure-options`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum InsecureWord {
    /// Nothing; the default.
    None,
    /// Run images that nobody signed.
    Image,
    /// Fetch from servers whose certificate cannot be verified.
    Tls,
    /// Fetch over plain HTTP.
    Http,
    /// Give the apps all capabilities.
    Capabilities,
    /// Neither hide nor protect paths of /proc and /sys.
    Paths,
    /// No filter of system calls.
    Seccomp,
    /// Run on a stage1 that lacks a part of the isolation that every pod has.
    Isolation,
    /// image, tls and http.
    AllFetch,
    /// capabilities, paths, seccomp and isolation.
    AllRun,
    /// Everything.
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_names() {
        assert_eq!(capability("net_admin"), Ok(Capability::NetAdmin));
        assert_eq!(capability("CAP_SYS_ADMIN"), Ok(Capability::SysAdmin));
        assert_eq!(capabilities("chown,kill").map(|set| set.len()), Ok(2));
        assert_eq!(capabilities("").map(|set| set.len()), Ok(0));
        assert_eq!(capabilities("ALL").map(|set| set.len()), Ok(41));
        for bad in ["CAP_", "root", "CAP_CAP_KILL", "kill "] {
            assert!(capability(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn seccomp_specs() {
        let flag = seccomp("mode=remove,errno=ENOSYS,mount,@reboot").unwrap();
        assert_eq!((flag.mode, flag.errno, flag.names.len()), (SeccompMode::Remove, Some(Some(38)), 2));
        assert_eq!(seccomp("errno=kill,read").unwrap().errno, Some(None));
        assert_eq!(seccomp("unconfined").unwrap().mode, SeccompMode::Unconfined);
        for bad in ["", "mode=retain", "mode=allow,read", "errno=EFOO,read", "read,,write", "action=kill,read"] {
            assert!(seccomp(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn profiles() {
        assert_eq!(apparmor("unconfined"), Ok(LabelFlag::Unconfined));
        assert_eq!(apparmor("/usr/bin/x//y"), Ok(LabelFlag::Named("/usr/bin/x//y".to_owned())));
        for bad in ["", "a b", "a\nexec unconfined", "\u{e4}"] {
            assert!(apparmor(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn insecurity_adds_up() {
        let insecure = Insecure::default().add(InsecureWord::Image).add(InsecureWord::AllRun);
        assert!(insecure.image && insecure.paths && insecure.seccomp && insecure.capabilities && !insecure.http);
        assert!(insecure.isolation && !Insecure::default().add(InsecureWord::Paths).isolation);
    }
}

//! The kernel's system calls: names, numbers on both architectures, groups of names, and the profile `default-1`.
//!
//! stage0 expands groups and checks names with this table before it writes `pod.json`; stage2 makes filters from it. A
//! name that is not here is an error, because a filter that drops a name is not the filter that was asked for.

use crate::kernel::Capability;

mod table;

/// One system call.
#[derive(Clone, Copy, Debug)]
pub struct Syscall {
    /// The kernel's name.
    pub name: &'static str,
    x86_64: u16,
    aarch64: u16,
    /// What the profile `default-1` says.
    pub default1: Default1,
}

/// A verdict of the profile `default-1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default1 {
    /// Allowed.
    Yes,
    /// Refused with EPERM.
    No,
    /// Allowed to an app whose bounding set holds one of these, otherwise refused with EPERM.
    With(&'static [Capability]),
    /// The arguments decide.
    By(Rule),
}

/// A decision by arguments. Only the low half of an argument counts: the kernel itself looks at an `int`, so a filter that
/// compared 64 bits could be passed by setting one of the high ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// No flag that makes a namespace, but with CAP_SYS_ADMIN.
    Clone,
    /// ENOSYS, so that the C library falls back to `clone`: the flags lie in memory. Allowed with CAP_SYS_ADMIN.
    Clone3,
    /// As `Clone`; what is left concerns the process alone, and Samba wants it.
    Unshare,
    /// Only the execution domains of ordinary programs.
    Personality,
    /// Not AF_VSOCK (leads to the hypervisor) nor AF_ALG, nor families that the kernel has given up.
    Socket,
    /// Not TIOCSTI nor TIOCLINUX, which type into a terminal (CVE-2017-5226).
    Ioctl,
}

/// The architectures that the table has numbers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The kernel's names.
pub enum Architecture {
    X86_64,
    Aarch64,
}

impl Architecture {
    /// The one that this program was built for.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };
}

impl Syscall {
    /// Its number, if the architecture has it.
    pub const fn number(&self, architecture: Architecture) -> Option<u32> {
        let number = match architecture {
            Architecture::X86_64 => self.x86_64,
            Architecture::Aarch64 => self.aarch64,
        };
        if number == u16::MAX { None } else { Some(number as u32) }
    }
}

/// All system calls.
pub fn all() -> &'static [Syscall] {
    table::TABLE
}

/// The system call with this name.
pub fn find(name: &str) -> Option<&'static Syscall> {
    table::TABLE.iter().find(|syscall| syscall.name == name)
}

/// The names of a group such as `@default` or `@systemd/mount`, or `None` if there is no such group.
///
/// rkt's names are kept, so that its images and command lines mean what they meant. `@appc.io/all` is every name,
/// `@appc.io/empty` none. A `whitelist` is what the profile `default-1` allows to some app, a `blacklist` is the rest.
pub fn group(name: &str) -> Option<Vec<&'static str>> {
    let names = |wanted: fn(Default1) -> bool| {
        Some(table::TABLE.iter().filter(|syscall| wanted(syscall.default1)).map(|syscall| syscall.name).collect())
    };
    match name {
        "@appc.io/all" => names(|_| true),
        "@appc.io/empty" => Some(Vec::new()),
        "@default" | "@docker/default-whitelist" | "@rkt/default-whitelist" => {
            names(|verdict| matches!(verdict, Default1::Yes | Default1::By(_)))
        }
        "@docker/default-blacklist" | "@rkt/default-blacklist" => {
            names(|verdict| matches!(verdict, Default1::No | Default1::With(_)))
        }
        _ => GROUPS.iter().find(|(group, _)| *group == name).map(|(_, names)| names.split_ascii_whitespace().collect()),
    }
}

/// The names of all groups, for messages and completion.
pub fn groups() -> impl Iterator<Item = &'static str> {
    let computed = [
        "@default",
        "@appc.io/all",
        "@appc.io/empty",
        "@docker/default-whitelist",
        "@docker/default-blacklist",
        "@rkt/default-whitelist",
        "@rkt/default-blacklist",
    ];
    computed.into_iter().chain(GROUPS.iter().map(|(name, _)| *name))
}

/// systemd's groups, as systemd.exec(5) described them when rkt took them over, less calls that no architecture of ours has.
const GROUPS: &[(&str, &str)] = &[
    ("@systemd/clock", "adjtimex clock_adjtime clock_settime settimeofday"),
    (
        "@systemd/default-whitelist",
        "execve exit exit_group getrlimit rt_sigreturn clock_getres clock_gettime clock_nanosleep gettimeofday nanosleep pause time",
    ),
    ("@systemd/mount", "chroot mount pivot_root umount2"),
    (
        "@systemd/network-io",
        "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto \
         setsockopt shutdown socket socketpair",
    ),
    (
        "@systemd/obsolete",
        "_sysctl afs_syscall create_module get_kernel_syms getpmsg nfsservctl putpmsg query_module security sysfs tuxcall uselib \
         ustat vserver",
    ),
    (
        "@systemd/privileged",
        "acct adjtimex bpf capset chown chroot clock_adjtime clock_settime delete_module fchown fchownat finit_module init_module \
         ioperm iopl kexec_file_load kexec_load lchown mount nfsservctl pivot_root quotactl reboot setdomainname setfsgid setfsuid \
         setgroups sethostname setresgid setresuid setreuid setregid setgid setuid settimeofday swapoff swapon sysfs umount2 vhangup \
         _sysctl",
    ),
    ("@systemd/process", "arch_prctl clone clone3 execve execveat fork kill prctl setns tgkill tkill unshare vfork"),
    ("@systemd/raw-io", "ioperm iopl"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_numbers_are_unique() {
        let names: BTreeSet<_> = all().iter().map(|syscall| syscall.name).collect();
        assert_eq!(names.len(), all().len());
        for architecture in [Architecture::X86_64, Architecture::Aarch64] {
            let numbers: Vec<_> = all().iter().filter_map(|syscall| syscall.number(architecture)).collect();
            assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
        }
    }

    #[test]
    fn known_numbers() {
        for (name, x86_64, aarch64) in [
            ("read", Some(0), Some(63)),
            ("open", Some(2), None),
            ("mmap", Some(9), Some(222)),
            ("execve", Some(59), Some(221)),
            ("clone3", Some(435), Some(435)),
            ("mount", Some(165), Some(40)),
        ] {
            let syscall = find(name).unwrap();
            assert_eq!(
                (syscall.number(Architecture::X86_64), syscall.number(Architecture::Aarch64)),
                (x86_64, aarch64)
            );
        }
        assert!(find("stime").is_none());
    }

    #[test]
    fn groups_hold_known_names() {
        for group_name in groups() {
            for name in group(group_name).unwrap() {
                assert!(find(name).is_some(), "{group_name}: {name}");
            }
        }
        assert!(group("@nobody").is_none());
        assert!(!group("@default").unwrap().contains(&"mount"));
        assert!(group("@default").unwrap().contains(&"clone"));
    }
}

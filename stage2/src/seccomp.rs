//! System call filters: from `pod.json` and the contract's table to a program for the kernel.
//!
//! The shape of a filter costs time before the app even runs: the kernel evaluates a new filter once for each system call
//! number, to know which ones it may always allow. A linear list of 300 comparisons costs more than a millisecond there, so
//! the numbers become ranges, and the ranges a balanced tree.

use anyhow::{Result, ensure};
use contract::kernel::Capability;
use contract::pod::Seccomp;
use contract::syscalls::{self, Architecture, Default1, Rule};

mod program;

use program::{Action, Ranges, Test};

/// Needed by every program that is started under a filter; systemd allows them implicitly too.
const IMPLIED: [&str; 4] = ["execve", "exit", "exit_group", "rt_sigreturn"];

/// The filter of an app with these capabilities in its bounding set; empty for an unconfined one.
pub(crate) fn compile(seccomp: &Seccomp, capabilities: &[Capability]) -> Result<Vec<libc::sock_filter>> {
    Ok(match seccomp {
        Seccomp::Unconfined => Vec::new(),
        _ => program::assemble(&ranges(seccomp, capabilities, Architecture::NATIVE)?, Architecture::NATIVE),
    })
}

/// What happens with each system call number.
fn ranges(seccomp: &Seccomp, capabilities: &[Capability], architecture: Architecture) -> Result<Ranges<Test>> {
    let named = |names: &[String]| -> Result<()> {
        match names.iter().find(|name| syscalls::find(name).is_none()) {
            // Dropping an unknown name would make another filter than the one that was asked for.
            Some(name) => anyhow::bail!("unknown system call `{}`", name.escape_default()),
            None => Ok(()),
        }
    };
    match seccomp {
        Seccomp::Unconfined => Ok(Ranges::new(Test::Always(Action::Allow))),
        Seccomp::Default1 => Ok(with_table(Ranges::new(Test::Always(UNKNOWN)), architecture, |syscall| {
            default1(syscall.default1, capabilities)
        })),
        Seccomp::Retain { syscalls, errno, within_default } => {
            named(syscalls)?;
            let refused = Test::Always(refusal(*errno)?);
            Ok(with_table(Ranges::new(refused.clone()), architecture, |syscall| {
                let retained = IMPLIED.contains(&syscall.name) || syscalls.iter().any(|name| name == syscall.name);
                match (retained, within_default) {
                    (false, _) => refused.clone(),
                    (true, false) => allowed(syscall.name),
                    (true, true) => default1(syscall.default1, capabilities),
                }
            }))
        }
        Seccomp::Remove { syscalls, errno, within_default } => {
            named(syscalls)?;
            let refused = Test::Always(refusal(*errno)?);
            let unknown = if *within_default { UNKNOWN } else { Action::Allow };
            Ok(with_table(Ranges::new(Test::Always(unknown)), architecture, |syscall| {
                match (syscalls.iter().any(|name| name == syscall.name), within_default) {
                    (true, _) => refused.clone(),
                    (false, false) => allowed(syscall.name),
                    (false, true) => default1(syscall.default1, capabilities),
                }
            }))
        }
    }
}

fn with_table(
    mut ranges: Ranges<Test>,
    architecture: Architecture,
    test: impl Fn(&syscalls::Syscall) -> Test,
) -> Ranges<Test> {
    for syscall in syscalls::all() {
        if let Some(number) = syscall.number(architecture) {
            ranges.set(number, number, test(syscall));
        }
    }
    ranges
}

/// An allowed call of a list; ioctl is never allowed to type into a terminal.
fn allowed(name: &str) -> Test {
    if name == "ioctl" { rule(Rule::Ioctl, &[]) } else { Test::Always(Action::Allow) }
}

fn refusal(errno: Option<i32>) -> Result<Action> {
    let Some(errno) = errno else { return Ok(Action::Kill) };
    // The kernel caps the number at 4095 without a word.
    ensure!((1..=4095).contains(&errno), "errno {errno} of the system call filter is not in 1..4095");
    Ok(Action::Errno(errno as u16))
}

/// What the table does not know is newer than it; ENOSYS lets the C library fall back to what it knew before.
const UNKNOWN: Action = Action::Errno(libc::ENOSYS as u16);
const EPERM: Action = Action::Errno(libc::EPERM as u16);

fn default1(verdict: Default1, capabilities: &[Capability]) -> Test {
    match verdict {
        Default1::Yes => Test::Always(Action::Allow),
        Default1::With(any) if any.iter().any(|one| capabilities.contains(one)) => Test::Always(Action::Allow),
        Default1::No | Default1::With(_) => Test::Always(EPERM),
        Default1::By(by) => rule(by, capabilities),
    }
}

/// Flags of clone(2) that make a namespace: mount, cgroup, uts, ipc, user, pid, net.
const NAMESPACES: u32 = 0x7e02_0000;
/// The time namespace's flag, which clone(2) does not have: there the low bits are a signal.
const NEW_TIME: u32 = 0x80;
/// Address families of socket(2) that are refused: given up by the kernel, or leading out of the pod.
const FAMILIES_REFUSED: [(u32, u32); 9] = [
    (12, 12),       // DECnet, gone in 6.1
    (19, 20),       // Econet, ATM SVC
    (23, 23),       // IrDA
    (25, 25),       // Wanpipe
    (34, 34),       // ISDN
    (37, 37),       // CAIF
    (38, 38),       // ALG: the kernel's crypto, often a way in and hardly ever used
    (40, 40),       // VSOCK: leads to the hypervisor and is not namespaced
    (46, u32::MAX), // not known yet
];
/// Execution domains that ordinary programs ask for, and the question for the present one.
const DOMAINS: [u32; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, u32::MAX];
/// Requests of ioctl(2) that type into a terminal: TIOCSTI, TIOCLINUX.
const TYPING: [u32; 2] = [0x5412, 0x541c];

fn rule(rule: Rule, capabilities: &[Capability]) -> Test {
    let administrator = capabilities.contains(&Capability::SysAdmin);
    let allow = || Ranges::new(Action::Allow);
    match rule {
        Rule::Clone | Rule::Clone3 | Rule::Unshare if administrator => Test::Always(Action::Allow),
        Rule::Clone => Test::Bits { argument: 0, any_of: NAMESPACES, then: EPERM, otherwise: Action::Allow },
        Rule::Unshare => {
            Test::Bits { argument: 0, any_of: NAMESPACES | NEW_TIME, then: EPERM, otherwise: Action::Allow }
        }
        Rule::Clone3 => Test::Always(Action::Errno(libc::ENOSYS as u16)),
        Rule::Personality => {
            let mut values = Ranges::new(EPERM);
            DOMAINS.iter().for_each(|value| values.set(*value, *value, Action::Allow));
            Test::Value { argument: 0, values }
        }
        Rule::Socket => {
            let mut values = allow();
            FAMILIES_REFUSED.iter().for_each(|(first, last)| values.set(*first, *last, EPERM));
            Test::Value { argument: 0, values }
        }
        Rule::Ioctl => {
            let mut values = allow();
            TYPING.iter().for_each(|value| values.set(*value, *value, EPERM));
            Test::Value { argument: 1, values }
        }
    }
}

#[cfg(test)]
mod tests;

//! Which devices an app may use, for a device cgroup of its own: the standard ones, and those of `pod.json`.
//!
//! stage0 writes the list into cgroups of the host, stage2 into those of a guest.

pub mod program;

use crate::pod::{Device, DeviceKind};

/// One line of the list. `None` is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // As in `pod::Device`.
pub struct Rule {
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

/// null zero full random urandom tty ptmx and terminals of the pod. Any node may be made, because a node that cannot be
/// opened is only a name; package managers make some. The host's console (5:1) is not among them: an app's /dev/console
/// is a terminal of its own.
pub const STANDARD: [Rule; 10] = [
    Rule { kind: DeviceKind::Block, major: None, minor: None, read: false, write: false, mknod: true },
    Rule { kind: DeviceKind::Character, major: None, minor: None, read: false, write: false, mknod: true },
    character(1, Some(3)),
    character(1, Some(5)),
    character(1, Some(7)),
    character(1, Some(8)),
    character(1, Some(9)),
    character(5, Some(0)),
    character(5, Some(2)),
    character(136, None),
];

const fn character(major: u32, minor: Option<u32>) -> Rule {
    Rule { kind: DeviceKind::Character, major: Some(major), minor, read: true, write: true, mknod: true }
}

/// The list of an app with these devices.
pub fn list(devices: &[Device]) -> Vec<Rule> {
    STANDARD.into_iter().chain(devices.iter().map(rule)).collect()
}

/// The rule for a device of `pod.json`.
fn rule(device: &Device) -> Rule {
    Rule {
        kind: device.kind,
        major: Some(device.major),
        minor: Some(device.minor),
        read: device.read,
        write: device.write,
        mknod: device.mknod,
    }
}

impl Rule {
    /// As the v1 devices controller reads and shows it.
    pub fn line(&self) -> String {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let kind = if self.kind == DeviceKind::Block { 'b' } else { 'c' };
        let mut access = String::new();
        for (granted, letter) in [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')] {
            if granted {
                access.push(letter);
            }
        }
        format!("{kind} {}:{} {access}", number(self.major), number(self.minor))
    }
}

/// Whether the kernel's list (`devices.list`) is exactly the standard one.
pub fn is_standard(list: &str) -> bool {
    let mut shown: Vec<&str> = list.lines().collect();
    let mut wanted: Vec<String> = STANDARD.iter().map(Rule::line).collect();
    shown.sort_unstable();
    wanted.sort_unstable();
    shown == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(STANDARD[0].line(), "b *:* m");
        assert_eq!(STANDARD[2].line(), "c 1:3 rwm");
        assert_eq!(STANDARD[9].line(), "c 136:* rwm");
        let all: Vec<String> = STANDARD.iter().rev().map(Rule::line).collect();
        assert!(is_standard(&all.join("\n")));
        assert!(!is_standard("a *:* rwm"));
        assert!(!is_standard(&all[1..].join("\n")));
    }
}

//! Reading the kernel's text files about this process: pure parsers, and the readers that feed them.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

/// `Key:\tvalue` lines of `/proc/self/status`.
pub(crate) fn status() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

/// Capability names of a hexadecimal mask.
pub(crate) fn capabilities(mask: &str) -> Vec<String> {
    let mask = u64::from_str_radix(mask, 16).unwrap_or(u64::MAX);
    let known = contract::kernel::Capability::ALL;
    let named = known.iter().filter(|capability| mask & (1 << capability.number()) != 0);
    let unknown = (0..64).filter(|bit| mask & (1 << bit) != 0 && !known.iter().any(|known| known.number() == *bit));
    named.map(|capability| capability.name().to_owned()).chain(unknown.map(|bit| format!("bit-{bit}"))).collect()
}

/// One line of `/proc/self/mountinfo`.
pub(crate) fn mount(line: &str) -> Option<Value> {
    let (before, after) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let after: Vec<&str> = after.split(' ').collect();
    let optional: Vec<&str> = before.get(6..)?.to_vec();
    Some(json!({
        "id": before.first()?,
        "parent": before.get(1)?,
        "device": before.get(2)?,
        "root": before.get(3)?,
        "target": before.get(4)?,
        "options": before.get(5)?.split(',').collect::<Vec<_>>(),
        "propagation": optional,
        "type": after.first()?,
        "source": after.get(1)?,
        "super_options": after.get(2)?.split(',').collect::<Vec<_>>(),
    }))
}

/// All mounts this process sees.
pub(crate) fn mounts() -> Vec<Value> {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().filter_map(mount).collect()
}

/// `soft` and `hard` by the kernel's resource names; `null` is infinity.
pub(crate) fn rlimits() -> Value {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
    let pairs = [
        ("RLIMIT_CPU", Resource::RLIMIT_CPU),
        ("RLIMIT_FSIZE", Resource::RLIMIT_FSIZE),
        ("RLIMIT_DATA", Resource::RLIMIT_DATA),
        ("RLIMIT_STACK", Resource::RLIMIT_STACK),
        ("RLIMIT_CORE", Resource::RLIMIT_CORE),
        ("RLIMIT_NPROC", Resource::RLIMIT_NPROC),
        ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
        ("RLIMIT_MEMLOCK", Resource::RLIMIT_MEMLOCK),
        ("RLIMIT_AS", Resource::RLIMIT_AS),
    ];
    let number = |value: u64| if value == RLIM_INFINITY { Value::Null } else { json!(value) };
    pairs
        .iter()
        .filter_map(|(name, resource)| {
            getrlimit(*resource).ok().map(|(soft, hard)| ((*name).to_owned(), json!([number(soft), number(hard)])))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_masks() {
        assert!(capabilities("0000000000000000").is_empty());
        assert_eq!(capabilities("0000000000000401"), ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]);
        assert_eq!(capabilities("4000000000000000"), ["bit-62"]);
    }

    #[test]
    fn mountinfo_lines() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = mount(line).unwrap();
        assert_eq!(mount["target"], "/mnt2");
        assert_eq!(mount["type"], "ext3");
        assert_eq!(mount["propagation"], json!(["master:1"]));
        assert_eq!(mount["options"], json!(["rw", "noatime"]));
    }
}

//! Limits → files of a cgroup and what to write into them. Pure, and in the contract because two stages do it: stage0 on
//! the host, and stage2 in a guest.

use crate::pod::{IoLimit, Limits};

/// The kernel's accounting period for `cpu_millis`.
const PERIOD_MICROS: u64 = 100_000;

/// One write into a cgroup's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The controller that must be there.
    pub controller: &'static str,
    /// File name.
    pub file: &'static str,
    /// What to write.
    pub value: String,
    /// The kernel may be built without this file; what to write instead then, if anything.
    pub otherwise: Otherwise,
}

/// What it means that a file is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// The limit cannot be enforced: an error.
    Refuse,
    /// Without swap accounting there is no swap limit: keep the cgroup from swapping by `memory.swappiness`.
    NoSwappiness,
    /// A kernel without swap has nothing to limit.
    Nothing,
}

/// On cgroup v2.
pub fn v2(limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |controller, file, value, otherwise| settings.push(Setting { controller, file, value, otherwise });
    if let Some(bytes) = limits.memory_bytes {
        set("memory", "memory.max", bytes.to_string(), Otherwise::Refuse);
        set("memory", "memory.swap.max", "0".to_owned(), Otherwise::Nothing);
    }
    if let Some(millis) = limits.cpu_millis {
        set("cpu", "cpu.max", format!("{} {PERIOD_MICROS}", quota(millis)), Otherwise::Refuse);
    }
    if let Some(shares) = limits.cpu_shares {
        set("cpu", "cpu.weight", weight(shares).to_string(), Otherwise::Refuse);
    }
    if let Some(pids) = limits.pids {
        set("pids", "pids.max", pids.to_string(), Otherwise::Refuse);
    }
    for limit in &limits.io {
        set("io", "io.max", io(limit), Otherwise::Refuse);
    }
    settings
}

/// On cgroup v1. I/O limits are absent: `blkio` does not see buffered writes, so the limit would be none.
pub fn v1(limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |controller, file, value, otherwise| settings.push(Setting { controller, file, value, otherwise });
    if let Some(bytes) = limits.memory_bytes {
        // In this order: memory and swap together may never be less than memory alone.
        set("memory", "memory.limit_in_bytes", bytes.to_string(), Otherwise::Refuse);
        set("memory", "memory.memsw.limit_in_bytes", bytes.to_string(), Otherwise::NoSwappiness);
    }
    if let Some(millis) = limits.cpu_millis {
        set("cpu", "cpu.cfs_period_us", PERIOD_MICROS.to_string(), Otherwise::Refuse);
        set("cpu", "cpu.cfs_quota_us", quota(millis).to_string(), Otherwise::Refuse);
    }
    if let Some(shares) = limits.cpu_shares {
        set("cpu", "cpu.shares", shares.to_string(), Otherwise::Refuse);
    }
    if let Some(pids) = limits.pids {
        set("pids", "pids.max", pids.to_string(), Otherwise::Refuse);
    }
    settings
}

/// Microseconds in each period.
fn quota(millis: u64) -> u64 {
    millis.saturating_mul(PERIOD_MICROS / 1000)
}

/// The kernel's own conversion, as systemd and runc do it: 2..=262144 onto 1..=10000.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn io(limit: &IoLimit) -> String {
    let fields = [
        ("rbps", limit.read_bytes_per_sec),
        ("wbps", limit.write_bytes_per_sec),
        ("riops", limit.read_operations_per_sec),
        ("wiops", limit.write_operations_per_sec),
    ];
    let mut text = format!("{}:{}", limit.major, limit.minor);
    for (name, value) in fields {
        if let Some(value) = value {
            text.push_str(&format!(" {name}={value}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
    }

    #[test]
    fn both_versions() {
        let limits = Limits {
            memory_bytes: Some(64 << 20),
            cpu_millis: Some(500),
            cpu_shares: Some(1024),
            pids: Some(10),
            io: vec![IoLimit {
                major: 8,
                minor: 0,
                read_bytes_per_sec: Some(1),
                write_bytes_per_sec: None,
                read_operations_per_sec: None,
                write_operations_per_sec: Some(2),
            }],
        };
        let expected = [
            "memory.max=67108864",
            "memory.swap.max=0",
            "cpu.max=50000 100000",
            "cpu.weight=39",
            "pids.max=10",
            "io.max=8:0 rbps=1 wiops=2",
        ];
        assert_eq!(shown(&v2(&limits)), expected);
        let expected = [
            "memory.limit_in_bytes=67108864",
            "memory.memsw.limit_in_bytes=67108864",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
            "cpu.shares=1024",
            "pids.max=10",
        ];
        assert_eq!(shown(&v1(&limits)), expected);
        assert!(v2(&Limits::default()).is_empty() && v1(&Limits::default()).is_empty());
    }

    #[test]
    fn weights() {
        for (shares, expected) in [(2, 1), (1024, 39), (262_144, 10_000), (0, 1), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), expected);
        }
    }
}

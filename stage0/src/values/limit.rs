//! Resource limits: `--rlimit` and the `--io-*` flags.

use super::number;
use contract::kernel::Resource;
use contract::pod::Rlimit;
use std::path::PathBuf;

/// `NAME=SOFT[:HARD]`, with `nofile`, `RLIMIT_NOFILE`, and `unlimited` or `-1` for infinity.
pub(crate) fn rlimit(text: &str) -> Result<Rlimit, String> {
    let (name, value) = super::key_value(text)?;
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("RLIMIT_") { upper } else { format!("RLIMIT_{upper}") };
    let resource =
        Resource::from_name(&full).ok_or_else(|| format!("`{}` is not a resource limit", name.escape_debug()))?;
    let (soft, hard) = value.split_once(':').unwrap_or((&value, &value));
    let (soft, hard) = (bound(soft)?, bound(hard)?);
    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
        return Err(format!("the soft limit of `{}` is above the hard one", text.escape_debug()));
    }
    Ok(Rlimit { resource, soft, hard })
}

fn bound(text: &str) -> Result<Option<u64>, String> {
    match text {
        "unlimited" | "infinity" | "-1" => Ok(None),
        // The kernel's RLIM_INFINITY is u64::MAX; written as a number it would be a surprise.
        _ => number::integer(text, 0..=u64::MAX - 1).map(Some),
    }
}

/// A limit on one block device: `DEVICE=NUMBER`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeviceRate {
    /// A block device of the host.
    pub(crate) device: PathBuf,
    /// Bytes or operations per second.
    pub(crate) rate: u64,
}

/// `DEVICE=SIZE` (or `DEVICE:SIZE`), bytes per second.
pub(crate) fn device_bytes(text: &str) -> Result<DeviceRate, String> {
    device_rate(text, number::size)
}

/// `DEVICE=NUMBER` (or `DEVICE:NUMBER`), operations per second.
pub(crate) fn device_operations(text: &str) -> Result<DeviceRate, String> {
    device_rate(text, |rate| number::integer(rate, 1..=u64::MAX - 1))
}

fn device_rate(text: &str, parse: impl Fn(&str) -> Result<u64, String>) -> Result<DeviceRate, String> {
    let (device, rate) = text
        .rsplit_once(['=', ':'])
        .ok_or_else(|| format!("`{}` is not of the form DEVICE=RATE", text.escape_debug()))?;
    match parse(rate)? {
        0 => Err(format!("`{}`: a rate of nothing stops the app for ever", text.escape_debug())),
        rate => Ok(DeviceRate { device: super::path::absolute(device)?, rate }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rlimits() {
        let limit = rlimit("nofile=1024:4096").unwrap();
        assert_eq!((limit.resource, limit.soft, limit.hard), (Resource::Nofile, Some(1024), Some(4096)));
        let core = rlimit("RLIMIT_CORE=unlimited").unwrap();
        assert_eq!((core.soft, core.hard), (None, None));
        assert_eq!(rlimit("nproc=5").unwrap().hard, Some(5));
        for bad in
            ["", "nofile", "nofile=", "files=5", "nofile=10:5", "nofile=unlimited:5", "nofile=0x10", "nofile=1:2:3"]
        {
            assert!(rlimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(device_bytes("/dev/vda=10M"), Ok(DeviceRate { device: "/dev/vda".into(), rate: 10 << 20 }));
        assert_eq!(device_operations("/dev/vda:100").map(|limit| limit.rate), Ok(100));
        for bad in ["", "/dev/vda", "vda=1M", "/dev/vda=0"] {
            assert!(device_bytes(bad).is_err(), "{bad}");
        }
    }
}

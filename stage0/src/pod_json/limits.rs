//! Limits: the flags win over the image.

use crate::arguments::pod_flags::LimitFlags;
use crate::failure::Failure;
use crate::pod_json::DeviceNode;
use crate::pod_json::asks::Asks;
use crate::values::limit::DeviceRate;
use contract::pod::{DeviceKind, IoLimit, Limits};
use image_tools::config::Isolators;
use image_tools::trust::Allow;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// What a cgroup has when nobody says otherwise.
const CPU_SHARES_DEFAULT: u64 = 1024;

/// The limits of a pod (without an image) or of an app.
pub(crate) fn resolve(
    flags: &LimitFlags,
    image: Option<(&Isolators, &Asks<'_>)>,
    devices: &HashMap<PathBuf, DeviceNode>,
) -> Result<Limits, Failure> {
    // A weight outside the kernel's range in an image is brought into it: it is a wish, not a protection.
    let asks = image.map(|(_, asks)| asks);
    let image = image.map(|(image, _)| image);
    let image_shares = image.and_then(|image| image.cpu_shares).map(|shares| shares.clamp(2, 262_144));
    if let (None, Some(shares), Some(asks)) = (flags.cpu_shares, image_shares, asks)
        && shares > CPU_SHARES_DEFAULT
    {
        asks.require(&[Allow::CpuShares], &format!("{shares} CPU shares"), &format!("--cpu-shares={shares}"))?;
    }
    let image_memory = image.and_then(|image| image.memory_bytes);
    if image_memory.is_some_and(|bytes| bytes < 4096) {
        return Err(Failure::new("the image asks for a memory limit below 4Ki"));
    }
    Ok(Limits {
        memory_bytes: flags.memory.or(image_memory),
        cpu_millis: flags.cpu.or(image.and_then(|image| image.cpu_millis).map(|millis| millis.max(10))),
        cpu_shares: flags.cpu_shares.or(image_shares),
        pids: flags.pids.or(image.and_then(|image| image.pids)),
        io: io(flags, devices)?,
    })
}

/// Groups the four flags by device.
fn io(flags: &LimitFlags, devices: &HashMap<PathBuf, DeviceNode>) -> Result<Vec<IoLimit>, Failure> {
    type Field = fn(&mut IoLimit) -> &mut Option<u64>;
    let fields: [(&[DeviceRate], Field); 4] = [
        (&flags.io_read_bps, |limit| &mut limit.read_bytes_per_sec),
        (&flags.io_write_bps, |limit| &mut limit.write_bytes_per_sec),
        (&flags.io_read_iops, |limit| &mut limit.read_operations_per_sec),
        (&flags.io_write_iops, |limit| &mut limit.write_operations_per_sec),
    ];
    let mut limits: BTreeMap<(u32, u32), IoLimit> = BTreeMap::new();
    for (rates, field) in fields {
        for DeviceRate { device, rate } in rates {
            let shown = device.display();
            let node = devices.get(device).ok_or_else(|| Failure::new(format!("`{shown}` is not a device")))?;
            if node.kind != DeviceKind::Block {
                return Err(Failure::new(format!("`{shown}` is not a block device")));
            }
            let (major, minor) = (node.major, node.minor);
            let limit = limits.entry((major, minor)).or_insert(IoLimit {
                major,
                minor,
                read_bytes_per_sec: None,
                write_bytes_per_sec: None,
                read_operations_per_sec: None,
                write_operations_per_sec: None,
            });
            *field(limit) = Some(*rate);
        }
    }
    Ok(limits.into_values().collect())
}

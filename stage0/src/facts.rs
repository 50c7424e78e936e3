//! Asks the host what `pod.json` needs to know, and no more than this command line needs.

use crate::arguments::PodArguments;
use crate::failure::Failure;
use crate::lsm::Apparmor;
use crate::lsm::selinux::Selinux;
use crate::pod_json::asks::OfCaller;
use crate::pod_json::{DeviceNode, Facts, environment};
use crate::values::volume::VolumeFlag;
use anyhow::{Context, Result};
use contract::kernel::{Capability, Resource};
use contract::pod::{DeviceKind, VolumeSource};
use std::fs;
use std::io::{IsTerminal, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file of `--set-env-file`, `/etc/hosts` or `/etc/resolv.conf` is at most this long.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// systemd-resolved's list of the real servers; its stub on 127.0.0.53 is of no use in another network namespace.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Gathers.
pub(crate) fn gather(arguments: &PodArguments) -> Result<Facts> {
    let flags = &arguments.pod;
    let mut facts = Facts { now_unix_secs: now_unix_secs(), terminal: false, ..Facts::default() };
    let by_name = |app: &crate::arguments::AppArguments| app.flags.environment.iter().any(|(_, value)| value.is_none());
    if flags.inherit_env || flags.interactive || arguments.apps.iter().any(by_name) {
        facts.environment = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect();
    }
    if flags.interactive {
        facts.terminal = std::io::stdin().is_terminal();
    }
    for path in &flags.set_env_file {
        let text = read_text(path).with_context(|| format!("read environment file `{}`", path.display()))?;
        facts.environment_files.extend(environment::parse_file(&text, &path.display().to_string())?);
    }
    for volume in flags.volume.iter().chain(arguments.apps.iter().flat_map(|app| &app.flags.volume)) {
        resolve_source(volume, &mut facts)?;
    }
    let limits = arguments.apps.iter().map(|app| &app.flags.limits).chain([&flags.limits]);
    let rates = limits.flat_map(|limits| {
        [&limits.io_read_bps, &limits.io_write_bps, &limits.io_read_iops, &limits.io_write_iops].into_iter().flatten()
    });
    let devices = arguments.apps.iter().flat_map(|app| &app.flags.device).map(|flag| &flag.source);
    for path in devices.chain(rates.map(|rate| &rate.device)) {
        let node = device(path).with_context(|| format!("device `{}`", path.display()))?;
        facts.devices.insert(path.clone(), node);
    }
    facts.kernel = flags.machine.kernel.as_deref().map(kernel).transpose()?;
    facts.resolv_conf = resolv_conf(&flags.net)?;
    // On the host's network the host's names are the pod's; elsewhere only if the user says so.
    if flags.net == "host" || flags.hosts_entry.iter().any(|entry| entry == "host") {
        facts.hosts = optional_text(Path::new("/etc/hosts"))?;
    }
    facts.apparmor = Apparmor::look();
    facts.selinux = Selinux::look();
    facts.missing_capabilities = missing_capabilities();
    facts.caller = of_caller();
    Ok(facts)
}

/// Seconds since the epoch.
pub(crate) fn now_unix_secs() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A host volume is resolved once, here, by the rights and the view of who started pod.
fn resolve_source(volume: &VolumeFlag, facts: &mut Facts) -> Result<()> {
    let Some(VolumeSource::Host { source, .. }) = &volume.source else { return Ok(()) };
    let resolved = fs::canonicalize(source).map_err(|error| {
        let name = volume.name.as_ref().map_or_else(|| source.display().to_string(), ToString::to_string);
        let hint = match &volume.name {
            Some(name) => format!("create `{}` on the host, or use `--volume {name},kind=empty`", source.display()),
            None => format!("create `{}` on the host", source.display()),
        };
        crate::failure::advise(anyhow::Error::new(error).context(format!("volume `{name}`")), hint)
    })?;
    if resolved.to_str().is_none() {
        return Err(Failure::new(format!("volume source `{}` is not UTF-8", resolved.display())).into());
    }
    facts.sources.insert(source.clone(), resolved);
    Ok(())
}

fn device(path: &Path) -> Result<DeviceNode> {
    let metadata = fs::metadata(path)?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => DeviceKind::Character,
        kind if kind.is_block_device() => DeviceKind::Block,
        _ => return Err(Failure::new("it is not a device node").into()),
    };
    let number = metadata.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    Ok(DeviceNode { kind, major, minor, mode: metadata.mode() & 0o777 })
}

fn kernel(path: &Path) -> Result<PathBuf> {
    let resolved = fs::canonicalize(path).with_context(|| format!("guest kernel `{}`", path.display()))?;
    if !resolved.is_file() {
        return Err(Failure::new(format!("guest kernel `{}` is not a file", path.display())).into());
    }
    Ok(resolved)
}

fn resolv_conf(net: &str) -> Result<Option<String>> {
    let Some(text) = optional_text(Path::new("/etc/resolv.conf"))? else { return Ok(None) };
    if net != "host" && text.lines().any(|line| line.trim() == "nameserver 127.0.0.53") {
        return Ok(optional_text(Path::new(RESOLVED))?.or(Some(text)));
    }
    Ok(Some(text))
}

fn optional_text(path: &Path) -> Result<Option<String>> {
    match read_text(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read `{}`", path.display())),
    }
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let length = fs::File::open(path)?.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text)? as u64;
    if length > TEXT_BYTES_MAX {
        return Err(std::io::Error::other(format!("longer than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// From what the apps begin.
fn of_caller() -> OfCaller {
    let score = fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok());
    let limit = |resource: &Resource| Some((*resource as u32, crate::sys::hard_limit(*resource as u32)?));
    OfCaller { hard_limits: Resource::ALL.iter().filter_map(limit).collect(), oom_score_adj: score.unwrap_or(0) }
}

/// Capabilities that this process cannot pass on: they are not in its permitted set.
fn missing_capabilities() -> Vec<Capability> {
    let own = rustix::thread::capabilities(None).map_or(u64::MAX, |sets| sets.permitted.bits());
    Capability::ALL.iter().copied().filter(|capability| own & 1 << capability.number() == 0).collect()
}

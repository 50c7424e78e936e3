//! Command line + image configurations → `pod.json`. Pure: what must be asked of the host is in [`Facts`], which the edge
//! filled in before. All defaults of pod end here; no later stage has any.

pub(crate) mod app;
pub(crate) mod asks;
pub(crate) mod confinement;
pub(crate) mod devices;
pub(crate) mod environment;
pub(crate) mod files;
pub(crate) mod label;
pub(crate) mod limits;
pub(crate) mod volumes;

use crate::arguments::PodArguments;
use crate::arguments::pod_flags::IpcFlag;
use crate::failure::Failure;
use crate::lsm::Apparmor;
use crate::lsm::selinux::Selinux;
use crate::values::sets::Insecure;
use contract::features::Feature;
use contract::name::{AppName, PodUuid};
use contract::pod::{DeviceKind, IdRange, Ipc, Machine, Network, Pod, Trust};
use image_tools::config::ImageConfig;
use image_tools::trust::Allow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

/// An image that may run, in the words that `pod.json` needs.
#[derive(Debug)]
pub(crate) struct AppImage {
    /// `sha256:…`
    pub(crate) id: String,
    /// Without version.
    pub(crate) name: String,
    /// Last component of the name.
    pub(crate) base: String,
    /// Version or tag.
    pub(crate) version: Option<String>,
    /// Its configuration.
    pub(crate) config: ImageConfig,
    /// Unpacked layers, lowest first.
    pub(crate) layers: Vec<PathBuf>,
    /// Why it may run.
    pub(crate) trust: Trust,
    /// What it may have beyond the defaults, by the rules that accepted its signature.
    pub(crate) allowed: Vec<Allow>,
}

/// A device node of the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DeviceNode {
    /// Character or block.
    pub(crate) kind: DeviceKind,
    /// Major number.
    pub(crate) major: u32,
    /// Minor number.
    pub(crate) minor: u32,
    /// Permission bits.
    pub(crate) mode: u32,
}

/// What the host said, as far as this command line asks.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Seconds since the epoch.
    pub(crate) now_unix_secs: u64,
    /// Of the caller, in order.
    pub(crate) environment: Vec<(String, String)>,
    /// Lines of `--set-env-file`, in order.
    pub(crate) environment_files: Vec<(String, String)>,
    /// Resolved sources of host volumes, by what was typed.
    pub(crate) sources: HashMap<PathBuf, PathBuf>,
    /// Devices, by what was typed.
    pub(crate) devices: HashMap<PathBuf, DeviceNode>,
    /// The host's `/etc/resolv.conf`.
    pub(crate) resolv_conf: Option<String>,
    /// The host's `/etc/hosts`.
    pub(crate) hosts: Option<String>,
    /// The caller's standard input is a terminal.
    pub(crate) terminal: bool,
    /// The leased range of user ids.
    pub(crate) id_range: Option<IdRange>,
    /// Absolute path of `--kernel`.
    pub(crate) kernel: Option<PathBuf>,
    /// AppArmor of the host.
    pub(crate) apparmor: Apparmor,
    /// SELinux of the host.
    pub(crate) selinux: Selinux,
    /// What the stage1 can do.
    pub(crate) stage1: BTreeSet<Feature>,
    /// Limits of the process that started pod.
    pub(crate) caller: asks::OfCaller,
    /// Capabilities that pod itself has not, so that it cannot give them.
    pub(crate) missing_capabilities: Vec<contract::kernel::Capability>,
}

/// The pod that was asked for.
pub(crate) fn build(
    uuid: PodUuid,
    arguments: &PodArguments,
    images: Vec<AppImage>,
    insecure: Insecure,
    facts: &Facts,
    debug: bool,
) -> Result<Pod, Failure> {
    let flags = &arguments.pod;
    if arguments.apps.len() > contract::APPS_MAX {
        return Err(Failure::usage(format!("a pod has at most {} apps", contract::APPS_MAX)));
    }
    if flags.interactive && arguments.apps.len() > 1 {
        return Err(Failure::usage("`--interactive` supports one app only")
            .hint("`--stdin=inherit` after an image gives one app of several the standard input"));
    }
    let hostname = files::hostname(flags, &uuid)?;
    let network = network(&flags.net)?;
    if network == Network::Joined && flags.private_users {
        return Err(Failure::new("`--private-users` cannot be combined with `--net=ns:`")
            .hint("only the users who made a network namespace may mount its sysfs or set its parameters"));
    }
    let shared = environment::shared(flags, facts)?;
    let mut volumes = volumes::Volumes::declare(flags, &facts.sources)?;
    let mut apps = Vec::with_capacity(images.len());
    let mut names: HashSet<AppName> = HashSet::new();
    let mut sysctls = BTreeMap::new();
    for (asked, image) in arguments.apps.iter().zip(images) {
        for (key, value) in image.config.app.iter().flat_map(|app| &app.isolators.sysctls) {
            sysctls.extend([sysctl_of_image(key, value)?]);
        }
        let context = app::Context { flags, insecure, facts, shared: &shared, hostname: &hostname, uuid: &uuid };
        let app = app::build(&context, asked, image, &mut volumes)?;
        if !names.insert(app.name.clone()) {
            return Err(Failure::usage(format!("two apps are named `{}`", app.name))
                .hint("name one of them: `IMAGE --name NAME`"));
        }
        apps.push(app);
    }
    sysctls.extend(flags.sysctl.iter().cloned());
    refuse_host_sysctls(&sysctls, &network, flags.ipc)?;
    Ok(Pod {
        version: contract::json::Version,
        name: flags.name.clone(),
        created_unix_secs: facts.now_unix_secs,
        hosts: files::hosts(flags, &hostname, &network, facts)?,
        resolv_conf: files::resolv_conf(flags, facts)?,
        hostname,
        apps,
        volumes: volumes.into_list(),
        network,
        ipc: if flags.ipc == IpcFlag::Host { Ipc::Host } else { Ipc::Private },
        private_users: facts.id_range,
        // What a stage1 lacks is known only when it is asked; see `Located::waive`.
        waived: BTreeSet::new(),
        sysctls,
        limits: limits::resolve(&flags.limits, None, &facts.devices)?,
        machine: machine(arguments, facts, debug),
        annotations: flags.annotation.iter().cloned().collect(),
        uuid,
    })
}

/// An image's wish is checked and spelled as a user's is: it must not reach the host's own parameters, nor be another key.
fn sysctl_of_image(key: &str, value: &str) -> Result<(String, String), Failure> {
    crate::values::process::sysctl(&format!("{key}={value}")).map_err(Failure::new)
}

/// `none`, `host` and the namespace of somebody else; the rest needs a network that this version cannot make.
fn network(text: &str) -> Result<Network, Failure> {
    match text {
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        other if crate::network::path(other).is_some() => Ok(Network::Joined),
        other => Err(Failure::new(format!("network `{}` is not known", other.escape_debug())).hint(
            "`--net=none` has loopback only, `--net=host` is the host's network, `--net=ns:PATH` a namespace of yours",
        )),
    }
}

/// A namespaced parameter is the host's own where the pod shares the namespace.
fn refuse_host_sysctls(sysctls: &BTreeMap<String, String>, network: &Network, ipc: IpcFlag) -> Result<(), Failure> {
    for key in sysctls.keys() {
        let (shared, flag) = match key.starts_with("net.") {
            true => (*network == Network::Host, "--net=host"),
            false => (ipc == IpcFlag::Host, "--ipc=host"),
        };
        if shared {
            return Err(Failure::new(format!("sysctl `{key}` would change the host, because of `{flag}`")));
        }
    }
    Ok(())
}

fn machine(arguments: &PodArguments, facts: &Facts, debug: bool) -> Option<Machine> {
    let flags = &arguments.pod.machine;
    let machine = Machine {
        hypervisor: flags.hypervisor.clone(),
        kernel: facts.kernel.clone(),
        kernel_arguments: flags
            .kernel_args
            .iter()
            .flat_map(|words| words.split_whitespace())
            .map(str::to_owned)
            .collect(),
        memory_bytes: flags.vm_memory,
        cpus: flags.vm_cpus,
        debug,
    };
    (machine != Machine::default()).then_some(machine)
}

//! One app of `pod.json`: the image's configuration under the user's flags.

use super::asks::{self, Asks};
use super::environment::{self, Own, Shared};
use super::volumes::{self, Volumes};
use super::{AppImage, Facts, confinement, label, limits};
use crate::arguments::AppArguments;
use crate::arguments::app_flags::AppFlags;
use crate::arguments::pod_flags::PodFlags;
use crate::failure::Failure;
use crate::values::process::Stdin;
use crate::values::sets::Insecure;
use crate::values::{signal, user};
use contract::kernel::Resource;
use contract::name::{AppName, PodUuid};
use contract::pod::{App, Device, Image, Restart, RestartPolicy, Rlimit, Root, Stdio, Stop, Trust};
use image_tools::config;
use image_tools::trust::Allow;
use std::path::{Path, PathBuf};

/// SIGTERM, as every init sends it.
const STOP_SIGNAL: i32 = 15;
/// podman's and docker's time between the stop signal and SIGKILL.
const STOP_GRACE_MILLIS: u64 = 10_000;

/// What is the same for all apps.
pub(crate) struct Context<'a> {
    /// Flags of the pod.
    pub(crate) flags: &'a PodFlags,
    /// What the user gave up.
    pub(crate) insecure: Insecure,
    /// What the host said.
    pub(crate) facts: &'a Facts,
    /// Environment for all apps.
    pub(crate) shared: &'a Shared,
    /// The pod's.
    pub(crate) hostname: &'a str,
    /// The pod's.
    pub(crate) uuid: &'a PodUuid,
}

/// Resolves one app.
pub(crate) fn build(
    context: &Context<'_>,
    asked: &AppArguments,
    image: AppImage,
    volumes: &mut Volumes,
) -> Result<App, Failure> {
    let flags = &asked.flags;
    let none = config::App { user: "0".to_owned(), working_directory: "/".to_owned(), ..config::App::default() };
    let of_image = image.config.app.as_ref().unwrap_or(&none);
    let isolators = Some(&of_image.isolators);
    let prefix = match &image.trust {
        Trust::Signature { prefix, keys, .. } if !keys.is_empty() => Some(prefix.as_str()),
        _ => None,
    };
    let asks = Asks::new(prefix, &image.allowed);
    let name = name(flags, &image)?;
    let mounts = volumes.of_app(&name, flags, &of_image.mount_points)?;
    flags.tmpfs.iter().try_for_each(|tmpfs| volumes::refuse_kernel_paths(&name, &tmpfs.target))?;
    let (masked_paths, read_only_paths) = confinement::paths(context.insecure);
    let (user, group) = identity(flags, of_image)?;
    let stdio = stdio(context, flags);
    let missing = &context.facts.missing_capabilities;
    let capabilities = confinement::capabilities(flags, isolators, &asks, context.insecure, missing)?;
    let seccomp = confinement::seccomp(flags, isolators, &asks, &capabilities, context.insecure)?;
    let rlimits = rlimits(flags, of_image, &asks, context.facts)?;
    let oom_score_adj = oom_score_adj(flags, of_image, &asks, context.facts)?;
    require_sysctls(context.flags, of_image, &asks)?;
    let limits = limits::resolve(&flags.limits, isolators.map(|isolators| (isolators, &asks)), &context.facts.devices)?;
    Ok(App {
        exec: exec(flags, of_image, &asked.arguments, &image)?,
        user,
        group,
        // A user of the command line does not get the groups that the image chose for its own.
        supplementary_gids: match flags.supplementary_gids.is_empty() && flags.user.is_none() {
            true => of_image.supplementary_gids.clone(),
            false => flags.supplementary_gids.clone(),
        },
        working_directory: working_directory(flags, of_image)?,
        environment: environment(context, flags, of_image, &name, stdio),
        mounts,
        tmpfs: flags.tmpfs.clone(),
        devices: devices(flags, context.facts)?,
        masked_paths,
        read_only_paths,
        capabilities,
        no_new_privileges: flags.no_new_privs.or(of_image.isolators.no_new_privileges).unwrap_or(false),
        seccomp,
        label: label::resolve(flags, context.insecure, context.facts, context.uuid)?,
        rlimits,
        limits,
        oom_score_adj,
        restart: flags.restart.unwrap_or(Restart { policy: RestartPolicy::No, attempts_max: 0, delay_millis: 0 }),
        stop: stop(flags, of_image)?,
        stdio,
        notify: flags.notify,
        annotations: flags.annotation.iter().cloned().collect(),
        root: Root { layers: image.layers, block: None, read_only: flags.readonly_rootfs.unwrap_or(false) },
        image: Image {
            trust: granted(image.trust.clone(), &asks),
            id: image.id,
            name: image.name,
            version: image.version,
        },
        name,
    })
}

/// `--name`, or the last component of the image's name, made a DNS label.
fn name(flags: &AppFlags, image: &AppImage) -> Result<AppName, Failure> {
    if let Some(name) = &flags.name {
        return Ok(name.clone());
    }
    let label: String = image
        .base
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' })
        .take(contract::name::NAME_BYTES_MAX)
        .collect();
    AppName::parse(label.trim_matches('-')).map_err(|error| {
        Failure::new(format!("name the app after image `{}`: {error}", crate::escape::escape(&image.name)))
            .hint("give it a name: `IMAGE --name NAME`")
    })
}

/// The image's program with the user's arguments.
fn exec(flags: &AppFlags, app: &config::App, arguments: &[String], image: &AppImage) -> Result<Vec<String>, Failure> {
    let mut exec = match (&flags.exec, app.default_arguments_at) {
        (Some(program), _) => vec![program.clone()],
        (None, Some(at)) if !arguments.is_empty() => app.exec.iter().take(at).cloned().collect(),
        (None, _) => app.exec.clone(),
    };
    exec.extend(arguments.iter().cloned());
    if exec.first().is_none_or(String::is_empty) {
        let name = crate::escape::escape(&image.name).into_owned();
        return Err(Failure::new(format!("image `{name}` does not say which program to run"))
            .hint("name one: `IMAGE --exec PROGRAM` or `IMAGE -- PROGRAM ARGUMENTS`"));
    }
    if exec.iter().any(|word| word.contains('\0')) {
        return Err(Failure::new("a NUL in the program's arguments"));
    }
    Ok(exec)
}

/// User and group. A user of the command line comes with its own group, not with the one that the image chose for its.
fn identity(flags: &AppFlags, app: &config::App) -> Result<(String, Option<String>), Failure> {
    let of_image = |error: String| Failure::new(format!("the image's user: {error}"));
    let (user, group) = match &flags.user {
        Some((user, group)) => (user.clone(), group.clone()),
        None => {
            let user = if app.user.is_empty() { "0" } else { &app.user };
            let group = app.group.as_deref().filter(|group| !group.is_empty());
            (user::spec(user).map_err(of_image)?, group.map(user::spec).transpose().map_err(of_image)?)
        }
    };
    match (&flags.group, group) {
        (Some(_), Some(_)) if flags.user.as_ref().is_some_and(|(_, group)| group.is_some()) => {
            Err(Failure::usage("the group is given twice, in `--user` and in `--group`"))
        }
        (Some(group), _) => Ok((user, Some(group.clone()))),
        (None, group) => Ok((user, group)),
    }
}

/// Absolute, and not a place of the kernel's: `/proc/self/fd/N` was a way out (CVE-2024-21626).
fn working_directory(flags: &AppFlags, app: &config::App) -> Result<PathBuf, Failure> {
    let text = match &flags.working_dir {
        Some(directory) => directory.as_str(),
        None if app.working_directory.is_empty() => "/",
        None => &app.working_directory,
    };
    let shown = text.escape_debug();
    let path: PathBuf = Path::new(text).components().collect();
    if !path.is_absolute() || text.contains('\0') {
        return Err(Failure::new(format!("working directory `{shown}` is not an absolute path")));
    }
    if path.starts_with("/proc") {
        return Err(Failure::new(format!("working directory `{shown}` is in /proc")));
    }
    Ok(path)
}

fn environment(
    context: &Context<'_>,
    flags: &AppFlags,
    app: &config::App,
    name: &AppName,
    stdio: Stdio,
) -> Vec<(String, String)> {
    let mut defaults = vec![
        ("HOSTNAME".to_owned(), context.hostname.to_owned()),
        ("AC_APP_NAME".to_owned(), name.to_string()),
        // systemd and many scripts ask this variable whether they run in a container.
        ("container".to_owned(), "pod".to_owned()),
    ];
    if stdio == Stdio::Tty {
        let term = context.facts.environment.iter().find(|(key, _)| key == "TERM");
        defaults.push(("TERM".to_owned(), term.map_or("xterm", |(_, value)| value).to_owned()));
    }
    environment::resolve(
        context.shared,
        &Own { image: &app.environment, flags: &flags.environment, defaults },
        context.facts,
    )
}

fn devices(flags: &AppFlags, facts: &Facts) -> Result<Vec<Device>, Failure> {
    flags
        .device
        .iter()
        .map(|flag| {
            let shown = flag.source.display().to_string();
            let node = facts
                .devices
                .get(&flag.source)
                .ok_or_else(|| Failure::new(format!("`{}` is not a device of the host", shown.escape_debug())))?;
            Ok(Device {
                path: flag.path.clone(),
                kind: node.kind,
                major: node.major,
                minor: node.minor,
                read: flag.read,
                write: flag.write,
                mknod: flag.mknod,
                mode: node.mode,
            })
        })
        .collect()
}

/// The trust of an image, with what its rule had to allow.
fn granted(mut trust: Trust, asks: &Asks<'_>) -> Trust {
    if let Trust::Signature { granted, .. } = &mut trust {
        *granted = asks.granted();
    }
    trust
}

/// A lower value makes the kernel kill other processes of the host first.
fn oom_score_adj(flags: &AppFlags, app: &config::App, asks: &Asks<'_>, facts: &Facts) -> Result<Option<i32>, Failure> {
    let asked = app.isolators.oom_score_adjust;
    if let (None, Some(score)) = (flags.oom_score_adj, asked)
        && score < facts.caller.oom_score_adj
    {
        let what = format!("an OOM score adjustment of {score}");
        asks.require(&[Allow::OomScore], &what, &format!("--oom-score-adj={score}"))?;
    }
    Ok(flags.oom_score_adj.or(asked))
}

/// Kernel parameters are the pod's, so that of one app they are another's, too.
fn require_sysctls(flags: &PodFlags, app: &config::App, asks: &Asks<'_>) -> Result<(), Failure> {
    for (key, value) in &app.isolators.sysctls {
        let (key, value) = super::sysctl_of_image(key, value)?;
        if !flags.sysctl.iter().any(|(given, _)| *given == key) {
            let flag = format!("--sysctl={}", asks::quoted(&format!("{key}={value}")));
            asks.require(&[Allow::Sysctl(key.clone())], &format!("the sysctl `{key}`"), &flag)?;
        }
    }
    Ok(())
}

/// The image's, each replaced by a flag for the same resource. An image can lower a hard limit, not raise the caller's.
fn rlimits(flags: &AppFlags, app: &config::App, asks: &Asks<'_>, facts: &Facts) -> Result<Vec<Rlimit>, Failure> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for limit in &app.isolators.rlimits {
        let resource = Resource::from_name(&limit.resource).ok_or_else(|| {
            Failure::new(format!("the image limits `{}`, which is no resource", limit.resource.escape_debug()))
        })?;
        let most = facts.caller.hard_limits.get(&(resource as u32)).copied().unwrap_or(u64::MAX);
        let by_flag = flags.rlimit.iter().any(|known| known.resource == resource);
        if !by_flag && limit.hard.unwrap_or(u64::MAX) > most {
            let name = limit.resource.trim_start_matches("RLIMIT_");
            let text = |value: Option<u64>| value.map_or_else(|| "unlimited".to_owned(), |value| value.to_string());
            let flag = format!("--rlimit={name}={}:{}", text(limit.soft), text(limit.hard));
            let what = format!("a hard limit {} above {most}", limit.resource);
            asks.require(&[Allow::Rlimit(name.to_owned())], &what, &flag)?;
        }
        limits.push(Rlimit { resource, soft: limit.soft, hard: limit.hard });
    }
    for limit in &flags.rlimit {
        limits.retain(|known| known.resource != limit.resource);
        limits.push(limit.clone());
    }
    Ok(limits)
}

fn stop(flags: &AppFlags, app: &config::App) -> Result<Stop, Failure> {
    let of_image = |error| Failure::new(format!("the image's stop signal: {error}"));
    let signal = match (flags.stop_signal, &app.stop_signal) {
        (Some(signal), _) => signal,
        (None, Some(name)) => signal::parse(name).map_err(of_image)?,
        (None, None) => STOP_SIGNAL,
    };
    Ok(Stop { signal, grace_millis: flags.stop_timeout.unwrap_or(STOP_GRACE_MILLIS) })
}

fn stdio(context: &Context<'_>, flags: &AppFlags) -> Stdio {
    match (context.flags.interactive, context.facts.terminal) {
        (true, true) => Stdio::Tty,
        (interactive, _) => Stdio::Inherit { stdin: interactive || flags.stdin == Some(Stdin::Inherit) },
    }
}

#[cfg(test)]
mod tests;

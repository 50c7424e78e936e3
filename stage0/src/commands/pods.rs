//! Commands about pods that are there: list, status, rm, gc, cat-manifest.

use crate::arguments::commands::{CatManifest, Format, Gc, List, PodsArgument, Remove, Status};
use crate::arguments::globals::Globals;
use crate::escape::escape;
use crate::facts::now_unix_secs;
use crate::failure::Failure;
use crate::life::pods::{PodDir, Pods};
use crate::life::supervisor;
use crate::life::view::{AppView, View, view};
use crate::life::{find, gc};
use crate::output::{self, Table};
use crate::stage1;
use anyhow::{Context, Result};
use contract::control::{Reply, Request};
use contract::dir::Phase;
use contract::status::AppEnd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `pod list`
pub(crate) fn list(globals: &Globals, arguments: &List) -> Result<()> {
    let mut views = Vec::new();
    if let Some(pods) = Pods::open_existing(&globals.dir)? {
        for phase in Phase::ALL {
            for uuid in pods.uuids(phase)? {
                if let Some(pod) = pods.open_pod(phase, &uuid)? {
                    views.push(view(&pod)?);
                }
            }
        }
    }
    // A pod that moved on while the phases were read was met twice; the later phase is the true one.
    views.reverse();
    let mut seen = std::collections::HashSet::new();
    views.retain(|view| seen.insert(view.uuid.clone()));
    views.sort_by(|a, b| a.created_unix_secs.cmp(&b.created_unix_secs).then_with(|| a.uuid.cmp(&b.uuid)));
    match arguments.format.format {
        Format::Table => output::print(&table(&views, arguments).render()),
        format => output::print_json(&views, format),
    }
}

fn table(views: &[View], arguments: &List) -> Table {
    let titles = ["UUID", "NAME", "APP", "IMAGE", "STATE", "CREATED", "STARTED", "NETWORK"];
    let mut table = Table::new(&titles, arguments.no_legend);
    let (full, now) = (arguments.full, now_unix_secs());
    for view in views {
        let uuid = if full { view.uuid.as_str() } else { &view.uuid.as_str()[..8] };
        let mut pod = [
            uuid.to_owned(),
            view.name.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            view.state.word().to_owned(),
            output::time(view.created_unix_secs, now, full),
            output::time(view.started_unix_secs, now, full),
            view.network.unwrap_or("-").to_owned(),
        ];
        if view.apps.is_empty() {
            let [uuid, name, state, created, started, network] = pod.clone();
            table.row([uuid, name, "-".to_owned(), "-".to_owned(), state, created, started, network]);
        }
        for app in &view.apps {
            let [uuid, name, state, created, started, network] = pod.clone();
            table.row([uuid, name, app.name.to_string(), image(view, app, full), state, created, started, network]);
            // What is about the pod stands in its first row only.
            pod = Default::default();
        }
    }
    table
}

/// The image's name, its id with `--full`, and a mark if nobody vouched for it or the pod runs with less isolation than others.
fn image(view: &View, app: &AppView, full: bool) -> String {
    let image = &app.image;
    let version = image.version.as_ref().map_or_else(String::new, |version| format!(":{version}"));
    let id = if full { format!("@{}", image.id) } else { String::new() };
    let insecure = image.trust == contract::pod::Trust::Insecure || !view.waived.is_empty();
    let mark = if insecure { " (insecure)" } else { "" };
    let more = match app.more.as_slice() {
        [] => String::new(),
        more if full => format!(" (more than the default: {})", more.join(", ")),
        _ => " (more than the default)".to_owned(),
    };
    format!("{}{version}{id}{mark}{more}", image.name)
}

/// The pods that are named, by argument or by file.
pub(super) fn named(globals: &Globals, argument: &PodsArgument) -> Result<(Pods, Vec<PodDir>)> {
    let mut texts = argument.pods.clone();
    for path in &argument.uuid_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("read the UUID in `{}`", path.display()))?;
        texts.push(text.trim().to_owned());
    }
    if texts.is_empty() {
        return Err(Failure::usage("no pod is named")
            .hint("name it by its name, UUID, or the start of its UUID")
            .into());
    }
    let pods = Pods::open(&globals.dir)?;
    let found = texts.iter().map(|text| find::find(&pods, text)).collect::<Result<_>>()?;
    Ok((pods, found))
}

/// `pod status`
pub(crate) fn status(globals: &Globals, arguments: &Status) -> Result<()> {
    let (pods, found) = named(globals, &arguments.pods)?;
    let mut views = Vec::new();
    for pod in found {
        if arguments.wait_ready {
            wait_ready(&pod)?;
        }
        if arguments.wait {
            pod.wait_unlocked()?;
        }
        // Opened again: a pod that was waited for may have moved on.
        views.push(view(&find::find(&pods, pod.uuid.as_str())?)?);
    }
    match (arguments.format.format, views.as_slice()) {
        (Format::Table, views) => output::print(&views.iter().map(status_text).collect::<Vec<_>>().join("\n")),
        (format, [one]) => output::print_json(one, format),
        (format, several) => output::print_json(&several, format),
    }
}

fn status_text(view: &View) -> String {
    let mut lines = vec![format!("uuid={}", view.uuid), format!("state={}", view.state.word())];
    let optional = [
        ("name", view.name.as_ref().map(ToString::to_string)),
        ("created", view.created_unix_secs.map(|secs| output::time(Some(secs), 0, true))),
        ("started", view.started_unix_secs.map(|secs| output::time(Some(secs), 0, true))),
        ("network", view.network.map(str::to_owned)),
        ("waived", (!view.waived.is_empty()).then(|| stage1::names(&view.waived))),
        ("more", (!view.more.is_empty()).then(|| view.more.join(", "))),
        ("exit-code", view.exit_code.map(|code| code.to_string())),
    ];
    lines.extend(optional.into_iter().filter_map(|(key, value)| value.map(|value| format!("{key}={value}"))));
    for app in &view.apps {
        let how = match app.status.as_ref().and_then(|status| status.end.as_ref()) {
            Some(AppEnd::Signal(signal)) => {
                let cause = app.status.as_ref().and_then(|status| status.cause.as_deref());
                let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
                format!("{} (signal {signal}{cause})", app.exit_code.unwrap_or_default())
            }
            Some(AppEnd::Failed { exit, message }) => format!("{exit} ({message})"),
            Some(AppEnd::Code(code)) => code.to_string(),
            None => app.state.to_owned(),
        };
        lines.push(format!("app-{}={}", app.name, escape(&how)));
        lines.push(format!("image-{}={}", app.name, escape(&image(view, app, true))));
    }
    for (key, value) in &view.annotations {
        lines.push(format!("annotation-{}={}", escape(key), escape(value)));
    }
    lines.join("\n") + "\n"
}

/// Asks the supervisor until it says that the pod is ready, or the pod is over.
fn wait_ready(pod: &PodDir) -> Result<()> {
    let mut pause = Duration::from_millis(1);
    loop {
        if !pod.is_locked()? {
            return Err(Failure::new(format!("pod `{}` is not running", pod.uuid)).into());
        }
        if let Some(connection) = supervisor::connect(pod)? {
            connection.send(&Request::Status, &[])?;
            if matches!(connection.receive()?, Some((Reply::Status { ready: true, .. }, _))) {
                return Ok(());
            }
        }
        // The contract has no event for readiness. Most apps are ready within milliseconds; who takes longer is asked ten times a
        // second at most.
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// `pod rm`
pub(crate) fn remove(globals: &Globals, arguments: &Remove) -> Result<()> {
    let (pods, found) = named(globals, &arguments.pods)?;
    for mut pod in found {
        let context = format!("remove pod `{}`", pod.uuid);
        if !pod.lock_unless_held()? {
            let what = pod.state()?.word();
            return Err(anyhow::Error::new(
                Failure::new(format!("pod is {what}"))
                    .hint(format!("`pod stop {}` stops a running pod", &pod.uuid.as_str()[..8])),
            )
            .context(context));
        }
        if !gc::is_there(&pods, &pod)? {
            // gc was faster; what the user wants is so.
            output::print(&format!("{}\n", pod.uuid))?;
            continue;
        }
        if pod.phase != Phase::ExitedGarbage {
            let to = if pod.phase == Phase::Run { Phase::ExitedGarbage } else { Phase::Garbage };
            pods.advance(&mut pod, to)?;
        }
        gc::remove(&pods, &pod).context(context)?;
        output::print(&format!("{}\n", pod.uuid))?;
    }
    Ok(())
}

/// `pod gc`
pub(crate) fn collect(globals: &Globals, arguments: &Gc) -> Result<()> {
    let Some(pods) = Pods::open_existing(&globals.dir)? else { return Ok(()) };
    let policy = gc::Policy {
        grace: Duration::from_millis(arguments.grace_period),
        expire_prepared: Duration::from_millis(arguments.expire_prepared),
        mark_only: arguments.mark_only,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let outcome = gc::collect(&pods, policy, now)?;
    for uuid in &outcome.removed {
        output::print(&format!("{uuid}\n"))?;
    }
    let count = outcome.faults.len();
    match outcome.faults.into_iter().next() {
        None => Ok(()),
        Some((uuid, error)) if count == 1 => Err(error.context(format!("pod `{uuid}`"))),
        Some((uuid, error)) => {
            Err(error.context(format!("{count} pods could not be collected, the first is `{uuid}`")))
        }
    }
}

/// `pod cat-manifest`
pub(crate) fn cat_manifest(globals: &Globals, arguments: &CatManifest) -> Result<()> {
    let pods = Pods::open(&globals.dir)?;
    let pod = find::find(&pods, &arguments.pod)?;
    let manifest: Option<serde_json::Value> = pod.read(contract::dir::POD)?;
    let manifest = manifest.ok_or_else(|| Failure::new(format!("pod `{}` has no pod.json yet", pod.uuid)))?;
    output::print_json(&manifest, if arguments.pretty_print { Format::JsonPretty } else { Format::Json })
}

//! What can be said about a pod, from its directory alone. Nothing here trusts the pod: texts are escaped when printed.

use super::pods::PodDir;
use crate::more::{self, Confinement};
use anyhow::Result;
use contract::dir::{PID, POD, Phase, STATUS, State};
use contract::features::Feature;
use contract::name::{AppName, PodName, PodUuid};
use contract::pod::{Image, Ipc, Network};
use contract::status::{AppEnd, AppStatus};
use rustix::fs::{AtFlags, statat};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A pod as `pod list` and `pod status` show it.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    /// Identity.
    pub(crate) uuid: PodUuid,
    /// The user's name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<PodName>,
    /// Phase and lock.
    pub(crate) state: State,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created_unix_secs: Option<u64>,
    /// When its supervisor started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) started_unix_secs: Option<u64>,
    /// The code of the app that failed first, else 0; known when all apps have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<u8>,
    /// `none`, `host` or `joined`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<&'static str>,
    /// What of the isolation the user gave up.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) waived: BTreeSet<Feature>,
    /// What all its apps share beyond the defaults.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) more: Vec<String>,
    /// In the order of the command line.
    pub(crate) apps: Vec<AppView>,
    /// The user's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// An app in a [`View`].
#[derive(Debug, Serialize)]
pub(crate) struct AppView {
    /// Unique in the pod.
    pub(crate) name: AppName,
    /// Where its root came from, and why it may run.
    pub(crate) image: Image,
    /// What it has beyond the defaults.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) more: Vec<String>,
    /// prepared, running, exited or unknown.
    pub(crate) state: &'static str,
    /// How it ended, as one number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<u8>,
    /// What stage1 recorded.
    #[serde(flatten)]
    pub(crate) status: Option<AppStatus>,
    /// The user's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The part of `pod.json` that is shown; skipping the rest is most of the speed of `pod list`.
#[derive(Debug, Deserialize)]
struct Summary {
    name: Option<PodName>,
    created_unix_secs: u64,
    network: Network,
    #[serde(default)]
    waived: BTreeSet<Feature>,
    ipc: Ipc,
    #[serde(default)]
    sysctls: BTreeMap<String, String>,
    apps: Vec<AppSummary>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct AppSummary {
    name: AppName,
    image: Image,
    #[serde(flatten)]
    confinement: Confinement,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Looks at one pod.
pub(crate) fn view(pod: &PodDir) -> Result<View> {
    let state = pod.state()?;
    // A pod that is being made has no pod.json yet; one that is being deleted, no longer.
    let summary: Option<Summary> = pod.read(POD).unwrap_or(None);
    let mut view = View {
        uuid: pod.uuid.clone(),
        name: None,
        state,
        created_unix_secs: None,
        started_unix_secs: None,
        exit_code: None,
        network: None,
        waived: BTreeSet::new(),
        more: Vec::new(),
        apps: Vec::new(),
        annotations: BTreeMap::new(),
    };
    let Some(summary) = summary else { return Ok(view) };
    view.name = summary.name;
    view.created_unix_secs = Some(summary.created_unix_secs);
    view.annotations = summary.annotations;
    view.waived = summary.waived;
    let trusts: Vec<_> = summary.apps.iter().map(|app| &app.image.trust).collect();
    view.more = more::shared(&summary.network, summary.ipc, &summary.sysctls, &trusts);
    view.network = Some(match summary.network {
        Network::None => "none",
        Network::Host => "host",
        Network::Joined => "joined",
    });
    if matches!(pod.phase, Phase::Run | Phase::ExitedGarbage) {
        view.started_unix_secs =
            statat(pod.fd(), PID, AtFlags::SYMLINK_NOFOLLOW).ok().and_then(|stat| u64::try_from(stat.st_mtime).ok());
    }
    view.apps = summary.apps.into_iter().map(|app| app_view(pod, state, app)).collect();
    view.exit_code = exit_code(&view.apps);
    Ok(view)
}

fn app_view(pod: &PodDir, state: State, app: AppSummary) -> AppView {
    let status = matches!(pod.phase, Phase::Run | Phase::ExitedGarbage).then(|| status(pod, &app.name)).flatten();
    let end = status.as_ref().and_then(|status| status.end.as_ref());
    AppView {
        state: match (state, end) {
            (State::Embryo | State::Preparing | State::Prepared, _) => "prepared",
            (_, Some(_)) => "exited",
            (State::Running, None) => "running",
            _ => "unknown",
        },
        exit_code: end.map(AppEnd::exit_code),
        more: app.confinement.more(&app.image.trust),
        status,
        name: app.name,
        image: app.image,
        annotations: app.annotations,
    }
}

/// What stage1 wrote about an app, if it did.
pub(crate) fn status(pod: &PodDir, app: &AppName) -> Option<AppStatus> {
    pod.read(&format!("{STATUS}/{app}")).ok().flatten()
}

/// The first app to fail decides; the others were stopped because of it.
fn exit_code(apps: &[AppView]) -> Option<u8> {
    if apps.is_empty() || apps.iter().any(|app| app.exit_code.is_none()) {
        return None;
    }
    let failed = apps.iter().filter(|app| app.exit_code != Some(0));
    let first =
        failed.min_by_key(|app| app.status.as_ref().and_then(|status| status.ended_unix_nanos).unwrap_or(u64::MAX));
    Some(first.and_then(|app| app.exit_code).unwrap_or(0))
}

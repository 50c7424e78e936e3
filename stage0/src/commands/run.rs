//! `pod run`: from the command line to stage1, in this process.

use crate::arguments::PodArguments;
use crate::arguments::globals::Globals;
use crate::cgroup::{hierarchy, make, plan};
use crate::failure::Failure;
use crate::life::names;
use crate::life::pods::{PodDir, Pods, new_uuid};
use crate::stage1::{self, Located};
use crate::{facts, images, pod_json};
use anyhow::{Context, Result};
use contract::dir::{HOST, POD, Phase};
use contract::host::Host;
use contract::name::PodUuid;
use contract::pod::Pod;
use contract::stage1::RootForm;
use std::convert::Infallible;
use std::path::Path;

/// Runs the pod in this process; returns only if it could not be started.
pub(crate) fn run(globals: &Globals, arguments: &PodArguments) -> Result<Infallible> {
    let uuid = new_uuid()?;
    // Before anything else, so that whoever started us can clean up after a kill at any later step.
    if let Some(path) = &arguments.pod.uuid_file_save {
        save_uuid(path, &uuid)?;
    }
    let stage1 = stage1::locate(&arguments.pod.stage1)?;
    let pod = resolve(globals, arguments, &stage1, uuid)?;
    let pods = Pods::open(&globals.dir)?;
    let (mut dir, cgroups) = prepare(&pods, &pod, &stage1)?;
    start(&pods, &mut dir, &stage1, &cgroups)
}

/// Everything that can be refused is refused here, before there is a directory.
pub(crate) fn resolve(globals: &Globals, arguments: &PodArguments, stage1: &Located, uuid: PodUuid) -> Result<Pod> {
    let (insecure, store) = (globals.insecure(), images::open(globals)?);
    let pull = arguments.pod.pull_policy;
    let mut apps = Vec::with_capacity(arguments.apps.len());
    for app in &arguments.apps {
        apps.push(images::app_image(images::obtain(&store, &app.image, pull, insecure)?));
    }
    let facts = facts::gather(arguments)?;
    let pod = pod_json::build(uuid, arguments, apps, insecure, &facts, globals.debug)?;
    stage1.refuse_unknown_needs(&pod)?;
    Ok(pod)
}

/// Makes the pod directory with all that is written down, locked.
pub(crate) fn prepare(pods: &Pods, pod: &Pod, stage1: &Located) -> Result<(PodDir, plan::Plan)> {
    let cgroups = plan::plan(pod, &hierarchy::detect()?, stage1.stage1.root)?;
    let dir = pods.create(pod.uuid.clone())?;
    if let Some(name) = &pod.name {
        names::claim(pods, name, &pod.uuid)?;
    }
    let mut host = Host::default();
    make::record(&cgroups, &pod.uuid, &mut host);
    dir.write_new(HOST, &json(&host)?)?;
    dir.write_new(POD, &json(pod)?)?;
    Ok((dir, cgroups))
}

/// Makes what `host.json` names, and becomes stage1.
pub(crate) fn start(pods: &Pods, dir: &mut PodDir, stage1: &Located, cgroups: &plan::Plan) -> Result<Infallible> {
    make::make(cgroups, &dir.uuid)?;
    pods.advance(dir, Phase::Run)?;
    Err(stage1.become_it(dir.fd(), None, &dir.uuid))
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    let bytes = serde_json::to_vec(value).context("write JSON")?;
    if bytes.len() as u64 > contract::json::FILE_BYTES_MAX {
        return Err(Failure::new("the pod's description is too long")
            .hint("pass fewer or shorter arguments and variables")
            .into());
    }
    Ok(bytes)
}

fn save_uuid(path: &Path, uuid: &PodUuid) -> Result<()> {
    std::fs::write(path, format!("{uuid}\n")).with_context(|| format!("write the UUID to `{}`", path.display()))
}

/// Whether this stage1 takes block images.
#[allow(dead_code)]
fn wants_block(stage1: &Located) -> bool {
    stage1.stage1.root == RootForm::Block
}

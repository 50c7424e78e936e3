//! `pod stop`: returns when the pods are dead, or says what keeps them alive.

use super::pods::named;
use crate::arguments::commands::Stop;
use crate::arguments::globals::Globals;
use crate::failure::Failure;
use crate::life::pods::PodDir;
use crate::life::stopping::{How, Stopping};
use crate::output;
use anyhow::{Context, Result};
use contract::dir::State;
use std::time::Duration;

/// `pod stop`
pub(crate) fn stop(globals: &Globals, arguments: &Stop) -> Result<()> {
    let (_, found) = named(globals, &arguments.pods)?;
    let how = match (arguments.force, arguments.timeout) {
        (true, _) => How::Kill,
        (false, timeout) => How::Ask(timeout.map(Duration::from_millis)),
    };
    // All are told first, so that their grace times run side by side.
    let mut stopping = Vec::new();
    for pod in &found {
        refuse_unstarted(pod)?;
        stopping.push(Stopping::begin(pod, how).with_context(|| context(pod))?);
    }
    // A pod that cannot be stopped does not keep this command from waiting for the others.
    let mut failed = None;
    for (pod, stopping) in found.iter().zip(stopping) {
        match stopping.finish().with_context(|| context(pod)) {
            Ok(()) => output::print(&format!("{}\n", pod.uuid))?,
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(()), Err)
}

fn context(pod: &PodDir) -> String {
    format!("stop pod `{}`", pod.uuid)
}

fn refuse_unstarted(pod: &PodDir) -> Result<()> {
    let hint = match pod.state()? {
        State::Prepared => "`pod rm` removes a prepared pod",
        State::Embryo | State::Preparing => "it is just starting; try again, or kill the `pod run` that starts it",
        _ => return Ok(()),
    };
    Err(Failure::new(format!("pod `{}` is not running", pod.uuid)).hint(hint).into())
}

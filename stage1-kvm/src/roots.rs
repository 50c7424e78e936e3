//! The disks and shares of the apps.

use crate::plan::{Disk, Share, share_tag};
use anyhow::{Context, Result};
use contract::pod::{Pod, VolumeSource};

/// One read-only disk for each app.
pub(crate) fn disks(pod: &Pod) -> Result<Vec<Disk>> {
    pod.apps
        .iter()
        .enumerate()
        .map(|(index, app)| {
            let path = app.root.block.clone().with_context(|| format!("app `{}` has no block image", app.name))?;
            Ok(Disk { serial: format!("root{index}"), path, read_only: true, app: Some(app.name.clone()) })
        })
        .collect()
}

/// One share for each host volume.
pub(crate) fn shares(pod: &Pod) -> Result<Vec<Share>> {
    let share = |volume: &contract::pod::Volume| match &volume.source {
        VolumeSource::Host { source, read_only, .. } => {
            Some(Share { tag: share_tag(volume.name.as_str()), source: source.clone(), read_only: *read_only })
        }
        VolumeSource::Empty { .. } => None,
    };
    Ok(pod.volumes.iter().filter_map(share).collect())
}

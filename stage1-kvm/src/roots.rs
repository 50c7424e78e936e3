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

/// The name of a volume that is one file, in its share.
const FILE: &str = "file";

/// One share for each host volume.
pub(crate) fn shares(pod: &Pod) -> Result<Vec<Share>> {
    let mut shares = Vec::new();
    for volume in &pod.volumes {
        let VolumeSource::Host { source, read_only, .. } = &volume.source else { continue };
        let metadata = std::fs::metadata(source).with_context(|| format!("look at volume `{}`", volume.name))?;
        shares.push(Share {
            tag: share_tag(volume.name.as_str()),
            source: source.clone(),
            read_only: *read_only,
            file: (!metadata.is_dir()).then(|| FILE.to_owned()),
        });
    }
    Ok(shares)
}

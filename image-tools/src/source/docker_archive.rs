//! What `docker save` writes, and podman, skopeo and buildah after it.

use super::{Content, SourceError, SourceImage, SourceLayer, docker_config, invalid, io};
use crate::extent::{Extent, Members};
use crate::oci::ManifestError;
use crate::reference::NameReference;
use serde::Deserialize;
use std::path::Path;

/// Longest `manifest.json`.
const BYTES_MAX: u64 = 4 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(super) fn open(archive: &Extent, path: &Path, tag: Option<&str>) -> Result<SourceImage, SourceError> {
    let members =
        Members::index(archive).map_err(|source| SourceError::Archive { path: path.display().to_string(), source })?;
    let member = |name: &str| {
        members.get(name).ok_or_else(|| invalid(path, format!("has no member `{}`", name.escape_default())))
    };
    let manifest = member("manifest.json")?.bytes(BYTES_MAX).map_err(|source| io(path, source))?;
    let items: Vec<Item> = serde_json::from_slice(&manifest).map_err(ManifestError::from)?;
    let item = choose(path, &items, tag)?;
    let config = member(&item.config)?.bytes(crate::config::BYTES_MAX as u64).map_err(|source| io(path, source))?;
    let (description, diff_ids) = docker_config::parse(&config)?;
    if item.layers.len() != diff_ids.len() {
        let (layers, ids) = (item.layers.len(), diff_ids.len());
        return Err(invalid(path, format!("has {layers} layers in its manifest and {ids} in its configuration")));
    }
    let layer = |(name, diff_id): (&String, _)| {
        let extent = member(name)?;
        let compression = extent.compression().map_err(|source| io(path, source))?;
        // A plain layer is its own content, so its digest is known before it is read.
        let plain = compression == crate::compression::Compression::None;
        Ok(SourceLayer { extent, compression, digest: plain.then_some(diff_id), size: None, diff_id: Some(diff_id) })
    };
    let layers = item.layers.iter().zip(diff_ids).map(layer).collect::<Result<_, SourceError>>()?;
    let tags = item.repo_tags.iter().flatten().filter_map(|name| NameReference::parse(name).ok());
    let content = Content::Foreign(description);
    Ok(SourceImage { names: tags.collect(), manifest: None, content, layers, signatures: Vec::new() })
}

fn choose<'a>(path: &Path, items: &'a [Item], tag: Option<&str>) -> Result<&'a Item, SourceError> {
    match (items, tag) {
        (_, Some(tag)) => items
            .iter()
            .find(|item| item.repo_tags.iter().flatten().any(|name| name == tag))
            .ok_or_else(|| invalid(path, format!("has no image with the tag `{}`", tag.escape_default()))),
        ([item], None) => Ok(item),
        ([], None) => Err(invalid(path, "has no image in it")),
        (_, None) => {
            let tags: Vec<_> =
                items.iter().flat_map(|item| item.repo_tags.iter().flatten()).map(String::as_str).collect();
            Err(invalid(path, format!("has several images, so one must be chosen of `{}`", tags.join("` `"))))
        }
    }
}

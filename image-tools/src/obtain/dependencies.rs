//! What an appc image is put on top of: images of the store, each held to the trust rules on its own.

use super::{Images, Terms};
use crate::digest::Digest;
use crate::extent::Extent;
use crate::reference::Reference;
use crate::source::{APPC_ID, Dependency, SourceLayer};
use crate::store::StoredImage;
use thiserror::Error;

/// Shortest `sha512-HEX` that names an image: half of a digest, as rkt wrote it.
const ID_DIGITS_MIN: usize = 64;

/// The image of that name is another one.
#[derive(Debug, Error)]
#[error("the image `{name}` is not the one that is meant: its {what} is {is}, not `{wanted}`")]
struct Other {
    name: String,
    what: String,
    is: String,
    wanted: String,
}

impl Images {
    /// The layers of a dependency. One that is not in the store is looked for like any image that is named.
    pub(super) fn dependency(&self, wanted: &Dependency, terms: &Terms) -> Result<Vec<SourceLayer>, Unavailable> {
        let obtained = match self.exact(wanted) {
            // Its own name is the one that is wanted, and the id says which one of that name.
            Some(id) => self.judge_stored(&id, None, terms)?,
            None => self.obtain_on(&Reference::Name(wanted.name.clone()), terms)?,
        };
        check(wanted, &obtained.image)?;
        let mut layers = Vec::new();
        for diff_id in obtained.image.config.layers.iter().map(crate::config::Layer::diff_id) {
            let stored =
                self.store.layer(&diff_id)?.ok_or_else(|| format!("its layer {diff_id} is not in the store"))?;
            layers.push(SourceLayer {
                extent: Extent::open(&self.store.blob_path(&stored.digest))?,
                compression: stored.compression,
                digest: Some(stored.digest),
                size: Some(stored.size),
                diff_id: Some(diff_id),
            });
        }
        Ok(layers)
    }

    /// An image that is meant exactly may be an older one of its name, which only its id finds.
    fn exact(&self, wanted: &Dependency) -> Option<Digest> {
        wanted.image_id.as_ref()?;
        let images = self.store.list().ok()?;
        let is_it = |image: &StoredImage| image.name == wanted.name.name && check(wanted, image).is_ok();
        images.iter().rev().find(|image| is_it(image)).map(|image| image.id)
    }
}

/// What is said to the opener of the source, which only passes it on.
type Unavailable = Box<dyn std::error::Error + Send + Sync>;

fn check(wanted: &Dependency, image: &StoredImage) -> Result<(), Other> {
    let config = &image.config;
    let refuse = |what: &str, is: Option<&str>, wanted: &str| {
        let is = is.map_or_else(|| "not said".to_owned(), |is| format!("`{}`", is.escape_default()));
        let (name, what, wanted) =
            (image.name.to_string(), what.escape_default().to_string(), wanted.escape_default().to_string());
        Err(Other { name, what, is, wanted })
    };
    for (name, value) in &wanted.labels {
        let is = match name.as_str() {
            "os" => Some(config.os.as_str()),
            "arch" => Some(config.architecture.as_str()),
            name => config.labels.get(name).map(String::as_str),
        };
        if is != Some(value) {
            return refuse(&format!("label {name}"), is, value);
        }
    }
    if let Some(id) = &wanted.image_id {
        let is = config.annotations.get(APPC_ID).map(String::as_str);
        let digits = id.strip_prefix("sha512-").unwrap_or_default().len();
        if digits < ID_DIGITS_MIN || !is.is_some_and(|is| is.starts_with(id.as_str())) {
            return refuse("appc image id", is, id);
        }
    }
    Ok(())
}

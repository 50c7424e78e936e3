//! The demo image that is built into `pod`, with the key that signed it: `pod run demo` needs no registry. The key counts
//! for the exact name `demo` only, as if the vendor's configuration said so, and an administrator can mask it.

use crate::failure::Failure;
use anyhow::{Context, Result};
use image_tools::key::PublicKey;
use image_tools::obtain::Images;
use image_tools::reference::Reference;
use image_tools::trust::TrustDirs;

include!(concat!(env!("OUT_DIR"), "/demo.rs"));

/// Whether the build had a demo image.
pub(crate) fn is_built_in() -> bool {
    DEMO.is_some()
}

/// The name that the key is trusted for.
const NAME: &str = "demo";

/// Adds the rule for the built-in key.
pub(crate) fn trust(dirs: TrustDirs) -> Result<TrustDirs> {
    let Some((_, key)) = DEMO else { return Ok(dirs) };
    let key = PublicKey::parse(key).context("read the built-in demo key")?;
    dirs.with_built_in(NAME, key).context("trust the built-in demo key")
}

/// Puts the built-in image into the store if it is asked for and not there.
pub(crate) fn provide(_images: &Images, reference: &Reference) -> Result<()> {
    let Reference::Name(name) = reference else { return Ok(()) };
    if name.name.as_str() != NAME || DEMO.is_some() {
        return Ok(());
    }
    // Somebody may have made an image of that name; then it is found in the store, and this is no error.
    Err(Failure::new("this pod was built without the demo image").hint("build it by `cargo xtask build`").into())
}

//! The demo image that is built into `pod`, with the key that signed it: `pod run demo` needs no registry. The key counts
//! for the exact name `demo` only, as if the vendor's configuration said so, and an administrator can mask it.

use crate::failure::Failure;
use anyhow::{Context, Result};
use image_tools::key::PublicKey;
use image_tools::obtain::{Images, Insecure};
use image_tools::reference::{NameReference, Reference, Source};
use image_tools::trust::TrustDirs;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

include!(concat!(env!("OUT_DIR"), "/demo.rs"));

/// Whether the build had a demo image.
pub(crate) fn is_built_in() -> bool {
    DEMO.is_some()
}

/// The name that the key is trusted for.
const NAME: &str = "demo";
/// Where the store says that the image came from.
pub(crate) const ORIGIN: &str = "built in";

/// Adds the rule for the built-in key.
pub(crate) fn trust(dirs: TrustDirs) -> Result<TrustDirs> {
    let Some((_, key)) = DEMO else { return Ok(dirs) };
    let key = PublicKey::parse(key).context("read the built-in demo key")?;
    dirs.with_built_in(NAME, key).context("trust the built-in demo key")
}

/// Puts the built-in image into the store if it is asked for and not there. It is verified as any image is.
pub(crate) fn provide(images: &Images, reference: &Reference) -> Result<()> {
    let Reference::Name(name) = reference else { return Ok(()) };
    if name.name.as_str() != NAME || is_there(images, name) {
        return Ok(());
    }
    let Some((image, _)) = DEMO else {
        return Err(Failure::new("this pod was built without the demo image")
            .hint("build it by `cargo xtask build`")
            .into());
    };
    let file = memfd_create("demo.pod", MemfdFlags::CLOEXEC).context("make a file in memory")?;
    let mut file = File::from(file);
    file.write_all(image).context("write the demo image")?;
    // Its own fd, so nobody else can change what is verified and imported.
    let source = Source::Pod(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
    images.import_own(&source, ORIGIN).context("import the built-in demo image")?;
    Ok(())
}

/// Somebody may have made an image of that name; then it is that one. But one that another build of `pod` brought along is
/// signed with that build's key, which this one does not know: it makes room.
fn is_there(images: &Images, name: &NameReference) -> bool {
    let Ok(id) = images.find(name) else { return false };
    let brought_along = images.store.origin(&id).is_some_and(|origin| origin.source == ORIGIN);
    !brought_along || images.stored(&id, Some(name), Insecure::default()).is_ok()
}

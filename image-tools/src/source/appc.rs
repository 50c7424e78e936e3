//! appc images (`.aci`), which rkt ran: a tar with `manifest` and `rootfs/`.

use super::{SourceError, SourceImage, invalid};
use crate::extent::Extent;
use std::path::Path;

pub(super) fn open(_file: &Extent, path: &Path) -> Result<SourceImage, SourceError> {
    Err(invalid(path, "is an appc image, which is not read yet"))
}

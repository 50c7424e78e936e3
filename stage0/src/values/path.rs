//! Paths on the command line.

use std::path::{Component, Path, PathBuf};

/// A clean absolute path that is not the root itself.
pub(crate) fn absolute(text: &str) -> Result<PathBuf, String> {
    if !text.starts_with('/') {
        return Err(format!("`{}` is not an absolute path", text.escape_debug()));
    }
    normal(Path::new(text))
}

/// Without `.` and `//`. `..` is refused: with symlinks in the image nobody can say where it leads.
pub(super) fn normal(path: &Path) -> Result<PathBuf, String> {
    let shown = || path.display().to_string().escape_debug().to_string();
    if path.as_os_str().len() > 4095 || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err("a path has at most 4095 bytes, and no NUL".to_owned());
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("`{}` has a `..` in it", shown()));
    }
    let clean: PathBuf = path.components().collect();
    if clean == Path::new("/") { Err(format!("`{}` is the root itself", shown())) } else { Ok(clean) }
}

//! How new the last accepted image of a name is, by key: what keeps an older image that was once signed from coming back.
//!
//! A mark belongs to a name with its tag, and to a machine's architecture. It is not part of any image, so removing and
//! collecting images leaves it. Each file is replaced as a whole; changes wait for each other.

use super::names::link;
use super::{Store, StoreError, io_error, read};
use crate::key::KeyId;
use crate::name::{ImageName, Version};
use crate::statement::moment;
use crate::trust::Marks;
use crate::trust::decide::full;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

/// Longest file of marks: some thousand keys.
const BYTES_MAX: u64 = 256 << 10;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarksText {
    version: u32,
    /// Key id and time.
    keys: BTreeMap<String, String>,
}

/// Under which name images are compared.
#[derive(Clone, Debug)]
pub struct Marked {
    /// The name.
    pub name: ImageName,
    /// The tag. None and `latest` are the same: no particular version.
    pub version: Option<Version>,
    /// The machine's.
    pub architecture: String,
}

impl Store {
    /// The marks of a name; none if no image of that name was accepted yet.
    pub fn marks(&self, marked: &Marked) -> Result<Marks, StoreError> {
        let path = self.marks_path(marked);
        let bytes = match read(&path, BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Marks::new());
            }
            Err(error) => return Err(io_error(format!("read `{}`", path.display()))(error)),
        };
        // Without its marks a name would take any older image, so a file that cannot be read is an error.
        let damaged = |why: &str| StoreError::Marks { path: path.display().to_string(), why: why.to_owned() };
        let text: MarksText = serde_json::from_slice(&bytes).map_err(|error| damaged(&error.to_string()))?;
        if text.version != 1 {
            return Err(damaged("its version is not 1"));
        }
        let mark = |(key, time): (String, String)| Some((KeyId::parse(&key).ok()?, moment(&time)?));
        text.keys.into_iter().map(|entry| mark(entry).ok_or_else(|| damaged("a key or a time is none"))).collect()
    }

    /// Notes when accepted signatures were made. A mark only rises, unless the user said to go back.
    pub fn mark(&self, marked: &Marked, created: &Marks, back: bool) -> Result<(), StoreError> {
        let path = self.marks_path(marked);
        let directory = path.parent().expect("marks lie in a directory");
        let write = |directory: &std::path::Path| {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            let lock = File::open(self.root.join("marks"))?;
            lock.lock().map(|()| lock)
        };
        let what = || format!("write `{}`", path.display());
        let _lock = match write(directory) {
            // Nothing new can come into a store that is read-only, so its marks need not rise.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => return Ok(()),
            result => result.map_err(io_error(what()))?,
        };
        let mut marks = match self.marks(marked) {
            Err(StoreError::Marks { .. }) if back => Marks::new(),
            marks => marks?,
        };
        for (key, time) in created {
            let mark = marks.entry(*key).or_insert(*time);
            *mark = if back { *time } else { *time.max(mark) };
        }
        let keys = marks.iter().map(|(key, time)| (key.to_string(), time.to_string())).collect();
        let text = serde_json::to_vec(&MarksText { version: 1, keys }).expect("plain data has a JSON form");
        self.write(&path, &text)
    }

    fn marks_path(&self, marked: &Marked) -> PathBuf {
        let tag = marked.version.as_ref().filter(|version| **version != Version::latest());
        let link = link(tag.map_or("", Version::as_str), &marked.architecture);
        self.root.join("marks").join(full(&marked.name).as_str()).join(link)
    }
}

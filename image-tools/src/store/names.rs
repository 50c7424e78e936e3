//! From names to ids: one symbolic link for each version of a name, and one for the newest. Images for other machines have
//! links of their own, so that fetching one does not change what a name means here.

use super::{Store, StoreError, io_error};
use crate::digest::Digest;
use crate::name::{ImageName, Version};
use crate::oci;
use crate::reference::NameReference;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// What can mean an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A version of a name, which also becomes the newest of the name; without a version, the newest only.
    Version(ImageName, Option<Version>),
    /// A name with the digest by which the image was fetched. It says nothing of what the newest is.
    Digest(ImageName, Digest),
}

impl Store {
    /// The image a name means on machines of an architecture: the version asked for, else `latest`, else the newest. A short name also finds what a
    /// registry's default gave it (`redis` finds `docker.io/library/redis`).
    pub fn find_name(&self, wanted: &NameReference, architecture: &str) -> Result<Digest, StoreError> {
        self.find_spelling(wanted, architecture).map(|(_, id)| id)
    }

    /// As [`Store::find_name`], with the spelling of the name that the store has.
    pub fn find_spelling(&self, wanted: &NameReference, architecture: &str) -> Result<(ImageName, Digest), StoreError> {
        for name in spellings(&wanted.name) {
            let latest = Version::latest();
            let versions = match &wanted.version {
                Some(version) => [Some(version), None],
                None => [Some(&latest), None],
            };
            let tries = if wanted.version.is_some() { &versions[..1] } else { &versions[..] };
            for version in tries {
                let link = link(version.map_or("", Version::as_str), architecture);
                if let Some(id) = self.read_link(&name, &link)? {
                    return Ok((name, id));
                }
            }
        }
        Err(StoreError::Missing(wanted.to_string()))
    }

    /// The image that was fetched by this digest under a name.
    pub fn find_digest(
        &self,
        name: &ImageName,
        digest: &Digest,
        architecture: &str,
    ) -> Result<Option<Digest>, StoreError> {
        for name in spellings(name) {
            if let Some(id) = self.read_link(&name, &link(&digest.to_string(), architecture))? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn read_link(&self, name: &ImageName, link: &str) -> Result<Option<Digest>, StoreError> {
        match std::fs::read_link(self.root.join("names").join(name.as_str()).join(link)) {
            Ok(text) => Ok(text.to_str().and_then(Digest::from_hex)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(io_error(format!("look up the image name `{name}`"))(error)),
        }
    }

    /// Makes a name mean `id` on machines of an architecture.
    pub(crate) fn set_name(&self, named: &Named, architecture: &str, id: &Digest) -> Result<(), StoreError> {
        let (name, links) = match named {
            Named::Version(name, Some(version)) => (name, vec![version.to_string(), String::new()]),
            Named::Version(name, None) => (name, vec![String::new()]),
            Named::Digest(name, digest) => (name, vec![digest.to_string()]),
        };
        let what = || format!("set the image name `{name}`");
        let directory = self.root.join("names").join(name.as_str());
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&directory).map_err(io_error(what()))?;
        for text in links {
            self.link_name(&directory.join(link(&text, architecture)), id).map_err(io_error(what()))?;
        }
        Ok(())
    }

    fn link_name(&self, path: &Path, id: &Digest) -> io::Result<()> {
        let temporary = self.temporary("name")?;
        std::os::unix::fs::symlink(id.hex(), &temporary)?;
        std::fs::rename(&temporary, path)
    }

    /// Forgets all names of `id`; the newest of the others takes the place of the newest.
    pub(super) fn forget_names(&self, name: &ImageName, id: &Digest) -> Result<(), StoreError> {
        let what = || format!("forget the image name `{name}`");
        let directory = self.root.join("names").join(name.as_str());
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(io_error(what()))?,
        };
        // By machine, as in the links: which image is the newest of those that stay, and whether the one that goes was.
        let mut newest: BTreeMap<OsString, (Option<(u64, Digest)>, bool)> = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(io_error(what()))?;
            let Ok(text) = std::fs::read_link(entry.path()) else { continue };
            let link = entry.file_name();
            if link.as_encoded_bytes().starts_with(b"@sha256:") {
                if text.to_str().and_then(Digest::from_hex).is_none_or(|other| other == *id) {
                    std::fs::remove_file(entry.path()).map_err(io_error(what()))?;
                }
                continue;
            }
            let (newest, was_newest) = newest.entry(newest_link(&link)).or_default();
            match text.to_str().and_then(Digest::from_hex) {
                Some(other) if other != *id => {
                    if let Ok((record, _)) = self.record(&other) {
                        *newest = (*newest).max(Some((record.imported_unix_secs, other)));
                    }
                }
                _ => {
                    *was_newest |= link == newest_link(&link);
                    std::fs::remove_file(entry.path()).map_err(io_error(what()))?;
                }
            }
        }
        for (link, (newest, was_newest)) in newest {
            if let Some((_, newest)) = newest.filter(|_| was_newest) {
                self.link_name(&directory.join(link), &newest).map_err(io_error(what()))?;
            }
        }
        // Empty directories of the name and of its parents go; others stay, which is no error.
        let names = self.root.join("names");
        let mut at = directory.as_path();
        while at != names && std::fs::remove_dir(at).is_ok() {
            at = at.parent().unwrap_or(&names);
        }
        Ok(())
    }
}

/// The link of a version, or of a digest, for machines of an architecture; this machine's own is not named.
pub(super) fn link(text: &str, architecture: &str) -> String {
    // A component of a path: what an image says of itself is not taken as it is.
    let plain = !architecture.is_empty() && architecture.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match (architecture == oci::host_architecture(), plain) {
        (true, _) => format!("@{text}"),
        (false, true) => format!("@{text}@{architecture}"),
        (false, false) => format!("@{text}@{}", Digest::of(architecture.as_bytes()).hex()),
    }
}

/// The link to the newest image for the machines that a link is about: `@` for `@1.0`, `@@arm64` for `@1.0@arm64`.
fn newest_link(link: &OsStr) -> OsString {
    let bytes = link.as_encoded_bytes();
    let machine = bytes.iter().skip(1).position(|byte| *byte == b'@').map_or(&b""[..], |at| &bytes[at + 1..]);
    OsString::from_vec([b"@", machine].concat())
}

/// The name as it is, and what it is short for at Docker Hub.
fn spellings(name: &ImageName) -> impl Iterator<Item = ImageName> {
    let text = name.as_str();
    let long = match (name.host(), text.contains('/')) {
        (None, false) => Some(format!("docker.io/library/{text}")),
        (None, true) => Some(format!("docker.io/{text}")),
        (Some(_), _) => None,
    };
    std::iter::once(name.clone()).chain(long.and_then(|long| ImageName::parse(&long).ok()))
}

//! What a person writes where an image is wanted: a store id, a name, a file, or a source with a scheme.
//!
//! Parsing looks at the text only, never at the disk, so that the same words mean the same image in every directory.

use crate::digest::{Digest, DigestError, HEX_LEN};
use crate::name::{ImageName, NameError, Version};
use std::fmt;
use std::path::PathBuf;
use thiserror::Error;

/// An image as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `sha256:` and at least two digits of a store id.
    Id(IdPrefix),
    /// A name, in the store or to be found on the network.
    Name(NameReference),
    /// Somewhere that is not the store.
    Source(Source),
}

/// `NAME[:VERSION][@DIGEST]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameReference {
    /// The name.
    pub name: ImageName,
    /// The version; absent: the newest, or `latest` at a registry.
    pub version: Option<Version>,
    /// The digest of the manifest: an identity the user gave.
    pub digest: Option<Digest>,
}

/// The first digits of a store id, 2 to 64 in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPrefix(String);

impl IdPrefix {
    /// Parses the digits, without `sha256:`.
    pub fn parse(hex: &str) -> Option<Self> {
        let digits = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (digits && (2..=HEX_LEN).contains(&hex.len())).then(|| Self(hex.to_owned()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digest, if all digits are there.
    pub fn whole(&self) -> Option<Digest> {
        Digest::from_hex(&self.0)
    }
}

/// Where an image can be read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `docker-archive:FILE[:NAME[:TAG]]`: what `docker save` writes.
    DockerArchive {
        /// The tar file.
        path: PathBuf,
        /// Which image, if there are several: an entry of `RepoTags`.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: an OCI layout in a tar.
    OciArchive {
        /// The tar file.
        path: PathBuf,
        /// Which image, if there are several: `org.opencontainers.image.ref.name`.
        tag: Option<String>,
    },
    /// `oci:DIR[:TAG]`: an OCI layout.
    OciDirectory {
        /// The directory with `oci-layout` and `index.json`.
        path: PathBuf,
        /// Which image, if there are several: `org.opencontainers.image.ref.name`.
        tag: Option<String>,
    },
    /// A native file.
    Pod(PathBuf),
    /// An appc image.
    Aci(PathBuf),
    /// `docker://NAME[:TAG][@DIGEST]`: a registry, and nothing but a registry.
    Registry(NameReference),
    /// A native or appc image at `https://…` (or `http://…`, where that is allowed).
    Url(String),
}

/// Why a text is no reference.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// Nothing is there.
    #[error("the image reference is empty")]
    Empty,
    /// A name outside the grammar.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A digest outside the grammar.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// Too few or wrong digits.
    #[error("`{0}` is not an image id: it must be `sha256:` and 2 to 64 hexadecimal digits in lower case")]
    Id(String),
    /// A scheme without anything behind it.
    #[error("`{0}` names no file")]
    NoPath(String),
    /// A URL that cannot be an image.
    #[error("`{0}` is not a URL of an image")]
    Url(String),
    /// A scheme that is not known.
    #[error(
        "`{0}` is not a source of images: known are docker-archive: oci-archive: oci: docker:// https:// and files ending in .pod or .aci"
    )]
    Scheme(String),
}

impl Reference {
    /// Parses what a user typed.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if let Some(hex) = text.strip_prefix("sha256:") {
            return IdPrefix::parse(hex).map(Self::Id).ok_or_else(|| ReferenceError::Id(escaped(text)));
        }
        match Source::recognize(text) {
            Some(source) => source.map(Self::Source),
            None => NameReference::parse(text).map(Self::Name),
        }
    }
}

impl Source {
    /// Parses a source; a bare name is an error here.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        Self::recognize(text).unwrap_or_else(|| Err(ReferenceError::Scheme(escaped(text))))
    }

    /// `None` if the text has the shape of a name.
    fn recognize(text: &str) -> Option<Result<Self, ReferenceError>> {
        if let Some(rest) = text.strip_prefix("docker://") {
            return Some(NameReference::parse(rest).map(Self::Registry));
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            return Some(url(text));
        }
        if let Some((scheme, rest)) = text.split_once(':') {
            let place = match scheme {
                "docker-archive" => Self::docker_archive as fn(&str) -> Self,
                "oci-archive" => Self::oci_archive,
                "oci" => Self::oci_directory,
                "file" => Self::file,
                _ if rest.starts_with("//") => return Some(Err(ReferenceError::Scheme(escaped(text)))),
                _ => return Self::path(text).map(Ok),
            };
            let rest = if scheme == "file" { rest.strip_prefix("//").unwrap_or(rest) } else { rest };
            if rest.is_empty() || rest.starts_with(':') {
                return Some(Err(ReferenceError::NoPath(escaped(text))));
            }
            return Some(Ok(place(rest)));
        }
        Self::path(text).map(Ok)
    }

    fn docker_archive(rest: &str) -> Self {
        // The tag itself holds a colon, so the path ends at the first one.
        let (path, tag) = split_tag(rest);
        Self::DockerArchive { path, tag }
    }

    fn oci_archive(rest: &str) -> Self {
        let (path, tag) = split_tag(rest);
        Self::OciArchive { path, tag }
    }

    fn oci_directory(rest: &str) -> Self {
        let (path, tag) = split_tag(rest);
        Self::OciDirectory { path, tag }
    }

    fn file(rest: &str) -> Self {
        if rest.ends_with(".aci") { Self::Aci(rest.into()) } else { Self::Pod(rest.into()) }
    }

    /// A text is a path if it starts like one or ends like an image file.
    fn path(text: &str) -> Option<Self> {
        let rooted = ["/", "./", "../"].iter().any(|start| text.starts_with(start));
        let named = text.ends_with(".pod") || text.ends_with(".aci");
        (rooted || named).then(|| Self::file(text))
    }
}

fn split_tag(rest: &str) -> (PathBuf, Option<String>) {
    match rest.split_once(':') {
        Some((path, tag)) if !tag.is_empty() => (path.into(), Some(tag.to_owned())),
        _ => (rest.trim_end_matches(':').into(), None),
    }
}

fn url(text: &str) -> Result<Source, ReferenceError> {
    let host = text.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    // Credentials in a URL end up in logs and in process lists.
    if host.is_empty() || host.contains('@') || !printable || text.len() > 4096 {
        return Err(ReferenceError::Url(escaped(text)));
    }
    Ok(Source::Url(text.to_owned()))
}

impl NameReference {
    /// Parses `NAME[:VERSION][@DIGEST]`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        // A colon before the last slash belongs to a port.
        let after_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, version) = match rest[after_slash..].find(':') {
            Some(colon) => (&rest[..after_slash + colon], Some(Version::parse(&rest[after_slash + colon + 1..])?)),
            None => (rest, None),
        };
        Ok(Self { name: ImageName::parse(name)?, version, digest })
    }
}

impl fmt::Display for NameReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(version) = &self.version {
            write!(f, ":{version}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tagged = |f: &mut fmt::Formatter<'_>, scheme: &str, path: &PathBuf, tag: &Option<String>| {
            write!(f, "{scheme}:{}", path.display())?;
            tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
        };
        match self {
            Self::DockerArchive { path, tag } => tagged(f, "docker-archive", path, tag),
            Self::OciArchive { path, tag } => tagged(f, "oci-archive", path, tag),
            Self::OciDirectory { path, tag } => tagged(f, "oci", path, tag),
            Self::Pod(path) | Self::Aci(path) => {
                // `file://app` names a file; `app` alone would name an image.
                let text = path.display().to_string();
                let plain = Reference::parse(&text).is_ok_and(|read| read == Reference::Source(self.clone()));
                write!(f, "{}{text}", if plain { "" } else { "file://" })
            }
            Self::Registry(name) => write!(f, "docker://{name}"),
            Self::Url(url) => f.write_str(url),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(prefix) => write!(f, "sha256:{}", prefix.as_str()),
            Self::Name(name) => name.fmt(f),
            Self::Source(source) => source.fmt(f),
        }
    }
}

impl std::str::FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

fn escaped(text: &str) -> String {
    text.chars().take(256).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let pinned = format!("localhost:5000/app:1@{digest}");
        for (text, shown) in [
            ("demo", "demo"),
            ("example.com/app:1.2", "example.com/app:1.2"),
            ("localhost:5000/app", "localhost:5000/app"),
            (&pinned, &pinned),
            ("sha256:ab", "sha256:ab"),
            ("docker-archive:/x/y.tar", "docker-archive:/x/y.tar"),
            ("docker-archive:y.tar:a/b:1", "docker-archive:y.tar:a/b:1"),
            ("oci:dir", "oci:dir"),
            ("oci:dir:v1", "oci:dir:v1"),
            ("oci-archive:f.tar", "oci-archive:f.tar"),
            ("x.pod", "x.pod"),
            ("file:///a/b.aci", "/a/b.aci"),
            ("file:a.pod", "a.pod"),
            // What would be a name, an id or another source without its scheme keeps it.
            ("file://app", "file://app"),
            ("file:app:1", "file://app:1"),
            ("file:sha256:ab.pod", "file://sha256:ab.pod"),
            ("file:oci:x", "file://oci:x"),
            ("docker://redis:7", "docker://redis:7"),
            ("https://example.com/a.pod", "https://example.com/a.pod"),
        ] {
            assert_eq!(Reference::parse(text).expect(text).to_string(), shown);
        }
        assert_eq!(Reference::parse("./odd"), Ok(Reference::Source(Source::Pod("./odd".into()))));
        assert_eq!(Reference::parse("/a/b.aci"), Ok(Reference::Source(Source::Aci("/a/b.aci".into()))));
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "sha256:",
            "sha256:A0",
            "sha256:zz",
            "oci:",
            "docker-archive:",
            "docker-archive::x",
            "ftp://x/y",
            "https://",
            "https://u:p@h/x",
            "docker://",
            "a@sha256:00",
            "a:b:c",
            "A",
            "a b",
            "a:",
            "http://h/\u{7f}",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
    }
}

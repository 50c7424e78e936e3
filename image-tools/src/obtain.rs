//! From a reference to an image that may run: look in the store, import or fetch what is missing, verify every time.
//!
//! What is refused is not imported: the documents of a source are judged before its layers are read.

mod dependencies;
mod push;
mod registry;
mod signatures;
mod web;

use crate::digest::Digest;
use crate::name::{ImageName, Version};
use crate::oci;
use crate::reference::{NameReference, Reference, Source};
use crate::registry::RegistryError;
use crate::signature::{Signature, SignatureError};
use crate::source::{Content, SourceError, SourceImage, parse_native};
use crate::statement::Subject;
use crate::store::{Origin, Store, StoreError, StoredImage};
use crate::trust::{Basis, Policy, Refusal};
use jiff::Timestamp;
use thiserror::Error;

pub use crate::registry::Platform;

/// When to look beyond the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Only for images that are not in the store.
    #[default]
    New,
    /// Always, to see whether there is something newer.
    Update,
    /// Not at all. Files are read all the same.
    Never,
}

/// What the user allowed for this one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Insecure {
    /// Images that no trust rule allows.
    pub image: bool,
    /// Servers whose certificate does not verify.
    pub tls: bool,
    /// Plain http.
    pub http: bool,
}

/// On which terms an image is wanted.
#[derive(Clone, Debug)]
pub struct Terms {
    /// When to look beyond the store.
    pub pull: PullPolicy,
    /// What the user allowed.
    pub insecure: Insecure,
    /// For which machine; another one's image can be kept and passed on, not run.
    pub platform: Platform,
}

impl Terms {
    /// For this machine.
    pub fn here(pull: PullPolicy, insecure: Insecure) -> Self {
        Self { pull, insecure, platform: Platform::host() }
    }
}

/// Why an image may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Signed as the rule for this prefix asks; without keys, the rule asks for none.
    Signature {
        /// Prefix of the rule.
        prefix: String,
        /// Ids of the keys that counted.
        keys: Vec<String>,
    },
    /// The user named the image by its digest.
    Digest,
    /// `--insecure-options=image`, or a rule in audit mode.
    Insecure,
}

/// An image that may run, and why.
#[derive(Clone, Debug)]
pub struct Obtained {
    /// The image.
    pub image: StoredImage,
    /// Why it may run.
    pub trust: Trust,
    /// What a rule in audit mode would have refused; to be shown to the user.
    pub audit: Option<String>,
}

/// Why an image was not obtained.
#[derive(Debug, Error)]
pub enum ObtainError {
    /// The store could not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The source is bad.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It may not run.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A registry did not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What came with it as a signature is none.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The connection broke too often.
    #[error("read the {what}")]
    Read {
        /// What was read.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not here, and the pull policy forbids to look elsewhere.
    #[error("the image `{0}` is not in the store")]
    Absent(String),
    /// It is for other machines.
    #[error("the image `{name}` is for {os} on {architecture}, {}", wanted_for(wanted))]
    Platform {
        /// The image.
        name: String,
        /// Its operating system.
        os: String,
        /// Its architecture.
        architecture: String,
        /// The architecture that was wanted.
        wanted: String,
    },
    /// The image in the store under this name is another one.
    #[error("the image `{name}` in the store is {id}, not what was asked for")]
    Digest {
        /// The reference.
        name: String,
        /// What is there.
        id: Digest,
    },
}

impl ObtainError {
    /// Advice for the user, where there is some.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(refusal) => Some(refusal.hint()),
            Self::Registry(error) => error.hint(),
            Self::Source(SourceError::Dependency { name, .. }) => {
                Some(format!("bring it into the store first: `pod fetch` of the file that is `{name}`"))
            }
            Self::Absent(name) => Some(format!("get it with `pod fetch {name}`")),
            _ => None,
        }
    }
}

/// All that is needed to obtain images.
#[derive(Debug)]
pub struct Images {
    /// Where images are kept.
    pub store: Store,
    /// Who may publish them.
    pub policy: Policy,
}

/// What is judged, and on which words of the user.
struct Claim<'a> {
    subject: &'a Subject,
    signatures: &'a [Signature],
    pinned: bool,
    insecure: Insecure,
}

impl Images {
    /// Finds, fetches or imports the image for this machine and verifies it.
    pub fn obtain(&self, reference: &Reference, pull: PullPolicy, insecure: Insecure) -> Result<Obtained, ObtainError> {
        self.obtain_on(reference, &Terms::here(pull, insecure))
    }

    /// Finds, fetches or imports the image and verifies it.
    pub fn obtain_on(&self, reference: &Reference, terms: &Terms) -> Result<Obtained, ObtainError> {
        match reference {
            // An id only finds what is here: whoever printed it may have been told it by the image. It is no pin.
            Reference::Id(prefix) => self.judge_stored(&self.store.find_id(prefix)?, false, terms),
            Reference::Name(name) => self.by_name(name, terms, Self::fetch_name),
            Reference::Source(Source::Registry(name)) => self.by_name(name, terms, Self::fetch_registry),
            Reference::Source(Source::Url(url)) => self.fetch_web(url, None, terms),
            Reference::Source(source) => self.import(source, terms),
        }
    }

    fn by_name(
        &self,
        name: &NameReference,
        terms: &Terms,
        fetch: impl Fn(&Self, &NameReference, &Terms) -> Result<Obtained, ObtainError>,
    ) -> Result<Obtained, ObtainError> {
        if terms.pull == PullPolicy::Update {
            return fetch(self, name, terms);
        }
        let found = self.find_on(name, &terms.platform.architecture);
        match found.and_then(|id| self.judge_stored(&id, name.digest.is_some(), terms)) {
            Err(ObtainError::Store(StoreError::Missing(_)) | ObtainError::Digest { .. })
                if terms.pull == PullPolicy::New =>
            {
                fetch(self, name, terms)
            }
            Err(ObtainError::Store(StoreError::Missing(_))) => Err(ObtainError::Absent(name.to_string())),
            result => result,
        }
    }

    /// The image in the store that a name means on this machine. A digest may be that of the native manifest or that of
    /// the source's.
    pub fn find(&self, name: &NameReference) -> Result<Digest, ObtainError> {
        self.find_on(name, oci::host_architecture())
    }

    fn find_on(&self, name: &NameReference, architecture: &str) -> Result<Digest, ObtainError> {
        let Some(digest) = name.digest else { return Ok(self.store.find_name(name, architecture)?) };
        let without_digest = NameReference { digest: None, ..name.clone() };
        let is_it = |id: &Digest| match self.store.image(id) {
            Ok(image) => *id == digest || image.origin.manifest == Some(digest),
            Err(_) => false,
        };
        let found = self.store.find_name(&without_digest, architecture)?;
        if is_it(&found) {
            return Ok(found);
        }
        // An older version of the name is not linked any more; its id says enough.
        let named = |id: &Digest| self.store.image(id).is_ok_and(|image| image.name == name.name);
        match self.store.ids()?.into_iter().find(|id| is_it(id) && named(id)) {
            Some(id) => Ok(id),
            None => Err(ObtainError::Digest { name: name.to_string(), id: found }),
        }
    }

    /// An image of the store, verified again: keys may have been revoked since.
    pub fn stored(&self, id: &Digest, pinned: bool, insecure: Insecure) -> Result<Obtained, ObtainError> {
        self.judge_stored(id, pinned, &Terms::here(PullPolicy::Never, insecure))
    }

    fn judge_stored(&self, id: &Digest, pinned: bool, terms: &Terms) -> Result<Obtained, ObtainError> {
        let insecure = terms.insecure;
        let image = self.store.image(id)?;
        check_platform(&image.name, &image.config.os, &image.config.architecture, &terms.platform)?;
        let subject = Subject {
            name: image.name.clone(),
            version: image.version.clone(),
            os: image.config.os.clone(),
            architecture: image.config.architecture.clone(),
            manifest: image.origin.manifest.unwrap_or(*id),
            index: image.origin.index,
        };
        let claim = Claim { subject: &subject, signatures: &image.signatures, pinned, insecure };
        let (trust, audit) = self.judge(&claim)?;
        self.store.touch(id);
        Ok(Obtained { image, trust, audit })
    }

    fn import(&self, source: &Source, terms: &Terms) -> Result<Obtained, ObtainError> {
        self.import_opened(&self.open(source, terms)?, source, terms)
    }

    /// Imports and verifies an image that the caller brought along, in a file whose name says nothing: `origin` tells users
    /// where it came from.
    pub fn import_own(&self, source: &Source, origin: &str) -> Result<Obtained, ObtainError> {
        let terms = Terms::here(PullPolicy::Never, Insecure::default());
        self.import_from(&self.open(source, &terms)?, source, origin.to_owned(), &terms)
    }

    fn open(&self, source: &Source, terms: &Terms) -> Result<SourceImage, SourceError> {
        let architecture = &terms.platform.architecture;
        SourceImage::open_with(source, architecture, &mut |dependency| self.dependency(dependency, terms))
    }

    fn import_opened(&self, opened: &SourceImage, source: &Source, terms: &Terms) -> Result<Obtained, ObtainError> {
        self.import_from(opened, source, source.to_string(), terms)
    }

    fn import_from(
        &self,
        opened: &SourceImage,
        source: &Source,
        origin: String,
        terms: &Terms,
    ) -> Result<Obtained, ObtainError> {
        let (name, version) = name_of(source, opened);
        let subject = match &opened.content {
            Content::Native { manifest, config } => {
                Subject::of(parse_native(manifest, config)?.1, Digest::of(manifest))
            }
            Content::Foreign(description) => Subject {
                name: name.clone(),
                version: version.clone(),
                os: description.os.clone(),
                architecture: description.architecture.clone(),
                manifest: opened.manifest.unwrap_or_else(|| Digest::of(name.as_str().as_bytes())),
                index: None,
            },
        };
        check_platform(&subject.name, &subject.os, &subject.architecture, &terms.platform)?;
        let claim =
            Claim { subject: &subject, signatures: &opened.signatures, pinned: false, insecure: terms.insecure };
        let (trust, audit) = self.judge(&claim)?;
        let native = matches!(opened.content, Content::Native { .. });
        let origin = Origin {
            source: origin,
            manifest: opened.manifest.filter(|_| !native),
            index: None,
            pinned: false,
            insecure: trust == Trust::Insecure,
        };
        let image = self.store.import(opened, &name, version.as_ref(), origin)?;
        Ok(Obtained { image, trust, audit })
    }

    /// A name may be that of a repository at a registry or, where its host is none, of files on the web.
    fn fetch_name(&self, name: &NameReference, terms: &Terms) -> Result<Obtained, ObtainError> {
        match self.fetch_registry(name, terms) {
            Err(ObtainError::Registry(error)) if name.name.host().is_some() && error.may_be_a_website() => {
                match self.discover(name, terms) {
                    Ok(Some(obtained)) => Ok(obtained),
                    Err(ObtainError::Registry(_)) | Ok(None) => Err(error.into()),
                    Err(other) => Err(other),
                }
            }
            result => result,
        }
    }

    /// Whether the image may run, and what an audit has to say about it.
    fn judge(&self, claim: &Claim<'_>) -> Result<(Trust, Option<String>), ObtainError> {
        let verdict = match self.policy.judge(claim.subject, claim.signatures, Timestamp::now()) {
            Err(_) if claim.pinned => self.policy.judge_pinned(claim.subject),
            verdict => verdict,
        };
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(_) if claim.insecure.image => return Ok((Trust::Insecure, None)),
            Err(refusal) => return Err(refusal.into()),
        };
        let keys = verdict.keys.iter().map(ToString::to_string).collect();
        let prefix = verdict.rule.map(|rule| rule.prefix.to_string()).unwrap_or_default();
        Ok(match verdict.basis {
            Basis::Signed | Basis::Anything => (Trust::Signature { prefix, keys }, None),
            Basis::Pinned => (Trust::Digest, None),
            Basis::Audited(refusal) => (Trust::Insecure, Some(refusal.to_string())),
        })
    }
}

fn check_platform(name: &ImageName, os: &str, architecture: &str, wanted: &Platform) -> Result<(), ObtainError> {
    if os == "linux" && architecture == wanted.architecture {
        return Ok(());
    }
    let (os, architecture) = (os.escape_default().to_string(), architecture.escape_default().to_string());
    Err(ObtainError::Platform { name: name.to_string(), os, architecture, wanted: wanted.architecture.clone() })
}

fn wanted_for(architecture: &str) -> String {
    let who = if architecture == oci::host_architecture() { "this machine is" } else { "and what was asked for is" };
    format!("{who} linux on {architecture}")
}

/// What the source calls the image, else a name made from the file's.
pub fn name_of(source: &Source, image: &SourceImage) -> (ImageName, Option<Version>) {
    if let Some(name) = image.names.first() {
        return (name.name.clone(), name.version.clone());
    }
    let path = match source {
        Source::DockerArchive { path, .. } | Source::OciArchive { path, .. } | Source::OciDirectory { path, .. } => {
            path
        }
        Source::Pod(path) | Source::Aci(path) => path,
        Source::Registry(name) => return (name.name.clone(), name.version.clone()),
        Source::Url(url) => std::path::Path::new(url.as_str()),
    };
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = ImageName::parse(plain.trim_matches('-'));
    (name.unwrap_or_else(|_| ImageName::parse("image").expect("a good name")), None)
}

//! From a reference to an image that may run: look in the store, import or fetch what is missing, verify every time.
//!
//! What is refused is not imported: the documents of a source are judged before its layers are read.

mod blob;
mod dependencies;
mod judge;
mod push;
mod registry;
mod signatures;
mod web;

use crate::digest::Digest;
use crate::name::{ImageName, Version};
use crate::oci;
use crate::provenance::Came;
use crate::reference::{NameReference, Reference, Source};
use crate::registry::RegistryError;
use crate::signature::SignatureError;
use crate::source::{Content, SourceError, SourceImage, parse_native};
use crate::statement::Subject;
use crate::store::{Marked, Origin, Store, StoreError, StoredImage};
use crate::trust::decide::same_name;
use crate::trust::{Acceptance, Policy, Refusal};
use judge::{Candidate, marked, own_mark};
use std::sync::Arc;
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
    /// An image older than the last accepted one of its name may take its place.
    pub downgrade: bool,
    /// For which machine; another one's image can be kept and passed on, not run.
    pub platform: Platform,
}

impl Terms {
    /// For this machine.
    pub fn here(pull: PullPolicy, insecure: Insecure) -> Self {
        Self { pull, insecure, downgrade: false, platform: Platform::host() }
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
    /// The name that was judged, if one was asked for, in the spelling that was judged.
    pub asked: Option<NameReference>,
    /// What the rules said; nothing if they refused and the user let it in.
    pub acceptance: Option<Arc<Acceptance>>,
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
            Self::Store(StoreError::Marks { .. }) => {
                Some("`--allow-downgrade` writes it anew, if you know that the image is the one you want".to_owned())
            }
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

/// What is imported, and what users are told of it.
struct Importing<'a> {
    source: &'a Source,
    /// Where it came from, for people.
    origin: String,
    came: Came,
    /// The name under which it was looked for.
    asked: Option<&'a NameReference>,
}

impl<'a> Importing<'a> {
    fn of(source: &'a Source) -> Self {
        let came = match source {
            Source::Pod(_) | Source::Aci(_) | Source::Registry(_) => Came::File,
            Source::Url(_) => Came::Web,
            Source::DockerArchive { .. } | Source::OciArchive { .. } | Source::OciDirectory { .. } => Came::Archive,
        };
        Self { source, origin: source.to_string(), came, asked: None }
    }
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
            Reference::Id(prefix) => self.judge_stored(&self.store.find_id(prefix)?, None, terms),
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
        match found.and_then(|(asked, id)| self.judge_stored(&id, Some(&asked), terms)) {
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
        self.find_on(name, oci::host_architecture()).map(|(_, id)| id)
    }

    /// With the name in the spelling that the store has, which is the one that is judged.
    fn find_on(&self, name: &NameReference, architecture: &str) -> Result<(NameReference, Digest), ObtainError> {
        let spelled = |spelling: ImageName| NameReference { name: spelling, ..name.clone() };
        let Some(digest) = name.digest else {
            let (spelling, id) = self.store.find_spelling(name, architecture)?;
            return Ok((spelled(spelling), id));
        };
        let is_it = |id: &Digest| {
            self.store.image(id).is_ok_and(|image| {
                let digests = [Some(*id), image.origin.manifest, image.origin.index];
                let named = same_name(&image.name, &name.name) || image.origin.came_as(&name.name);
                named && digests.contains(&Some(digest)) && image.config.architecture == architecture
            })
        };
        let found = self.store.find_name(&NameReference { digest: None, ..name.clone() }, architecture);
        let mut likely = vec![digest];
        likely.extend(self.store.find_digest(&name.name, &digest, architecture)?);
        likely.extend(&found);
        if !likely.iter().any(is_it) {
            // An older version of the name is not linked any more.
            likely = self.store.ids()?;
        }
        match likely.into_iter().find(is_it) {
            Some(id) => Ok((name.clone(), id)),
            None => Err(ObtainError::Digest { name: name.to_string(), id: found? }),
        }
    }

    /// An image of the store that the caller holds by its id, judged again: keys may have been revoked since. `asked` is the
    /// name that the user gave for it, if there was one. Whether there is a newer one of the name is not asked.
    pub fn stored(
        &self,
        id: &Digest,
        asked: Option<&NameReference>,
        insecure: Insecure,
    ) -> Result<Obtained, ObtainError> {
        let terms = Terms::here(PullPolicy::Never, insecure);
        let spelled = asked.map(|asked| match self.find_on(asked, oci::host_architecture()) {
            Ok((spelled, found)) if found == *id => spelled,
            _ => asked.clone(),
        });
        self.judge_again(id, spelled.as_ref(), None, &terms)
    }

    /// As the newest of the name, if a name was asked for: an id means these bytes, new or old.
    fn judge_stored(&self, id: &Digest, asked: Option<&NameReference>, terms: &Terms) -> Result<Obtained, ObtainError> {
        let marked = asked.and_then(|asked| marked(asked, &terms.platform.architecture));
        self.judge_again(id, asked, marked, terms)
    }

    fn judge_again(
        &self,
        id: &Digest,
        asked: Option<&NameReference>,
        marked: Option<Marked>,
        terms: &Terms,
    ) -> Result<Obtained, ObtainError> {
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
        let candidate =
            Candidate { subject: &subject, id: Some(*id), came: &image.origin.came, signatures: &image.signatures };
        let judgement = self.judge(&candidate, asked, marked, terms)?;
        self.mark(&judgement, terms)?;
        self.store.touch(id);
        Ok(judgement.obtained(image))
    }

    fn import(&self, source: &Source, terms: &Terms) -> Result<Obtained, ObtainError> {
        self.import_from(&self.open(source, terms)?, &Importing::of(source), terms)
    }

    /// Imports and verifies an image that the caller brought along, in a file whose name says nothing: `origin` tells users
    /// where it came from.
    pub fn import_own(&self, source: &Source, origin: &str) -> Result<Obtained, ObtainError> {
        // It comes with the program, so it is as new as the program is.
        let terms = Terms { downgrade: true, ..Terms::here(PullPolicy::Never, Insecure::default()) };
        let importing = Importing { origin: origin.to_owned(), ..Importing::of(source) };
        self.import_from(&self.open(source, &terms)?, &importing, &terms)
    }

    fn open(&self, source: &Source, terms: &Terms) -> Result<SourceImage, SourceError> {
        let architecture = &terms.platform.architecture;
        SourceImage::open_with(source, architecture, &mut |dependency| self.dependency(dependency, terms))
    }

    fn import_from(
        &self,
        opened: &SourceImage,
        importing: &Importing<'_>,
        terms: &Terms,
    ) -> Result<Obtained, ObtainError> {
        let Importing { source, ref origin, ref came, asked } = *importing;
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
        let came = vec![came.clone()];
        let candidate = Candidate { subject: &subject, id: None, came: &came, signatures: &opened.signatures };
        let marked = match asked {
            Some(asked) => marked(asked, &subject.architecture),
            None => Some(own_mark(&subject)),
        };
        let judgement = self.judge(&candidate, asked, marked, terms)?;
        let native = matches!(opened.content, Content::Native { .. });
        let origin = Origin {
            source: origin.clone(),
            manifest: opened.manifest.filter(|_| !native),
            index: None,
            came,
            pinned: judgement.trust == Trust::Digest,
            insecure: judgement.trust == Trust::Insecure,
        };
        let image = self.store.import(opened, &name, version.as_ref(), origin)?;
        self.mark(&judgement, terms)?;
        Ok(judgement.obtained(image))
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

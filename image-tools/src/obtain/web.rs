//! Images as plain files of web servers: by URL, or by a name that discovery turns into one.
//!
//! A file is downloaded whole into the store's temporary directory, resumed there after a break, and then imported like any
//! local file. Its signatures are those inside of it and those in the `.sig` file beside it. What the server says of
//! versions and ages is kept, so that an unchanged file is not sent again.

use super::{Images, Importing, Insecure, ObtainError, Obtained, PullPolicy, Terms};
use crate::digest::Digest;
use crate::discovery::Places;
use crate::name::{ImageName, Version};
use crate::progress::Progress;
use crate::reference::{NameReference, Source};
use crate::registry::{Known, Page, Registry, RegistryError};
use crate::signature::{BLOB_BYTES_MAX, Signature};
use crate::source::{Content, SourceError, SourceImage, parse_native};
use crate::store::now_unix_secs;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Largest file that is downloaded.
const FILE_BYTES_MAX: u64 = 64 << 30;
/// Largest key file read.
const KEY_BYTES_MAX: u64 = 64 << 10;
/// How often a download may break off without a byte in between.
const BREAKS_MAX: u32 = 5;

/// What is remembered of a URL.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    url: String,
    id: Digest,
    etag: Option<String>,
    fetched_unix_secs: u64,
    max_age_secs: u64,
}

impl Images {
    /// Fetches the file at a URL, as far as its image is not in the store.
    pub(super) fn fetch_web(
        &self,
        url: &str,
        wanted: Option<&NameReference>,
        terms: &Terms,
    ) -> Result<Obtained, ObtainError> {
        let Terms { pull, insecure, .. } = *terms;
        let seen = self.seen(url).filter(|seen| self.store.image(&seen.id).is_ok());
        if let Some(seen) = &seen {
            let fresh = now_unix_secs() < seen.fetched_unix_secs.saturating_add(seen.max_age_secs);
            if pull != PullPolicy::Update || fresh {
                return self.judge_stored(&seen.id, wanted, terms);
            }
        }
        if pull == PullPolicy::Never {
            return Err(ObtainError::Absent(url.to_owned()));
        }
        let registry = Registry::new(self.registry_settings(insecure)?)?;
        let etag = seen.as_ref().and_then(|seen| seen.etag.as_deref());
        let page = registry.page(url, etag.map_or(Known::Nothing, Known::Whole))?;
        let (etag, max_age_secs) = (page.etag.clone(), page.max_age_secs);
        let remember = |id| Seen { url: url.to_owned(), id, etag, fetched_unix_secs: now_unix_secs(), max_age_secs };
        let obtained = match (page.content.is_some(), seen) {
            (false, Some(seen)) => {
                let obtained = self.judge_stored(&seen.id, wanted, terms)?;
                let etag = seen.etag.clone();
                self.remember(&Seen { etag, ..remember(seen.id) })?;
                return Ok(obtained);
            }
            _ => self.import_page(&registry, url, page, wanted, terms)?,
        };
        self.remember(&remember(obtained.image.id))?;
        Ok(obtained)
    }

    /// Finds a name on the web. Nothing if its host says nothing about it.
    pub(super) fn discover(&self, wanted: &NameReference, terms: &Terms) -> Result<Option<Obtained>, ObtainError> {
        let registry = Registry::new(self.registry_settings(terms.insecure)?)?;
        let url = |places: &Places| places.image_url(wanted, &terms.platform.architecture, "pod");
        let Some(places) = Places::find(&registry, &wanted.name, |places| url(places).is_some())? else {
            return Ok(None);
        };
        match url(&places) {
            Some(url) => self.fetch_web(&url, Some(wanted), terms).map(Some),
            None => Ok(None),
        }
    }

    /// The keys that the web names for a prefix, each with its URL. They are only found: a person who knows the fingerprint
    /// must say yes before one of them is trusted.
    ///
    /// # Errors
    /// A host that cannot be reached, or says something that is none.
    pub fn discover_keys(&self, prefix: &ImageName, insecure: Insecure) -> Result<Vec<(String, String)>, ObtainError> {
        let registry = Registry::new(self.registry_settings(insecure)?)?;
        let found = Places::find(&registry, prefix, |places| places.key_urls(prefix).next().is_some())?;
        let mut keys = Vec::new();
        for url in found.iter().flat_map(|places| places.key_urls(prefix)) {
            if let Some(bytes) = registry.small_page(url, KEY_BYTES_MAX)? {
                keys.push((url.to_owned(), String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
        Ok(keys)
    }

    fn import_page(
        &self,
        registry: &Registry,
        url: &str,
        page: Page,
        wanted: Option<&NameReference>,
        terms: &Terms,
    ) -> Result<Obtained, ObtainError> {
        let download = Download::open(&self.store.root().join("tmp"), url)?;
        download.run(registry, url, page)?;
        let source = match url.split(['?', '#']).next().is_some_and(|path| path.ends_with(".aci")) {
            true => Source::Aci(download.path.clone()),
            false => Source::Pod(download.path.clone()),
        };
        let opened = self.open(&source, terms);
        let imported = opened.map_err(ObtainError::from).and_then(|mut opened| {
            if let Some(bytes) = registry.small_page(&format!("{url}.sig"), BLOB_BYTES_MAX as u64)? {
                opened.signatures.extend(Signature::from_file(&String::from_utf8_lossy(&bytes))?);
            }
            if let Some(wanted) = wanted {
                check_name(&opened, wanted, url)?;
            }
            let source = Source::Url(url.to_owned());
            self.import_from(&opened, &Importing { asked: wanted, ..Importing::of(&source) }, terms)
        });
        // Good or bad, its bytes are known now; a refused image is not kept.
        download.remove();
        imported
    }

    fn seen_path(&self, url: &str) -> PathBuf {
        self.store.root().join("web").join(format!("{}.json", Digest::of(url.as_bytes()).hex()))
    }

    /// What is remembered; nothing if it cannot be read, because asking again is always right.
    fn seen(&self, url: &str) -> Option<Seen> {
        let bytes = std::fs::read(self.seen_path(url)).ok()?;
        serde_json::from_slice::<Seen>(&bytes).ok().filter(|seen| seen.url == url)
    }

    fn remember(&self, seen: &Seen) -> Result<(), ObtainError> {
        let path = self.seen_path(&seen.url);
        let local = |source| RegistryError::Local { what: format!("write `{}`", path.display()), source };
        let text = serde_json::to_vec(seen).expect("plain data has a JSON form");
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let directory = self.store.root().join("web");
        let written = std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(&temporary, text))
            .and_then(|()| std::fs::rename(&temporary, &path));
        Ok(written.map_err(local)?)
    }
}

/// A file found under a name must be the image of that name: who can change a page must not be able to swap images.
fn check_name(opened: &SourceImage, wanted: &NameReference, url: &str) -> Result<(), ObtainError> {
    let refused = |why: String| -> ObtainError { SourceError::Invalid { path: url.to_owned(), why }.into() };
    let Content::Native { manifest, config } = &opened.content else {
        return Err(refused("is no native image, and only those are found by name".to_owned()));
    };
    let (_, config) = parse_native(manifest, config)?;
    let asked: (&ImageName, Option<&Version>) = (&wanted.name, wanted.version.as_ref());
    if config.name != *asked.0 || (asked.1.is_some() && config.version.as_ref() != asked.1) {
        let version = config.version.map_or_else(String::new, |version| format!(":{version}"));
        return Err(refused(format!("calls itself `{}{version}`, and `{wanted}` was asked for", config.name)));
    }
    match wanted.digest.filter(|digest| *digest != Digest::of(manifest)) {
        Some(digest) => Err(refused(format!("has the manifest {}, and {digest} was asked for", Digest::of(manifest)))),
        None => Ok(()),
    }
}

/// A file on its way into the temporary directory; another process that wants the same one waits.
struct Download {
    path: PathBuf,
    tag_path: PathBuf,
    file: File,
}

impl Download {
    fn open(directory: &Path, url: &str) -> Result<Self, ObtainError> {
        let path = directory.join(format!("web-{}.pod", Digest::of(url.as_bytes()).hex()));
        let local = |source| RegistryError::Local { what: format!("open `{}`", path.display()), source };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(local)?;
        file.lock().map_err(local)?;
        Ok(Self { tag_path: path.with_extension("etag"), path, file })
    }

    /// Reads until the file is whole, asking for the rest after each break.
    fn run(&self, registry: &Registry, url: &str, first: Page) -> Result<(), ObtainError> {
        let mut page = self.resumed(registry, url, first)?;
        let mut breaks = 0;
        loop {
            let before = self.length()?;
            match self.read(page) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    breaks = if self.length()? > before { 0 } else { breaks + 1 };
                    if breaks > BREAKS_MAX || error.kind() == io::ErrorKind::FileTooLarge {
                        return Err(ObtainError::Read { what: format!("file at `{url}`"), source: error });
                    }
                }
            }
            page = match self.tag() {
                Some(tag) => registry.page(url, Known::Beginning(&tag, self.length()?))?,
                None => registry.page(url, Known::Nothing)?,
            };
        }
    }

    /// Continues what an earlier attempt left, if it is of the same version.
    fn resumed(&self, registry: &Registry, url: &str, first: Page) -> Result<Page, ObtainError> {
        let length = self.length()?;
        match (self.tag(), &first.etag) {
            (Some(tag), Some(now)) if length > 0 && tag == *now => {
                Ok(registry.page(url, Known::Beginning(&tag, length)).unwrap_or(first))
            }
            _ => Ok(first),
        }
    }

    fn read(&self, page: Page) -> io::Result<()> {
        let Some(mut content) = page.content else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let mut file = &self.file;
        match &page.etag {
            Some(tag) => std::fs::write(&self.tag_path, tag)?,
            None => drop(std::fs::remove_file(&self.tag_path)), // It may not be there.
        }
        file.set_len(content.begins)?;
        file.seek(io::SeekFrom::Start(content.begins))?;
        let size = content.size;
        let progress = Progress::file(&self.path, size);
        let left = FILE_BYTES_MAX - content.begins;
        let copied =
            io::copy(&mut progress.watch(0, content.begins, io::Read::take(&mut content, left + 1)), &mut file)?;
        file.flush()?;
        if copied > left {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file has no end"));
        }
        match size {
            Some(size) if size != self.file.metadata()?.len() => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn tag(&self) -> Option<String> {
        std::fs::read_to_string(&self.tag_path).ok().filter(|tag| tag.len() < 1024)
    }

    fn length(&self) -> Result<u64, ObtainError> {
        let length = self.file.metadata().map(|metadata| metadata.len());
        let what = format!("read `{}`", self.path.display());
        Ok(length.map_err(|source| RegistryError::Local { what, source })?)
    }

    fn remove(&self) {
        for path in [&self.path, &self.tag_path] {
            let _ = std::fs::remove_file(path); // `image gc` removes what is left.
        }
    }
}

//! A client of the OCI distribution API: manifests, blobs, referrers, and pushing.
//!
//! Runs in the host's namespaces, mostly as root, and talks to servers that lie: every body has a limit, every blob a
//! size and a digest, every wait an end. Credentials go to the host they were meant for and to no other. It knows nothing
//! of the store: what it reads it hands on as bytes, and who takes them checks the digest before they become visible.

mod auth;
mod blob;
mod challenge;
mod credentials;
mod download;
mod endpoint;
mod error;
mod http;
mod manifest;
mod push;
mod referrers;
mod session;
mod settings;
#[cfg(test)]
mod tests;
mod tls;
mod web;

pub use blob::BlobReader;
pub use download::{Download, Partial};
pub use error::RegistryError;
pub use manifest::{Document, NATIVE_TYPE, Platform, RemoteImage};
pub use push::Upload;
pub use referrers::fallback_tag;
pub use settings::{Mirror, RegistryRule, Settings};
pub use web::{Content, Known, Page};

use crate::name::ImageName;
use endpoint::Endpoint;
use http::Http;
use std::sync::Arc;

/// All that registries share in one process: connections, tokens, settings.
#[derive(Clone)]
pub struct Registry {
    http: Arc<Http>,
    settings: Arc<Settings>,
}

impl Registry {
    /// Reads certificates once; nothing is sent.
    pub fn new(settings: Settings) -> Result<Self, RegistryError> {
        let settings = Arc::new(settings);
        Ok(Self { http: Arc::new(Http::new(&settings)?), settings })
    }

    /// The repository of `name`, with its mirrors before it.
    pub fn repository(&self, name: &ImageName) -> Result<Repository, RegistryError> {
        let endpoints = endpoint::of(name, &self.settings)?;
        Ok(Repository { http: Arc::clone(&self.http), name: name.clone(), endpoints })
    }
}

/// One repository, wherever its mirrors are. Reads ask the mirrors first; writes go to its own registry only.
#[derive(Clone)]
pub struct Repository {
    http: Arc<Http>,
    name: ImageName,
    endpoints: Vec<Endpoint>,
}

impl Repository {
    /// The name it was opened by; a mirror does not change it, so trust rules speak of the original.
    pub fn name(&self) -> &ImageName {
        &self.name
    }

    /// What it is called at its mirrors.
    pub fn mirrors(&self) -> impl Iterator<Item = ImageName> {
        let (_, mirrors) = self.endpoints.split_last().expect("`endpoint::of` ends with the registry itself");
        mirrors.iter().filter_map(|mirror| ImageName::parse(&format!("{}/{}", mirror.registry, mirror.repository)).ok())
    }

    /// Its own registry, which is the last of the endpoints.
    fn origin(&self) -> &Endpoint {
        self.endpoints.last().expect("`endpoint::of` ends with the registry itself")
    }

    /// Asks each endpoint until one has it. A mirror that fails in any way is passed over; what the registry itself says
    /// is final. Where it cannot be reached, a mirror's word that there is no such thing counts, or nothing optional, such
    /// as a signature, could ever be found absent.
    fn first<T>(&self, mut ask: impl FnMut(&Endpoint) -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        let (origin, mirrors) = self.endpoints.split_last().expect("`endpoint::of` ends with the registry itself");
        let mut absent = None;
        for mirror in mirrors {
            match ask(mirror) {
                Ok(answer) => return Ok(answer),
                Err(error @ RegistryError::NotFound { .. }) => absent = Some(error),
                Err(_) => {}
            }
        }
        match (ask(origin), absent) {
            (Err(RegistryError::Transport { .. } | RegistryError::Tls { .. }), Some(absent)) => Err(absent),
            (answer, _) => answer,
        }
    }
}

//! Pushing blobs and manifests to a repository's own registry.

use super::endpoint::Endpoint;
use super::http::{Request, resolve};
use super::{RegistryError, Repository};
use crate::digest::Digest;
use std::io::Read;
use ureq::http::Uri;

/// A blob is sent in pieces of this size, so that memory does not grow with it.
const CHUNK_BYTES: usize = 8 << 20;

/// What became of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    /// The registry had it.
    Present,
    /// It was sent.
    Sent,
}

impl Repository {
    /// Sends a blob unless the registry has it. `open` gives its bytes, `size` of them.
    pub fn push_blob<R: Read>(
        &self,
        digest: &Digest,
        size: u64,
        open: impl FnOnce() -> std::io::Result<R>,
    ) -> Result<Upload, RegistryError> {
        let endpoint = self.origin();
        let what = format!("blob {digest}");
        let head = Request { method: "HEAD", ..Request::default() };
        match self.http.ask(endpoint, &endpoint.url(&format!("blobs/{digest}")), &head, &what) {
            Ok(_) => return Ok(Upload::Present),
            Err(RegistryError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let local = |source| RegistryError::Local { what: format!("read blob {digest}"), source };
        let mut blob = open().map_err(local)?;
        let begin = Request { method: "POST", ..Request::default() };
        let mut location = self.begin_upload(endpoint, &begin)?;
        let mut sent = 0;
        let mut chunk = Vec::with_capacity(CHUNK_BYTES.min(usize::try_from(size).unwrap_or(CHUNK_BYTES)));
        loop {
            chunk.clear();
            (&mut blob).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).map_err(local)?;
            if chunk.is_empty() {
                break;
            }
            location = self.send_chunk(endpoint, &location, &chunk)?;
            sent += chunk.len() as u64;
        }
        if sent != size {
            let what = format!("push blob {digest}: {sent} bytes where {size} were announced");
            return Err(RegistryError::Local { what, source: std::io::ErrorKind::UnexpectedEof.into() });
        }
        let separator = if location.query().is_some() { '&' } else { '?' };
        let url = format!("{location}{separator}digest={digest}");
        let end = Request { method: "PUT", ..Request::default() };
        self.http.ask(endpoint, &url, &end, &what)?;
        Ok(Upload::Sent)
    }

    fn begin_upload(&self, endpoint: &Endpoint, request: &Request<'_>) -> Result<Uri, RegistryError> {
        let url = endpoint.url("blobs/uploads/");
        let response = self.http.ask(endpoint, &url, request, "an upload")?;
        next_location(endpoint, &url, &response)
    }

    /// Without `Content-Range` a chunk goes behind the last one, which is how all registries take it.
    fn send_chunk(&self, endpoint: &Endpoint, location: &Uri, chunk: &[u8]) -> Result<Uri, RegistryError> {
        let body = Some(("application/octet-stream", chunk));
        let request = Request { method: "PATCH", body, ..Request::default() };
        let url = location.to_string();
        let response = self.http.ask(endpoint, &url, &request, "a part of a blob")?;
        next_location(endpoint, &url, &response)
    }

    /// Sends a manifest under a tag or its digest. True if the registry took note of its `subject`.
    pub fn push_manifest(&self, reference: &str, media_type: &str, bytes: &[u8]) -> Result<bool, RegistryError> {
        let endpoint = self.origin();
        let request = Request { method: "PUT", body: Some((media_type, bytes)), ..Request::default() };
        let url = endpoint.url(&format!("manifests/{reference}"));
        let response = self.http.ask(endpoint, &url, &request, &format!("manifest `{reference}`"))?;
        Ok(response.headers().contains_key("oci-subject"))
    }
}

fn next_location(
    endpoint: &Endpoint,
    url: &str,
    response: &ureq::http::Response<ureq::Body>,
) -> Result<Uri, RegistryError> {
    let base: Option<Uri> = url.parse().ok();
    let location = response.headers().get("location").and_then(|value| value.to_str().ok());
    let next = base.zip(location).and_then(|(base, location)| resolve(&base, location));
    next.ok_or_else(|| RegistryError::Malformed {
        host: endpoint.registry.clone(),
        what: "an upload without saying where it goes on".into(),
    })
}

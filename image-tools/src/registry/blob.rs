//! Reading one blob: exactly as many bytes as its descriptor says, over as many connections as it takes.

use super::endpoint::Endpoint;
use super::http::{Http, Request};
use super::{RegistryError, Repository};
use crate::digest::Digest;
use std::io::{self, Read};
use std::sync::Arc;

/// How often in a row a connection may break without a byte in between.
const BREAKS_MAX: u32 = 5;

/// A blob on its way. It ends after the size of the descriptor; who reads it checks the digest.
pub struct BlobReader {
    http: Arc<Http>,
    endpoint: Endpoint,
    digest: Digest,
    size: u64,
    position: u64,
    body: Option<ureq::BodyReader<'static>>,
    breaks: u32,
}

impl Repository {
    /// Opens a blob of `size` bytes at `from`, at the first endpoint that has it.
    pub fn blob(&self, digest: &Digest, size: u64, from: u64) -> Result<BlobReader, RegistryError> {
        self.first(|endpoint| {
            let mut reader = BlobReader {
                http: Arc::clone(&self.http),
                endpoint: endpoint.clone(),
                digest: *digest,
                size,
                position: from,
                body: None,
                breaks: 0,
            };
            // The first answer decides whether this endpoint has the blob at all.
            if from < size {
                reader.connect()?;
            }
            Ok(reader)
        })
    }
}

impl BlobReader {
    fn malformed(&self, what: String) -> RegistryError {
        RegistryError::Malformed { host: self.endpoint.registry.clone(), what }
    }

    fn connect(&mut self) -> Result<(), RegistryError> {
        let from = (self.position > 0).then_some(self.position);
        let request = Request { range_from: from, ..Request::default() };
        let url = self.endpoint.url(&format!("blobs/{}", self.digest));
        let what = format!("blob {}", self.digest);
        let response = self.http.ask(&self.endpoint, &url, &request, &what)?;
        let status = response.status().as_u16();
        let range = response.headers().get("content-range").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = response.into_body();
        let begins = match (status, from) {
            (200, _) => 0,
            (206, Some(from)) if range.as_deref().and_then(range_start) == Some(from) => from,
            _ => return Err(self.malformed(format!("{status} with the wrong part of a blob"))),
        };
        let announced = body.content_length();
        if let Some(length) = announced
            && begins + length != self.size
        {
            let total = begins + length;
            return Err(self.malformed(format!("a blob of {total} bytes where its manifest says {}", self.size)));
        }
        let mut reader = body.into_with_config().limit(u64::MAX).reader();
        // A server without ranges sends it all again; the part that was read is thrown away.
        let skipped = io::copy(&mut (&mut reader).take(self.position - begins), &mut io::sink());
        match skipped {
            Ok(bytes) if bytes == self.position - begins => self.body = Some(reader),
            // The next read connects again, and gives up when that happens too often.
            _ => self.body = None,
        }
        Ok(())
    }

    /// After the last byte the body must end, or the registry sends something else than it promised.
    fn check_end(&mut self) -> io::Result<usize> {
        let Some(mut body) = self.body.take() else { return Ok(0) };
        match body.read(&mut [0]) {
            Ok(1..) => Err(io::Error::other(self.malformed(format!("a blob longer than {} bytes", self.size)))),
            // The bytes that were promised are all there.
            Ok(0) | Err(_) => Ok(0),
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let left = self.size - self.position;
        if left == 0 {
            return self.check_end();
        }
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        loop {
            if self.body.is_none() {
                self.connect().map_err(io::Error::other)?;
            }
            let reason = match self.body.as_mut().map(|body| body.read(&mut buffer[..length])) {
                Some(Ok(count @ 1..)) => {
                    self.position += count as u64;
                    self.breaks = 0;
                    return Ok(count);
                }
                Some(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => error.to_string(),
                _ => "the connection ended early".to_owned(),
            };
            self.body = None;
            self.breaks += 1;
            if self.breaks > BREAKS_MAX {
                let reason = format!("{reason}, after {} of {} bytes", self.position, self.size);
                let host = self.endpoint.registry.clone();
                return Err(io::Error::other(RegistryError::Transport { host, reason }));
            }
        }
    }
}

/// `bytes FIRST-LAST/TOTAL`
fn range_start(header: &str) -> Option<u64> {
    header.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (header, start) in
            [("bytes 5-9/10", Some(5)), ("bytes 0-0/*", Some(0)), ("bytes */10", None), ("5-9", None), ("", None)]
        {
            assert_eq!(range_start(header), start, "{header}");
        }
    }
}

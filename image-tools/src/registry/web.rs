//! Plain files of web servers: small documents, and large ones that are resumed and asked for only if they changed.

use super::endpoint::Endpoint;
use super::http::{Request, body_bytes};
use super::{Registry, RegistryError};
use std::io::{self, Read};
use ureq::http::{Response, Uri, header};

/// What is known of a file from an earlier answer.
#[derive(Clone, Copy, Debug)]
pub enum Known<'a> {
    /// Nothing.
    Nothing,
    /// All of it, in the version with this tag.
    Whole(&'a str),
    /// Its first bytes, in the version with this tag.
    Beginning(&'a str, u64),
}

/// The answer for a file.
#[derive(Debug)]
pub struct Page {
    /// The version, if the server names versions strongly enough to resume by them.
    pub etag: Option<String>,
    /// How long the answer holds without asking again.
    pub max_age_secs: u64,
    /// The content; nothing if it did not change.
    pub content: Option<Content>,
}

/// Content on its way.
pub struct Content {
    /// Where it begins: later than at 0 only if that was asked for.
    pub begins: u64,
    /// How long the whole file is, if the server says so.
    pub size: Option<u64>,
    body: ureq::BodyReader<'static>,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content({}..{:?})", self.begins, self.size)
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer)
    }
}

impl Registry {
    /// Asks for a file. Only https, unless plain http is allowed for this run.
    pub fn page(&self, url: &str, known: Known<'_>) -> Result<Page, RegistryError> {
        let endpoint = self.web_endpoint(url)?;
        let (condition, range_from) = match known {
            Known::Nothing => (None, None),
            Known::Whole(etag) => (Some(("if-none-match", etag)), None),
            Known::Beginning(etag, from) => (Some(("if-range", etag)), Some(from)),
        };
        let request = Request { condition, range_from, ..Request::default() };
        let response = self.http.ask(&endpoint, url, &request, &format!("`{}`", path(url)))?;
        let etag = text(&response, header::ETAG).filter(|etag| etag.starts_with('"')).map(str::to_owned);
        let max_age_secs = max_age(text(&response, header::CACHE_CONTROL).unwrap_or_default());
        let malformed = |what: String| RegistryError::Malformed { host: endpoint.registry.clone(), what };
        let begins = match (response.status().as_u16(), range_from) {
            (304, None) if matches!(known, Known::Whole(_)) => return Ok(Page { etag, max_age_secs, content: None }),
            (200, _) => 0,
            (206, Some(from)) if text(&response, header::CONTENT_RANGE).and_then(range_start) == Some(from) => from,
            (status, _) => return Err(malformed(format!("{status} to a request for `{}`", path(url)))),
        };
        let body = response.into_body();
        let size = body.content_length().map(|length| begins + length);
        let body = body.into_with_config().limit(u64::MAX).reader();
        Ok(Page { etag, max_age_secs, content: Some(Content { begins, size, body }) })
    }

    /// A small document; nothing if the server has none.
    pub fn small_page(&self, url: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, RegistryError> {
        let endpoint = self.web_endpoint(url)?;
        match self.http.ask(&endpoint, url, &Request::default(), &format!("`{}`", path(url))) {
            Ok(mut response) if response.status().as_u16() == 200 => {
                body_bytes(&endpoint.registry, &mut response, bytes_max).map(Some)
            }
            Ok(_) | Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn web_endpoint(&self, url: &str) -> Result<Endpoint, RegistryError> {
        let uri: Option<Uri> = url.parse().ok();
        let host = uri.as_ref().and_then(Uri::authority).map(ToString::to_string).unwrap_or_default();
        let scheme = match uri.as_ref().and_then(Uri::scheme_str) {
            Some("https") => "https",
            Some("http") if self.settings.plain_http => "http",
            Some("http") => {
                let reason = "plain http is not used unless it is allowed for this run".to_owned();
                return Err(RegistryError::Transport { host, reason });
            }
            _ => return Err(RegistryError::Malformed { host, what: "with an address that is no URL".to_owned() }),
        };
        let repository = path(url).to_owned();
        Ok(Endpoint { registry: host.clone(), host, repository, scheme, token_hosts: Vec::new() })
    }
}

fn text<B>(response: &Response<B>, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

fn path(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').map_or("/", |slash| &rest[slash..])
}

fn range_start(header: &str) -> Option<u64> {
    header.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

fn max_age(header: &str) -> u64 {
    let words = || header.split(',').map(str::trim);
    if words().any(|word| word == "no-cache" || word == "no-store") {
        return 0;
    }
    words().find_map(|word| word.strip_prefix("max-age=")?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (header, age) in
            [("max-age=60", 60), ("public, max-age=5", 5), ("max-age=60, no-cache", 0), ("", 0), ("max-age=x", 0)]
        {
            assert_eq!(max_age(header), age, "{header}");
        }
        assert_eq!((path("https://h/a/b"), path("https://h")), ("/a/b", "/"));
    }
}

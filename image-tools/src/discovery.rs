//! Finding an image by its name on the web, without a registry: the name is an address, and the pages there, or one file in
//! `/.well-known`, say where images and keys of that name are.
//!
//! What is found is only a place to read from. It grants nothing: the image there must call itself by the name that was
//! asked for, and be signed as the trust rules want. Keys found this way are shown to a person and never believed by
//! themselves.

use crate::name::ImageName;
use crate::reference::NameReference;
use crate::registry::{Registry, RegistryError};
use serde::Deserialize;

/// Where those say it who cannot edit a page.
const WELL_KNOWN: &str = "/.well-known/pod-discovery.json";
/// Longest page that is searched.
const PAGE_BYTES_MAX: u64 = 1 << 20;
/// Name of the meta element for images: `PREFIX TEMPLATE`.
const IMAGES: &str = "pod-discovery";
/// Name of the meta element for keys: `PREFIX URL`.
const KEYS: &str = "pod-discovery-keys";
const ENTRIES_MAX: usize = 100;

/// A rule found on the web: what is meant for names under a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Whole components of names.
    pub prefix: String,
    /// URL, with `{name} {base} {version} {os} {arch} {ext}` for images.
    pub url: String,
}

/// What pages and the file in `/.well-known` say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Places {
    /// Always 1.
    pub version: u32,
    /// Images.
    #[serde(default)]
    pub images: Vec<Place>,
    /// Public keys.
    #[serde(default)]
    pub keys: Vec<Place>,
}

impl Places {
    /// Asks the host of a name, then the pages of the name and of its parents. The first answer about the name counts.
    pub fn find(
        registry: &Registry,
        name: &ImageName,
        wanted: impl Fn(&Self) -> bool,
    ) -> Result<Option<Self>, RegistryError> {
        // A prefix may be a host alone.
        let host = name.host().or(Some(name.as_str()).filter(|text| text.contains('.') && !text.contains('/')));
        let Some(host) = host else { return Ok(None) };
        if let Some(bytes) = registry.small_page(&format!("https://{host}{WELL_KNOWN}"), PAGE_BYTES_MAX)? {
            let places = Self::parse(&bytes)
                .map_err(|what| RegistryError::Malformed { host: host.to_owned(), what: format!("with {what}") })?;
            if wanted(&places) {
                return Ok(Some(places));
            }
        }
        let mut page = Some(name.as_str());
        while let Some(at) = page {
            if let Some(bytes) = registry.small_page(&format!("https://{at}?pod-discovery=1"), PAGE_BYTES_MAX)? {
                let places = Self::in_page(&String::from_utf8_lossy(&bytes));
                if wanted(&places) {
                    return Ok(Some(places));
                }
            }
            page = at.rfind('/').map(|slash| &at[..slash]);
        }
        Ok(None)
    }

    /// The file of `/.well-known`: strict, because whoever wrote it meant every word.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let places: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("a malformed {WELL_KNOWN}: {error}"))?;
        if places.version != 1 {
            return Err(format!("a {WELL_KNOWN} of version {}, and only 1 is known", places.version));
        }
        if places.images.len() > ENTRIES_MAX || places.keys.len() > ENTRIES_MAX {
            return Err(format!("a {WELL_KNOWN} of more than {ENTRIES_MAX} entries"));
        }
        Ok(places)
    }

    /// The meta elements of a page, whatever else is in it.
    fn in_page(page: &str) -> Self {
        let mut places = Self { version: 1, ..Self::default() };
        let mut rest = page;
        while let Some(start) = find_ignoring_case(rest, "<meta") {
            rest = &rest[start + "<meta".len()..];
            let (name, content) = (attribute(rest, "name"), attribute(rest, "content"));
            let list = match name {
                Some(IMAGES) => &mut places.images,
                Some(KEYS) => &mut places.keys,
                _ => continue,
            };
            let words: Vec<&str> = content.unwrap_or_default().split_whitespace().collect();
            if let [prefix, url] = words[..]
                && list.len() < ENTRIES_MAX
            {
                list.push(Place { prefix: prefix.to_owned(), url: url.to_owned() });
            }
        }
        places
    }

    /// The URL of a file of the image: the first template whose prefix covers the name.
    #[must_use]
    pub fn image_url(&self, wanted: &NameReference, architecture: &str, extension: &str) -> Option<String> {
        let place = self.images.iter().find(|place| covers(&place.prefix, &wanted.name))?;
        let version = wanted.version.as_ref().map_or("latest", |version| version.as_str());
        let values = [
            ("{name}", wanted.name.as_str()),
            ("{base}", wanted.name.base()),
            ("{version}", version),
            ("{os}", "linux"),
            ("{arch}", architecture),
            ("{ext}", extension),
        ];
        let url = values.iter().fold(place.url.clone(), |url, (key, value)| url.replace(key, value));
        (url.starts_with("https://") && !url.contains(['{', '}'])).then_some(url)
    }

    /// URLs of the keys for a name.
    pub fn key_urls(&self, name: &ImageName) -> impl Iterator<Item = &str> {
        let keys = self.keys.iter().filter(|place| covers(&place.prefix, name) && place.url.starts_with("https://"));
        keys.map(|place| place.url.as_str())
    }
}

fn covers(prefix: &str, name: &ImageName) -> bool {
    name.as_str().strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn find_ignoring_case(text: &str, word: &str) -> Option<usize> {
    text.as_bytes().windows(word.len()).position(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

/// The quoted value of an attribute of the element that `text` continues.
fn attribute<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|letter: char| letter.is_ascii_whitespace() || letter == '/');
        if rest.is_empty() || rest.starts_with('>') {
            return None;
        }
        let end = rest.find(|letter: char| letter.is_ascii_whitespace() || matches!(letter, '=' | '>' | '/'));
        let (key, after) = rest.split_at(end.unwrap_or(rest.len()));
        let after = after.trim_start();
        let Some(value) = after.strip_prefix('=') else {
            rest = if key.is_empty() { &after[after.len().min(1)..] } else { after };
            continue;
        };
        let value = value.trim_start();
        let quote = value.chars().next().filter(|letter| matches!(letter, '"' | '\''))?;
        let (value, after) = value[1..].split_once(quote)?;
        if key.eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "https://example.com/files/{base}-{version}-{os}-{arch}.{ext}";

    #[test]
    fn meta_elements_are_found_in_any_page() {
        let page = format!(
            "<!doctype html><HTML><head><meta charset=utf-8>\n<meta name='viewport' content=\"x\">\
             <META content=\"example.com/app {TEMPLATE}\" name=\"pod-discovery\" />\
             <meta name=\"pod-discovery\" content=\"only-one-word\"><meta name=\"pod-discovery-keys\"\
             content=\"example.com https://example.com/key.pub\"><meta name=\"pod-discovery\" content=\"unfinished"
        );
        let places = Places::in_page(&page);
        let place = |prefix: &str, url: &str| Place { prefix: prefix.to_owned(), url: url.to_owned() };
        assert_eq!(places.images, [place("example.com/app", TEMPLATE)]);
        assert_eq!(places.keys, [place("example.com", "https://example.com/key.pub")]);
        for odd in
            ["", "<meta", "<meta name", "<meta name=", "<meta name=\"", "<meta =x>", "<meta / / >", "é<meta é=\"é\">"]
        {
            assert_eq!(Places::in_page(odd).images, []);
        }
    }

    #[test]
    fn templates_are_filled_for_names_they_cover() {
        let places = Places {
            version: 1,
            images: vec![Place { prefix: "example.com/app".to_owned(), url: TEMPLATE.to_owned() }],
            keys: Vec::new(),
        };
        let url = |wanted: &str| places.image_url(&NameReference::parse(wanted).expect(wanted), "amd64", "pod");
        assert_eq!(url("example.com/app:1.2").as_deref(), Some("https://example.com/files/app-1.2-linux-amd64.pod"));
        assert_eq!(url("example.com/app/sub").as_deref(), Some("https://example.com/files/sub-latest-linux-amd64.pod"));
        assert_eq!(url("example.com/apple"), None);
        let odd = |template: &str| {
            let images = vec![Place { prefix: "a.b".to_owned(), url: template.to_owned() }];
            Places { version: 1, images, keys: Vec::new() }.image_url(
                &NameReference::parse("a.b/c").expect("name"),
                "amd64",
                "pod",
            )
        };
        assert_eq!(odd("http://a.b/{name}"), None);
        assert_eq!(odd("https://a.b/{unknown}"), None);
    }

    #[test]
    fn the_well_known_file_is_strict() {
        assert!(Places::parse(br#"{"version":1,"images":[{"prefix":"a.b","url":"https://a.b/x"}]}"#).is_ok());
        for bad in [
            &br#"{"version":2}"#[..],
            br#"{"images":[]}"#,
            br#"{"version":1,"image":[]}"#,
            br#"{"version":1,"version":1}"#,
            b"",
        ] {
            assert!(Places::parse(bad).is_err());
        }
    }
}

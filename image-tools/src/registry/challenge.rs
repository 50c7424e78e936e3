//! `WWW-Authenticate` (RFC 9110, 11.6.1): what a registry wants to see before it answers.

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password in each request.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// URL of the token service.
        realm: String,
        /// To be repeated to it.
        service: Option<String>,
        /// To be repeated to it.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The first challenge of a kind that is known.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        for (key, value) in parameters(rest) {
            let place = match key.to_ascii_lowercase().as_str() {
                "realm" => &mut realm,
                "service" => &mut service,
                "scope" => &mut scope,
                _ => continue,
            };
            *place = Some(value);
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// `key="value", key=value`; a comma inside quotes is part of the value.
fn parameters(mut rest: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted_value(quoted),
            None => {
                let (value, next) = after.split_once(',').unwrap_or((after, ""));
                (value.trim().to_owned(), next)
            }
        };
        found.push((key.trim().trim_start_matches(',').trim(), value));
        rest = next.trim_start().trim_start_matches(',').trim_start();
    }
    found
}

fn quoted_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (value, &text[index + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(Into::into),
                scope: scope.map(Into::into),
            })
        };
        for (header, wanted) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a:pull,push\"",
                bearer("https://a/t", Some("s"), Some("repository:a:pull,push")),
            ),
            ("Bearer scope=x, realm=https://a/t", bearer("https://a/t", None, Some("x"))),
            ("Bearer realm=\"a\\\"b", bearer("a\"b", None, None)),
            ("Bearer", None),
            ("Digest realm=\"x\"", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), wanted, "{header}");
        }
    }
}

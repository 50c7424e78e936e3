//! When two names are the same name, and which rule prefixes are about a name.

use crate::cosign::canonical_name;
use crate::name::ImageName;

use super::super::Prefix;

/// The one long spelling of a name: `redis` is `docker.io/library/redis`, and 443 is the port of https anyway.
#[must_use]
pub fn full(name: &ImageName) -> ImageName {
    let without_port = name
        .host()
        .and_then(|host| Some((host.strip_suffix(":443")?, &name.as_str()[host.len()..])))
        .and_then(|(host, rest)| ImageName::parse(&format!("{host}{rest}")).ok());
    // A host such as `registry:443` is one only by its port.
    let without_port = without_port.filter(|plain| plain.host().is_some());
    // Docker Hub's hosts may have the port, too, so it goes first.
    canonical_name(without_port.as_ref().unwrap_or(name))
}

/// Whether two spellings are the same name.
#[must_use]
pub fn same_name(left: &ImageName, right: &ImageName) -> bool {
    left == right || full(left) == full(right)
}

/// The prefixes that are about a name, the most specific first: those of the name as it is spelled, then those of its long
/// spelling, then `*`. A prefix of both stands where the long spelling has it: for `docker.io/redis`, the rule of
/// `docker.io/library/redis` is more specific than that of `docker.io`.
#[must_use]
pub fn prefixes(name: &ImageName) -> Vec<Prefix> {
    let long: Vec<Prefix> = Prefix::covering(&full(name)).collect();
    Prefix::covering(name).filter(|prefix| !long.contains(prefix)).chain(long.iter().cloned()).collect()
}

/// Whether the prefix is the name itself, in either spelling.
pub(super) fn is_exactly(prefix: &Prefix, name: &ImageName) -> bool {
    matches!(prefix, Prefix::Under(text) if text == name.as_str() || *text == full(name).as_str())
}

/// What a name has behind a prefix that covers it.
pub(super) fn rest_behind(prefix: &Prefix, name: &ImageName) -> Option<String> {
    let full = full(name);
    match prefix {
        Prefix::All => Some(format!("/{full}")),
        Prefix::Under(prefix) => [name.as_str(), full.as_str()].into_iter().find_map(|text| {
            let rest = text.strip_prefix(prefix.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ImageName {
        ImageName::parse(text).expect("a name")
    }

    #[test]
    fn a_name_has_one_long_spelling() {
        for (short, long) in [
            ("redis", "docker.io/library/redis"),
            ("docker.io/redis", "docker.io/library/redis"),
            ("team/app", "docker.io/team/app"),
            ("registry-1.docker.io/team/app", "docker.io/team/app"),
            ("registry-1.docker.io:443/team/app", "docker.io/team/app"),
            ("docker.io:443/redis", "docker.io/library/redis"),
            ("example.com:443/a", "example.com/a"),
            ("example.com:4430/a", "example.com:4430/a"),
            ("example.com:5000/a", "example.com:5000/a"),
            ("localhost:443/a", "localhost/a"),
            ("registry:443/a", "registry:443/a"),
        ] {
            assert_eq!(full(&name(short)).as_str(), long);
            assert_eq!(full(&name(long)).as_str(), long);
        }
    }

    #[test]
    fn rules_of_the_long_spelling_cover_the_short_one() {
        let of = |text: &str| prefixes(&name(text)).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(of("redis"), ["redis", "docker.io/library/redis", "docker.io/library", "docker.io", "*"]);
        assert_eq!(of("docker.io/library/redis"), ["docker.io/library/redis", "docker.io/library", "docker.io", "*"]);
        assert_eq!(of("a.b:443/c"), ["a.b:443/c", "a.b:443", "a.b/c", "a.b", "*"]);
        assert_eq!(of("a.b/c"), ["a.b/c", "a.b", "*"]);
        let twice = ["docker.io/redis", "docker.io/library/redis", "docker.io/library", "docker.io", "*"];
        assert_eq!(of("docker.io/redis"), twice);
    }

    #[test]
    fn what_is_behind_a_prefix() {
        let rest = |prefix: &str, of: &str| rest_behind(&Prefix::parse(prefix).expect("a prefix"), &name(of));
        assert_eq!(rest("a.b", "a.b/c"), Some("/c".to_owned()));
        assert_eq!(rest("docker.io", "redis"), Some("/library/redis".to_owned()));
        assert_eq!(rest("a.b/c", "a.b/cd"), None);
        assert_eq!(rest("*", "a.b/c"), Some("/a.b/c".to_owned()));
    }
}

//! What fuzz targets start: bytes that others wrote, and the laws of reading them. Compiled for tests and with the feature
//! `hostile` only.

use crate::user::{self, File, Files, Spec};
use contract::channel::Command;

/// A target's name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[("commands", wire::mux::hostile::messages::<Command>), ("user", user)];

/// User, group, and an image's passwd and group files, with NULs between: a number has one spelling, and a name gives what a
/// line of a file says.
fn user(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.splitn(4, '\0');
    let mut part = || parts.next().unwrap_or_default();
    let (user, group, passwd, groups) = (part(), part(), part(), part());
    let read = user::spec(user);
    if let Ok(Spec::Id(id)) = read {
        assert_eq!(id.to_string(), user, "a second spelling of one number");
    }
    let group = Some(group).filter(|group| !group.is_empty());
    let owner = |_: &str| Ok((1, 1));
    let Ok(who) = user::resolve(
        user,
        group,
        &[],
        Files { passwd: File { text: passwd, fault: None }, group: File { text: groups, fault: None } },
        owner,
    ) else {
        return;
    };
    match read.expect("it was resolved") {
        Spec::Id(id) => assert_eq!(who.uid, id),
        Spec::OwnerOf(_) => assert_eq!(who.uid, 1),
        Spec::Name(name) => {
            let line = format!("{name}:");
            let number = format!(":{}:", who.uid);
            let said = passwd.lines().any(|text| text.starts_with(&line) && text.contains(&number));
            assert!(said || name == "root" && who.uid == 0, "nothing says that `{name}` is {}", who.uid);
        }
    }
    assert!(who.groups.contains(&who.gid) && who.groups.is_sorted());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_commands_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            wire::mux::hostile::messages::<Command>(&bytes);
        }

        #[test]
        fn any_files_give_a_user_or_an_error(text in "[a-c0-2:x\n,\0 +/-]{0,80}") {
            user(text.as_bytes());
        }
    }

    /// Every text of up to four letters out of those that number parsers have stumbled over.
    #[test]
    fn cve_2026_30892_every_short_text_is_a_canonical_number_or_none() {
        let letters = *b"0179 +-:x_a\n\t.,e";
        for length in 0..=4 {
            for number in 0..letters.len().pow(length) {
                let letter = |place| letters[number / letters.len().pow(place) % letters.len()];
                let text: String = (0..length).map(|place| char::from(letter(place))).collect();
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let canonical = digits && (text == "0" || !text.starts_with('0'));
                match user::spec(&text) {
                    Ok(Spec::Id(id)) => assert!(canonical && id.to_string() == text, "{text:?}"),
                    Ok(Spec::Name(name)) => assert!(name == text && text.starts_with(['x', '_', 'a', 'e']), "{text:?}"),
                    Ok(Spec::OwnerOf(_)) => panic!("{text:?} is no path"),
                    Err(_) => assert!(!canonical, "{text:?}"),
                }
            }
        }
    }
}

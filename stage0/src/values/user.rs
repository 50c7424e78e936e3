//! Users and groups as the command line names them: a name, a number, or a path in the image whose owner is meant. Who
//! that is, only stage2 can say, in the app's root; here the form is checked, so that `0x0`, `+1` and `1:` never get
//! there (CVE-2026-30892 was a user spec that parsed into root).

/// Ids above this mean "no change" to the kernel or do not fit.
const ID_MAX: u64 = u32::MAX as u64 - 1;

/// A user or group spec in the form that `pod.json` carries.
pub(crate) fn spec(text: &str) -> Result<String, String> {
    let quoted = || text.escape_debug();
    if text.is_empty() {
        return Err("the name is empty".to_owned());
    }
    if text.starts_with('/') {
        return path(text);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return super::number::integer(text, 0..=ID_MAX).map(|id| id.to_string());
    }
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let inner = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'@'));
    // shadow's useradd allows a `$` at the end, for the machine accounts of Samba.
    let inner = inner
        || text
            .strip_suffix('$')
            .is_some_and(|stem| stem.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)));
    if !first || !inner || text.len() > 256 {
        return Err(format!("`{}` is neither a name, a number nor an absolute path", quoted()));
    }
    Ok(text.to_owned())
}

/// `USER` or `USER:GROUP`.
pub(crate) fn user_and_group(text: &str) -> Result<(String, Option<String>), String> {
    match text.split_once(':') {
        None => Ok((spec(text)?, None)),
        Some((user, group)) => Ok((spec(user)?, Some(spec(group)?))),
    }
}

/// One supplementary group id.
pub(crate) fn gid(text: &str) -> Result<u32, String> {
    super::number::integer(text, 0..=ID_MAX).map(|id| id as u32)
}

fn path(text: &str) -> Result<String, String> {
    if text.len() > 4095 || text.contains('\0') {
        return Err("the path is longer than 4095 bytes".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        for good in ["root", "www-data", "_apt", "0", "999", "/var/lib/data", "svc$", "a.b", "u@example.com"] {
            assert_eq!(spec(good).as_deref(), Ok(good));
        }
        assert_eq!(spec("0010").as_deref(), Ok("10"));
        for bad in ["", "0x0", "+1", "-1", " 1", "1 ", "1a", "4294967295", "4294967296", "a:b", "a b", "a\n", "$", "é"]
        {
            assert!(spec(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pairs() {
        assert_eq!(user_and_group("a:b"), Ok(("a".to_owned(), Some("b".to_owned()))));
        assert_eq!(user_and_group("5"), Ok(("5".to_owned(), None)));
        for bad in ["1:", ":1", "a:b:c", ":", ""] {
            assert!(user_and_group(bad).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        /// What is accepted as a number is that number and no other, and nothing that is accepted can be read as two fields.
        #[test]
        fn what_is_accepted_means_one_thing(text in "[ 0-9a-z+:/x$_.-]{0,12}|[0-9]{1,12}") {
            if let Ok(spec) = spec(&text) {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                proptest::prop_assert_eq!(digits, spec.parse::<u32>().is_ok());
                proptest::prop_assert!(!digits || text.parse::<u32>().ok() == spec.parse().ok());
                proptest::prop_assert!(spec.starts_with('/') || !spec.contains([' ', ':', '+', '/']));
            }
        }
    }
}

//! How an app starts and ends: restart policy, standard input, environment entries.

use super::number;
use contract::pod::{Restart, RestartPolicy};

/// `no`, `always`, `on-failure`, each with an optional `:ATTEMPTS` and `,delay=TIME`.
pub(crate) fn restart(text: &str) -> Result<Restart, String> {
    let mut fields = text.split(',');
    let head = fields.next().unwrap_or_default();
    let (policy, attempts) = head.split_once(':').map_or((head, None), |(policy, attempts)| (policy, Some(attempts)));
    let policy = match policy {
        "no" | "never" => RestartPolicy::No,
        "on-failure" => RestartPolicy::OnFailure,
        "always" | "unless-stopped" => RestartPolicy::Always,
        _ => return Err(format!("`{}` is none of no, on-failure, always", policy.escape_debug())),
    };
    if policy == RestartPolicy::No && text.contains([':', ',']) {
        return Err("restart `no` has neither attempts nor a delay".to_owned());
    }
    let attempts_max = attempts.map_or(Ok(0), |attempts| number::integer(attempts, 1..=u64::from(u32::MAX)))? as u32;
    // A start that fails at once must not become a busy loop.
    let mut delay_millis = if policy == RestartPolicy::No { 0 } else { 100 };
    for field in fields {
        match field.split_once('=') {
            Some(("delay", delay)) => delay_millis = number::duration_millis(delay)?,
            _ => return Err(format!("`{}` is not delay=TIME", field.escape_debug())),
        }
    }
    Ok(Restart { policy, attempts_max, delay_millis })
}

/// Where an app's standard input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stdin {
    /// `/dev/null`.
    Null,
    /// The caller's.
    Inherit,
}

/// `null`, or `inherit` (rkt's word is `stream`).
pub(crate) fn stdin(text: &str) -> Result<Stdin, String> {
    match text {
        "null" => Ok(Stdin::Null),
        "inherit" | "stream" => Ok(Stdin::Inherit),
        _ => Err(format!("`{}` is neither null nor inherit", text.escape_debug())),
    }
}

/// `KEY=VALUE`, or `KEY` alone: the caller's value, as podman has it.
pub(crate) fn environment(text: &str) -> Result<(String, Option<String>), String> {
    let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value.to_owned())));
    if key.is_empty() || text.contains('\0') {
        return Err(format!("`{}` is not of the form KEY=VALUE", text.escape_debug()));
    }
    Ok((key.to_owned(), value))
}

/// -1000 to 1000.
pub(crate) fn oom_score_adj(text: &str) -> Result<i32, String> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let number = number::integer(digits, 0..=1000)
        .map_err(|_| format!("`{}` is not a number from -1000 to 1000", text.escape_debug()))? as i32;
    Ok(if negative { -number } else { number })
}

/// A namespaced sysctl, `net.ipv4.ip_forward=1`.
pub(crate) fn sysctl(text: &str) -> Result<(String, String), String> {
    let (key, value) = super::key_value(text)?;
    let key = key.replace('/', ".");
    let clean = key.split('.').all(|part| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    });
    if !clean || value.contains(['\n', '\0']) {
        return Err(format!("`{}` is not a kernel parameter", text.escape_debug()));
    }
    const IPC: [&str; 7] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
    ];
    let namespaced = key.starts_with("net.")
        || key.starts_with("fs.mqueue.")
        || key == "kernel.shm_rmid_forced"
        || IPC.contains(&key.as_str());
    if !namespaced {
        return Err(format!(
            "`{key}` belongs to the whole host; a pod may set net.*, fs.mqueue.* and System V IPC only"
        ));
    }
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts() {
        assert_eq!(restart("no").unwrap(), Restart { policy: RestartPolicy::No, attempts_max: 0, delay_millis: 0 });
        let three = restart("on-failure:3,delay=1s").unwrap();
        assert_eq!((three.policy, three.attempts_max, three.delay_millis), (RestartPolicy::OnFailure, 3, 1000));
        for bad in ["", "sometimes", "no:3", "always:0", "always:x", "always,pause=1s"] {
            assert!(restart(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn environments() {
        assert_eq!(environment("A=b=c"), Ok(("A".to_owned(), Some("b=c".to_owned()))));
        assert_eq!(environment("A="), Ok(("A".to_owned(), Some(String::new()))));
        assert_eq!(environment("HOME"), Ok(("HOME".to_owned(), None)));
        for bad in ["", "=x", "a\0=b"] {
            assert!(environment(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sysctls() {
        assert_eq!(sysctl("net/ipv4/ip_forward=1"), Ok(("net.ipv4.ip_forward".to_owned(), "1".to_owned())));
        assert!(sysctl("kernel.shmmax=1024").is_ok());
        for bad in [
            "kernel.core_pattern=|/x",
            "vm.swappiness=1",
            "net.=1",
            "net..a=1",
            "net.a/../b=1",
            "net.a",
            "fs.file-max=1",
        ] {
            assert!(sysctl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scores() {
        assert_eq!((oom_score_adj("-1000"), oom_score_adj("5")), (Ok(-1000), Ok(5)));
        for bad in ["", "-", "1001", "-1001", "+5", "--5"] {
            assert!(oom_score_adj(bad).is_err(), "{bad}");
        }
    }
}

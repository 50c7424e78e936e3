//! Why a program was not started, as an exit code and one line for a person.

use contract::exit;
use std::fmt::Write;
use std::io;

/// A start that did not come to the program.
#[derive(Debug)]
pub(crate) struct Failure {
    /// 125, 126 or 127.
    pub(crate) exit: u8,
    /// The step and its error.
    pub(crate) message: String,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { exit: exit::FAILURE, message: describe(&error) }
    }
}

/// An error with advice, which becomes a second line of the message.
#[derive(Debug)]
pub(crate) struct Advised {
    /// The error.
    pub(crate) message: String,
    /// What the user can do.
    pub(crate) hint: &'static str,
}

impl std::fmt::Display for Advised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advised {}

/// The chain of an error in one line: each step, then what the kernel said, in its words and without its number. Advice is a
/// second line.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for (index, cause) in error.chain().enumerate() {
        let separator = if index == 0 { "" } else { ": " };
        let cause = match (cause.downcast_ref::<io::Error>(), cause.downcast_ref::<rustix::io::Errno>()) {
            (Some(error), _) => kernel_words(error),
            (_, Some(errno)) => kernel_words(&io::Error::from(*errno)),
            _ => cause.to_string(),
        };
        let _ = write!(text, "{separator}{cause}"); // A String takes everything.
    }
    if let Some(advised) = error.downcast_ref::<Advised>() {
        let _ = write!(text, "\nhint: {}", advised.hint);
    }
    text
}

/// `No such file or directory (os error 2)` → `no such file or directory`.
pub(crate) fn kernel_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn one_line() {
        let errno = Err::<(), _>(rustix::io::Errno::NOENT).context("open `/x`").context("mount `y`").unwrap_err();
        assert_eq!(describe(&errno), "mount `y`: open `/x`: no such file or directory");
        let io = Err::<(), _>(io::Error::from_raw_os_error(libc::EPERM)).context("set RLIMIT_CORE").unwrap_err();
        assert_eq!(describe(&io), "set RLIMIT_CORE: operation not permitted");
        let advised = Err::<(), _>(rustix::io::Errno::INVAL)
            .context(Advised { message: "set user 5".to_owned(), hint: "use another" })
            .unwrap_err();
        assert_eq!(describe(&advised), "set user 5: invalid argument\nhint: use another");
    }
}

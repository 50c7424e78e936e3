//! Why a program was not started, as an exit code and one line for a person.

use contract::exit;
use contract::text::{self, Advised};
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

/// The chain of an error in one line: each step, then what the kernel said, in its words and without its number. Advice is a
/// second line.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    text::describe(error.chain().map(ToString::to_string), error.downcast_ref::<Advised>())
}

/// `No such file or directory (os error 2)` → `no such file or directory`.
pub(crate) fn kernel_words(error: &io::Error) -> String {
    text::in_words(&error.to_string())
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
        let advised =
            Err::<(), _>(rustix::io::Errno::INVAL).context(Advised::new("set user 5", "use another")).unwrap_err();
        assert_eq!(describe(&advised), "set user 5: invalid argument\nhint: use another");
    }
}

//! A failure that knows its advice and its exit code. It travels inside `anyhow::Error`; only `main` prints it.

use contract::exit;
use image_tools::ownership::Exposed;
use std::fmt;

/// One sentence, maybe advice, and the exit code of the whole program.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    exit: u8,
}

impl Failure {
    /// Something that pod could not do.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: exit::FAILURE }
    }

    /// A command line that cannot be understood.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: exit::USAGE }
    }

    /// A failure that the caller must see as this exit code: 126, 127.
    pub(crate) fn with_exit(message: impl Into<String>, exit: u8) -> Self {
        Self { message: message.into(), hint: None, exit }
    }

    /// With advice; printed on a line of its own.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The advice, if there is any.
    pub(crate) fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// What the program exits with.
    pub(crate) fn exit(&self) -> u8 {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Advice on an error that came from elsewhere; the error itself stays what it is.
#[derive(Debug)]
struct Advice {
    hint: String,
    error: anyhow::Error,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Advice {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Attaches advice.
pub(crate) fn advise(error: anyhow::Error, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Advice { hint: hint.into(), error })
}

/// What `main` prints: `pod: COMMAND: operation: cause`, then the advice; and the exit code.
pub(crate) fn report(command: Option<&str>, error: &anyhow::Error) -> (String, u8) {
    let mut line = "pod".to_owned();
    for part in command.into_iter().map(str::to_owned).chain(error.chain().map(ToString::to_string)) {
        // An error that repeats the text of its source says nothing new.
        if !line.ends_with(&part) {
            line.push_str(": ");
            line.push_str(&part);
        }
    }
    let mut text = format!("{}\n", crate::escape::escape(&line));
    let mut exit = exit::FAILURE;
    for cause in error.chain() {
        let hint = if let Some(failure) = cause.downcast_ref::<Failure>() {
            exit = failure.exit();
            failure.advice()
        } else {
            cause.downcast_ref::<Advice>().map(|advice| advice.hint.as_str())
        };
        let exposed = || cause.downcast_ref::<Exposed>().and_then(Exposed::hint);
        if let Some(hint) = hint.map(str::to_owned).or_else(exposed) {
            text.push_str(&format!("hint: {}\n", crate::escape::escape(&hint)));
            break;
        }
    }
    (text, exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let plain = anyhow::anyhow!("no such file").context("open `x`");
        assert_eq!(report(Some("run"), &plain), ("pod: run: open `x`: no such file\n".to_owned(), 125));
        let usage: anyhow::Error = Failure::usage("bad flag").hint("look").into();
        assert_eq!(report(None, &usage.context("parse")), ("pod: parse: bad flag\nhint: look\n".to_owned(), 2));
        let foreign = advise(anyhow::anyhow!("deep").context("top"), "do this").context("image `a`");
        assert_eq!(report(Some("run"), &foreign), ("pod: run: image `a`: top: deep\nhint: do this\n".to_owned(), 125));
        let hostile = anyhow::anyhow!("name \x1b[31m");
        assert!(!report(None, &hostile).0.contains('\x1b'));
    }
}

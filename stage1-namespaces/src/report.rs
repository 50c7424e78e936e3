//! The one place that prints: how the pod ended, as text for a person and as an exit code.

use contract::exit;
use std::fmt;
use std::process::ExitCode;

/// How the pod ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The exit code of `pod run`.
    pub(crate) exit: u8,
    /// What to tell the user: why apps could not be started. The text comes out of the pod.
    pub(crate) messages: Vec<String>,
}

/// An error with advice.
#[derive(Debug)]
pub(crate) struct Advised {
    /// The error, as any other.
    pub(crate) message: String,
    /// What the user can do.
    pub(crate) hint: String,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Prints and turns into an exit code.
pub(crate) fn report(ended: anyhow::Result<Outcome>) -> ExitCode {
    match ended {
        Ok(outcome) => {
            outcome.messages.iter().for_each(|message| eprint!("{}", render(message)));
            ExitCode::from(outcome.exit)
        }
        Err(error) => {
            eprint!("{}", render(&one_string(&error)));
            ExitCode::from(exit::FAILURE)
        }
    }
}

/// The error's chain, and its hint as a second line.
pub(crate) fn one_string(error: &anyhow::Error) -> String {
    let parts: Vec<String> = error.chain().map(|part| in_words(&part.to_string())).collect();
    let text = parts.join(": ");
    match error.downcast_ref::<Advised>() {
        Some(advised) => format!("{text}\nhint: {}", advised.hint),
        None => text,
    }
}

/// `No such file or directory (os error 2)` → `no such file or directory`.
fn in_words(part: &str) -> String {
    let Some((errno, _)) = part.split_once(" (os error ") else { return part.to_owned() };
    let mut letters = errno.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// At most two lines of at most [`LINE_CHARS_MAX`] characters, with control characters escaped: the text may come out of the pod.
fn render(message: &str) -> String {
    let mut lines = message.splitn(2, "\nhint: ");
    let mut text = format!("pod: run: {}\n", escape(lines.next().unwrap_or_default()));
    if let Some(hint) = lines.next() {
        text.push_str(&format!("hint: {}\n", escape(hint)));
    }
    text
}

const LINE_CHARS_MAX: usize = 1024;

fn escape(line: &str) -> String {
    let escape = |character: char| match character {
        // Direction overrides and invisible characters can make a line read as another one.
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
            character.escape_unicode().to_string()
        }
        character if character.is_control() => character.escape_default().to_string(),
        character => character.to_string(),
    };
    line.chars().take(LINE_CHARS_MAX).map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_sentence() {
        let error = anyhow::Error::from(std::io::Error::from_raw_os_error(2)).context("open `Xy`").context("mount it");
        assert_eq!(one_string(&error), "mount it: open `Xy`: no such file or directory");
        let advice = Advised { message: "mount it".into(), hint: "try again".into() };
        assert_eq!(one_string(&anyhow::anyhow!("x").context(advice)), "mount it: x\nhint: try again");
    }

    #[test]
    fn text_out_of_the_pod_is_harmless() {
        for (message, printed) in [
            ("exec `x`: not found", "pod: run: exec `x`: not found\n"),
            ("a\nhint: b", "pod: run: a\nhint: b\n"),
            ("a\x1b[2J\nb\r", "pod: run: a\\u{1b}[2J\\nb\\r\n"),
            ("a\nhint: b\nhint: c", "pod: run: a\nhint: b\\nhint: c\n"),
            ("\u{202e}x", "pod: run: \\u{202e}x\n"),
        ] {
            assert_eq!(render(message), printed);
        }
        assert!(render(&"x".repeat(1 << 20)).len() < 1100);
    }
}

//! Errors as text: one line, perhaps a second one `hint: …`. They cross from stage2 to stage1 inside of
//! [`crate::channel::Event::Failed`] and [`crate::status::AppEnd::Failed`], and end on the caller's terminal.

use std::fmt;

/// What stands before the advice of an error.
pub const HINT: &str = "\nhint: ";
/// A longer line is cut when it is printed.
pub const LINE_CHARS_MAX: usize = 1024;

/// An error with advice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advised {
    /// The error.
    pub message: String,
    /// What the user can do.
    pub hint: String,
}

impl Advised {
    /// An error and what the user can do.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advised {}

/// The parts of an error's chain in one line, and the advice as a second line.
pub fn describe(chain: impl Iterator<Item = String>, advice: Option<&Advised>) -> String {
    let parts: Vec<String> = chain.map(|part| in_words(&part)).collect();
    let hint = advice.map_or_else(String::new, |advised| format!("{HINT}{}", advised.hint));
    parts.join(": ") + &hint
}

/// `No such file or directory (os error 2)` → `no such file or directory`.
pub fn in_words(part: &str) -> String {
    let Some((errno, _)) = part.split_once(" (os error ") else { return part.to_owned() };
    let mut letters = errno.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// `pod: COMMAND: …` and perhaps `hint: …`, each a line that is safe on a terminal and has a limit.
pub fn render(command: &str, message: &str) -> String {
    let (line, hint) = message.split_once(HINT).map_or((message, None), |(line, hint)| (line, Some(hint)));
    let short = |line: &str| -> String { line.chars().take(LINE_CHARS_MAX).collect() };
    let mut text = format!("pod: {command}: {}\n", escape(&short(line)));
    if let Some(hint) = hint {
        text.push_str(&format!("hint: {}\n", escape(&short(hint))));
    }
    text
}

/// `text` with every control and format character written out. Text of an image or a pod must not move the cursor, recolour a
/// refusal or answer a question of the terminal (CVE-2017-5226 and its kin).
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unsafe(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// C0, DEL and C1; line and paragraph separators; and what is invisible: soft hyphen, zero-width characters, bidirectional
/// marks, overrides and isolates, interlinear annotations, and tags. A line with them can read as another one.
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_sentence() {
        let chain =
            || ["mount it", "open `Xy`", "No such file or directory (os error 2)"].map(str::to_owned).into_iter();
        assert_eq!(describe(chain(), None), "mount it: open `Xy`: no such file or directory");
        let advice = Advised::new("mount it", "try again");
        assert_eq!(describe(["mount it".to_owned()].into_iter(), Some(&advice)), "mount it\nhint: try again");
    }

    #[test]
    fn controls_are_written_out() {
        for (input, expected) in [
            ("plain", "plain"),
            ("größe 日本", "größe 日本"),
            ("a\x1b[31mb", "a\\u{1b}[31mb"),
            ("a\nb\tc", "a\\nb\\tc"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\u{202e}b\u{2066}c\u{200b}\u{61c}", "a\\u{202e}b\\u{2066}c\\u{200b}\\u{61c}"),
        ] {
            assert_eq!(escape(input), expected);
        }
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
            assert_eq!(render("run", message), printed);
        }
        assert!(render("run", &"x".repeat(1 << 20)).len() < 1100);
    }
}

//! Text from images, guests and other users on its way to a terminal. A control character in an image's name must not
//! move the cursor, recolour a refusal or answer a terminal's question (CVE-2017-5226 and its kin).

use std::borrow::Cow;
use std::fmt::Write;

/// `text` with every control and format character written out.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unsafe(character) {
            let _ = write!(escaped, "{}", character.escape_default()); // Writing to a String cannot end badly.
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Controls, and the invisible characters that reorder text (bidirectional overrides and isolates).
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn controls_are_written_out() {
        for (input, expected) in [
            ("plain", "plain"),
            ("größe 日本", "größe 日本"),
            ("a\x1b[31mb", "a\\u{1b}[31mb"),
            ("a\nb\tc", "a\\nb\\tc"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\u{202e}b", "a\\u{202e}b"),
        ] {
            assert_eq!(escape(input), expected);
        }
    }
}

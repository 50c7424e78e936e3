//! Text of strangers (images, registries, guests, file names) on its way to a terminal. A control character in an image's name
//! must not move the cursor, recolour a refusal or answer a terminal's question (CVE-2017-5226 and its kin), and an invisible
//! character must not make one name look like another. Each program of this workspace writes through one of these functions.

use std::borrow::Cow;
use std::fmt::Write;

/// One line: every control and format character is written out, line ends and tabs too.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    replace(text, is_unsafe, |character, out| {
        let _ = write!(out, "{}", character.escape_default()); // A String takes all.
    })
}

/// A text of several lines or columns: as [`escape`], but line ends and tabs stay.
#[must_use]
pub fn escape_lines(text: &str) -> Cow<'_, str> {
    let is_unsafe = |character| is_unsafe(character) && !matches!(character, '\n' | '\t');
    replace(text, is_unsafe, |character, out| {
        let _ = write!(out, "{}", character.escape_default()); // A String takes all.
    })
}

/// A JSON document: unsafe characters become `\u` escapes, so that a program reads the same strings. Outside of strings a
/// serializer writes no unsafe character but line ends, and in strings it escapes C0 itself.
#[must_use]
pub fn escape_json(document: &str) -> Cow<'_, str> {
    let is_unsafe = |character| is_unsafe(character) && character != '\n';
    replace(document, is_unsafe, |character, out| {
        for unit in character.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}"); // A String takes all.
        }
    })
}

fn replace(text: &str, is_unsafe: impl Fn(char) -> bool, write: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.chars().any(&is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unsafe(character) {
            write(character, &mut escaped);
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// C0, DEL and C1; line and paragraph separators; and what is invisible: soft hyphen, zero-width characters, bidirectional
/// marks, overrides and isolates, interlinear annotations, and tags.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_safe_stays() {
        for text in ["plain", "größe 日本 ελ עברית العربية 🙂", "a\\b \"c\" `d`", ""] {
            assert!(matches!(escape(text), Cow::Borrowed(same) if same == text));
            assert!(matches!(escape_lines(text), Cow::Borrowed(same) if same == text));
            assert!(matches!(escape_json(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn each_unsafe_character_is_written_out() {
        // Each range by its first and last, written from the Unicode charts and not from the function.
        let ranges = [
            (0x00, 0x1f),
            (0x7f, 0x9f),
            (0xad, 0xad),
            (0x61c, 0x61c),
            (0x180e, 0x180e),
            (0x200b, 0x200f),
            (0x2028, 0x202e),
            (0x2060, 0x206f),
            (0xfeff, 0xfeff),
            (0xfff9, 0xfffb),
            (0xe0000, 0xe007f),
        ];
        for number in ranges.into_iter().flat_map(|(first, last)| first..=last) {
            let character = char::from_u32(number).unwrap();
            let text = format!("a{character}b");
            let line = escape(&text);
            assert!(line.chars().all(|c| c.is_ascii_graphic()) && line.starts_with("a\\"), "{line}");
            let kept = matches!(character, '\n' | '\t');
            assert_eq!(escape_lines(&text) == text, kept, "{number:x}");
            let json = serde_json::to_string(&text).unwrap();
            let escaped = escape_json(&json);
            assert!(escaped.chars().all(|c| c.is_ascii_graphic()), "{escaped}");
            assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text, "{number:x}");
        }
        // The neighbours of the ranges are ordinary text.
        for number in
            [0x20, 0x7e, 0xa0, 0xac, 0xae, 0x61b, 0x61d, 0x200a, 0x2010, 0x2027, 0x202f, 0x205f, 0x2070, 0xfffc]
        {
            let text = char::from_u32(number).unwrap().to_string();
            assert_eq!(escape(&text), text, "{number:x}");
        }
    }

    #[test]
    fn forms() {
        for (input, line, lines) in [
            ("a\x1b[31mb", "a\\u{1b}[31mb", "a\\u{1b}[31mb"),
            ("a\nb\tc\r", "a\\nb\\tc\\r", "a\nb\tc\\r"),
            ("\u{9b}31m", "\\u{9b}31m", "\\u{9b}31m"),
            ("a\u{202e}b", "a\\u{202e}b", "a\\u{202e}b"),
        ] {
            assert_eq!((escape(input).as_ref(), escape_lines(input).as_ref()), (line, lines));
        }
        assert_eq!(
            escape_json("{\n  \"a\": \"\u{7f}\u{202e}\u{e0001}\"\n}"),
            "{\n  \"a\": \"\\u007f\\u202e\\udb40\\udc01\"\n}"
        );
    }
}

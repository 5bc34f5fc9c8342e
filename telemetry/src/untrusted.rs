//! Text from outside, as it may be logged.

use std::fmt::{self, Write as _};

/// Bytes of a text that are shown.
const SHOWN: usize = 512;

/// A text that somebody else chose. It is shown on one line, without characters that control a terminal or the direction
/// of text, and cut when it is long.
#[derive(Clone, Copy, Debug)]
pub struct Untrusted<'a>(pub &'a str);

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.floor_char_boundary(SHOWN)];
        for character in shown.chars() {
            if is_harmless(character) {
                f.write_char(character)?;
            } else {
                write!(f, "{}", character.escape_default())?;
            }
        }
        match self.0.len() - shown.len() {
            0 => Ok(()),
            rest => write!(f, "… ({rest} bytes more)"),
        }
    }
}

/// Whether a character shows as itself and changes nothing about what stands around it.
pub(crate) fn is_harmless(character: char) -> bool {
    let changes_direction =
        matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks_lines = matches!(character, '\u{2028}' | '\u{2029}');
    !character.is_control() && !changes_direction && !breaks_lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_text() {
        let table = [
            ("v4_private", "v4_private"),
            ("größer als 5 €", "größer als 5 €"),
            ("a\n2026-11-30T00:00:00Z INFO all is well", "a\\n2026-11-30T00:00:00Z INFO all is well"),
            ("\r\t\0", "\\r\\t\\u{0}"),
            ("\u{1b}[31mred\u{9b}31m\u{7f}", "\\u{1b}[31mred\\u{9b}31m\\u{7f}"),
            ("\u{202e}txt.exe\u{2066}\u{2028}", "\\u{202e}txt.exe\\u{2066}\\u{2028}"),
        ];
        for (text, shown) in table {
            assert_eq!(Untrusted(text).to_string(), shown);
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        let long = "é".repeat(2_000_000);
        let shown = Untrusted(&long).to_string();
        assert!(shown.ends_with("… (3999488 bytes more)") && shown.len() < 600, "{shown}");
        let whole = "x".repeat(SHOWN);
        assert_eq!(Untrusted(&whole).to_string(), whole);
    }
}

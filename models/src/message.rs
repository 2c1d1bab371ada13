//! Words from files and command lines, put into messages.
//!
//! What a file says goes to a terminal when it is quoted in an error. There a control character can move the cursor or clear
//! the screen, and a megabyte hides what matters.

/// The longest message, in bytes: about 1 kB.
pub const MOST: usize = 1024;
/// What stands in the place of the middle of a longer one.
const MARK: &str = " […] ";

/// A message for a terminal: on one line, with control characters escaped (`\u{1b}`), and of at most [`MOST`] bytes, where the
/// middle of a longer one is left out.
///
/// ```
/// assert_eq!(spillway_models::message::shown("cannot read\n  x\u{1b}[2J:\tempty "), "cannot read x\\u{1b}[2J: empty");
/// ```
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(2 * MOST));
    // What is left out need not be made first.
    let text = shortened(text, 8 * MOST);
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        for c in word.chars() {
            match is_harmful(c) {
                true => out.extend(c.escape_unicode()),
                false => out.push(c),
            }
        }
    }
    shortened(&out, MOST).into_owned()
}

/// Whether a character does something to a terminal instead of being shown: control characters, and those that change the
/// direction of the text behind them.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

/// The beginning and the end of a text that is longer than `most` bytes, with a mark between; `most` is at least that of the
/// mark.
pub fn shortened(text: &str, most: usize) -> std::borrow::Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let kept = most.saturating_sub(MARK.len());
    let head = floor(text, kept.div_ceil(2));
    let tail = ceil(text, text.len() - kept / 2);
    [&text[..head], MARK, &text[tail..]].concat().into()
}

/// A number as it is written in files: shortest form, with an exponent where plain digits would be many (`1e300`, not 1 and 300
/// zeros).
pub fn number(value: f64) -> String {
    let size = value.abs();
    match size == 0.0 || !size.is_finite() || (1e-5..1e16).contains(&size) {
        true => value.to_string(),
        false => format!("{value:e}"),
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_several_lines_becomes_one() {
        assert_eq!(
            shown("cannot read\n  x.json:\texpected {\n"),
            "cannot read x.json: expected {"
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(
            shown("tensor a\u{1b}[31m\u{7}\u{9b}b\u{202e}c"),
            r"tensor a\u{1b}[31m\u{7}\u{9b}b\u{202e}c"
        );
    }

    #[test]
    fn a_long_message_loses_its_middle_at_characters() {
        for text in ["é".repeat(100_000), "\u{1b}".repeat(3000), "x".repeat(1025)] {
            let short = shown(&format!("begin {text} end"));
            assert!(short.len() <= MOST && short.len() > MOST - 16, "{}", short.len());
            assert!(short.starts_with("begin ") && short.ends_with(" end") && short.contains(MARK));
        }
        assert_eq!(shortened("abcdefghijkl", 12), "abcdefghijkl");
    }

    #[test]
    fn numbers_are_written_as_files_have_them() {
        let shown = [0.0, 0.25, 1e300, -2.5e-9, 1e15, f64::INFINITY].map(number);
        assert_eq!(
            shown,
            ["0", "0.25", "1e300", "-2.5e-9", "1000000000000000", "inf"]
        );
    }
}

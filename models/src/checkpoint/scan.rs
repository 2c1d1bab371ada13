//! JSON text looked at without making anything of it: how many values it has, how deep they nest, where the members of an
//! object lie. A parsed tree takes some hundred bytes for a value of two characters, so a file is measured before it is parsed.

use std::ops::Range;

/// How much a JSON text holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Values at most, names of members among them.
    pub(crate) values: u64,
    /// Arrays and objects inside each other.
    pub(crate) depth: u32,
    /// Bytes of all strings together, as they are written.
    pub(crate) strings: u64,
}

/// Counts values, depth and strings. For text that is not JSON the numbers mean nothing, but no parser gets further than they
/// say.
pub(crate) fn extent(text: &str) -> Extent {
    let mut found = Extent {
        values: 1,
        ..Extent::default()
    };
    let mut depth = 0u32;
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = string_end(bytes, at);
                found.strings += (end - at) as u64;
                at = end;
                continue;
            }
            b'[' | b'{' => {
                depth += 1;
                found.depth = found.depth.max(depth);
                found.values += 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' | b':' => found.values += 1,
            _ => {}
        }
        at += 1;
    }
    found
}

/// Where a string that begins at `start` ends: behind its closing quote, or with the text.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The members of the object that is the whole of `text`: name, and where its value lies. `None` if it is no object.
pub(crate) fn members(text: &str) -> Option<Vec<(String, Range<usize>)>> {
    let bytes = text.as_bytes();
    let mut at = skip_blanks(bytes, 0);
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    let mut members = Vec::new();
    at = skip_blanks(bytes, at + 1);
    if bytes.get(at) == Some(&b'}') {
        return Some(members);
    }
    loop {
        if bytes.get(at) != Some(&b'"') {
            return None;
        }
        let end = string_end(bytes, at);
        let name: String = serde_json::from_str(text.get(at..end)?).ok()?;
        at = skip_blanks(bytes, end);
        if bytes.get(at) != Some(&b':') {
            return None;
        }
        let begin = skip_blanks(bytes, at + 1);
        at = value_end(bytes, begin);
        members.push((name, begin..at));
        match bytes.get(at) {
            Some(b',') => at = skip_blanks(bytes, at + 1),
            Some(b'}') => return Some(members),
            _ => return None,
        }
    }
}

/// The comma or bracket after a value that begins at `start`.
fn value_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0u32);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' | b',' if depth == 0 => return at,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

fn skip_blanks(bytes: &[u8], start: usize) -> usize {
    let blanks = bytes.get(start..).unwrap_or_default().iter();
    start
        + blanks
            .take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t'))
            .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_strings_do_not_count() {
        let found = extent(r#"{"a,[{": [1, 2, {"b": "\"]"}]}"#);
        assert_eq!((found.depth, found.strings), (3, 6 + 3 + 5));
        assert!((7..=9).contains(&found.values), "{found:?}");
    }

    #[test]
    fn members_are_found_whatever_they_hold() {
        let text = r#" {"a" : {"x": "}"}, "\u0062": [1, 2] ,"c":null} "#;
        let found: Vec<(String, &str)> = members(text)
            .expect("an object")
            .into_iter()
            .map(|(name, range)| (name, text[range].trim()))
            .collect();
        let expected = [("a", r#"{"x": "}"}"#), ("b", "[1, 2]"), ("c", "null")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_string(), value)));
        for broken in ["", "[1]", "{", "{\"a", "{\"a\" 1}", "{\"a\": 1", "{a: 1}"] {
            assert_eq!(members(broken), None, "{broken}");
        }
        assert_eq!(members("{}"), Some(Vec::new()));
    }
}

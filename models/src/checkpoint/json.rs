//! JSON as model files hold it: objects whose fields are read by name, with errors that name the field.
//!
//! Python's `json` writes the bare tokens `NaN`, `Infinity` and `-Infinity`, which the standard does not know, and transformers since 5.0
//! `{"__float__": "Infinity"}`. The first become the second before parsing; a reader of numbers accepts those and the quoted words, and
//! what is written has the bare tokens again, which all versions of Python's programs read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value};

use super::disguise;
use super::error::CheckpointError;
use super::scan::extent;

/// The largest value accepted for a dimension: products of two of them stay far inside 64 bits.
pub const MAX_DIMENSION: u64 = 1 << 24;
/// The most layers accepted: published models have some hundred, and each is made anew however small it is.
pub const MAX_LAYERS: u64 = 1 << 16;

/// The numbers that JSON has no word for.
const NON_FINITE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
/// The name of the one field of an object that stands for such a number.
const TAG: &str = "__float__";
/// The most of them in one file: an object takes a hundred times the memory of a token.
const MAX_NON_FINITE: usize = 1 << 12;

/// Turns bare `NaN`, `Infinity` and `-Infinity` into `{"__float__": "NaN"}` and so on, wherever they stand outside strings; gives their
/// number as well.
pub fn tag_bare_non_finite(text: &str) -> (String, usize) {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut in_string, mut escaped, mut count) = (false, false, 0);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if !in_string && let Some(word) = NON_FINITE.iter().find(|word| rest.starts_with(**word)) {
            out.extend(["{\"", TAG, "\":\"", word, "\"}"]);
            count += 1;
            rest = &rest[word.len()..];
            continue;
        }
        match first {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        out.push(first);
        rest = &rest[first.len_utf8()..];
    }
    (out, count)
}

/// An object as the text of a file, indented, with bare `NaN`, `Infinity` and `-Infinity`.
pub(crate) fn to_text(map: &Map<String, Value>) -> String {
    let mut value = Value::Object(map.clone());
    mark_tags(&mut value);
    let mut text = format!("{value:#}\n");
    for word in NON_FINITE {
        text = text.replace(&format!("\"\\u0001{word}\""), word);
    }
    text
}

/// Puts a string that no file has in the place of every tag.
fn mark_tags(value: &mut Value) {
    if let Some(word) = tagged(value) {
        *value = Value::String(format!("\u{1}{word}"));
        return;
    }
    match value {
        Value::Array(values) => values.iter_mut().for_each(mark_tags),
        Value::Object(map) => map.values_mut().for_each(mark_tags),
        _ => {}
    }
}

/// The word of an object that stands for a number.
fn tagged(value: &Value) -> Option<&'static str> {
    let map = value.as_object().filter(|map| map.len() == 1)?;
    let word = map.get(TAG)?.as_str()?;
    NON_FINITE.into_iter().find(|known| *known == word)
}

/// The most values of one file. The header of 100,000 tensors has under a million.
pub const MAX_VALUES: u64 = 1 << 22;

/// Parses an object; `path` is named in errors.
///
/// # Errors
/// [`CheckpointError::Json`] when the text is not JSON, [`CheckpointError::Field`] when it is not an object, or has more than
/// `MAX_VALUES` values: a parsed tree takes many times the memory of the text.
pub fn parse_object(path: &Path, text: &str) -> Result<Map<String, Value>, CheckpointError> {
    let whole = |expected: String, found: String| CheckpointError::Field {
        path: path.to_path_buf(),
        field: "(whole file)".into(),
        expected,
        found,
    };
    let values = extent(text).values;
    if values > MAX_VALUES {
        let expected = format!("an object of at most {MAX_VALUES} values");
        return Err(whole(expected, format!("about {values}")));
    }
    let (text_of_json, non_finite) = tag_bare_non_finite(text);
    if non_finite > MAX_NON_FINITE {
        let expected = format!("at most {MAX_NON_FINITE} of NaN, Infinity and -Infinity");
        return Err(whole(expected, non_finite.to_string()));
    }
    let value: Value = serde_json::from_str(&text_of_json).map_err(|e| CheckpointError::Json {
        path: path.to_path_buf(),
        reason: match disguise::of_text(text) {
            Some(found) => format!("it is {}: {}", found.found, found.advice),
            None => one_line(&e.to_string()),
        },
    })?;
    match value {
        Value::Object(map) => Ok(map),
        other => Err(whole("an object".into(), describe(&other))),
    }
}

/// A JSON object together with where it came from, read field by field.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    path: &'a Path,
    prefix: String,
    map: &'a Map<String, Value>,
    /// The full names of the fields that have been looked at, in this object, those inside and clones.
    read: Rc<RefCell<BTreeSet<String>>>,
}

impl<'a> Fields<'a> {
    /// The fields of the outermost object of `path`.
    pub fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self {
            path,
            prefix: String::new(),
            map,
            read: Rc::default(),
        }
    }

    /// The file that the fields were read from.
    pub fn path(&self) -> PathBuf {
        self.path.to_path_buf()
    }

    /// The names of all fields, for messages about what was found.
    pub fn names(&self) -> Vec<&'a str> {
        self.map.keys().map(String::as_str).collect()
    }

    /// Whether the field is there and not null.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// The field as it stands; absent and null are the same.
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(self.full_name(name));
        self.map.get(name).filter(|v| !v.is_null())
    }

    /// Whether anybody has looked at the field.
    pub fn is_read(&self, name: &str) -> bool {
        self.read.borrow().contains(&self.full_name(name))
    }

    /// Which of two names of one field is given; the first where neither is.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] where both are and differ.
    pub fn given(&self, names: [&'static str; 2]) -> Result<&'static str, CheckpointError> {
        match (self.value(names[0]), self.value(names[1])) {
            (None, Some(_)) => Ok(names[1]),
            (Some(first), Some(second)) if first != second => {
                let expected = format!("the same as {}, which is {}", names[0], describe(first));
                Err(self.wrong(names[1], &expected, Some(second)))
            }
            _ => Ok(names[0]),
        }
    }

    /// The field's path from the outermost object.
    pub fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A dimension: a whole number from 1 to [`MAX_DIMENSION`].
    ///
    /// # Errors
    /// [`CheckpointError::Field`] when it is absent or anything else.
    pub fn dimension(&self, name: &str) -> Result<usize, CheckpointError> {
        self.at_most(name, MAX_DIMENSION)
    }

    /// A number of layers: a whole number from 1 to [`MAX_LAYERS`].
    ///
    /// # Errors
    /// [`CheckpointError::Field`] when it is absent or anything else.
    pub fn layers(&self, name: &str) -> Result<usize, CheckpointError> {
        self.at_most(name, MAX_LAYERS)
    }

    /// A whole number from 1 to `most`, which is at most 2^24, so that it fits every usize.
    fn at_most(&self, name: &str, most: u64) -> Result<usize, CheckpointError> {
        let expected = format!("a whole number from 1 to {most}");
        let value = self
            .value(name)
            .ok_or_else(|| self.wrong(name, &expected, None))?;
        match value.as_u64() {
            Some(n) if (1..=most).contains(&n) => Ok(n as usize),
            _ => Err(self.wrong(name, &expected, Some(value))),
        }
    }

    /// A dimension that has a default.
    ///
    /// # Errors
    /// As [`Fields::dimension`], unless absent.
    pub fn dimension_or(&self, name: &str, default: usize) -> Result<usize, CheckpointError> {
        if self.has(name) {
            self.dimension(name)
        } else {
            Ok(default)
        }
    }

    /// A truth value that has a default.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] when it is of another type.
    pub fn bool_or(&self, name: &str, default: bool) -> Result<bool, CheckpointError> {
        match self.value(name) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.wrong(name, "true or false", Some(value))),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] when it is of another type.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, CheckpointError> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => value
                .as_str()
                .map(Some)
                .ok_or_else(|| self.wrong(name, "a string", Some(value))),
        }
    }

    /// An id of a token, or a list of them.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] when it is anything else.
    pub fn ids(&self, name: &str) -> Result<Option<Vec<u32>>, CheckpointError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match value {
            Value::Array(ids) => ids.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        };
        ids.map(Some)
            .ok_or_else(|| self.wrong(name, "an id or a list of ids", Some(value)))
    }

    /// A positive, finite number that has a default.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] when it is anything else.
    pub fn positive_or(&self, name: &str, default: f32) -> Result<f32, CheckpointError> {
        match self.value(name) {
            None => Ok(default),
            Some(value) => number(value)
                .map(|v| v as f32)
                .filter(|v| v.is_finite() && *v > 0.0)
                .ok_or_else(|| self.wrong(name, "a positive finite number", Some(value))),
        }
    }

    /// An interval `[low, high]` with 0 ≤ low < high, where high may be infinite.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] when it is anything else.
    pub fn interval_or(&self, name: &str, default: (f32, f32)) -> Result<(f32, f32), CheckpointError> {
        let Some(value) = self.value(name) else {
            return Ok(default);
        };
        let pair = match value.as_array().map(Vec::as_slice) {
            Some([low, high]) => number(low).zip(number(high)),
            _ => None,
        };
        pair.map(|(low, high)| (low as f32, high as f32))
            .filter(|(low, high)| *low >= 0.0 && low < high)
            .ok_or_else(|| self.wrong(name, "two numbers [low, high] with 0 <= low < high", Some(value)))
    }

    /// An object inside this one; absent means empty, which is `None`.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] when it is of another type.
    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>, CheckpointError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let map = value
            .as_object()
            .ok_or_else(|| self.wrong(name, "an object", Some(value)))?;
        Ok(Some(Fields {
            path: self.path,
            prefix: format!("{}{name}.", self.prefix),
            map,
            read: Rc::clone(&self.read),
        }))
    }

    /// The error of a field that is not what it should be.
    pub fn wrong(&self, name: &str, expected: &str, found: Option<&Value>) -> CheckpointError {
        CheckpointError::Field {
            path: self.path(),
            field: self.full_name(name),
            expected: expected.to_string(),
            found: found.map_or_else(|| "nothing".to_string(), describe),
        }
    }

    /// The error of a field whose value is understood but not available here.
    pub fn unsupported(&self, name: &str, accepted: &'static str) -> CheckpointError {
        CheckpointError::Unsupported {
            path: self.path(),
            field: self.full_name(name),
            found: self.value(name).map_or_else(|| "nothing".to_string(), describe),
            accepted,
        }
    }
}

/// A number, in any of its three spellings where it is not finite.
fn number(value: &Value) -> Option<f64> {
    match value.as_str().or_else(|| tagged(value)) {
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        Some("NaN") => Some(f64::NAN),
        _ => value.as_f64(),
    }
}

/// Type and, where short, value: `string "big"`, `number 3.5`, `array of 2`.
pub fn describe(value: &Value) -> String {
    if let Some(word) = tagged(value) {
        return format!("number {word}");
    }
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => format!("{b}"),
        Value::Number(n) => format!("number {n}"),
        Value::String(s) => {
            let short: String = s.chars().take(40).collect();
            format!("string {short:?}{}", if short.len() < s.len() { "…" } else { "" })
        }
        Value::Array(a) => format!("array of {}", a.len()),
        Value::Object(o) => format!("object of {} fields", o.len()),
    }
}

/// Messages stay on one line whatever the file holds.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_more_values_than_any_file_has_is_not_parsed() {
        let text = format!("{{\"a\": [{}0]}}", "0,".repeat(1 << 22));
        let message = parse_object(Path::new("x"), &text)
            .expect_err("too many")
            .to_string();
        assert!(message.contains("at most 4194304 values"), "{message}");
    }
}

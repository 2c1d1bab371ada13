//! JSON as model files hold it: objects whose fields are read by name, with errors that name the field.
//!
//! Python's `json` writes the bare tokens `NaN`, `Infinity` and `-Infinity`, which the standard does not know. They are
//! put in quotes before parsing, and a number reader accepts the quoted words.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::disguise;
use super::error::CheckpointError;
use super::scan::extent;

/// The largest value accepted for a dimension: products of two of them stay far inside 64 bits.
pub const MAX_DIMENSION: u64 = 1 << 24;
/// The most layers accepted: published models have some hundred, and each is made anew however small it is.
pub const MAX_LAYERS: u64 = 1 << 16;

/// Puts bare `NaN`, `Infinity` and `-Infinity` into quotes wherever they stand outside strings.
pub fn quote_bare_non_finite(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut in_string, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if !in_string
            && let Some(word) = ["-Infinity", "Infinity", "NaN"]
                .iter()
                .find(|w| rest.starts_with(**w))
        {
            out.extend(["\"", word, "\""]);
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
    out
}

/// The most values of one file. The header of 100,000 tensors has under a million.
pub const MAX_VALUES: u64 = 1 << 22;

/// Parses an object; `path` is named in errors.
///
/// # Errors
/// [`CheckpointError::Json`] when the text is not JSON, [`CheckpointError::Field`] when it is not an object, or has more than
/// `MAX_VALUES` values: a parsed tree takes many times the memory of the text.
pub fn parse_object(path: &Path, text: &str) -> Result<Map<String, Value>, CheckpointError> {
    let values = extent(text).values;
    if values > MAX_VALUES {
        return Err(CheckpointError::Field {
            path: path.to_path_buf(),
            field: "(whole file)".into(),
            expected: format!("an object of at most {MAX_VALUES} values"),
            found: format!("about {values}"),
        });
    }
    let value: Value =
        serde_json::from_str(&quote_bare_non_finite(text)).map_err(|e| CheckpointError::Json {
            path: path.to_path_buf(),
            reason: match disguise::of_text(text) {
                Some(found) => format!("it is {}: {}", found.found, found.advice),
                None => one_line(&e.to_string()),
            },
        })?;
    match value {
        Value::Object(map) => Ok(map),
        other => Err(CheckpointError::Field {
            path: path.to_path_buf(),
            field: "(whole file)".into(),
            expected: "an object".into(),
            found: describe(&other),
        }),
    }
}

/// A JSON object together with where it came from, read field by field.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    path: &'a Path,
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The fields of the outermost object of `path`.
    pub fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self {
            path,
            prefix: String::new(),
            map,
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
        self.map.get(name).filter(|v| !v.is_null())
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

/// A number, or one of the quoted words that [`quote_bare_non_finite`] makes.
fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        Some("NaN") => Some(f64::NAN),
        _ => value.as_f64(),
    }
}

/// Type and, where short, value: `string "big"`, `number 3.5`, `array of 2`.
pub fn describe(value: &Value) -> String {
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

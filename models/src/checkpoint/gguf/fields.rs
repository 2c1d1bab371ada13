//! The fields of an architecture: `NAME.block_count` is `block_count`.

use std::collections::BTreeMap;

use super::container::Value;
use super::error::GgufError;
use crate::checkpoint::MAX_DIMENSION;

/// The name under which most architectures have the ε of their norms.
pub(super) const EPSILON: &str = "attention.layer_norm_rms_epsilon";

/// The fields of a file, by the names that its architecture gives them.
pub(super) struct Fields<'a> {
    pub architecture: &'a str,
    fields: &'a BTreeMap<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn new(fields: &'a BTreeMap<String, Value>) -> Result<Self, GgufError> {
        match fields.get("general.architecture") {
            Some(Value::Text(architecture)) => Ok(Self { architecture, fields }),
            other => Err(field("general.architecture", "a text", other)),
        }
    }

    pub fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(&self.key(name))
    }

    /// A whole number up to [`MAX_DIMENSION`], so that products of two of them and a few stay far inside 64 bits.
    pub fn whole(&self, name: &str) -> Result<usize, GgufError> {
        let value = self.value(name);
        let number = match value {
            Some(Value::Whole(number)) => usize::try_from(*number).ok(),
            _ => None,
        };
        let number = number.filter(|number| *number as u64 <= MAX_DIMENSION);
        number.ok_or_else(|| field(&self.key(name), "a whole number up to 2^24", value))
    }

    pub fn whole_or(&self, name: &str, otherwise: usize) -> Result<usize, GgufError> {
        match self.value(name) {
            Some(_) => self.whole(name),
            None => Ok(otherwise),
        }
    }

    /// A number, or the largest of a list with one for every block.
    pub fn whole_or_largest(&self, name: &str) -> Result<usize, GgufError> {
        let Some(Value::List(list)) = self.value(name) else {
            return self.whole(name);
        };
        let number = |value: &Value| match value {
            Value::Whole(number) => usize::try_from(*number).ok(),
            _ => None,
        };
        let numbers: Option<Vec<usize>> = list.iter().map(number).collect();
        let largest = numbers.and_then(|numbers| numbers.into_iter().max());
        let largest = largest.filter(|largest| *largest as u64 <= MAX_DIMENSION);
        largest.ok_or_else(|| {
            field(
                &self.key(name),
                "whole numbers up to 2^24, one for every block",
                self.value(name),
            )
        })
    }

    pub fn real_or(&self, name: &str, otherwise: f64) -> Result<f64, GgufError> {
        match self.value(name) {
            None => Ok(otherwise),
            // As it is written in decimal, not the nearest double of the single that is stored.
            Some(Value::Real(number)) => Ok((*number as f32).to_string().parse().unwrap_or(*number)),
            other => Err(field(&self.key(name), "a number", other)),
        }
    }

    pub fn bool_or(&self, name: &str, otherwise: bool) -> Result<bool, GgufError> {
        match self.value(name) {
            None => Ok(otherwise),
            Some(Value::Bool(value)) => Ok(*value),
            other => Err(field(&self.key(name), "true or false", other)),
        }
    }

    /// Refuses what would change results and is not understood.
    pub fn expect_absent(&self, name: &str) -> Result<(), GgufError> {
        match self.value(name) {
            None | Some(Value::Bool(false) | Value::Whole(0)) => Ok(()),
            Some(Value::Text(text)) if text == "none" => Ok(()),
            found => Err(field(&self.key(name), "none", found)),
        }
    }

    /// The error of a field with a value that does not fit.
    pub fn wrong(&self, name: &str, expected: &'static str) -> GgufError {
        field(&self.key(name), expected, self.value(name))
    }
}

/// The error of a field of the whole file.
pub(super) fn field(key: &str, expected: &'static str, found: Option<&Value>) -> GgufError {
    let found = match found {
        None => "nothing".into(),
        Some(Value::Whole(number)) => number.to_string(),
        Some(Value::Real(number)) => number.to_string(),
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Text(text)) => format!("{text:?}"),
        Some(Value::List(list)) => format!("a list of {}", list.len()),
    };
    GgufError::Field {
        key: key.into(),
        expected,
        found,
    }
}

//! `--set FIELD=VALUE`: fields of a configuration that the command line changes.

use crate::error::ProgramError;
use std::fmt;
use std::path::Path;

/// A field, and what takes the place of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The path of the field, such as `model.config.n_layer`.
    field: String,
    /// TOML, a bare word that is a text, or `@FILE`.
    value: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.field, self.value)
    }
}

impl Change {
    /// Divides `FIELD=VALUE`.
    ///
    /// # Errors
    /// What was expected and found.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || format!("expected FIELD=VALUE, such as model.config.n_layer=4, found '{text}'");
        let (field, value) = text.split_once('=').ok_or_else(expected)?;
        let is_name = |part: &str| !part.is_empty() && !part.contains(char::is_whitespace);
        if value.is_empty() || !field.split('.').all(is_name) {
            return Err(expected());
        }
        let change = Self {
            field: field.into(),
            value: value.into(),
        };
        if !value.starts_with('@') {
            change.written()?;
        }
        Ok(change)
    }

    /// The value that is written in TOML, or as a bare word.
    fn written(&self) -> Result<toml::Value, String> {
        let parsed = toml::from_str::<toml::Table>(&format!("value = {}", self.value));
        if let Some(value) = parsed.ok().and_then(|mut table| table.remove("value")) {
            return Ok(value);
        }
        let is_bare = |c: char| c.is_alphanumeric() || "_-./:".contains(c);
        match self.value.chars().all(is_bare) {
            true => Ok(toml::Value::String(self.value.clone())),
            false => Err(format!(
                "expected a value as TOML has it, or @FILE for a table from a file, found '{}'",
                self.value
            )),
        }
    }

    /// The field and its value, from the file where it names one.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for a file that cannot be read or is no TOML.
    pub fn read(&self) -> Result<(String, toml::Value), ProgramError> {
        let refused = |expected: &str, found: String| ProgramError::usage("--set", expected, found);
        let value = match self.value.strip_prefix('@') {
            None => self.written().map_err(|reason| refused("FIELD=VALUE", reason))?,
            Some(path) => {
                let text = std::fs::read_to_string(Path::new(path))
                    .map_err(|error| refused("a file of TOML", format!("{path}: {error}")))?;
                let table = toml::from_str(&text).map_err(|error: toml::de::Error| {
                    refused("a file of TOML", format!("{path}: {}", error.message()))
                })?;
                toml::Value::Table(table)
            }
        };
        Ok((self.field.clone(), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> toml::Value {
        Change::parse(text).expect("a change").read().expect("a value").1
    }

    #[test]
    fn values_are_toml_or_bare_words() {
        assert_eq!(value("steps=12"), toml::Value::Integer(12));
        assert_eq!(value("optimizer.learning_rate=1e-3"), toml::Value::Float(1e-3));
        assert_eq!(value("carry.carry=true"), toml::Value::Boolean(true));
        assert_eq!(value("model.arch=gla"), toml::Value::String("gla".into()));
        assert_eq!(value("model.arch=\"gla\""), toml::Value::String("gla".into()));
        let table = value("data={ kind = \"copy\", vocab_size = 64 }");
        assert_eq!(table.get("vocab_size"), Some(&toml::Value::Integer(64)));
        let written = "model.config.ssm_cfg.d_state=64";
        assert_eq!(Change::parse(written).expect("a change").to_string(), written);
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for bad in [
            "",
            "steps",
            "=3",
            "steps=",
            "model..arch=gla",
            "a b=3",
            "data={ kind",
            "x=a b",
        ] {
            assert!(Change::parse(bad).is_err(), "{bad}");
        }
        let missing = Change::parse("model=@/nowhere/model.toml").expect("read later");
        let error = missing.read().expect_err("no file").to_string();
        assert!(error.contains("/nowhere/model.toml"), "{error}");
    }
}

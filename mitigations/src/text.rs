//! The text form of mitigations: how they are written on a command line, in reports and in files.
//!
//! ```text
//! chain  = "none" | part { "+" part }
//! part   = name [ ":" argument { "," argument } ]            argument = value | option "=" value
//! ```
//!
//! See [`crate::registry`] for the parts. Text and value say the same: parsing what [`Mitigation`] displays gives the same mitigation.

use crate::form::Form;
use crate::mitigation::{Mitigation, Part};
use crate::registry::{forms, nearest};
use crate::written::{MOST_PARTS, ParseError, Written};
use std::fmt::{Display, Formatter};
use std::str::FromStr;
use std::sync::Arc;

impl FromStr for Mitigation {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut parts = Vec::new();
        let written = split_chain(text);
        if written.len() > MOST_PARTS {
            let (text, found) = (text.into(), written.len());
            return Err(ParseError::TooMany { text, found });
        }
        for part in written {
            match part.trim() {
                "" => return Err(ParseError::Empty { text: text.into() }),
                "none" => {}
                part => parts.push(parse_part(part)?),
            }
        }
        Ok(Self::new(parts)?)
    }
}

impl Display for Mitigation {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.chain().text())
    }
}

/// Cuts at every + that is not the sign of an exponent or of a number, that is, where a name or nothing follows.
fn split_chain(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (index, _) in text.match_indices('+') {
        let next = text[index + 1..].trim_start().chars().next();
        if next.is_none_or(|next| next.is_ascii_alphabetic() || next == '+') {
            parts.push(&text[start..index]);
            start = index + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_part(part: &str) -> Result<Arc<dyn Part>, ParseError> {
    let (name, arguments) = part.split_once(':').unwrap_or((part, ""));
    let Some(form) = forms().into_iter().find(|form| form.name == name.trim()) else {
        return Err(ParseError::Unknown {
            part: part.into(),
            hint: hint(name),
        });
    };
    (form.parse)(&Written::cut(part, form.syntax, arguments))
}

/// What was probably meant by a name that there is not.
fn hint(name: &str) -> String {
    match nearest(name) {
        Some(Form { syntax, .. }) => format!("did you mean {syntax}?"),
        None => {
            // Variants begin with the name that they are of: `window-exact` is left to whoever looks for `window`.
            let forms = forms();
            let is_variant = |name: &str| {
                let mut others = forms.iter().filter_map(|form| name.strip_prefix(form.name));
                others.any(|rest| rest.starts_with('-'))
            };
            let names = forms
                .iter()
                .map(|form| form.name)
                .filter(|name| !is_variant(name));
            let names: Vec<&str> = names.collect();
            format!("expected none or one of {}, or a variant", names.join(", "))
        }
    }
}

//! The text form of mitigations: how they are written on a command line, in reports and in files.
//!
//! ```text
//! chain  = "none" | part { "+" part }
//! part   = name [ ":" argument { "," argument } ]            argument = value | option "=" value
//! ```
//!
//! See [`FORMS`] for the parts. Text and value say the same: parsing what [`Mitigation`] displays gives the same mitigation.

use crate::mitigation::{Conflict, Mitigation, Part};
use crate::{
    a_scale, c_scale, cap, decimate, delta_filter, delta_scale, fitted_noise, forget_and_remember,
    layer_scales, reset, state_norm, window_by_difference, window_exact,
};
use std::fmt::{Display, Formatter};
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// Why a text is no mitigation.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Nothing where a part should be.
    #[error("mitigation \"{text}\": expected {accepted}, found nothing before or after a +")]
    Empty {
        /// The whole text.
        text: String,
        /// Every part's syntax.
        accepted: String,
    },
    /// No part has this name.
    #[error("mitigation \"{part}\": expected {accepted}")]
    Unknown {
        /// The part as written.
        part: String,
        /// Every part's syntax.
        accepted: String,
    },
    /// The wrong number of arguments.
    #[error("mitigation \"{part}\": expected {syntax}")]
    Arguments {
        /// The part as written.
        part: String,
        /// Its syntax.
        syntax: &'static str,
    },
    /// An argument that is no number, or not one that makes sense.
    #[error("mitigation \"{part}\": {what}: expected {expected}, found \"{found}\"")]
    Number {
        /// The part as written.
        part: String,
        /// What the argument stands for.
        what: &'static str,
        /// What would have been accepted.
        expected: &'static str,
        /// The argument as written.
        found: String,
    },
    /// Parts that cannot work together.
    #[error(transparent)]
    Conflict(#[from] Conflict),
}

/// One kind of part.
pub struct Form {
    /// What stands before the colon.
    pub name: &'static str,
    /// How it is written.
    pub syntax: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    pub(crate) parse: fn(&Written<'_>) -> Result<Arc<dyn Part>, ParseError>,
}

/// All parts there are.
pub const FORMS: [Form; 17] = [
    forget_and_remember::FORGET,
    forget_and_remember::REMEMBER,
    forget_and_remember::RRI,
    cap::CAP,
    cap::CAP_MEAN,
    a_scale::FORM,
    delta_scale::FORM,
    layer_scales::FORM,
    delta_filter::FORM,
    decimate::FORM,
    state_norm::FORM,
    window_by_difference::FORM,
    window_exact::FORM,
    reset::RESET,
    reset::RESET_OVERLAP,
    fitted_noise::FORM,
    c_scale::FORM,
];

impl FromStr for Mitigation {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut parts = Vec::new();
        for part in split_chain(text) {
            match part.trim() {
                "" => {
                    return Err(ParseError::Empty {
                        text: text.into(),
                        accepted: accepted(),
                    });
                }
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
    let Some(form) = FORMS.iter().find(|form| form.name == name.trim()) else {
        return Err(ParseError::Unknown {
            part: part.into(),
            accepted: accepted(),
        });
    };
    let arguments = match arguments.trim() {
        "" => Vec::new(),
        some => some.split(',').map(str::trim).collect(),
    };
    let option = |argument: &&str| argument.contains('=');
    (form.parse)(&Written {
        part,
        syntax: form.syntax,
        options: arguments
            .iter()
            .copied()
            .filter(option)
            .filter_map(|argument| argument.split_once('='))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect(),
        values: arguments
            .iter()
            .copied()
            .filter(|argument| !option(argument))
            .collect(),
    })
}

/// Every part's syntax, for messages.
fn accepted() -> String {
    let forms: Vec<&str> = FORMS.iter().map(|form| form.syntax).collect();
    format!("none, or a chain with + of {}", forms.join("; "))
}

/// A part as written, cut into its arguments.
pub(crate) struct Written<'a> {
    part: &'a str,
    syntax: &'static str,
    values: Vec<&'a str>,
    options: Vec<(&'a str, &'a str)>,
}

impl<'a> Written<'a> {
    /// Exactly N arguments, and no options.
    pub(crate) fn exactly<const N: usize>(&self) -> Result<[&'a str; N], ParseError> {
        self.values_and::<N, 0>([]).map(|(values, [])| values)
    }

    /// Exactly N arguments, and what is written for each of the named options.
    pub(crate) fn values_and<const N: usize, const O: usize>(
        &self,
        names: [&str; O],
    ) -> Result<([&'a str; N], [Option<&'a str>; O]), ParseError> {
        let values = self
            .values
            .as_slice()
            .try_into()
            .map_err(|_| self.wrong_arguments())?;
        Ok((values, self.options(names)?))
    }

    /// All arguments, at least one of them, and no options.
    pub(crate) fn list(&self) -> Result<&[&'a str], ParseError> {
        let [] = self.options([])?;
        match self.values.as_slice() {
            [] => Err(self.wrong_arguments()),
            some => Ok(some),
        }
    }

    /// At most one argument, and what is written for each of the named options.
    pub(crate) fn optional_and<const O: usize>(
        &self,
        names: [&str; O],
    ) -> Result<(Option<&'a str>, [Option<&'a str>; O]), ParseError> {
        let value = match self.values.as_slice() {
            [] => None,
            [only] => Some(*only),
            _ => return Err(self.wrong_arguments()),
        };
        Ok((value, self.options(names)?))
    }

    fn options<const O: usize>(&self, names: [&str; O]) -> Result<[Option<&'a str>; O], ParseError> {
        let mut found = [None; O];
        for (name, value) in &self.options {
            let place = names.iter().position(|known| known == name);
            match place.map(|place| &mut found[place]) {
                Some(free @ None) => *free = Some(*value),
                Some(Some(_)) | None => return Err(self.wrong_arguments()),
            }
        }
        Ok(found)
    }

    pub(crate) fn wrong_arguments(&self) -> ParseError {
        ParseError::Arguments {
            part: self.part.into(),
            syntax: self.syntax,
        }
    }

    pub(crate) fn number(
        &self,
        what: &'static str,
        expected: &'static str,
        found: &str,
        accept: fn(f64) -> bool,
    ) -> Result<f64, ParseError> {
        let number = found
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite() && accept(*number));
        number.ok_or_else(|| self.wrong_number(what, expected, found))
    }

    /// A factor or a norm: finite and above 0, also once it is rounded to f32.
    pub(crate) fn positive(&self, what: &'static str, found: &str) -> Result<f64, ParseError> {
        let in_f32 = |number: f64| number as f32 > 0.0 && (number as f32).is_finite();
        self.number(what, "a finite number above 0", found, in_f32)
    }

    /// A share of a whole that is not nothing.
    pub(crate) fn share(&self, what: &'static str, found: &str) -> Result<f64, ParseError> {
        let expected = "a number above 0 and at most 1";
        self.number(what, expected, found, |number| number > 0.0 && number <= 1.0)
    }

    /// A factor of a decay.
    pub(crate) fn retention(&self, found: &str) -> Result<f64, ParseError> {
        let expected = "a number above 0 and at most 1: the share of the state that a token keeps";
        self.number("retention", expected, found, |number| {
            number > 0.0 && number <= 1.0
        })
    }

    pub(crate) fn tokens(&self, what: &'static str, found: &str) -> Result<u64, ParseError> {
        let number = found.parse::<u64>().ok().filter(|number| *number > 0);
        number.ok_or_else(|| self.wrong_number(what, "a whole number of tokens, at least 1", found))
    }

    pub(crate) fn wrong_number(&self, what: &'static str, expected: &'static str, found: &str) -> ParseError {
        ParseError::Number {
            part: self.part.into(),
            what,
            expected,
            found: found.into(),
        }
    }
}

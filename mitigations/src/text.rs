//! The text form of mitigations: how they are written on a command line, in reports and in files.
//!
//! ```text
//! chain  = "none" | part { "+" part }
//! part   = name [ ":" argument { "," argument } ]
//! ```
//!
//! See [`FORMS`] for the parts. Text and value say the same: parsing what [`Mitigation`] displays gives the same mitigation.

use crate::delta_scale::DeltaScale;
use crate::forget_and_remember::{Forget, ReducedRetentionAndInsertion, Remember};
use crate::mitigation::{Conflict, Mitigation, Part};
use crate::reset::{Reset, ResetOverlap};
use crate::state_norm::{StateNorm, Threshold};
use crate::window_by_difference::WindowByDifference;
use crate::window_exact::WindowExact;
use std::fmt::{Display, Formatter};
use std::str::FromStr;
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
    parse: fn(&Written<'_>) -> Result<Part, ParseError>,
}

/// All parts there are.
pub const FORMS: [Form; 9] = [
    Form {
        name: "forget",
        syntax: "forget:C",
        summary: "multiply every decay by C (0 < C ≤ 1)",
        parse: forget,
    },
    Form {
        name: "remember",
        syntax: "remember:C",
        summary: "multiply what every token writes by C",
        parse: remember,
    },
    Form {
        name: "rri",
        syntax: "rri:C,C",
        summary: "both: decay by the first, writes by the second",
        parse: rri,
    },
    Form {
        name: "delta-scale",
        syntax: "delta-scale:S",
        summary: "multiply the step size by S",
        parse: delta_scale,
    },
    Form {
        name: "state-norm",
        syntax: "state-norm:P, state-norm:auto, state-norm:auto*F (each with or without ,chunk=Q)",
        summary: "bound the norm of every head's state by P, or by F times its norms in training",
        parse: state_norm,
    },
    Form {
        name: "window",
        syntax: "window:R",
        summary: "only the last R tokens, by the difference of two states",
        parse: window,
    },
    Form {
        name: "window-exact",
        syntax: "window-exact:R (with or without ,chunk=Q)",
        summary: "only the last R tokens up to one chunk of Q, without subtraction",
        parse: window_exact,
    },
    Form {
        name: "reset",
        syntax: "reset:N",
        summary: "empty the state every N tokens",
        parse: reset,
    },
    Form {
        name: "reset-overlap",
        syntax: "reset-overlap:N,M",
        summary: "every N tokens, go on from the last M tokens only",
        parse: reset_overlap,
    },
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

fn parse_part(part: &str) -> Result<Part, ParseError> {
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
    (form.parse)(&Written {
        part,
        syntax: form.syntax,
        arguments,
    })
}

/// Every part's syntax, for messages.
fn accepted() -> String {
    let forms: Vec<&str> = FORMS.iter().map(|form| form.syntax).collect();
    format!("none, or a chain with + of {}", forms.join("; "))
}

/// A part as written, cut into its arguments.
struct Written<'a> {
    part: &'a str,
    syntax: &'static str,
    arguments: Vec<&'a str>,
}

impl<'a> Written<'a> {
    fn exactly<const N: usize>(&self) -> Result<[&'a str; N], ParseError> {
        self.arguments
            .as_slice()
            .try_into()
            .map_err(|_| self.wrong_arguments())
    }

    /// One argument, and the Q of `chunk=Q` if there is one.
    fn with_chunk(&self) -> Result<(&'a str, Option<u64>), ParseError> {
        match self.arguments.as_slice() {
            [only] => Ok((only, None)),
            [first, second] => {
                let chunk = second
                    .strip_prefix("chunk")
                    .and_then(|rest| rest.trim_start().strip_prefix('='));
                let chunk = chunk.ok_or_else(|| self.wrong_arguments())?;
                Ok((first, Some(self.tokens("chunk", chunk.trim())?)))
            }
            _ => Err(self.wrong_arguments()),
        }
    }

    fn wrong_arguments(&self) -> ParseError {
        ParseError::Arguments {
            part: self.part.into(),
            syntax: self.syntax,
        }
    }

    fn number(
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
    fn positive(&self, what: &'static str, found: &str) -> Result<f64, ParseError> {
        let in_f32 = |number: f64| number as f32 > 0.0 && (number as f32).is_finite();
        self.number(what, "a finite number above 0", found, in_f32)
    }

    /// A factor of a decay.
    fn retention(&self, found: &str) -> Result<f64, ParseError> {
        let expected = "a number above 0 and at most 1: the share of the state that a token keeps";
        self.number("retention", expected, found, |number| {
            number > 0.0 && number <= 1.0
        })
    }

    fn tokens(&self, what: &'static str, found: &str) -> Result<u64, ParseError> {
        let number = found.parse::<u64>().ok().filter(|number| *number > 0);
        number.ok_or_else(|| self.wrong_number(what, "a whole number of tokens, at least 1", found))
    }

    fn wrong_number(&self, what: &'static str, expected: &'static str, found: &str) -> ParseError {
        ParseError::Number {
            part: self.part.into(),
            what,
            expected,
            found: found.into(),
        }
    }
}

fn forget(written: &Written<'_>) -> Result<Part, ParseError> {
    let [retention] = written.exactly()?;
    Ok(Part::Forget(Forget {
        retention: written.retention(retention)?,
    }))
}

fn remember(written: &Written<'_>) -> Result<Part, ParseError> {
    let [insertion] = written.exactly()?;
    Ok(Part::Remember(Remember {
        insertion: written.positive("insertion", insertion)?,
    }))
}

fn rri(written: &Written<'_>) -> Result<Part, ParseError> {
    let [retention, insertion] = written.exactly()?;
    let retention = written.retention(retention)?;
    let insertion = written.positive("insertion", insertion)?;
    Ok(Part::ReducedRetentionAndInsertion(ReducedRetentionAndInsertion {
        retention,
        insertion,
    }))
}

fn delta_scale(written: &Written<'_>) -> Result<Part, ParseError> {
    let [factor] = written.exactly()?;
    Ok(Part::DeltaScale(DeltaScale {
        factor: written.positive("factor of the step size", factor)?,
    }))
}

fn state_norm(written: &Written<'_>) -> Result<Part, ParseError> {
    let (norm, chunk) = written.with_chunk()?;
    let threshold = match norm.strip_prefix("auto") {
        None => Threshold::Absolute(written.positive("threshold", norm)?),
        Some(rest) => {
            let multiplier = match rest.trim() {
                "" => 1.0,
                factor => match factor.strip_prefix('*') {
                    Some(factor) => written.positive("factor of the calibrated thresholds", factor.trim())?,
                    None => return Err(written.wrong_arguments()),
                },
            };
            Threshold::Calibrated {
                multiplier,
                recorded: None,
            }
        }
    };
    Ok(Part::StateNorm(StateNorm { threshold, chunk }))
}

fn window(written: &Written<'_>) -> Result<Part, ParseError> {
    let [tokens] = written.exactly()?;
    Ok(Part::WindowByDifference(WindowByDifference {
        tokens: written.tokens("window", tokens)?,
    }))
}

fn window_exact(written: &Written<'_>) -> Result<Part, ParseError> {
    let (tokens, chunk) = written.with_chunk()?;
    let tokens = written.tokens("window", tokens)?;
    Ok(Part::WindowExact(WindowExact {
        tokens,
        chunk: chunk.unwrap_or(WindowExact::DEFAULT_CHUNK),
    }))
}

fn reset(written: &Written<'_>) -> Result<Part, ParseError> {
    let [period] = written.exactly()?;
    Ok(Part::Reset(Reset {
        period: written.tokens("period", period)?,
    }))
}

fn reset_overlap(written: &Written<'_>) -> Result<Part, ParseError> {
    let [period, overlap_text] = written.exactly()?;
    let period = written.tokens("period", period)?;
    let overlap = written.tokens("overlap", overlap_text)?;
    if overlap >= period {
        return Err(written.wrong_number("overlap", "fewer tokens than the period", overlap_text));
    }
    Ok(Part::ResetOverlap(ResetOverlap { period, overlap }))
}

//! What a kind of part is: how it is written, what it does, on which models, and one example.
//!
//! Every mitigation has a [`Form`] in its module; [`crate::registry`] lists all of them.

use crate::mitigation::Part;
use crate::written::{ParseError, Written};
use serde::Serialize;
use std::fmt::{Debug, Formatter};
use std::sync::Arc;

/// A kind of part that mitigations are made of.
#[derive(Clone, Copy, Serialize)]
pub struct Form {
    /// What stands before the colon.
    pub name: &'static str,
    /// How a part of this kind is written, such as `window-exact:R[,chunk=Q]`.
    pub syntax: &'static str,
    /// What a part of this kind does, in one line.
    pub summary: &'static str,
    /// What its arguments mean, in the order of the syntax.
    pub parameters: &'static [Parameter],
    /// The models that it works on.
    pub works_on: &'static str,
    /// Whether it takes numbers from text inside the training length: always, or for some arguments.
    pub calibrated: bool,
    /// A use that makes sense.
    pub example: &'static str,
    /// Makes a part of this kind from its arguments as written.
    #[serde(skip)]
    pub parse: fn(&Written<'_>) -> Result<Arc<dyn Part>, ParseError>,
}

/// One argument of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Name of the argument, as in the syntax.
    pub name: &'static str,
    /// What the argument is, with its unit and range.
    pub meaning: &'static str,
    /// What holds without it; `None` where it must be given.
    pub default: Option<&'static str>,
}

impl Parameter {
    /// An argument that must be given.
    pub const fn required(name: &'static str, meaning: &'static str) -> Self {
        Self {
            name,
            meaning,
            default: None,
        }
    }

    /// An argument that may be left out.
    pub const fn optional(name: &'static str, meaning: &'static str, default: &'static str) -> Self {
        Self {
            name,
            meaning,
            default: Some(default),
        }
    }
}

impl Debug for Form {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Form")
            .field("syntax", &self.syntax)
            .finish_non_exhaustive()
    }
}

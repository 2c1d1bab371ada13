//! A part of a mitigation as it was written, and every way in which a text is none.

use crate::mitigation::Conflict;
use thiserror::Error;

/// More parts than any experiment chains, and few enough for each to call the next.
pub(crate) const MOST_PARTS: usize = 64;
/// Characters of what was written that a message repeats.
const SHOWN: usize = 48;

/// Why a text is no mitigation. Messages are one short line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Nothing where a part should be.
    #[error(
        "mitigation \"{}\": expected parts with + between, such as rri:0.9999,0.75+window:8192, found nothing before or after a +",
        shown(.text)
    )]
    Empty {
        /// The whole text of the mitigation, as written.
        text: String,
    },
    /// No part has this name.
    #[error("mitigation \"{}\": {hint}", shown(.part))]
    Unknown {
        /// The part as written.
        part: String,
        /// What was probably meant, or the names that there are.
        hint: String,
    },
    /// The wrong number of arguments, or an option that the part does not have.
    #[error("mitigation \"{}\": expected {syntax}, found {}", shown(.part), shown(.found))]
    Arguments {
        /// The part as written.
        part: String,
        /// Syntax of the part, with its arguments and options.
        syntax: &'static str,
        /// What is wrong with it.
        found: String,
    },
    /// An argument that is no number, or not one that makes sense.
    #[error(
        "mitigation \"{}\": {what}: expected {expected}, found \"{}\"",
        shown(.part),
        shown(.found)
    )]
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
    /// A chain that is too long.
    #[error(
        "mitigation \"{}\": expected at most {} parts, found {found}",
        shown(.text),
        MOST_PARTS
    )]
    TooMany {
        /// The whole text of the mitigation, as written.
        text: String,
        /// How many parts the text has.
        found: usize,
    },
    /// Parts that cannot work together.
    #[error(transparent)]
    Conflict(#[from] Conflict),
}

/// The beginning of what was written, on one line.
fn shown(written: &str) -> String {
    let whole = written.char_indices().nth(SHOWN);
    let beginning = whole.map_or(written, |(end, _)| &written[..end]);
    let mut line = String::new();
    for c in beginning.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line + if whole.is_some() { "…" } else { "" }
}

/// A part as written, cut into its arguments: what [`Form::parse`](crate::Form::parse) reads. Its errors say what the part's syntax is.
#[derive(Clone, Debug)]
pub struct Written<'a> {
    pub(crate) part: &'a str,
    pub(crate) syntax: &'static str,
    pub(crate) values: Vec<&'a str>,
    pub(crate) options: Vec<(&'a str, &'a str)>,
}

impl<'a> Written<'a> {
    /// The arguments of a part, with commas between them.
    pub(crate) fn cut(part: &'a str, syntax: &'static str, arguments: &'a str) -> Self {
        let arguments: Vec<&str> = match arguments.trim() {
            "" => Vec::new(),
            some => some.split(',').map(str::trim).collect(),
        };
        let (options, values): (Vec<&str>, Vec<&str>) =
            arguments.into_iter().partition(|argument| argument.contains('='));
        let options = options.into_iter().filter_map(|option| option.split_once('='));
        Self {
            part,
            syntax,
            values,
            options: options.map(|(name, value)| (name.trim(), value.trim())).collect(),
        }
    }

    /// Exactly N arguments, and no options.
    ///
    /// # Errors
    /// [`ParseError::Arguments`].
    pub fn exactly<const N: usize>(&self) -> Result<[&'a str; N], ParseError> {
        self.values_and::<N, 0>([]).map(|(values, [])| values)
    }

    /// Exactly N arguments, and what is written for each of the named options.
    ///
    /// # Errors
    /// [`ParseError::Arguments`].
    pub fn values_and<const N: usize, const O: usize>(
        &self,
        names: [&str; O],
    ) -> Result<([&'a str; N], [Option<&'a str>; O]), ParseError> {
        let values = self.values.as_slice().try_into();
        let values = values.map_err(|_| self.wrong_arguments(self.count()))?;
        Ok((values, self.options(names)?))
    }

    /// All arguments, at least one of them, and no options.
    ///
    /// # Errors
    /// [`ParseError::Arguments`].
    pub fn list(&self) -> Result<&[&'a str], ParseError> {
        let [] = self.options([])?;
        match self.values.as_slice() {
            [] => Err(self.wrong_arguments(self.count())),
            some => Ok(some),
        }
    }

    /// At most one argument, and what is written for each of the named options.
    ///
    /// # Errors
    /// [`ParseError::Arguments`].
    pub fn optional_and<const O: usize>(
        &self,
        names: [&str; O],
    ) -> Result<(Option<&'a str>, [Option<&'a str>; O]), ParseError> {
        let value = match self.values.as_slice() {
            [] => None,
            [only] => Some(*only),
            _ => return Err(self.wrong_arguments(self.count())),
        };
        Ok((value, self.options(names)?))
    }

    fn options<const O: usize>(&self, names: [&str; O]) -> Result<[Option<&'a str>; O], ParseError> {
        let mut found = [None; O];
        for (name, value) in &self.options {
            let place = names.iter().position(|known| known == name);
            match place.map(|place| &mut found[place]) {
                Some(free @ None) => *free = Some(*value),
                Some(Some(_)) => return Err(self.wrong_arguments(format!("{name}= twice"))),
                None => return Err(self.wrong_arguments(format!("an option {name}="))),
            }
        }
        Ok(found)
    }

    /// The number of arguments as a phrase, for messages.
    fn count(&self) -> String {
        match self.values.len() {
            0 => "no argument".into(),
            1 => "1 argument".into(),
            several => format!("{several} arguments"),
        }
    }

    /// The wrong number of arguments, or wrong options; `found` says which.
    pub fn wrong_arguments(&self, found: impl Into<String>) -> ParseError {
        ParseError::Arguments {
            part: self.part.into(),
            syntax: self.syntax,
            found: found.into(),
        }
    }

    /// A finite number that `accept` accepts; `what` and `expected` are for the message.
    ///
    /// # Errors
    /// [`ParseError::Number`] for anything else.
    pub fn number(
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
    ///
    /// # Errors
    /// [`ParseError::Number`] for anything else.
    pub fn positive(&self, what: &'static str, found: &str) -> Result<f64, ParseError> {
        let in_f32 = |number: f64| number as f32 > 0.0 && (number as f32).is_finite();
        self.number(what, "a finite number above 0", found, in_f32)
    }

    /// A share of a whole that is not nothing.
    ///
    /// # Errors
    /// [`ParseError::Number`] for anything else.
    pub fn share(&self, what: &'static str, found: &str) -> Result<f64, ParseError> {
        let expected = "a number above 0 and at most 1";
        self.number(what, expected, found, |number| number > 0.0 && number <= 1.0)
    }

    /// A factor of a decay.
    ///
    /// # Errors
    /// [`ParseError::Number`] for anything else.
    pub fn retention(&self, found: &str) -> Result<f64, ParseError> {
        let expected = "a number above 0 and at most 1: the share of the state that a token keeps";
        self.number("retention", expected, found, |number| {
            number > 0.0 && number <= 1.0
        })
    }

    /// A number of tokens, at least 1.
    ///
    /// # Errors
    /// [`ParseError::Number`] for anything else.
    pub fn tokens(&self, what: &'static str, found: &str) -> Result<u64, ParseError> {
        let number = found.parse::<u64>().ok().filter(|number| *number > 0);
        number.ok_or_else(|| self.wrong_number(what, "a whole number of tokens, at least 1", found))
    }

    /// An argument that is no number, or not one that makes sense.
    pub fn wrong_number(&self, what: &'static str, expected: &'static str, found: &str) -> ParseError {
        ParseError::Number {
            part: self.part.into(),
            what,
            expected,
            found: found.into(),
        }
    }
}

//! The kinds of parts there are: those of this crate, and those that a program adds.
//!
//! The parser, its messages, `spillway mitigations` and the completions of a shell all read this one table. A program with
//! mitigations of its own adds them with [`register`] before it reads any text; see `examples/own_mitigation.rs`.

use crate::form::Form;
use std::sync::{PoisonError, RwLock};
use thiserror::Error;

/// The kinds of parts of this crate, in the order in which they are listed.
pub const FORMS: &[Form] = &[
    crate::forget_and_remember::FORGET,
    crate::forget_and_remember::REMEMBER,
    crate::forget_and_remember::RRI,
    crate::cap::CAP,
    crate::cap::CAP_MEAN,
    crate::a_scale::FORM,
    crate::position_decay::DECAY,
    crate::position_decay::SPECTRUM,
    crate::delta_scale::FORM,
    crate::layer_scales::FORM,
    crate::delta_filter::FORM,
    crate::decimate::FORM,
    crate::state_norm::FORM,
    crate::window_by_difference::FORM,
    crate::window_exact::FORM,
    crate::window_exact::JAGGED,
    crate::window_of_writes::FORM,
    crate::reset::RESET,
    crate::reset::RESET_OVERLAP,
    crate::fitted_noise::FORM,
    crate::state_dtype::FORM,
    crate::c_scale::FORM,
    crate::ablate::FORM,
    crate::log_attention::LOG,
    crate::log_attention::LOG_N,
];

/// The forms that the program which uses this crate has registered.
static REGISTERED: RwLock<Vec<Form>> = RwLock::new(Vec::new());

/// A form that cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RegisterError {
    /// The name stands for something else.
    #[error("mitigation \"{0}\": the name is taken")]
    Taken(&'static str),
    /// A name that the parser would not find again.
    #[error("mitigation \"{0}\": expected a name of lower-case letters, digits and -, a letter first")]
    Name(&'static str),
}

/// Adds a kind of part to those that text is parsed for, in this process.
///
/// # Errors
/// [`RegisterError`] for a name that is taken or cannot be parsed.
pub fn register(form: Form) -> Result<(), RegisterError> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !(form.name.starts_with(|c: char| c.is_ascii_lowercase()) && form.name.chars().all(is_plain)) {
        return Err(RegisterError::Name(form.name));
    }
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    let mut names = FORMS.iter().chain(registered.iter()).map(|form| form.name);
    // These are words of the program: no mitigation, and starting the model or its attention again.
    if ["none", "restart", "restart-attention"].contains(&form.name) || names.any(|name| name == form.name) {
        return Err(RegisterError::Taken(form.name));
    }
    registered.push(form);
    Ok(())
}

/// All parts there are: [`FORMS`], then what was registered.
pub fn forms() -> Vec<Form> {
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    FORMS.iter().chain(registered.iter()).copied().collect()
}

/// The form whose name was probably meant by `written`: what stands before the first character that no name has, up to
/// slips of the keyboard.
pub fn nearest(written: &str) -> Option<Form> {
    let lower = written.trim().to_ascii_lowercase().replace('_', "-");
    let name: &str = lower
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .next()
        .unwrap_or_default();
    // `window64` lacks its colon.
    let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
    closest([name, letters].into_iter().flat_map(|name| {
        forms()
            .into_iter()
            .map(move |form| (distance(name, form.name), name.len().max(form.name.len()), form))
    }))
}

/// The word of a list that was probably meant by `written`, up to slips of the keyboard.
pub fn nearest_word<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let measured = |word: &'a str| (distance(written, word), written.len().max(word.len()), word);
    closest(words.into_iter().map(measured))
}

/// What lies nearest, if no more than a third of it is wrong.
fn closest<T>(candidates: impl Iterator<Item = (usize, usize, T)>) -> Option<T> {
    let near = candidates.filter(|(distance, length, _)| 3 * distance <= *length);
    near.min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, candidate)| candidate)
}

/// Edits from one word to the other: a character added, left out, replaced, or swapped with its neighbour (Damerau 1964).
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_of_a_list_is_found_or_none() {
        let words = ["legs", "legt", "fourier"];
        assert_eq!(nearest_word("furier", words), Some("fourier"));
        assert_eq!(nearest_word("legt", words), Some("legt"));
        assert_eq!(nearest_word("window", words), None);
        assert_eq!(nearest_word("", words), None);
    }

    #[test]
    fn slips_of_the_keyboard_are_understood_and_other_words_are_not() {
        for (written, meant) in [
            ("windwo", "window"),
            ("Window", "window"),
            ("window64", "window"),
            ("window=64", "window"),
            ("statenorm", "state-norm"),
            ("state_norm", "state-norm"),
            ("widow-exact", "window-exact"),
            ("rrri", "rri"),
            ("remeber", "remember"),
        ] {
            assert_eq!(nearest(written).map(|form| form.name), Some(meant), "{written}");
        }
        for written in ["", "dam", "x", "64", "interpolation"] {
            assert_eq!(nearest(written).map(|form| form.name), None, "{written}");
        }
        assert_eq!(
            [
                distance("ab", "ba"),
                distance("", "abc"),
                distance("kitten", "sitting")
            ],
            [1, 3, 3]
        );
    }

    #[test]
    fn every_example_is_of_its_form_and_every_parameter_is_in_the_syntax() {
        for form in FORMS {
            let example: crate::Mitigation = form.example.parse().expect(form.example);
            assert!(form.example.starts_with(form.name) && example.parts().len() == 1);
            assert!(
                form.syntax.starts_with(form.name) && !form.summary.ends_with('.'),
                "{form:?}"
            );
            for parameter in form.parameters {
                assert!(
                    form.syntax.contains(parameter.name),
                    "{form:?}: {}",
                    parameter.name
                );
            }
            let calibratable = example.parts()[0].calibratable().is_some();
            assert_eq!(calibratable, form.calibrated, "{form:?}");
        }
    }

    #[test]
    fn a_name_that_is_taken_or_no_name_is_refused() {
        let named = |name| register(Form { name, ..FORMS[0] });
        for name in ["window", "none", "restart", "restart-attention"] {
            assert_eq!(named(name), Err(RegisterError::Taken(name)));
        }
        for name in ["", "a b", "-a", "A", "a:b", "a+b"] {
            assert_eq!(named(name), Err(RegisterError::Name(name)));
        }
    }
}

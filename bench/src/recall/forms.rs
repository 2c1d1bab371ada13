//! Orders and readings, as they are typed.

use super::RecallArgs;
use crate::error::ProgramError;
use spillway_models::evaluation::recall::prompt::{MOST_PASSES, Order, PromptForm, UnknownForm};
use std::str::FromStr;

/// An entry of `--order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// With as many readings as `--passes` says.
    Order(Order),
    /// With its own number of readings.
    Form(PromptForm),
}

impl FromStr for Arrangement {
    type Err = UnknownForm;

    fn from_str(text: &str) -> Result<Self, UnknownForm> {
        match Order::ALL.into_iter().find(|order| order.name() == text) {
            Some(order) => Ok(Self::Order(order)),
            None => text.parse().map(Self::Form),
        }
    }
}

/// Every kind of prompt that is asked, each once: the one that gains are over, then those asked for, then their controls.
///
/// # Errors
/// [`ProgramError::Usage`] for numbers of readings that nobody asks for.
pub fn forms(args: &RecallArgs) -> Result<Vec<PromptForm>, ProgramError> {
    if let Some(found) = args
        .passes
        .iter()
        .find(|passes| !(1..=MOST_PASSES).contains(*passes))
    {
        let expected = format!("numbers of readings from 1 to {MOST_PASSES}");
        return Err(ProgramError::usage("--passes", expected, found.to_string()));
    }
    let mut asked: Vec<PromptForm> = Vec::new();
    for arrangement in &args.orders {
        match arrangement {
            Arrangement::Form(form) => asked.push(*form),
            Arrangement::Order(order) => {
                asked.extend(args.passes.iter().map(|passes| PromptForm::new(*order, *passes)))
            }
        }
    }
    // A question after the one reading is a question at the end.
    asked.retain(|form| *form != PromptForm::new(Order::EveryTime, 1));
    asked.sort_by_key(|form| (form.passes, form.order));
    let controls: Vec<PromptForm> = match args.no_padding {
        true => Vec::new(),
        false => asked.iter().filter_map(|form| form.control()).collect(),
    };
    let mut forms = Vec::new();
    for form in std::iter::once(PromptForm::ONCE).chain(asked).chain(controls) {
        if !forms.contains(&form) {
            forms.push(form);
        }
    }
    Ok(forms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RecallArgs,
    }

    fn asked(options: &[&str]) -> Result<Vec<String>, ProgramError> {
        let line = Line::try_parse_from([&["recall"], options].concat()).expect("parsed");
        Ok(forms(&line.args)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn orders_and_readings_make_every_kind_of_prompt_once() {
        let found = asked(&[]).expect("forms");
        let expected = [
            "d-q:1",
            "q-d:1",
            "d-q:2",
            "q-d:2",
            "c-q:2",
            "d-q:2:padded",
            "q-d:2:padded",
            "c-q:2:padded",
        ];
        assert_eq!(found, expected);
        let found = asked(&["--order", "q-d-d-q,q-d:2,c-q", "--passes", "1,3", "--no-padding"]);
        assert_eq!(found.expect("forms"), ["d-q:1", "q-d:2", "c-q:3"]);
        let error = asked(&["--passes", "0"]).expect_err("no reading").to_string();
        assert!(error.contains("--passes") && error.contains("found 0"), "{error}");
    }
}

//! Up to which length, and where in a text of words, does a model still find five digits?
//!
//! The task of the published experiments, for models with a tokenizer and under any treatment;
//! [`passkey`](super::passkey) asks the same of ids.
//!
//! | module | what is in it |
//! |---|---|
//! | [`prompt`] | the task: the four strings, the number of blocks, the place of the passkey |
//! | [`evaluate`](mod@evaluate) | asking every prompt, with the states of common beginnings shared |
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use spillway_models::evaluation::diagnosis::treatment::Treatment;
//! use spillway_models::evaluation::passkey_text::evaluate::{Evaluation, evaluate};
//! use spillway_models::evaluation::passkey_text::prompt::{Template, cases};
//! use spillway_models::{LoadOptions, Model};
//!
//! let model = Model::shipped(&LoadOptions::default())?;
//! let cases = cases(&Template::new(model.tokenizer())?, 512, 2, 1, 0);
//! let mut evaluation = Evaluation::default();
//! let go_on = &mut |_: &Evaluation| ControlFlow::Continue(());
//! let _ = evaluate(&model, &Treatment::default(), &cases, 0..2, &mut evaluation, go_on)?;
//! assert_eq!(evaluation.outcomes.len(), 2);
//! # Ok::<(), spillway_models::ModelError>(())
//! ```

pub mod evaluate;
pub mod prompt;

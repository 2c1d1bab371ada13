//! Does a model answer from a document, and does it gain by reading the prompt twice?
//!
//! A causal state of fixed size has to choose what to keep of a document before it knows the question. A prompt that shows the
//! question first, or the document again, tells it what to look for. Source: Arora et al., *Just read twice* (2407.05483), with the
//! order of question and document, the number of readings, and a control of equal length as arms of their own: models with
//! attention gain from repetition as well (Leviathan et al., 2512.14982).
//!
//! | module | what is in it |
//! |---|---|
//! | [`document`] | the tasks, and what a document of each holds |
//! | [`prompt`] | orders, readings, the padding control; prompts to the letter of the published ones |
//! | [`pieces`] | documents read in pieces, by a state for each, and the surest of them answering |
//! | [`cut`] | long documents cut around their answer; how deep the answer lies |
//! | [`score`] | contains, exact, F1, and what kind of error it was |
//! | [`data`] | the published data sets from disk |
//! | [`generate`](mod@generate) | documents of the same shapes without a download |
//! | [`evaluate`](mod@evaluate) | asking every prompt, with common beginnings computed once |
//! | [`bootstrap`] | paired intervals |
//! | [`summary`] | the table: shares, gains over one reading, and what of them attention does not gain |
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use spillway_models::evaluation::recall::document::RecallTask;
//! use spillway_models::evaluation::recall::evaluate::{Evaluation, Plan, evaluate};
//! use spillway_models::evaluation::recall::generate::{Generator, Split};
//! use spillway_models::evaluation::recall::prompt::PromptForm;
//! use spillway_models::{LoadOptions, Model};
//! use spillway_ssm_core::Chain;
//!
//! let model = Model::shipped(&LoadOptions::default())?;
//! let documents = Generator { facts: Some(4), ..Generator::new(Split::Test, 0) }.documents(RecallTask::Fda, 2);
//! let plan = Plan::new(&documents, &[PromptForm::ONCE, PromptForm::TWICE], 512);
//! let mut evaluation = Evaluation::default();
//! let go_on = &mut |_: &Evaluation| ControlFlow::Continue(());
//! let _ = evaluate(&model, &Chain::default(), &plan, &mut evaluation, go_on)?;
//! assert_eq!(evaluation.outcomes.len(), 4);
//! # Ok::<(), spillway_models::ModelError>(())
//! ```

pub mod bootstrap;
pub mod cut;
pub mod data;
pub mod document;
pub mod evaluate;
pub mod generate;
pub mod pieces;
mod prefixes;
pub mod prompt;
pub mod score;
pub mod summary;
pub mod surest;

//! Where does a model collapse beyond its training length T, in which heads, and which treatment cures it?
//!
//! A text is streamed through the model with the state carried: once for the model alone, once for the baseline that starts again
//! every T tokens and so never leaves its training length, and once per treatment. Nothing is kept per token: losses go into sums
//! per bucket of position, states and gates into a number of samples that grows with the logarithm of the length.
//!
//! | module | what is in it |
//! |---|---|
//! | [`text`] | the text, and the streams it is read in |
//! | [`treatment`] | what a stream is read under: interventions, restarts |
//! | [`loss`] | mean losses over buckets of positions |
//! | [`stream`], [`run`] | the loop that streams, by threads or by several ranks; one treatment over all streams |
//! | [`gates`], [`mod@probe`], [`record`] | what gates do, whatever the rule; looks at gates and states |
//! | [`operator_block`], [`usage`] | how many dimensions of its past a head can use |
//! | [`state_statistics`], [`retention`], [`heads`] | what the samples say of a head |
//! | [`verdict`], [`standing`] | the definition of collapse; prices and gains |
//! | [`part`] | which part of a hybrid fails |
//! | [`findings`] | all of it, from the runs |
//!
//! ```
//! use spillway_models::evaluation::diagnosis::text::Text;
//! use spillway_models::evaluation::diagnosis::treatment::Treatment;
//! use spillway_models::evaluation::diagnosis::{Options, diagnose};
//! use spillway_models::{LoadOptions, Model};
//!
//! let model = Model::shipped(&LoadOptions::default())?;
//! let text = Text::new("the shipped text", model.tokenizer().encode(spillway_models::shipped_text())?)?;
//! let window: spillway_mitigations::Mitigation = "window:64".parse()?;
//! let options = Options { streams: Some(1), ..Options::new(64, 4096) };
//! let found = diagnose(&model, &text, &[("window:64", Treatment::of(window.chain()))], &options)?;
//!
//! assert!(found.verdict.collapsed);
//! let head = &found.heads[0];
//! println!("from {:?} on, first in layer {} head {}", found.verdict.onset, head.layer, head.head);
//! let window = found.run("window:64").expect("one of the runs");
//! assert!(!window.verdict.collapsed);
//! println!("a window costs {:.2?} nats inside and gains {:.2?} beyond", window.standing.price, window.standing.gain);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod findings;
pub mod gates;
pub mod heads;
pub mod loss;
pub mod operator_block;
pub mod part;
pub mod probe;
pub mod record;
pub mod retention;
pub mod run;
pub mod standing;
pub mod state_statistics;
pub mod stream;
pub mod text;
mod together;
pub mod treatment;
pub mod usage;
pub mod verdict;

use std::ops::ControlFlow;

use super::positions::snapshots;
use crate::error::ModelError;
use crate::model::Model;
use findings::Findings;
use loss::Grid;
use probe::Probe;
use run::Run;
use stream::Reading;
use text::{StreamOptions, Text, streams};
use treatment::Treatment;

/// How a diagnosis is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Training length T in tokens.
    pub train_length: u64,
    /// Tokens of a long stream.
    pub length: u64,
    /// Number of long streams; `None` to choose by what a token costs.
    pub streams: Option<u64>,
    /// Turns the text by a random amount.
    pub seed: Option<u64>,
    /// Threads to share among the streams.
    pub threads: usize,
    /// Factor in perplexity that counts as collapse.
    pub threshold: f64,
}

impl Options {
    /// For streams of `length` tokens, with everything else as the program has it unless asked.
    pub fn new(train_length: u64, length: u64) -> Self {
        Self {
            train_length,
            length,
            streams: None,
            seed: None,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            threshold: verdict::DEFAULT_THRESHOLD,
        }
    }
}

/// A probe for the run of the model alone, which looks where the findings need it.
pub fn probe(train_length: u64, length: u64) -> Probe {
    Probe::new(snapshots(train_length, length), train_length)
}

/// Diagnoses a model: alone (`none`), restarted every T tokens (`restart:T`), and under each of the treatments, which have names.
///
/// # Errors
/// As [`Reading::go_on`]; [`ModelError::Incompatible`] for a treatment that cannot work with the model.
pub fn diagnose(
    model: &Model,
    text: &Text,
    treatments: &[(&str, Treatment)],
    options: &Options,
) -> Result<Findings, ModelError> {
    let (train_length, length) = (options.train_length.max(1), options.length);
    let grid = Grid::new(train_length, length);
    let streams = streams(
        text,
        &StreamOptions {
            length,
            train_length,
            long: options.streams,
            operations_per_token: model.info().flops_per_token,
            seed: options.seed,
        },
    );
    let probe = probe(train_length, length);
    let mut runs = vec![
        Run::new("none", Treatment::default(), &streams, &grid, Some(probe)),
        Run::new(
            format!("restart:{train_length}"),
            Treatment::restart(train_length),
            &streams,
            &grid,
            None,
        ),
    ];
    let tried = treatments.iter().cloned();
    runs.extend(tried.map(|(name, treatment)| Run::new(name, treatment, &streams, &grid, None)));
    let reading = Reading {
        model,
        text,
        grid: &grid,
        threads: options.threads,
        ranks: None,
        watch: &|_| ControlFlow::Continue(()),
    };
    for run in &mut runs {
        run.go_on(&reading)?;
    }
    Ok(Findings::new(
        &mut runs,
        &grid,
        train_length,
        length,
        options.threshold,
    ))
}

//! One model under one mitigation: with its states in every type, side by side with its states in f32.

use super::config::ModelRun;
use super::subject::Subject;
use crate::error::ProgramError;
use crate::stop::Stop;
use serde::{Deserialize, Serialize};
use spillway_mitigations::state_dtype::StateDtype;
use spillway_models::ModelState;
use spillway_models::evaluation::tally::Tally;

/// Tokens that are read at a time; their mean is one of the numbers that an interval is taken from.
const SEGMENT: u64 = 256;

/// What a model gives under one mitigation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelMeasured {
    /// Time that it took, in seconds.
    pub seconds: f64,
    /// The ends of the spans, in tokens: each is from half of its end to it.
    pub positions: Vec<u64>,
    /// Mean −ln p of the next token over each span, by the truth.
    pub loss: Vec<f64>,
    /// The types, in the order of the configuration.
    pub types: Vec<ModelErrors>,
}

/// How far a type's predictions are from the truth's over each span. What is no number is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelErrors {
    /// Mean |Δ ln p| of the next token.
    pub change: Vec<Option<f64>>,
    /// Mean of −Δ ln p: by how much the loss rises.
    pub rise: Vec<Option<f64>>,
    /// Standard error of the rise, from the means over 256 tokens each.
    pub rise_error: Vec<Option<f64>>,
}

/// Sums over a span.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    change: f64,
    rise: f64,
    tokens: f64,
    segments: Tally,
}

impl Span {
    /// Adds a segment's losses.
    fn add(&mut self, found: &[f32], truth: &[f32]) {
        let pairs = found.iter().zip(truth);
        let differences = pairs.map(|(found, truth)| f64::from(*found) - f64::from(*truth));
        let (mut rise, mut change) = (0.0, 0.0);
        differences.for_each(|difference| {
            rise += difference;
            change += difference.abs();
        });
        let tokens = truth.len() as f64;
        self.change += change;
        self.rise += rise;
        self.tokens += tokens;
        self.segments.add(rise / tokens);
    }

    /// Adds its means to the course of a type.
    fn end(&self, errors: &mut ModelErrors) {
        let number = |value: f64| value.is_finite().then_some(value);
        errors.change.push(number(self.change / self.tokens));
        errors.rise.push(number(self.rise / self.tokens));
        errors
            .rise_error
            .push(self.segments.standard_error().and_then(number));
    }
}

/// Reads the subject's ids up to the last of `positions` under a run's mitigation; nothing after a stop. `seen` is told how many tokens
/// are done.
///
/// # Errors
/// [`ProgramError::Usage`] for a mitigation that cannot be used here, [`ProgramError::Model`] from the model.
pub fn measure(
    subject: &Subject,
    (run, dtypes): (&ModelRun, &[StateDtype]),
    positions: Vec<u64>,
    stop: &Stop,
    seen: impl Fn(u64),
) -> Result<Option<ModelMeasured>, ProgramError> {
    let begun = std::time::Instant::now();
    let (truth, chains) = subject.chains(run, dtypes)?;
    let mut truth = subject.model.start(&truth, 1)?;
    let started = chains.iter().map(|chain| subject.model.start(chain, 1));
    let mut states: Vec<ModelState> = started.collect::<Result<_, _>>()?;
    let (mut reader, mut done) = (subject.reader(), 0);
    let mut next = reader.next_id();
    let mut loss = Vec::new();
    let mut types = vec![ModelErrors::default(); dtypes.len()];
    for position in &positions {
        let mut spans = vec![Span::default(); dtypes.len()];
        let mut sum = Tally::default();
        while done < *position {
            if stop.is_asked() {
                return Ok(None);
            }
            // A segment is wholly inside a span or outside it.
            let end = if done < position / 2 {
                position / 2
            } else {
                *position
            };
            let tokens = (end - done).min(SEGMENT);
            let mut ids = vec![next];
            ids.extend((0..tokens).map(|_| reader.next_id()));
            let (from, to) = (&ids[..tokens as usize], &ids[1..]);
            let expected = subject.model.losses(from, to, &mut truth)?;
            let counts = done >= position / 2;
            if counts {
                sum.add_all(&expected);
            }
            for (state, span) in states.iter_mut().zip(&mut spans) {
                let found = subject.model.losses(from, to, state)?;
                if counts {
                    span.add(&found, &expected);
                }
            }
            next = ids[tokens as usize];
            done += tokens;
            seen(tokens);
            stop.count(tokens);
        }
        loss.push(sum.mean().unwrap_or(f64::NAN));
        types
            .iter_mut()
            .zip(&spans)
            .for_each(|(errors, span)| span.end(errors));
    }
    Ok(Some(ModelMeasured {
        seconds: begun.elapsed().as_secs_f64(),
        positions,
        loss,
        types,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_the_mean_of_its_tokens_and_the_error_of_its_segments() {
        let mut span = Span::default();
        span.add(&[2.0, 1.0], &[1.0, 2.0]);
        span.add(&[3.0, 3.0], &[1.0, 1.0]);
        let mut errors = ModelErrors::default();
        span.end(&mut errors);
        assert_eq!((errors.change[0], errors.rise[0]), (Some(1.5), Some(1.0)));
        // Means of segments 0 and 2: standard deviation √2, over the root of 2.
        assert!((errors.rise_error[0].expect("two segments") - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_number_is_absent() {
        let mut span = Span::default();
        span.add(&[f32::NAN], &[1.0]);
        let mut errors = ModelErrors::default();
        span.end(&mut errors);
        assert_eq!((errors.change[0], errors.rise_error[0]), (None, None));
    }
}

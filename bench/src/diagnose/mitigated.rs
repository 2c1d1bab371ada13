//! The runs of a diagnosis: the model alone, the baseline that restarts, and the mitigations asked for.

use super::loss::Grid;
use super::probe::{LayerRecord, Probe};
use super::stream::{Run, StreamRun};
use super::text::{Stream, Text};
use crate::error::ProgramError;
use mitigations::Calibration;
use mitigations::Mitigation;
use models::Model;
use ssm_core::Chain;
use std::sync::Arc;

/// κ of the default retention factor c = exp(−κ/T): what is left of a token after T tokens is multiplied by exp(−κ), about one half.
const KAPPA: f64 = 0.64;
/// Stretches of text that mitigations are calibrated on.
const CALIBRATION_STREAMS: u64 = 16;

/// The model with one mitigation, over all streams.
#[derive(Debug)]
pub struct Mitigated {
    /// Text form of the mitigation.
    pub name: String,
    chain: Chain,
    probe: Option<Probe>,
    /// The streams.
    pub streams: Vec<StreamRun>,
    /// Time taken so far.
    pub seconds: f64,
}

/// A mitigation that was left out of the default set.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// Its text form.
    pub mitigation: String,
    /// Why.
    pub reason: String,
}

impl Mitigated {
    /// A run that has not begun. The probe, if any, looks into the streams of `length` only.
    pub fn new(mitigation: &Mitigation, streams: &[Stream], grid: &Grid, probe: Option<Probe>) -> Self {
        Self {
            name: mitigation.to_string(),
            chain: mitigation.chain(),
            probe,
            streams: streams
                .iter()
                .map(|stream| StreamRun::new(*stream, grid))
                .collect(),
            seconds: 0.0,
        }
    }

    /// Whether something is read.
    pub fn has_begun(&self) -> bool {
        self.streams.iter().any(|run| run.tally.position > 0)
    }

    /// Whether everything is read.
    pub fn is_done(&self) -> bool {
        self.streams.iter().all(StreamRun::is_done)
    }

    /// Tokens read.
    pub fn tokens(&self) -> u64 {
        self.streams.iter().map(|run| run.tally.position).sum()
    }

    /// Tokens to read in all.
    pub fn tokens_in_all(&self) -> u64 {
        self.streams.iter().map(|run| run.stream.length).sum()
    }

    /// The interventions of a stream: the probe rides on the long ones.
    pub fn chains(&self, streams: &[StreamRun]) -> impl Fn(&Stream) -> Chain + Sync + use<> {
        let longest = streams.iter().map(|run| run.stream.length).max();
        let (plain, probe) = (self.chain.clone(), self.probe.clone());
        move |stream| match &probe {
            Some(probe) if Some(stream.length) == longest => plain.clone().with(Arc::new(probe.clone())),
            _ => plain.clone(),
        }
    }

    /// Reads on until done or stopped.
    ///
    /// # Errors
    /// As [`Run::go_on`].
    pub fn go_on(&mut self, run: &Run<'_>) -> Result<(), ProgramError> {
        let mut streams = std::mem::take(&mut self.streams);
        let chains = self.chains(&streams);
        let taken = run.go_on(&mut streams, &chains);
        self.streams = streams;
        self.seconds += taken?.as_secs_f64();
        Ok(())
    }

    /// What the probe recorded, per layer, pooled over the streams; empty without a probe.
    pub fn records(&mut self) -> Vec<LayerRecord> {
        let mut streams: Vec<Vec<LayerRecord>> = Vec::new();
        for run in &mut self.streams {
            let records = match &mut run.state {
                Some(state) => super::stream::records(state),
                None => run.tally.records.clone(),
            };
            if !records.is_empty() {
                streams.push(records);
            }
        }
        let layers = streams.first().map_or(0, Vec::len);
        let of_layer = |layer: usize| {
            streams
                .iter()
                .map(|records| records[layer].clone())
                .collect::<Vec<_>>()
        };
        (0..layers)
            .filter_map(|layer| LayerRecord::pool(&of_layer(layer)))
            .collect()
    }
}

/// The text forms of the mitigations tried unless others are asked for, scaled to the training length T.
pub fn default_set(train_length: u64) -> Vec<String> {
    let t = train_length;
    let forget = (-KAPPA / t as f64).exp();
    let mut set = vec![
        format!("forget:{forget:.6}"),
        format!("rri:{forget:.6},0.75"),
        "remember:0.75".to_string(),
        "delta-scale:0.5".to_string(),
        "state-norm:auto".to_string(),
        format!("window:{t}"),
        format!("window-exact:{t}"),
    ];
    if t > 1 {
        set.push(format!("reset-overlap:{t},{}", t / 2));
    }
    set
}

/// Parses what was asked for, or the default set; `none` and the baseline `reset:T` come first, each mitigation once.
///
/// # Errors
/// [`ProgramError::Usage`] for a text form that does not parse, or a mitigation asked for that cannot work with the model.
pub fn choose(
    asked: &[String],
    model: &Model,
    text: &Text,
    train_length: u64,
) -> Result<(Vec<Mitigation>, Vec<Skipped>), ProgramError> {
    let mut chosen: Vec<Mitigation> = Vec::new();
    let mut skipped = Vec::new();
    let defaults = default_set(train_length);
    let first = ["none".to_string(), baseline(train_length)];
    let mut calibration: Option<Calibration> = None;
    for spec in first
        .iter()
        .chain(if asked.is_empty() { &defaults } else { asked })
    {
        let parsed = spec.parse::<Mitigation>();
        let mut mitigation = parsed.map_err(|error| usage(spec, error))?;
        if mitigation.needs_calibration() {
            if calibration.is_none() {
                let stretches = calibration_stretches(text, train_length);
                calibration = Some(crate::calibration::calibration(model, stretches)?);
            }
            if let Some(calibration) = &calibration {
                mitigation = mitigation
                    .calibrated(calibration)
                    .map_err(|error| usage(spec, error))?;
            }
        }
        let chain = mitigation.chain();
        match model.info().sites.iter().try_for_each(|site| chain.check(site)) {
            Err(error) if asked.is_empty() => {
                skipped.push(Skipped {
                    mitigation: mitigation.to_string(),
                    reason: error.to_string(),
                });
            }
            Err(error) => return Err(usage(spec, error)),
            Ok(())
                if chosen
                    .iter()
                    .any(|other| other.to_string() == mitigation.to_string()) => {}
            Ok(()) => chosen.push(mitigation),
        }
    }
    Ok((chosen, skipped))
}

/// The same model restarted every training length.
pub fn baseline(train_length: u64) -> String {
    format!("reset:{train_length}")
}

fn usage(spec: &str, error: impl std::fmt::Display) -> ProgramError {
    ProgramError::usage(
        format!("--mitigation {spec}"),
        "a mitigation that works with this model",
        error.to_string(),
    )
}

/// Stretches of one training length, a third of the way between evenly spread starts, where no stream starts.
fn calibration_stretches(text: &Text, train_length: u64) -> impl Iterator<Item = Vec<u32>> {
    (0..CALIBRATION_STREAMS).map(move |stream| {
        let start = (3 * stream + 1) * text.tokens() / (3 * CALIBRATION_STREAMS);
        text.read(start, train_length as usize)
    })
}

//! The runs of a diagnosis: the model alone, the baseline that starts again, and the mitigations asked for.

use super::loss::Grid;
use super::probe::Probe;
use super::record::SiteRecord;
use super::stream::{Run, StreamRun};
use super::text::Stream;
use crate::calibration::Calibrator;
use crate::error::ProgramError;
use crate::trial::{self, Trial};
use mitigations::Mitigation;
use std::collections::BTreeMap;
use std::sync::Arc;

/// κ of the default retention factor c = exp(−κ/T): what is left of a token after T tokens is multiplied by exp(−κ), about one half.
const KAPPA: f64 = 0.64;

/// The model with one mitigation, over all streams.
#[derive(Debug)]
pub struct Mitigated {
    /// Text form of what is tried.
    pub name: String,
    /// What `--mitigation` takes to have the same again: the text form, or the file that holds calibrated numbers.
    pub spec: String,
    trial: Trial,
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
    pub fn new(trial: &Trial, streams: &[Stream], grid: &Grid, probe: Option<Probe>) -> Self {
        Self {
            name: trial.name().to_string(),
            spec: trial.name().to_string(),
            trial: trial.clone(),
            probe,
            streams: streams
                .iter()
                .map(|stream| StreamRun::new(*stream, grid))
                .collect(),
            seconds: 0.0,
        }
    }

    /// What it goes on under.
    pub fn identity(&self) -> String {
        self.trial.identity()
    }

    /// What acts, with its numbers.
    pub fn mitigation(&self) -> &Mitigation {
        self.trial.mitigation()
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

    /// What is tried in a stream: the probe rides on the long ones.
    pub fn trials(&self, streams: &[StreamRun]) -> impl Fn(&Stream) -> Trial + Sync + use<> {
        let longest = streams.iter().map(|run| run.stream.length).max();
        let (plain, probe) = (self.trial.clone(), self.probe.clone());
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
        let trials = self.trials(&streams);
        let taken = run.go_on(&mut streams, &trials);
        self.streams = streams;
        self.seconds += taken?.as_secs_f64();
        Ok(())
    }

    /// What the mitigation counted, averaged over the streams.
    pub fn counts(&self) -> BTreeMap<String, f64> {
        let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for (name, value) in self.streams.iter().flat_map(|stream| &stream.tally.counts) {
            let sum = sums.entry(name.clone()).or_default();
            *sum = (sum.0 + value, sum.1 + 1.0);
        }
        let mean = |(name, (sum, count))| (name, sum / count);
        sums.into_iter().map(mean).collect()
    }

    /// What the probe recorded, per recurrence, pooled over the streams; empty without a probe.
    pub fn records(&mut self) -> Vec<SiteRecord> {
        let mut streams: Vec<Vec<SiteRecord>> = Vec::new();
        for run in &mut self.streams {
            let records = match &mut run.state {
                Some(state) => super::stream::records(state),
                None => run.tally.records.clone(),
            };
            if !records.is_empty() {
                streams.push(records);
            }
        }
        let recurrences = streams.first().map_or(0, Vec::len);
        let of_site = |site: usize| {
            streams
                .iter()
                .map(|records| records[site].clone())
                .collect::<Vec<_>>()
        };
        (0..recurrences)
            .filter_map(|site| SiteRecord::pool(&of_site(site)))
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
    // Where the baseline is another, because there is attention too.
    set.push(format!("reset:{t}"));
    set
}

/// The text forms of the whole catalogue, scaled to the training length T and to the longest length that is read.
pub fn catalogue(train_length: u64, length: u64) -> Vec<String> {
    let t = train_length;
    let mut set = default_set(t);
    set.extend([
        format!("cap:{t}"),
        format!("cap-mean:{t}"),
        "a-scale:2".to_string(),
        "scales:fit".to_string(),
        format!("delta-filter:{length}"),
        "decimate:0.5".to_string(),
        "fitted-noise".to_string(),
        "c-scale:0.75".to_string(),
    ]);
    set
}

/// What a set of trials is made from.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// The text forms asked for; if there are none, `defaults` are taken, and those that cannot work are left out.
    pub asked: &'a [String],
    /// The text forms of the default set.
    pub defaults: &'a [String],
    /// Training length.
    pub train_length: u64,
}

/// Reads what was asked for, or the default set; `none` and the baseline come first, each once.
///
/// # Errors
/// [`ProgramError::Usage`] for a text form that cannot be read, or something asked for that cannot work with the model.
pub fn choose(
    choice: &Choice<'_>,
    calibrator: &mut Calibrator<'_>,
) -> Result<(Vec<Trial>, Vec<Skipped>), ProgramError> {
    let model = calibrator.model();
    let mut chosen: Vec<Trial> = Vec::new();
    let mut skipped = Vec::new();
    let first = ["none".to_string(), trial::baseline(model, choice.train_length)];
    let rest = match choice.asked {
        [] => choice.defaults,
        asked => asked,
    };
    for spec in first.iter().chain(rest) {
        let trial = Trial::parse(spec, model)?;
        let mitigation = trial.name().to_string();
        match trial.possible(calibrator) {
            Err(reason) if choice.asked.is_empty() => skipped.push(Skipped { mitigation, reason }),
            Err(reason) => return Err(trial::refused(spec, reason)),
            Ok(trial) if chosen.iter().any(|other| other.name() == trial.name()) => {
                let same =
                    |other: &Trial| other.name() != trial.name() || other.mitigation() == trial.mitigation();
                if !chosen.iter().all(same) {
                    let reason = format!("{mitigation} is among the mitigations already, with other numbers");
                    return Err(trial::refused(spec, reason));
                }
            }
            Ok(trial) => chosen.push(trial),
        }
    }
    Ok((chosen, skipped))
}

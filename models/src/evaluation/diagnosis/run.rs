//! A model under one treatment, over all streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::loss::{Grid, LossTally};
use super::probe::Probe;
use super::record::SiteRecord;
use super::stream::{self, Reading, StreamRun};
use super::text::Stream;
use super::treatment::Treatment;
use crate::error::ModelError;

/// A model under one treatment, over all streams, as far as it has read.
#[derive(Debug)]
pub struct Run {
    /// What the treatment is called.
    pub name: String,
    treatment: Treatment,
    probe: Option<Probe>,
    /// Streams of the run, each with what it has given so far.
    pub streams: Vec<StreamRun>,
    /// Time taken so far.
    pub seconds: f64,
}

impl Run {
    /// A run that has not begun. The probe, if any, looks into the longest streams only.
    pub fn new(
        name: impl Into<String>,
        treatment: Treatment,
        streams: &[Stream],
        grid: &Grid,
        probe: Option<Probe>,
    ) -> Self {
        Self {
            name: name.into(),
            treatment,
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

    /// Tokens read so far, over all streams.
    pub fn tokens(&self) -> u64 {
        self.streams.iter().map(|run| run.tally.position).sum()
    }

    /// Tokens to read in all.
    pub fn tokens_in_all(&self) -> u64 {
        self.streams.iter().map(|run| run.stream.length).sum()
    }

    /// Largest memory of one stream's state, interventions included, in bytes.
    pub fn state_bytes(&self) -> u64 {
        let bytes = self.streams.iter().map(|run| run.tally.state_bytes);
        bytes.max().unwrap_or(0)
    }

    /// Losses of the streams for which `is_taken`, together.
    pub fn losses(&self, grid: &Grid, is_taken: impl Fn(&Stream) -> bool) -> LossTally {
        let mut losses = LossTally::new(grid);
        let taken = self.streams.iter().filter(|run| is_taken(&run.stream));
        taken.for_each(|run| losses.merge(&run.tally.losses));
        losses
    }

    /// What a stream is read under: the probe rides on the longest ones.
    pub fn treatments(&self) -> impl Fn(&Stream) -> Treatment + Sync + use<> {
        let longest = self.streams.iter().map(|run| run.stream.length).max();
        let (plain, probe) = (self.treatment.clone(), self.probe.clone());
        move |stream| match &probe {
            Some(probe) if Some(stream.length) == longest => plain.clone().with(Arc::new(probe.clone())),
            _ => plain.clone(),
        }
    }

    /// Reads on until done, or until the reading's watch breaks off.
    ///
    /// # Errors
    /// As [`Reading::go_on`].
    pub fn go_on(&mut self, reading: &Reading<'_>) -> Result<(), ModelError> {
        let treatments = self.treatments();
        self.seconds += reading.go_on(&mut self.streams, &treatments)?.as_secs_f64();
        Ok(())
    }

    /// What the interventions counted, averaged over the streams.
    pub fn counts(&self) -> BTreeMap<String, f64> {
        stream::means_by_name(self.streams.iter().flat_map(|stream| stream.tally.counts.clone()))
    }

    /// What the probe recorded, per recurrence, pooled over the streams; empty without a probe.
    pub fn records(&mut self) -> Vec<SiteRecord> {
        let mut streams: Vec<Vec<SiteRecord>> = Vec::new();
        for run in &mut self.streams {
            let records = match &mut run.state {
                Some(state) => stream::records(state),
                None => run.tally.records.clone(),
            };
            if !records.is_empty() {
                streams.push(records);
            }
        }
        let recurrences = streams.first().map_or(0, Vec::len);
        let of_site = |site: usize| {
            let records = streams.iter().map(|records| records[site].clone());
            records.collect::<Vec<_>>()
        };
        (0..recurrences)
            .filter_map(|site| SiteRecord::pool(&of_site(site)))
            .collect()
    }
}

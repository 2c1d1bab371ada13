//! The observer that fills a [`Calibration`].

use crate::calibrate::{Calibration, CalibrationError, HeadStatistics, SiteStatistics};
use crate::histogram::Histogram;
use crate::writes::LOWEST_LOG_DECAY;
use burn::tensor::Tensor;
use spillway_ssm_core::intervention::Next;
use spillway_ssm_core::{Chain, Error, Gates, Intervention, InterventionState, LogDecay, Rule, Site, State};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An intervention that changes nothing and takes notes; one observer for all layers of a model and all segments of text.
///
/// ```
/// use spillway_mitigations::Observer;
/// # use burn::tensor::{Device, Distribution, Tensor};
/// # use spillway_ssm_core::{Chunking, Gates, LogDecay, ReadOut, SiteState, Site};
/// # let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex());
/// # let (site, device) = (Site::weighted_sum(0, 1, 2, 2), Device::flex());
/// # let gates = Gates::new(random([1, 8, 1, 2]), random([1, 8, 1, 2]), random([1, 8, 1, 2]));
///
/// let observer = Observer::start();
/// let chain = observer.chain(); // for `Model::start`; here, for one recurrence alone
/// let mut recurrence = SiteState { state: site.empty_state(1, &device), interventions: chain.start(&site, 1, &device) };
/// for segment in [0..4, 4..8] {
///     chain.run(&site, gates.slice(segment)?, &mut recurrence, Chunking::Fastest)?;
/// }
/// let calibration = observer.calibration(1.0)?;
/// assert_eq!(calibration.tokens, 8);
///
/// let mitigation: spillway_mitigations::Mitigation = "state-norm:auto".parse()?;
/// assert!(!mitigation.calibrated(&calibration)?.needs_calibration());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Observer(Mutex<BTreeMap<(usize, usize), Records>>);

/// The notes on one recurrence.
#[derive(Debug, Default)]
struct Records {
    heads: Vec<HeadRecords>,
    step_norms: Histogram,
    /// Σ log a per head and key row (or head), over `decays` tokens.
    log_decays: Vec<f64>,
    decays: u64,
    longest: u64,
}

#[derive(Debug, Default)]
struct HeadRecords {
    norms: Vec<f32>,
    step_sizes: Histogram,
    /// The position and the norms, one per sequence, of the last sample.
    last: (u64, Vec<f32>),
    /// The norms at the ends of earlier segments.
    ends: Vec<f32>,
}

impl Observer {
    /// An observer that has seen nothing yet.
    pub fn start() -> Arc<Self> {
        Arc::default()
    }

    /// A chain with nothing but this observer.
    pub fn chain(self: &Arc<Self>) -> Chain {
        Chain::default().with(self.clone())
    }

    /// What was observed so far, with the norms' `quantile` over the samples; 1 is the largest.
    ///
    /// # Errors
    /// [`CalibrationError::Empty`], [`CalibrationError::Quantile`], and [`CalibrationError::NotFinite`] for a state that
    /// overflowed.
    pub fn calibration(&self, quantile: f64) -> Result<Calibration, CalibrationError> {
        if !(0.0..=1.0).contains(&quantile) {
            return Err(CalibrationError::Quantile(quantile));
        }
        let records = self.records();
        let tokens = records.values().map(|record| record.longest).max();
        let Some(tokens) = tokens.filter(|&tokens| tokens > 0) else {
            return Err(CalibrationError::Empty);
        };
        let sites = records
            .iter()
            .map(|(&(layer, first_head), record)| record.statistics(layer, first_head, quantile));
        let calibration = Calibration {
            tokens,
            sites: sites.collect(),
        };
        calibration.table(|_, head| head.norm)?;
        Ok(calibration)
    }

    /// A panic elsewhere while notes were taken leaves them usable: each is taken whole.
    fn records(&self) -> MutexGuard<'_, BTreeMap<(usize, usize), Records>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intervention for Observer {
    fn text(&self) -> String {
        "observe".into()
    }

    fn on_gates(&self, site: &Site, gates: Gates, _position: u64) -> Result<Gates, Error> {
        let dims = gates.dims();
        if dims.batch * dims.time > 0 {
            let steps = gates.step_size.as_ref().map(read).transpose()?;
            let decays = log_decay_sums(&gates)?;
            let mut records = self.records();
            let record = records.entry((site.layer, site.first_head)).or_default();
            record.heads.resize_with(site.heads, HeadRecords::default);
            record.add_decays(&decays, (dims.batch * dims.time) as u64);
            record.add_steps(steps.as_deref().unwrap_or_default(), site.heads);
        }
        Ok(gates)
    }

    fn on_recurrence(
        &self,
        site: &Site,
        gates: Gates,
        state: &mut State,
        _own: &mut dyn InterventionState,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        let dims = gates.dims();
        let output = next(gates, state)?;
        if dims.batch * dims.time == 0 {
            return Ok(output);
        }
        // The three numbers of a mean have no norm that means anything.
        let norms = match site.rule {
            Rule::Mean => None,
            Rule::WeightedSum | Rule::Delta => Some(read(&frobenius_norms(&state.memory))?),
        };
        let mut records = self.records();
        let record = records.entry((site.layer, site.first_head)).or_default();
        record.longest = record.longest.max(state.position);
        record.heads.resize_with(site.heads, HeadRecords::default);
        if let Some(norms) = norms {
            for (head, notes) in record.heads.iter_mut().enumerate() {
                let of_head = norms.iter().copied().skip(head).step_by(site.heads);
                notes.sample(state.position, of_head.collect());
            }
        }
        Ok(output)
    }
}

impl Records {
    fn add_decays(&mut self, sums: &[f64], tokens: u64) {
        if sums.len() > self.log_decays.len() {
            self.log_decays.resize(sums.len(), 0.0);
        }
        let rows = self.log_decays.iter_mut().zip(sums);
        rows.for_each(|(whole, sum)| *whole += sum);
        self.decays += tokens;
    }

    /// Steps of all heads, token after token.
    fn add_steps(&mut self, steps: &[f32], heads: usize) {
        for token in steps.chunks_exact(heads.max(1)) {
            let squares: f64 = token.iter().map(|&step| f64::from(step).powi(2)).sum();
            self.step_norms.add(squares.sqrt() as f32);
            for (notes, &step) in self.heads.iter_mut().zip(token) {
                notes.step_sizes.add(step);
            }
        }
    }

    fn statistics(&self, layer: usize, first_head: usize, quantile: f64) -> SiteStatistics {
        let rows = self.log_decays.len() / self.heads.len().max(1);
        let heads = self.heads.iter().enumerate().map(|(head, notes)| {
            let sums = self.log_decays.get(head * rows..(head + 1) * rows);
            let slowest = sums
                .unwrap_or_default()
                .iter()
                .copied()
                .fold(f64::NEG_INFINITY, f64::max);
            let forgetting = if slowest.is_finite() {
                (-slowest / self.decays.max(1) as f64).max(0.0)
            } else {
                0.0
            };
            notes.statistics(quantile, forgetting as f32)
        });
        SiteStatistics {
            layer,
            first_head,
            heads: heads.collect(),
            step_norms: self.step_norms.clone(),
        }
    }
}

impl HeadRecords {
    /// A sample that is not further on than the last one is the first of another segment.
    fn sample(&mut self, position: u64, norms: Vec<f32>) {
        if position <= self.last.0 {
            self.ends.append(&mut self.last.1);
        }
        self.norms.extend(&norms);
        self.last = (position, norms);
    }

    fn statistics(&self, quantile: f64, forgetting: f32) -> HeadStatistics {
        let mut sorted = self.norms.clone();
        sorted.sort_by(f32::total_cmp);
        let rank = (quantile * (sorted.len() as f64 - 1.0)).ceil() as usize;
        let ends = self.ends.iter().chain(&self.last.1);
        let (count, squares) = ends.fold((0u32, 0.0), |(count, sum), &norm| {
            (count + 1, sum + f64::from(norm).powi(2))
        });
        HeadStatistics {
            norm: sorted.get(rank).copied().unwrap_or_default(),
            final_norm: (squares / f64::from(count.max(1))).sqrt() as f32,
            forgetting,
            step_sizes: self.step_sizes.clone(),
        }
    }
}

/// ‖h‖_F of every head, `[batch, heads]`.
pub(crate) fn frobenius_norms(memory: &Tensor<4>) -> Tensor<2> {
    let [batch, heads, _, _] = memory.dims();
    let squares = memory.clone() * memory.clone();
    squares.sum_dim(3).sum_dim(2).reshape([batch, heads]).sqrt()
}

/// Σ log a over the tokens and sequences of `gates`, per head and key row, or per head where all rows decay alike.
fn log_decay_sums(gates: &Gates) -> Result<Vec<f64>, Error> {
    let dims = gates.dims();
    let tokens = (dims.batch * dims.time) as f32;
    let sums = match &gates.log_decay {
        LogDecay::None => return Ok(vec![0.0; dims.heads]),
        LogDecay::PerHead(a) => read(&(a.clone().clamp_min(LOWEST_LOG_DECAY) * tokens))?,
        LogDecay::PerKey(a) => read(&(a.clone().clamp_min(LOWEST_LOG_DECAY) * tokens))?,
        LogDecay::PerHeadToken(a) => read(&a.clone().clamp_min(LOWEST_LOG_DECAY).sum_dim(1).sum_dim(0))?,
        LogDecay::PerKeyToken(a) => read(&a.clone().clamp_min(LOWEST_LOG_DECAY).sum_dim(1).sum_dim(0))?,
        LogDecay::PerStep(a) => match &gates.step_size {
            None => return Ok(vec![0.0; dims.heads]),
            // Steps are the same for all rows, so the row that forgets most slowly is that of the largest A.
            Some(step) => {
                let steps = step.clone().sum_dim(1).sum_dim(0).reshape([dims.heads]);
                read(&(steps * a.clone().max_dim(1).reshape([dims.heads])))?
            }
        },
    };
    Ok(sums.into_iter().map(f64::from).collect())
}

fn read<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f32>, Error> {
    let unreadable = |found: String| Error::Value {
        what: "observed values",
        expected: "readable from the device",
        found,
    };
    let data = tensor
        .clone()
        .try_into_data()
        .map_err(|error| unreadable(error.to_string()))?;
    Ok(data.iter::<f32>().collect())
}

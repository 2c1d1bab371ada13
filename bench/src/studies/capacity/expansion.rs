//! A trained model whose state is widened, and which is then trained on.
//!
//! In a Mamba-2 layer of N state values per channel, every head keeps S ∈ ℝ^{P×N} with S ← α S + Δ x Bᵀ and reads y = S C. B and C are rows of
//! the input projection after the short convolution and SiLU. Widening from N to N′ adds N′ − N rows of each:
//!
//! | parameter | its new rows begin |
//! |---|---|
//! | B rows of `in_proj.weight`, and their `conv1d.weight` and `conv1d.bias` | as those of a fresh model of N′ do |
//! | C rows of `in_proj.weight` | 0 |
//! | `conv1d.weight` of the C rows | as those of a fresh model of N′ do |
//! | `conv1d.bias` of the C rows | 0 |
//!
//! Everything else stays. So the new state values are written from the first token on, and none is read: C = SiLU(0) = 0, and the
//! widened model gives the outputs of the narrow one. It is no stationary point: ∂L/∂C = Sᵀ ∂L/∂y is not 0 in the new values, because S is
//! not, and SiLU′(0) = ½, so that the C rows learn from the first step on. Rows that are fresh in both B and C would read noise that
//! the rest of the model never saw; 0 in both would never learn.
//!
//! StateX (2509.22630) expands states after training as well; how its new parameters begin is not known to us, so that this is no
//! re-make of it.

use super::initial::{fresh, model_config};
use super::result::StateSize;
use crate::error::ProgramError;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use spillway_models::checkpoint::WriteDtype;
use spillway_models::train::{Parameter, Parameters};
use std::ops::Range;
use std::path::Path;

/// A state that is widened on the way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expansion {
    /// State values of a channel before. Default: as many as after, so that nothing is widened. That is the control, which is trained in two
    /// legs as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<usize>,
    /// Share of the steps before the widening, rounded to whole steps.
    #[serde(default = "half")]
    pub share: f64,
}

fn half() -> f64 {
    0.5
}

impl Expansion {
    /// What is wrong with it, as what is expected and what is found instead.
    pub fn fault(&self) -> Option<(String, String)> {
        let fault = |expected: &str, found: String| Some((expected.to_string(), found));
        if self.from == Some(0) {
            return fault("tasks.expansion.from of at least 1", "0".into());
        }
        if !(self.share > 0.0 && self.share < 1.0) {
            let expected = "tasks.expansion.share between 0 and 1";
            return fault(expected, self.share.to_string());
        }
        None
    }

    /// The expansion in words.
    pub fn words(self) -> String {
        let share = 100.0 * self.share;
        match self.from {
            Some(from) => format!(
                "with d_state = {from} for the first {share:.0} % of the steps, then widened and trained on"
            ),
            None => format!(
                "in two legs with a new optimiser and schedule after {share:.0} % of the steps, nothing widened"
            ),
        }
    }

    /// Steps before the widening, of `steps` together: at least 1, and at least 1 is left.
    pub fn steps_before(&self, steps: u64) -> u64 {
        let before = (self.share * steps as f64).round() as u64;
        before.clamp(1, steps.saturating_sub(1).max(1))
    }
}

/// Writes the model of the checkpoint `narrow`, of the sizes `from`, with the state of `to` into the new folder `folder`; one that is there
/// already stays. `seed` is that of the values that are fresh.
///
/// # Errors
/// [`ProgramError::Model`] for a checkpoint that cannot be read or a folder that cannot be written; [`ProgramError::Internal`] for a
/// checkpoint of other sizes.
pub fn widen(
    narrow: &Path,
    (from, to): (&StateSize, &StateSize),
    vocab_size: usize,
    seed: u64,
    folder: &Path,
) -> Result<(), ProgramError> {
    if folder.exists() {
        return Ok(());
    }
    let device = Device::flex();
    let narrow = Parameters::load(narrow, &device)?;
    let mut wide = fresh(&model_config(to, vocab_size), seed, &device)?;
    for parameter in wide.list_mut() {
        let known = narrow.list().iter().find(|known| known.name == parameter.name);
        let Some(known) = known else {
            let what = format!("{} is not in the narrow model", parameter.name);
            return Err(ProgramError::Internal(what));
        };
        let rows = Rows::of(&parameter.name, from, to);
        let values = rows.widened(&values_of(known)?, values_of(parameter)?);
        let values = values.ok_or_else(|| {
            let what = format!("{} does not have the rows of a Mamba-2", parameter.name);
            ProgramError::Internal(what)
        })?;
        let count = values.len();
        parameter.value = Tensor::from_data(TensorData::new(values, [count]), &device);
    }
    Ok(wide.save(folder, WriteDtype::F32, None)?)
}

fn values_of(parameter: &Parameter) -> Result<Vec<f32>, ProgramError> {
    let data = parameter.value.clone().into_data();
    data.try_to_vec()
        .map_err(|error| ProgramError::Internal(format!("{}: {error:?}", parameter.name)))
}

/// How the rows of a parameter are widened: the blocks that it is made of, in their order.
struct Rows {
    blocks: Vec<Block>,
}

/// Rows that belong together.
struct Block {
    /// Number of them in the narrow model, where they are the first ones.
    narrow: usize,
    /// Number of them in the wide model.
    wide: usize,
    /// Whether new ones are 0, rather than fresh.
    silent: bool,
}

impl Rows {
    /// The blocks of the parameter `name`; one block of all rows where the state's size does not matter.
    fn of(name: &str, from: &StateSize, to: &StateSize) -> Self {
        let inner = 2 * to.model_dim;
        let same = |rows: usize| Block {
            narrow: rows,
            wide: rows,
            silent: false,
        };
        let grown = |silent: bool| Block {
            narrow: from.d_state,
            wide: to.d_state,
            silent,
        };
        let (is_projection, is_weight, is_bias) = (
            name.ends_with(".in_proj.weight"),
            name.ends_with(".conv1d.weight"),
            name.ends_with(".conv1d.bias"),
        );
        let blocks = if is_projection {
            // z, x, B, C, Δ.
            let heads = inner / to.head_dim;
            vec![same(inner), same(inner), grown(false), grown(true), same(heads)]
        } else if is_weight || is_bias {
            // x, B, C.
            vec![same(inner), grown(false), grown(is_bias)]
        } else {
            Vec::new()
        };
        Self { blocks }
    }

    /// The values of the wide parameter: those of the narrow one, and for new rows 0 or the fresh ones; `None` if the values are no rows of
    /// these blocks.
    fn widened(&self, narrow: &[f32], mut fresh: Vec<f32>) -> Option<Vec<f32>> {
        if self.blocks.is_empty() {
            return (narrow.len() == fresh.len()).then(|| narrow.to_vec());
        }
        let count = |of: fn(&Block) -> usize| self.blocks.iter().map(of).sum::<usize>();
        let (narrow_rows, wide_rows) = (count(|block| block.narrow), count(|block| block.wide));
        let width = fresh.len() / wide_rows.max(1);
        let shrinks = self.blocks.iter().any(|block| block.narrow > block.wide);
        if shrinks || narrow.len() != narrow_rows * width || fresh.len() != wide_rows * width {
            return None;
        }
        let range = |first: usize, rows: usize| -> Range<usize> { first * width..(first + rows) * width };
        let (mut read, mut written) = (0, 0);
        for block in &self.blocks {
            let kept = range(read, block.narrow);
            fresh[range(written, block.narrow)].copy_from_slice(&narrow[kept]);
            if block.silent {
                fresh[range(written + block.narrow, block.wide - block.narrow)].fill(0.0);
            }
            read += block.narrow;
            written += block.wide;
        }
        Some(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::studies::capacity::initial::Initialisation;
    use spillway_models::model::Logits;
    use spillway_models::train::{Batch, Precision};
    use spillway_models::{LoadOptions, Model};
    use spillway_ssm_core::Chain;

    const VOCAB: usize = 32;

    fn size(d_state: usize) -> StateSize {
        StateSize {
            model_dim: 16,
            layers: 2,
            head_dim: 8,
            d_state,
        }
    }

    /// A narrow model and a wide one made from it, in folders of the temporary one.
    fn pair(folder: &Path, from: usize, to: usize) {
        let (narrow, wide) = (folder.join("narrow"), folder.join("wide"));
        let begin = Initialisation::Slow;
        begin
            .write((&size(from), 64), VOCAB, 3, &narrow)
            .expect("written");
        widen(&narrow, (&size(from), &size(to)), VOCAB, 7, &wide).expect("widened");
    }

    fn logits(path: &Path) -> Vec<f32> {
        let model = Model::load(path, &LoadOptions::default()).expect("a model");
        let ids: Vec<u32> = (0..90).map(|at| (at * at + 3) % VOCAB as u32).collect();
        let mut state = model.start(&Chain::default(), 1).expect("a state");
        let logits = model.logits(&ids, &mut state, Logits::All).expect("logits");
        logits.into_data().iter::<f32>().collect()
    }

    #[test]
    fn a_widened_model_gives_the_outputs_of_the_narrow_one_and_learns_to_read_what_is_new() {
        let folder = tempfile::tempdir().expect("temporary folder");
        pair(folder.path(), 4, 12);
        let (narrow, wide) = (
            logits(&folder.path().join("narrow")),
            logits(&folder.path().join("wide")),
        );
        // Sums over d_state have new terms that are 0, and may be added up in another order.
        let largest = narrow.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let difference = narrow.iter().zip(&wide).map(|(a, b)| (a - b).abs());
        let difference = difference.fold(0.0, f32::max);
        assert!(
            difference <= 1e-5 * largest,
            "{difference} of logits up to {largest}"
        );

        let device = Device::flex();
        let parameters = Parameters::load(&folder.path().join("wide"), &device).expect("parameters");
        let leaves = parameters.leaves(&device.clone().autodiff(), Precision::F32);
        let network = leaves.network().expect("a network");
        let ids: Vec<u32> = (0..40).map(|at| (at * at + 3) % VOCAB as u32).collect();
        let batch = Batch {
            sequences: 1,
            time: 39,
            ids: ids[..39].to_vec(),
            targets: ids[1..].to_vec(),
            weights: None,
            continues: vec![false],
        };
        let (loss, _) = network
            .loss(&batch.whole(), &mut network.start(1))
            .expect("a loss");
        let gradients = leaves.gradients(&mut loss.backward());
        let mut looked_at = 0;
        for (parameter, gradient) in parameters.list().iter().zip(gradients) {
            if !parameter.name.ends_with(".in_proj.weight") {
                continue;
            }
            let values = values_of(parameter).expect("values");
            let gradient = gradient.expect("a gradient").into_data();
            let gradient: Vec<f32> = gradient.iter::<f32>().collect();
            let row = |first: usize, values: &[f32]| values[first * 16..(first + 8) * 16].to_vec();
            // 32 rows each of z and x, then 12 of B and 12 of C, of which the last 8 are new.
            let (b, c) = (64 + 4, 64 + 12 + 4);
            assert!(row(b, &values).iter().all(|value| *value != 0.0));
            assert!(row(c, &values).iter().all(|value| *value == 0.0));
            assert!(row(c, &gradient).iter().any(|value| *value != 0.0));
            looked_at += 1;
        }
        assert_eq!(looked_at, 2, "an input projection in each layer");
    }

    #[test]
    fn nothing_changes_where_nothing_is_widened() {
        let folder = tempfile::tempdir().expect("temporary folder");
        pair(folder.path(), 8, 8);
        let values = |name: &str| {
            let parameters = Parameters::load(&folder.path().join(name), &Device::flex());
            let parameters = parameters.expect("parameters");
            let each = parameters
                .list()
                .iter()
                .map(|parameter| values_of(parameter).expect("values"));
            each.collect::<Vec<_>>()
        };
        assert_eq!(values("narrow"), values("wide"));
    }

    #[test]
    fn a_model_of_other_sizes_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let narrow = folder.path().join("narrow");
        let begin = Initialisation::Standard;
        begin.write((&size(4), 64), VOCAB, 3, &narrow).expect("written");
        for (from, to) in [(8, 12), (4, 2)] {
            let wide = folder.path().join("wide");
            let refused = widen(&narrow, (&size(from), &size(to)), VOCAB, 7, &wide);
            assert!(
                matches!(refused, Err(ProgramError::Internal(_))),
                "{from} to {to}"
            );
            assert!(!wide.exists());
        }
    }

    #[test]
    fn steps_are_shared_out_whole_and_none_of_the_legs_is_empty() {
        let before = |share: f64, steps: u64| Expansion { from: None, share }.steps_before(steps);
        assert_eq!((before(0.5, 7), before(0.25, 1000)), (4, 250));
        assert_eq!((before(0.01, 10), before(0.99, 10)), (1, 9));
    }
}

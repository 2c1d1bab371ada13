//! How much of its state a head uses: the effective rank of what it holds, and how much of that its read-outs depend on.

use serde::Serialize;

use super::operator_block::OperatorBlock;

/// Name of the array of blocks under way.
const BLOCKS: &str = "blocks";
const RANKS_INSIDE: &str = "effective_ranks_inside";
const RANKS_END: &str = "effective_ranks_end";
const SIZES: &str = "effective_sizes";

/// How much of its state one head uses; nothing for the numbers of a weighted mean (RWKV-4), for a state that is not finite, and where a
/// stream did not come so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct HeadUsage {
    /// Effective rank of the state at the training length.
    pub effective_rank_inside: Option<f64>,
    /// Effective rank of the state at the last sample.
    pub effective_rank_end: Option<f64>,
    /// [Effective state size](super::operator_block) around the training length.
    pub effective_size: Option<f64>,
}

/// Usage of the states of all heads of a recurrence, and the blocks from which their effective sizes will come.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// Empty until there is something; not a number where there is nothing.
    ranks_inside: Vec<f64>,
    ranks_end: Vec<f64>,
    sizes: Vec<f64>,
    blocks: Vec<OperatorBlock>,
}

impl Usage {
    pub(super) fn of(&self, head: usize) -> HeadUsage {
        let number = |values: &[f64]| values.get(head).copied().filter(|value| value.is_finite());
        HeadUsage {
            effective_rank_inside: number(&self.ranks_inside),
            effective_rank_end: number(&self.ranks_end),
            effective_size: number(&self.sizes),
        }
    }

    pub(super) fn set_ranks(&mut self, inside: bool, ranks: Vec<Option<f64>>) {
        let ranks = ranks.into_iter().map(|rank| rank.unwrap_or(f64::NAN)).collect();
        match inside {
            true => self.ranks_inside = ranks,
            false => self.ranks_end = ranks,
        }
    }

    /// The block of every head.
    pub(super) fn blocks(&mut self, heads: usize, key_dim: usize) -> &mut [OperatorBlock] {
        if self.blocks.is_empty() {
            self.blocks = vec![OperatorBlock::new(key_dim); heads];
        }
        &mut self.blocks
    }

    /// Makes sizes of the blocks, which are not needed any more; where there are none, leaves everything as it is.
    pub(super) fn finish(&mut self) {
        let blocks = std::mem::take(&mut self.blocks);
        if blocks.is_empty() {
            return;
        }
        let sizes = blocks
            .iter()
            .map(|block| block.effective_size().unwrap_or(f64::NAN));
        self.sizes = sizes.collect();
    }

    /// Means over the streams that have a number.
    pub(super) fn pool<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let mean = |of: fn(&Self) -> &Vec<f64>| {
            let heads = all.clone().map(|usage| of(usage).len()).max().unwrap_or(0);
            let of_head = |head: usize| {
                let there = all.clone().filter_map(|usage| of(usage).get(head));
                let there: Vec<f64> = there.copied().filter(|value| value.is_finite()).collect();
                // Nothing divided by nothing is not a number.
                there.iter().sum::<f64>() / there.len() as f64
            };
            (0..heads).map(of_head).collect()
        };
        Self {
            ranks_inside: mean(|usage| &usage.ranks_inside),
            ranks_end: mean(|usage| &usage.ranks_end),
            sizes: mean(|usage| &usage.sizes),
            blocks: Vec::new(),
        }
    }

    pub(super) fn arrays(&self) -> [(&'static str, Vec<f64>); 4] {
        let blocks = self.blocks.iter().flat_map(OperatorBlock::to_array);
        [
            (RANKS_INSIDE, self.ranks_inside.clone()),
            (RANKS_END, self.ranks_end.clone()),
            (SIZES, self.sizes.clone()),
            (BLOCKS, blocks.collect()),
        ]
    }

    /// The inverse of [`Self::arrays`]; what is missing is nothing.
    ///
    /// # Errors
    /// One sentence about an array of another length.
    pub(super) fn from_arrays(
        heads: usize,
        key_dim: usize,
        array: impl Fn(&str) -> Option<Vec<f64>>,
    ) -> Result<Self, String> {
        let numbers = |name: &str| {
            let values = array(name).unwrap_or_default();
            match values.is_empty() || values.len() == heads {
                true => Ok(values),
                false => Err(format!(
                    "probe.{name}: expected {heads} numbers, found {}",
                    values.len()
                )),
            }
        };
        let values = array(BLOCKS).unwrap_or_default();
        let width = values.len() / heads.max(1);
        let blocks: Option<Vec<OperatorBlock>> = match values.len() {
            0 => Some(Vec::new()),
            length if length.is_multiple_of(heads.max(1)) => values
                .chunks(width)
                .map(|block| OperatorBlock::from_array(key_dim, block))
                .collect(),
            _ => None,
        };
        Ok(Self {
            ranks_inside: numbers(RANKS_INSIDE)?,
            ranks_end: numbers(RANKS_END)?,
            sizes: numbers(SIZES)?,
            blocks: blocks.ok_or_else(|| {
                format!(
                    "probe.{BLOCKS}: expected two or three matrices of {key_dim} rows for each of {heads} heads, found {} numbers",
                    values.len()
                )
            })?,
        })
    }
}

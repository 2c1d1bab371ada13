//! Prompts that begin alike, with what they have in common taken in once.
//!
//! Prompts are taken in the order of their ids, so that each shares most with its neighbours. Where a later one parts ways, the
//! state is kept, at whole segments of a prefill only: tokens go through the model in the pieces in which they would go alone,
//! and every prompt ends in the same bits whether it was shared or not.

use burn::tensor::Tensor;
use spillway_ssm_core::Chain;

use crate::error::ModelError;
use crate::model::{Logits, Model, SEGMENT};
use crate::state::ModelState;

/// Takes in every prompt from the empty state, with `chain` acting. `then` gets the index of each, the logits after its last token, and
/// its state. The result is the number of tokens that went through the model.
///
/// # Errors
/// As [`Model::start`] and [`Model::logits`]; the first of `then`.
pub(super) fn take_in_all(
    model: &Model,
    chain: &Chain,
    prompts: &[&[u32]],
    mut then: impl FnMut(usize, Tensor<2>, ModelState) -> Result<(), ModelError>,
) -> Result<u64, ModelError> {
    let order = in_order(prompts);
    let pairs = order.windows(2);
    let shared: Vec<usize> = pairs
        .map(|pair| whole_segments(prompts[pair[0]], prompts[pair[1]]))
        .collect();
    let start = model.start(chain, 1)?;
    let mut kept: Vec<(usize, ModelState)> = Vec::new();
    let mut computed = 0;
    for (rank, index) in order.iter().enumerate() {
        let ids = prompts[*index];
        let before = rank.checked_sub(1).map_or(0, |rank| shared[rank]);
        kept.retain(|(position, _)| *position <= before);
        let (mut position, mut state) = kept.last().cloned().unwrap_or_else(|| (0, start.clone()));
        for border in borders(&shared[rank..], position) {
            model.advance(&ids[position..border], &mut state)?;
            computed += border - position;
            position = border;
            kept.push((border, state.clone()));
        }
        let logits = model.logits(&ids[position..], &mut state, Logits::Last)?;
        computed += ids.len() - position;
        then(*index, logits, state)?;
    }
    Ok(computed as u64)
}

/// The prompts by their ids, in which order each shares most with its neighbours.
pub(super) fn in_order(prompts: &[&[u32]]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|index| prompts[*index]);
    order
}

/// How many tokens two prompts have in common, in whole segments, with at least one token of each left to have logits.
fn whole_segments(a: &[u32], b: &[u32]) -> usize {
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let most = a.len().min(b.len()).saturating_sub(1);
    common.min(most) / SEGMENT * SEGMENT
}

/// Where prompts to come go on from, beyond `position`, ascending: the least of what is shared up to each of them.
fn borders(shared: &[usize], position: usize) -> Vec<usize> {
    let mut least = usize::MAX;
    let mut borders: Vec<usize> = shared
        .iter()
        .map(|shared| {
            least = least.min(*shared);
            least
        })
        .take_while(|border| *border > position)
        .collect();
    borders.dedup();
    borders.reverse();
    borders
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoadOptions;

    #[test]
    fn states_are_kept_where_later_prompts_part_ways() {
        assert_eq!(borders(&[512, 768, 256, 1024], 0), [256, 512]);
        assert_eq!(borders(&[512, 768, 256, 1024], 256), [512]);
        assert_eq!(borders(&[512, 0, 256], 0), [512]);
        assert!(borders(&[], 0).is_empty() && borders(&[0, 512], 0).is_empty());
    }

    #[test]
    fn shared_prompts_have_the_bits_of_prompts_alone_and_take_less_work() {
        let model = Model::shipped(&LoadOptions::default()).expect("the shipped model loads");
        let text: Vec<u32> = (0..1200u32).map(|index| (index * index) % 251).collect();
        let with = |length: usize, last: u32| [&text[..length], &[last]].concat();
        let prompts = [
            with(1100, 7),
            with(600, 1),
            with(1100, 3),
            with(600, 1),
            with(20, 9),
            text[..512].to_vec(),
        ];
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let values = |logits: Tensor<2>| logits.into_data().iter::<f32>().collect::<Vec<_>>();
        let mut found = vec![Vec::new(); prompts.len()];
        let computed = take_in_all(&model, &Chain::default(), &prompts, |index, logits, state| {
            assert_eq!(state.position(), prompts[index].len() as u64);
            found[index] = values(logits);
            Ok(())
        });
        for (ids, found) in prompts.iter().zip(&found) {
            let mut state = model.start(&Chain::default(), 1).expect("a state");
            let alone = model.logits(ids, &mut state, Logits::Last).expect("logits");
            assert_eq!(&values(alone), found);
        }
        let all: usize = prompts.iter().map(|ids| ids.len()).sum();
        // Prompts of 512, 601 (twice), 1101 (twice) and 21 tokens: 256 or 512 of the others, and once 1024, are shared.
        assert!(computed.expect("computed") < all as u64 / 2 + 200, "{all}");
    }
}

//! Dropout that is tied over time: channels of what a layer adds to the residual stream, zeroed for whole sequences.
//!
//! ```text
//! r ← r + (m ∘ mixer(norm(r))) / (1 − p)        m[b, h] = 0 with probability p, else 1, for all steps of sequence b
//! ```
//!
//! A mask that changes from step to step would be noise that a state carries on. Masks are a function of their seed and place: a training
//! that goes on after an interruption draws the same ones.

use burn::tensor::{Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The masks of one batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    /// p, from 0 to below 1.
    pub(crate) probability: f64,
    /// Seed of the batch's masks.
    pub(crate) seed: u64,
    /// Sequences of the batch before those at hand.
    pub(crate) first: usize,
}

impl Dropout {
    /// What is left of `update`, `[batch, time, model_dim]`; `place` counts the mixers of a network.
    pub(crate) fn of(&self, update: Tensor<3>, place: usize) -> Tensor<3> {
        let [batch, _, width] = update.dims();
        let mut rng = StdRng::seed_from_u64(self.seed.wrapping_add(place as u64));
        let kept = (1.0 / (1.0 - self.probability)) as f32;
        let mut factor = || match rng.random::<f64>() < self.probability {
            true => 0.0,
            false => kept,
        };
        for _ in 0..self.first * width {
            factor();
        }
        let mask: Vec<f32> = (0..batch * width).map(|_| factor()).collect();
        let mask = Tensor::from_data(TensorData::new(mask, [batch, 1, width]), &update.device());
        update * mask
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_channel_is_zeroed_for_a_whole_sequence_and_the_mean_stays() {
        let (batch, time, width) = (64, 3, 50);
        let dropout = Dropout {
            probability: 0.25,
            seed: 7,
            first: 0,
        };
        let values = |place| {
            let ones = Tensor::ones([batch, time, width], &Device::flex());
            dropout
                .of(ones, place)
                .into_data()
                .iter::<f32>()
                .collect::<Vec<_>>()
        };
        let first = values(0);
        for sequence in first.chunks(time * width) {
            let (step, others) = sequence.split_at(width);
            assert!(others.chunks(width).all(|other| other == step));
        }
        let mean = first.iter().sum::<f32>() / first.len() as f32;
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        assert!(
            first
                .iter()
                .all(|value| *value == 0.0 || (*value - 4.0 / 3.0).abs() < 1e-6)
        );
        assert!(first == values(0) && first != values(1));
        let later = Dropout { first: 5, ..dropout };
        let ones = Tensor::ones([2, time, width], &Device::flex());
        let found: Vec<f32> = later.of(ones, 0).into_data().iter::<f32>().collect();
        assert_eq!(
            found,
            first[5 * time * width..7 * time * width],
            "the masks of sequences 5 and 6"
        );
    }
}

//! Passes over the values of a tensor that lies in this machine's memory: in place where nobody shares them, and on all
//! threads.
//!
//! Burn's operations on tensors read and write memory once for each of the fifteen operations of an update. These read every
//! value once; what they compute is the same, operation by operation, and so to the bit.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{DispatchDevice, Flex};
use burn::tensor::{DType, Device, Tensor};
use burn_optim::{AdamWState, AdaptiveMomentumState};
use rayon::prelude::*;

/// Values that a thread takes at a time; tensors up to this size are one piece.
const PIECE: usize = 1 << 14;
/// Squares that are added in one row; as many as the largest tensor of a small model has.
pub(super) const SUMMED: usize = 1 << 20;
/// Rows of sums side by side, each of every eighth square.
pub(super) const LANES: usize = 8;

/// Whether the values are f32 in this machine's memory.
pub(super) fn is_host(tensor: &Tensor<1>) -> bool {
    matches!(tensor.device().as_dispatch(), DispatchDevice::Flex(_)) && tensor.dtype() == DType::F32
}

/// A tensor that is one run of f32 values.
struct Values(FloatTensor<Flex>);

impl Values {
    /// The values of a tensor for which [`is_host`] is true.
    fn of(tensor: Tensor<1>) -> Self {
        match tensor.try_into_primitive::<Flex>() {
            Ok(tensor) if tensor.is_contiguous() => Self(tensor),
            Ok(tensor) => Self(tensor.to_contiguous()),
            Err(error) => unreachable!("the device has been looked at: {error:?}"),
        }
    }

    fn slice(&self) -> &[f32] {
        let layout = self.0.layout();
        &self.0.storage::<f32>()[layout.start_offset()..][..layout.num_elements()]
    }

    /// A copy first, if others hold the tensor.
    fn slice_mut(&mut self) -> &mut [f32] {
        let (start, count) = (self.0.layout().start_offset(), self.0.layout().num_elements());
        &mut self.0.storage_mut::<f32>()[start..][..count]
    }

    fn tensor(self) -> Tensor<1> {
        Tensor::from_primitive::<Flex>(self.0)
    }
}

/// What `look` finds in the values of a tensor for which [`is_host`] is true.
pub(super) fn look_at<T>(tensor: &Tensor<1>, look: impl FnOnce(&[f32]) -> T) -> T {
    look(Values::of(tensor.clone()).slice())
}

/// The tensor, for which [`is_host`] is true, with other values from `first` on.
pub(super) fn replaced(tensor: Tensor<1>, first: usize, values: &[f32]) -> Tensor<1> {
    let mut all = Values::of(tensor);
    all.slice_mut()[first..][..values.len()].copy_from_slice(values);
    all.tensor()
}

/// Σ g² in f64: of every [`SUMMED`] values by themselves, then of these sums.
pub(super) fn square_sum(gradient: &Tensor<1>) -> f64 {
    let of_row = |values: &[f32]| Squares::default().and(values).sum();
    let sums: Vec<f64> = look_at(gradient, |values| values.par_chunks(SUMMED).map(of_row).collect());
    sums.iter().sum()
}

/// Σ g² over the values of a row so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Squares(pub(super) [f64; LANES]);

impl Squares {
    /// The sums with the next values of the row, whose number so far is a multiple of [`LANES`].
    pub(super) fn and(self, values: &[f32]) -> Self {
        let Self(mut lanes) = self;
        let (blocks, rest) = values.as_chunks::<LANES>();
        let blocks = blocks.iter().map(<[f32; LANES]>::as_slice).chain([rest]);
        let add = |(lane, value): (&mut f64, &f32)| *lane += f64::from(*value) * f64::from(*value);
        blocks.for_each(|block| lanes.iter_mut().zip(block).for_each(add));
        Self(lanes)
    }

    /// The sum of all of them.
    pub(super) fn sum(self) -> f64 {
        self.0.iter().sum()
    }
}

/// The tensor divided by a number in f32, x / divisor.
pub(super) fn divided(tensor: Tensor<1>, divisor: f64) -> Tensor<1> {
    let mut values = Values::of(tensor);
    let divisor = divisor as f32;
    let divide = |piece: &mut [f32]| piece.iter_mut().for_each(|value| *value /= divisor);
    values.slice_mut().par_chunks_mut(PIECE).for_each(divide);
    values.tensor()
}

/// The update of AdamW in f32, by the constants of its formula.
pub(super) struct AdamW {
    /// Decay rates β₁ and β₂ of the moments.
    pub(super) betas: [f32; 2],
    /// ε, which is added to the root of the second moment.
    pub(super) eps: f32,
    /// Weight decay λ.
    pub(super) weight_decay: f32,
}

impl AdamW {
    /// The weights and the moments after a gradient, which is first multiplied with `scale`; all are such that [`is_host`] is
    /// true. Gradient and moments are of the weights in `places`, and the others stay as they are.
    pub(super) fn step(
        &self,
        (rate, scale): (f64, Option<f64>),
        weights: Tensor<1>,
        places: Range<usize>,
        gradient: Tensor<1>,
        state: Option<AdamWState<1>>,
    ) -> (Tensor<1>, AdamWState<1>) {
        let (mut weights, gradient) = (Values::of(weights), Values::of(gradient));
        let (time, moments) = match state {
            Some(AdamWState { momentum }) => {
                let moments = [momentum.moment_1, momentum.moment_2].map(Values::of);
                (momentum.time + 1, Some(moments))
            }
            None => (1, None),
        };
        let is_first = moments.is_none();
        let [mut first, mut second] = moments.unwrap_or_else(|| {
            let zeros = || Values::of(Tensor::zeros([gradient.slice().len()], &Device::flex()));
            [zeros(), zeros()]
        });
        let update = self.update(rate, scale, time);
        let pieces = weights.slice_mut()[places]
            .par_chunks_mut(PIECE)
            .zip(first.slice_mut().par_chunks_mut(PIECE))
            .zip(second.slice_mut().par_chunks_mut(PIECE))
            .zip(gradient.slice().par_chunks(PIECE));
        pieces.for_each(|(((weights, first), second), gradient)| match is_first {
            true => update.run::<true>(weights, first, second, gradient),
            false => update.run::<false>(weights, first, second, gradient),
        });
        let momentum = AdaptiveMomentumState::new(time, first.tensor(), second.tensor());
        (weights.tensor(), AdamWState::new(momentum))
    }

    /// The factors of the update that is the `time`-th of a tensor.
    fn update(&self, rate: f64, scale: Option<f64>, time: usize) -> Update {
        let decay = rate * f64::from(self.weight_decay);
        Update {
            betas: self.betas,
            news: self.betas.map(|beta| 1.0 - beta),
            // Below 2³¹, as a saved count is.
            corrections: self.betas.map(|beta| 1.0 - beta.powi(time as i32)),
            eps: self.eps,
            rate: rate as f32,
            kept: (1.0 - decay) as f32,
            scale: scale.unwrap_or(1.0) as f32,
        }
    }
}

/// Factors; those that are 1 change no bit.
struct Update {
    betas: [f32; 2],
    /// 1 − β₁ and 1 − β₂, by which g and g² enter the moments.
    news: [f32; 2],
    /// 1 − β₁ᵗ and 1 − β₂ᵗ, by which the moments are divided.
    corrections: [f32; 2],
    eps: f32,
    rate: f32,
    /// 1 − η λ.
    kept: f32,
    scale: f32,
}

impl Update {
    /// Updates one piece; `FIRST` where there have been no moments, which is not the same as moments of zero: 0 + (−0) is 0.
    fn run<const FIRST: bool>(
        &self,
        weights: &mut [f32],
        first: &mut [f32],
        second: &mut [f32],
        gradient: &[f32],
    ) {
        let [(beta_1, new_1), (beta_2, new_2)] = [0, 1].map(|moment| (self.betas[moment], self.news[moment]));
        let values = weights.iter_mut().zip(first).zip(second).zip(gradient);
        for (((w, m), v), g) in values {
            let g = g * self.scale;
            let (of_m, of_v) = (g * new_1, g * g * new_2);
            *m = if FIRST { of_m } else { *m * beta_1 + of_m };
            *v = if FIRST { of_v } else { *v * beta_2 + of_v };
            let delta = (*m / self.corrections[0]) / ((*v / self.corrections[1]).sqrt() + self.eps);
            *w = *w * self.kept - delta * self.rate;
        }
    }
}

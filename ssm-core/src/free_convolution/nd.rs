//! The S4ND block without state spaces: a window of free taps per channel, and the same gated projection over channels.
//!
//! ```text
//! z[p] = Σ_l K[l] u[p − l] + D u[p],  −(T − 1)/2 ≤ l_i ≤ (T − 1)/2        out = GLU(W GELU(z) + b)
//! ```
//!
//! What S4ND is compared with: a depthwise convolution of T taps along every axis, as convolutional networks have them. It knows positions
//! and no lengths: at another resolution its window covers another part of an image.

use crate::error::{Error, Result};
use crate::image_shape::ImageShape;
use crate::intervention::Chain;
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState};
use crate::operators::long_convolution_nd::{AxisKernel, Method, long_convolution_nd};
use crate::operators::pointwise::{gelu, sigmoid_gate};
use crate::operators::split;
use crate::weights::{Init, WeightSource};
use burn::tensor::{Device, Tensor, TensorData};

/// A block of a window of free taps for every channel, and a gated projection over channels.
#[derive(Clone, Debug)]
pub struct FreeConvolutionNd {
    shape: ImageShape,
    taps: usize,
    /// Taps K, `[model_dim, taps^axes]`, the last axis fastest, from the lag furthest ahead to the one furthest back.
    kernel: Tensor<2>,
    /// D, the skip from an input to its own output, `[1, model_dim]`.
    skip: Tensor<2>,
    out: Linear,
}

impl FreeConvolutionNd {
    /// The block of the weights of `source` for images of a shape, with H = `model_dim`, T = `taps` and D axes: `kernel.K` (H × Tᴰ), `D`
    /// (1 × H), `output_linear` (with bias, 2H × H).
    ///
    /// # Errors
    /// [`Error::Value`] without channels, and for an even number of taps, which has no middle; the source's for a tensor that is missing or
    /// of another shape.
    pub fn read<S: WeightSource>(
        model_dim: usize,
        shape: ImageShape,
        taps: usize,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let count = (0..shape.sizes().len()).try_fold(1_usize, |count, _| count.checked_mul(taps));
        let Some(count) = count.filter(|_| model_dim > 0 && !taps.is_multiple_of(2)) else {
            return Err(S::Error::from(Error::Value {
                what: "channels and taps of a convolution",
                expected: "at least 1 channel, and an odd number of taps",
                found: format!("{:?}", [model_dim, taps]),
            }));
        };
        let out = source.linear("output_linear", [2 * model_dim, model_dim], true)?;
        let fresh = Init::Normal((1.0 / count as f32).sqrt());
        Ok(Self {
            kernel: source.tensor("kernel.K", [model_dim, count], fresh)?,
            skip: source.tensor("D", [1, model_dim], Init::Normal(1.0))?,
            shape,
            taps,
            out,
        })
    }

    /// The window as a sum of outer products: of its lines along the first axis with kernels of one tap each on the others.
    fn axes(&self, sizes: &[usize]) -> Vec<AxisKernel> {
        let [channels, count] = self.kernel.dims();
        let (taps, terms) = (self.taps, count / self.taps);
        let lines = self.kernel.clone().reshape([1, channels, taps, terms]);
        let lines = lines.permute([3, 0, 1, 2]);
        let device = self.kernel.device();
        let axis = |(index, &size): (usize, &usize)| {
            let kernel = match index {
                0 => lines.clone(),
                _ => {
                    let after = taps.pow((sizes.len() - 1 - index) as u32);
                    let tap = |place: usize| {
                        let (term, tap) = (place / taps / channels, place % taps);
                        if term / after % taps == tap { 1.0_f32 } else { 0.0 }
                    };
                    let values: Vec<f32> = (0..terms * channels * taps).map(tap).collect();
                    Tensor::from_data(TensorData::new(values, [terms, 1, channels, taps]), &device)
                }
            };
            let ahead = taps / 2;
            AxisKernel {
                size,
                kernel: kernel.clone().narrow(3, ahead, taps - ahead),
                later_kernel: (ahead > 0).then(|| kernel.narrow(3, 0, ahead).flip([3])),
            }
        };
        sizes.iter().enumerate().map(axis).collect()
    }
}

impl Mixer for FreeConvolutionNd {
    fn start(&self, _layer: usize, _batch: usize, _chain: &Chain, _device: &Device) -> MixerState {
        MixerState::Stateless
    }

    fn forward(
        &self,
        input: Tensor<3>,
        _state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let [_, positions, channels] = input.dims();
        self.shape.expect_images(positions, context)?;
        if positions == 0 {
            return Ok(input);
        }
        let axes = self.axes(&self.shape.at(positions)?.sizes);
        let z = long_convolution_nd(input, axes, Some(self.skip.clone()), Method::Auto)?;
        let mixed = self.out.forward(gelu(z))?;
        let [value, gate] = split(mixed, [channels; 2])?;
        Ok(sigmoid_gate(gate, value))
    }

    fn sees_later_tokens(&self) -> bool {
        self.taps > 1
    }

    /// Two per tap and channel.
    fn flops_per_token(&self) -> u64 {
        2 * self
            .kernel
            .dims()
            .iter()
            .map(|size| *size as u64)
            .product::<u64>()
    }
}

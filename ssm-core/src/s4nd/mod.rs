//! The S4ND block: a state space along every axis of an image, and a gated projection over channels.
//!
//! ```text
//! K[l_1, …, l_D] = (1/R) Σ_r Π_i k_i[r, l_i]        z[p] = Σ_l K[l] u[p − l] + D u[p]        out = GLU(W GELU(z) + b)
//! k_i[r, l] = C A̅ˡ B̅ of S4 or S4D, l ≥ 0;  in both directions k_i[r, −1 − l] = C′ A̅ˡ B̅
//! ```
//!
//! In continuous terms u is a function of D variables, x_i satisfies ∂x_i/∂t_i = A_i x_i + B_i u along each of them, and the kernel is
//! their product; R terms (`trank`) let it be more than one. Positions are tokens, the last axis fastest.
//!
//! | what | how |
//! |---|---|
//! | another resolution | Δ becomes rΔ, where positions are r times as far from each other as in training; everything else stays |
//! | band limit b | modes with Δ abs(Im λ)/2π ≥ b/2, for Δ as in training, are left out: what is too fast for the grid of training would alias otherwise on another |
//! | outputs that are summed | every output adds over the channels, y\[m\] = Σ_h z\[m, h\]; there is no D then |
//! | tied | one set of (Δ, A, B, C, P) for all axes |
//! | ConvNeXt | [`ConvNextS4nd`], the block of ConvNeXt with S4ND for its window |
//! | more axes | [`inflate`] puts time before two axes, so that a video that stands still is its image |
//!
//! A block reads images whole and carries nothing. Tensors have the names and shapes of state-spaces/s4, where axis i has `kernel.i`, rows
//! of C are the directions, within them the terms, within them the outputs, and channel h uses copy h mod `copies` of (A, B, P). With P
//! and `truncated_at` C is C̃ = C (I − A̅^M), and at the rate r the kernel is that of M/r nodes with the same C̃, as there: close to the
//! system at that rate, and not equal to it. Source: Nguyen et al., *S4ND: Modeling Images and Videos as Multidimensional Signals Using
//! State Spaces* (2210.06583).

mod config;
mod convnext;
mod inflate;
mod kernels;

use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::image_shape::{ImageShape, Resolution};
use crate::intervention::Chain;
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState};
use crate::operators::long_convolution_nd::{Method, long_convolution_nd};
use crate::operators::pointwise::{gelu, sigmoid_gate};
use crate::operators::split;
use crate::s4::Projection;
use crate::weights::{Init, WeightSource};
use burn::tensor::{Device, Tensor};
pub use config::{S4ndAxis, S4ndConfig};
pub use convnext::ConvNextS4nd;
pub use inflate::inflate;
use kernels::Kernels;

/// An S4ND block: a state space along every axis of an image, and a projection over channels.
#[derive(Clone, Debug)]
pub struct S4nd {
    config: S4ndConfig,
    shape: ImageShape,
    kernels: Kernels,
    /// D, the skip from an input to its own outputs, `[channels, model_dim]`; `None` where these are summed.
    skip: Option<Tensor<2>>,
    out: Option<Linear>,
}

impl S4nd {
    /// The block of the weights of `source`, with H = `model_dim`, S = `copies`, N = `state_dim`, M the terms of all outputs in all
    /// directions, and i an axis, or 0 for all where they are tied:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `kernel.i.inv_dt` | H × 1 |
    /// | `kernel.i.A_real`, `kernel.i.A_imag` | S × N/2 |
    /// | `kernel.i.B`, `kernel.i.C` | 1 × S × N/2 × 2, M × H × N/2 × 2: real and imaginary parts |
    /// | `kernel.i.P`, where there is one | rank × S × N/2 × 2 |
    /// | `D`, where outputs are not summed | `channels` × H |
    /// | `output_linear` (with bias), where there is one | 2H or H × width of z |
    ///
    /// # Errors
    /// [`Error::Value`] for no axes or more than three, dimensions that are 0 or do not divide, and names that are not known; the source's
    /// for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: S4ndConfig, source: &mut S) -> Result<Self, S::Error> {
        config.validate().map_err(S::Error::from)?;
        let shape = ImageShape::new(config.sizes()).map_err(S::Error::from)?;
        let (width, inner) = (config.model_dim, config.inner());
        let out = match config.projection {
            Projection::Glu => Some(source.linear("output_linear", [2 * width, inner], true)?),
            Projection::Linear => Some(source.linear("output_linear", [width, inner], true)?),
            Projection::None => None,
        };
        let kernels = Kernels::read(&config, source)?;
        let skip = match config.summed {
            true => None,
            false => Some(source.tensor("D", [config.channels, width], Init::Normal(1.0))?),
        };
        Ok(Self {
            config,
            shape,
            kernels,
            skip,
            out,
        })
    }

    /// The configuration that the block was read with.
    pub fn config(&self) -> &S4ndConfig {
        &self.config
    }

    /// z of images of some resolution: what the state spaces give, before GELU and projection.
    ///
    /// # Shapes
    /// `input` `[batch, positions, model_dim]`; the result `[batch, positions, channels · model_dim]`, or `[batch, positions, channels]`
    /// where outputs are summed.
    ///
    /// # Errors
    /// [`Error::Shape`] where positions or axes are others; [`Error::Value`] for a rate that is not positive; [`Error::Kernel`] for a step
    /// that the kernel cannot be made with.
    pub fn convolve(&self, input: Tensor<3>, resolution: &Resolution) -> Result<Tensor<3>> {
        let [batch, positions, channels] = input.dims();
        expect_shape(
            "axes of an image",
            &vec![0; self.config.axes.len()],
            &vec![0; resolution.sizes.len()],
        )?;
        expect_shape(
            "input of an S4ND block",
            &[batch, resolution.sizes.iter().product(), self.config.model_dim],
            &[batch, positions, channels],
        )?;
        let axes = self.kernels.at(&self.config, resolution)?;
        let z = long_convolution_nd(input, axes, self.skip.clone(), Method::Auto)?;
        match self.config.summed {
            false => Ok(z),
            true => {
                let outputs = self.config.channels;
                Ok(z.reshape([batch, positions, outputs, channels])
                    .sum_dim(3)
                    .reshape([batch, positions, outputs]))
            }
        }
    }

    /// The block of images of some resolution.
    ///
    /// # Shapes
    /// Input and result `[batch, positions, model_dim]`; without a projection the result is z.
    ///
    /// # Errors
    /// As [`S4nd::convolve`].
    pub fn forward_at(&self, input: Tensor<3>, resolution: &Resolution) -> Result<Tensor<3>> {
        let z = self.convolve(input, resolution)?;
        let Some(out) = &self.out else {
            return Ok(z);
        };
        let mixed = out.forward(gelu(z))?;
        match self.config.projection {
            Projection::Glu => {
                let [value, gate] = split(mixed, [self.config.model_dim; 2])?;
                Ok(sigmoid_gate(gate, value))
            }
            Projection::Linear | Projection::None => Ok(mixed),
        }
    }
}

impl Mixer for S4nd {
    fn start(&self, _layer: usize, _batch: usize, _chain: &Chain, _device: &Device) -> MixerState {
        MixerState::Stateless
    }

    fn forward(
        &self,
        input: Tensor<3>,
        _state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let positions = input.dims()[1];
        self.shape.expect_images(positions, context)?;
        match positions {
            0 => Ok(input),
            _ => {
                let resolution = self.shape.at(positions)?;
                self.forward_at(input, &resolution)
            }
        }
    }

    fn sees_later_tokens(&self) -> bool {
        self.config.axes.iter().any(|axis| axis.bidirectional)
    }

    /// Operations of a convolution along every axis, tap by tap: 2 · taps of all axes · terms · `channels` · `model_dim`.
    fn flops_per_token(&self) -> u64 {
        let taps = self.config.axes.iter().map(|axis| {
            let ahead = axis.taps.unwrap_or(axis.size).min(axis.size);
            if axis.bidirectional {
                ahead.saturating_mul(2)
            } else {
                ahead
            }
        });
        let taps = taps.fold(0, usize::saturating_add);
        let S4ndConfig {
            terms,
            channels,
            model_dim,
            ..
        } = self.config;
        [2, taps, terms, channels, model_dim]
            .iter()
            .fold(1, |flops, count| u64::saturating_mul(flops, *count as u64))
    }
}

/// Refuses what is not a positive number.
fn expect_positive(what: &'static str, value: f64) -> Result<()> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(Error::Value {
            what,
            expected: "a positive number",
            found: value.to_string(),
        }),
    }
}

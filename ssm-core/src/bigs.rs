//! The bidirectional gated state space: two state spaces, one for either direction, that gate each other and are gated.
//!
//! ```text
//! v = GELU(W_v h + b),  u_f = GELU(W_f h + b),  u_b = GELU(W_b h + b)      h is the norm of the layer's input
//! s_f = S_f(u_f),  s_b = flip(S_b(flip u_b))                               both see the token itself
//! out = W_o (GELU(W_ol ((W_cf s_f + b) ∘ (W_cb s_b + b)) + b) ∘ v) + b
//! ```
//!
//! S is one state space for all channels: K_l = Re Σ_n C_n (e^{ΔA_n} − 1)/A_n e^{lΔA_n} with A = min(A_re, −10⁻⁴) + i A_im and Δ = e^{log_step},
//! where every mode stands for itself, and one D. The directions are multiplied, not added. It reads whole sequences and carries nothing.
//! Source: Wang et al., *Pretraining Without Attention* (2212.10544); tensors are named as in jxiw/BiGS.

use crate::error::{Error, Result};
use crate::intervention::Chain;
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState};
use crate::operators::long_convolution::Method;
use crate::operators::pointwise::gelu;
use crate::operators::vandermonde::{Discretization, ModeSet};
use crate::operators::{
    DiagonalPlan, DiagonalSystem, LongConvolutionInputs, long_convolution, split, vandermonde_kernel,
};
use crate::weights::{Init, WeightSource};
use crate::whole_sequences::{before_padding, expect_first};
use burn::tensor::{Device, Tensor};
use std::f32::consts::{FRAC_1_SQRT_2, PI};

/// The largest real part of a mode.
const SLOWEST: f32 = -1e-4;
/// Standard deviation of the weights of a fresh projection.
const FRESH: f32 = 0.02;

/// The shape of a mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BigsConfig {
    /// Width of the layer's input and output, D.
    pub model_dim: usize,
    /// Width of the gate v, I.
    pub hidden_dim: usize,
    /// Modes of a state space, N.
    pub modes: usize,
}

/// One bidirectional gated state space.
#[derive(Clone, Debug)]
pub struct Bigs {
    config: BigsConfig,
    /// The rows of v, then those of u_f, then those of u_b. One product reads all.
    inputs: Linear,
    forward: Direction,
    backward: Direction,
    mix: Linear,
    out: Linear,
}

/// A state space that all channels share, and the projection after it.
#[derive(Clone, Debug)]
struct Direction {
    system: DiagonalSystem,
    /// D, one number for all channels, `[1]`.
    skip: Tensor<1>,
    projection: Linear,
}

impl Bigs {
    /// The mixer of the weights of `source`, with D = `model_dim`, I = `hidden_dim`, N = `modes`, S one of `fs4` and `bs4`; projections have
    /// biases:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `dv`, `du_forward`, `du_backward` | I × D, D × D, D × D |
    /// | `S.kernel.log_step`, `S.D` | 1 |
    /// | `S.kernel.A_re`, `S.kernel.A_im` | N |
    /// | `S.kernel.C`, real and imaginary parts | N × 2 |
    /// | `duc_forward`, `duc_backward` | D × D |
    /// | `dol`, `do` | I × D, D × I |
    ///
    /// # Errors
    /// [`Error::Value`] for a dimension of 0; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: BigsConfig, source: &mut S) -> Result<Self, S::Error> {
        let BigsConfig {
            model_dim,
            hidden_dim,
            modes,
        } = config;
        if [model_dim, hidden_dim, modes].contains(&0) {
            return Err(S::Error::from(Error::Value {
                what: "dimensions of a bidirectional gated state space",
                expected: "all at least 1",
                found: format!("{config:?}"),
            }));
        }
        let rows = [
            ("dv", hidden_dim),
            ("du_forward", model_dim),
            ("du_backward", model_dim),
        ];
        let mut linear = |name: &str, shape| source.linear_with(name, shape, true, Init::Normal(FRESH));
        let mix = linear("dol", [hidden_dim, model_dim])?;
        let out = linear("do", [model_dim, hidden_dim])?;
        let forward_projection = linear("duc_forward", [model_dim; 2])?;
        let backward_projection = linear("duc_backward", [model_dim; 2])?;
        Ok(Self {
            config,
            inputs: source.stacked(&rows, model_dim, true)?,
            forward: Direction::read("fs4", modes, forward_projection, source)?,
            backward: Direction::read("bs4", modes, backward_projection, source)?,
            mix,
            out,
        })
    }

    /// The sizes and options that the mixer was read with.
    pub fn config(&self) -> BigsConfig {
        self.config
    }
}

impl Direction {
    /// S4D-Lin: A = −½ + iπn, Δ log-uniform from 0.01 to 1.
    fn read<S: WeightSource>(
        name: &str,
        modes: usize,
        projection: Linear,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let frequencies: Vec<f32> = (0..modes).map(|n| PI * n as f32).collect();
        let log_step = source.vector(
            &format!("{name}.kernel.log_step"),
            1,
            Init::Uniform(0.01_f32.ln(), 0.0),
        )?;
        let real = source.vector(&format!("{name}.kernel.A_re"), modes, Init::Constant(-0.5))?;
        let imag = source.vector(
            &format!("{name}.kernel.A_im"),
            modes,
            Init::Repeated(frequencies.into()),
        )?;
        let c: Tensor<2> = source.tensor(
            &format!("{name}.kernel.C"),
            [modes, 2],
            Init::Normal(FRAC_1_SQRT_2),
        )?;
        let skip = source.vector(&format!("{name}.D"), 1, Init::Normal(1.0))?;
        let device = skip.device();
        let one = Tensor::<1>::ones([modes], &device);
        let complex = |real: Tensor<1>, imag: Tensor<1>| {
            let pairs: Tensor<2> = Tensor::stack(vec![real, imag], 1);
            pairs.reshape([1, modes, 2])
        };
        Ok(Self {
            system: DiagonalSystem {
                step: log_step.exp().reshape([1, 1]),
                a: complex(real.clamp_max(SLOWEST), imag),
                b: complex(one.clone(), one.zeros_like()),
                c: c.reshape([1, 1, modes, 2]),
            },
            skip,
            projection,
        })
    }

    /// W S(u) + b, of a sequence in the order in which it is read.
    fn of(&self, u: Tensor<3>) -> Result<Tensor<3>> {
        let [_, length, channels] = u.dims();
        let plan = DiagonalPlan {
            length,
            discretization: Discretization::ZeroOrderHold,
            mode_set: ModeSet::All,
        };
        let inputs = LongConvolutionInputs {
            input: u,
            kernel: vandermonde_kernel(self.system.clone(), &plan)?.repeat_dim(1, channels),
            later_kernel: None,
            skip: Some(self.skip.clone().reshape([1, 1]).repeat_dim(1, channels)),
            response: None,
        };
        self.projection.forward(long_convolution(inputs, Method::Auto)?)
    }
}

impl Mixer for Bigs {
    fn start(&self, _layer: usize, _batch: usize, _chain: &Chain, _device: &Device) -> MixerState {
        MixerState::Stateless
    }

    fn forward(
        &self,
        input: Tensor<3>,
        _state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let reads_whole =
            "none: a bidirectional gated state space reads whole sequences and has no state to go on from";
        expect_first(context.positions, reads_whole)?;
        if input.dims()[1] == 0 {
            return Ok(input);
        }
        let BigsConfig {
            model_dim,
            hidden_dim,
            ..
        } = self.config;
        let joined = gelu(self.inputs.forward(input)?);
        let [v, u_forward, u_backward] = split(joined, [hidden_dim, model_dim, model_dim])?;
        let u_backward = match context.lengths {
            Some(lengths) => before_padding(u_backward, lengths)?,
            None => u_backward,
        };
        let forward = self.forward.of(u_forward)?;
        let backward = self.backward.of(u_backward.flip([1]))?.flip([1]);
        self.out.forward(gelu(self.mix.forward(forward * backward)?) * v)
    }

    fn sees_later_tokens(&self) -> bool {
        true
    }

    /// A product with a mode for every channel and direction.
    fn flops_per_token(&self) -> u64 {
        16 * (self.config.model_dim * self.config.modes) as u64
    }
}

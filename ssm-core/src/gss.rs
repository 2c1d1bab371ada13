//! The gated state space: one narrow state space, between projections, gates a wide branch.
//!
//! ```text
//! u = GELU(W_u h),  v = GELU(W_v h)          h is the norm of the layer's input; u is wide, v narrow
//! w = LayerNorm(v)                           of lucidrains' code; the paper has w = v
//! s_t = Re(C x_t) + D w_t,  x_t = e^Λ x_{t−1} + (e^Λ − 1)/Λ w_t
//! out = W_out ((W_gate s) ∘ u) + b           Λ = −e^{Λ_re} + i e^{Λ_im}
//! ```
//!
//! The step is 1 and B is 1, Λ is one for all channels, and every mode stands for itself: there is no factor of 2. It carries the
//! modes of the narrow state space, from which prefill and decoding go on. Source: Mehta et al., *Long Range Language Modeling via Gated
//! State Spaces* (2206.13947), section 3.2; tensors are named as in lucidrains/gated-state-spaces-pytorch.

use crate::error::{Error, Result};
use crate::intervention::Chain;
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState, RecurrentState};
use crate::operators::linear_state_space::{FixedLinearSystem, LinearSystem, Rule, Spectrum};
use crate::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use crate::operators::pointwise::gelu;
use crate::operators::{gated_norm, split};
use crate::weights::{Init, WeightSource};
use crate::whole_sequences::{before_padding, expect_first};
use burn::tensor::{Device, Tensor};

/// ε of the norm before the state space.
const NORM_EPS: f32 = 1e-5;

/// The shape of a mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GssConfig {
    /// Width of the layer's input and output, E.
    pub model_dim: usize,
    /// Width of the gated branch, F.
    pub hidden_dim: usize,
    /// Channels of the state space, H.
    pub channels: usize,
    /// Modes of each channel, N.
    pub modes: usize,
    /// Whether Im Λ is e to the stored numbers; these themselves otherwise.
    pub imag_exp: bool,
    /// Whether there is a LayerNorm before the state space.
    pub inner_norm: bool,
    /// Whether the state space reads from the last token to the first, so that the mixer reads whole sequences.
    pub reversed: bool,
}

/// One gated state space.
#[derive(Clone, Debug)]
pub struct Gss {
    config: GssConfig,
    /// The rows of u, then those of v. One product reads both.
    inputs: Linear,
    norm: Option<[Tensor<1>; 2]>,
    system: FixedLinearSystem,
    gate: Linear,
    out: Linear,
}

impl Gss {
    /// The mixer of the weights of `source`, with E = `model_dim`, F = `hidden_dim`, H = `channels`, N = `modes`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `to_u.0`, `to_v.0` | F × E, H × E |
    /// | `dss.norm.weight`, `dss.norm.bias`, where there is a norm | H |
    /// | `dss.Lambda_real`, `dss.Lambda_imag` | N |
    /// | `dss.C_real`, `dss.C_imag` | H × N |
    /// | `dss.param_D` | H |
    /// | `to_gate` | F × H |
    /// | `to_out` (with bias) | E × F |
    ///
    /// # Errors
    /// [`Error::Value`] for a dimension of 0; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: GssConfig, source: &mut S) -> Result<Self, S::Error> {
        let GssConfig {
            model_dim,
            hidden_dim,
            channels,
            modes,
            ..
        } = config;
        if [model_dim, hidden_dim, channels, modes].contains(&0) {
            return Err(S::Error::from(Error::Value {
                what: "dimensions of a gated state space",
                expected: "all at least 1",
                found: format!("{config:?}"),
            }));
        }
        Ok(Self {
            config,
            inputs: source.stacked(&[("to_u.0", hidden_dim), ("to_v.0", channels)], model_dim, false)?,
            norm: match config.inner_norm {
                true => Some([
                    source.vector("dss.norm.weight", channels, Init::Ones)?,
                    source.vector("dss.norm.bias", channels, Init::Zeros)?,
                ]),
                false => None,
            },
            system: read_system(&config, source)?.into(),
            gate: source.linear("to_gate", [hidden_dim, channels], false)?,
            out: source.linear("to_out", [model_dim, hidden_dim], true)?,
        })
    }

    /// The sizes and options that the mixer was read with.
    pub fn config(&self) -> GssConfig {
        self.config
    }

    fn normed(&self, v: Tensor<3>) -> Result<Tensor<3>> {
        let Some([weight, bias]) = &self.norm else {
            return Ok(v);
        };
        let plan = NormPlan {
            statistic: Statistic::Variance,
            eps: NORM_EPS,
            group_size: self.config.channels,
            order: GateOrder::NormAfterGate,
        };
        let weights = NormWeights {
            gate: None,
            weight: Some(weight.clone()),
            bias: Some(bias.clone()),
        };
        gated_norm(v, weights, plan)
    }

    /// s from w, `[batch, time, channels]` both: the state space over the tokens, or over them reversed.
    fn state_space(&self, w: Tensor<3>, state: &mut MixerState, context: &Context<'_>) -> Result<Tensor<3>> {
        if !self.config.reversed {
            return self.system.forward(w, state.recurrent()?.system(0)?);
        }
        expect_first(
            context.positions,
            "none: a reversed state space reads whole sequences and has no state to go on from",
        )?;
        let w = match context.lengths {
            Some(lengths) => before_padding(w, lengths)?,
            None => w,
        };
        let mut fresh = self.system.system().start(w.dims()[0], &w.device());
        Ok(self.system.forward(w.flip([1]), &mut fresh)?.flip([1]))
    }
}

/// The state space read from `source`; fresh weights as the authors draw them: ln(−Re Λ), ln(Im Λ), C and D normal.
fn read_system<S: WeightSource>(config: &GssConfig, source: &mut S) -> Result<LinearSystem, S::Error> {
    let (channels, modes) = (config.channels, config.modes);
    let real = source.vector("dss.Lambda_real", modes, Init::Normal(1.0))?;
    let imag = source.vector("dss.Lambda_imag", modes, Init::Normal(1.0))?;
    let imag = match config.imag_exp {
        true => imag.exp(),
        false => imag,
    };
    let c_real: Tensor<2> = source.tensor("dss.C_real", [channels, modes], Init::Normal(1.0))?;
    let c_imag: Tensor<2> = source.tensor("dss.C_imag", [channels, modes], Init::Normal(1.0))?;
    let skip = source.vector("dss.param_D", channels, Init::Normal(1.0))?;
    let device = skip.device();
    let one: Tensor<2> = Tensor::stack(
        vec![
            Tensor::<1>::ones([modes], &device),
            Tensor::zeros([modes], &device),
        ],
        1,
    );
    let a: Tensor<2> = Tensor::stack(vec![real.exp().neg(), imag], 1);
    Ok(LinearSystem {
        step_size: Tensor::ones([channels], &device),
        a: a.unsqueeze_dim(0),
        b: one.unsqueeze_dim(0),
        c: Tensor::stack::<3>(vec![c_real, c_imag], 2).unsqueeze_dim(0),
        low_rank: None,
        skip: Some(skip.reshape([1, channels])),
        rule: Rule::ZeroOrderHold,
        spectrum: Spectrum::Complete,
    })
}

impl Mixer for Gss {
    fn start(&self, _layer: usize, batch: usize, _chain: &Chain, device: &Device) -> MixerState {
        match self.config.reversed {
            true => MixerState::Stateless,
            false => MixerState::Recurrent(RecurrentState {
                systems: vec![self.system.system().start(batch, device)],
                ..RecurrentState::default()
            }),
        }
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let joined = gelu(self.inputs.forward(input)?);
        let [u, v] = split(joined, [self.config.hidden_dim, self.config.channels])?;
        let read = self.state_space(self.normed(v)?, state, context)?;
        self.out.forward(self.gate.forward(read)? * u)
    }

    fn sees_later_tokens(&self) -> bool {
        self.config.reversed
    }

    fn flops_per_token(&self) -> u64 {
        self.system.system().flops_per_token()
    }
}

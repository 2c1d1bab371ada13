//! The Mamba-1 mixer.
//!
//! With u_t the layer's input and one projection giving x and z:
//!
//! ```text
//! x = SiLU(conv(x))          Δ_raw, B, C = W_x x          Δ = softplus(W_Δ Δ_raw + bias)
//! h_t = exp(−Δ_t e^{A_log}) ∘ h_{t-1} + B_t (Δ_t x_t)     y_t = C_tᵀ h_t + D x_t          per channel
//! out = W_out · (y ∘ SiLU(z))
//! ```
//!
//! that is, the recurrence with a head per channel, one value column, q = C and k = B shared by all heads. Decays
//! exp(Δ A), one per token, channel and state value, are never stored. Source: Gu & Dao, *Mamba* (2312.00752), section 3; Zuo et al.,
//! *Falcon Mamba* (2410.05355), section 2, for the norms of Δ_raw, B and C.

use crate::error::{Error, Result};
use crate::gates::{Gates, LogDecay, Rule};
use crate::intervention::{Chain, Site};
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState, RecurrentState};
use crate::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic, gated_norm};
use crate::operators::pointwise::silu_gate;
use crate::operators::{split, split_to_heads, step_size};
use crate::short_conv::{ShortConv, ShortConvConfig};
use crate::weights::{Init, StepSizes, WeightSource};
use burn::tensor::{Device, Tensor};
use spillway_kernel_dsl::causal_conv1d::Activation;

/// The configuration of a mixer of Mamba-1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mamba1Config {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Channels of the recurrence.
    pub inner_dim: usize,
    /// N, rows of a channel's state.
    pub state_dim: usize,
    /// Rank of the projection of Δ.
    pub dt_rank: usize,
    /// The short convolution before the recurrence.
    pub conv: ShortConvConfig,
    /// Whether the projections of the input and to the output have biases.
    pub projection_bias: bool,
    /// ε where Δ_raw, B and C are each divided by their root mean square, without weights, as Falcon-Mamba does.
    pub selection_norm: Option<f32>,
    /// Step sizes of a fresh layer.
    pub fresh_steps: StepSizes,
    /// Layers of the model, whose updates add up on its residual stream: a fresh W_out is the narrower the more there are.
    pub num_layers: usize,
}

/// One Mamba-1 mixer.
#[derive(Clone, Debug)]
pub struct Mamba1 {
    config: Mamba1Config,
    /// Rows in the order x, z.
    in_proj: Linear,
    conv: ShortConv,
    /// Rows in the order Δ, B, C.
    x_proj: Linear,
    /// Without its bias.
    dt_proj: Linear,
    /// Added to the raw step size.
    dt_bias: Tensor<1>,
    /// A, negative, `[inner_dim, state_dim]`.
    a: Tensor<2>,
    /// D.
    skip: Tensor<1>,
    out_proj: Linear,
}

impl Mamba1 {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `in_proj` | 2 · `inner_dim` × `model_dim`, rows in the order x, z |
    /// | `conv1d` | `inner_dim` × 1 × taps |
    /// | `x_proj` | `dt_rank` + 2 · `state_dim` × `inner_dim`, rows in the order Δ, B, C |
    /// | `dt_proj` (with bias) | `inner_dim` × `dt_rank` |
    /// | `A_log`, log(−A) | `inner_dim` × `state_dim` |
    /// | `D` | `inner_dim` |
    /// | `out_proj` | `model_dim` × `inner_dim` |
    ///
    /// # Errors
    /// [`Error::Value`] for a dimension of 0; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: Mamba1Config, source: &mut S) -> Result<Self, S::Error> {
        let Mamba1Config {
            model_dim,
            inner_dim: inner,
            state_dim,
            dt_rank,
            conv,
            projection_bias,
            fresh_steps,
            num_layers,
            ..
        } = config;

        if [model_dim, inner, state_dim, dt_rank, conv.width].contains(&0) {
            return Err(S::Error::from(Error::Value {
                what: "dimensions of a Mamba-1 mixer",
                expected: "all at least 1",
                found: format!("{config:?}"),
            }));
        }
        // −A is 1, 2, … over the state of a channel, of 16 values in all published sizes.
        let rates = Init::Values(|index, _| ((index % 16 + 1) as f32).ln());
        Ok(Self {
            config,
            conv: ShortConv::read(conv, inner, source, "conv1d")?,
            in_proj: source.linear("in_proj", [2 * inner, model_dim], projection_bias)?,
            x_proj: source.linear("x_proj", [dt_rank + 2 * state_dim, inner], false)?,
            dt_proj: source.linear("dt_proj", [inner, dt_rank], false)?,
            dt_bias: source.vector("dt_proj.bias", inner, Init::StepBias(fresh_steps))?,
            a: source.tensor("A_log", [inner, state_dim], rates)?.exp().neg(),
            skip: source.vector("D", inner, Init::Ones)?,
            out_proj: source.linear_with(
                "out_proj",
                [model_dim, inner],
                projection_bias,
                // As narrow as the authors' code draws it.
                Init::fan_in(inner * num_layers),
            )?,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> Mamba1Config {
        self.config
    }

    /// What an intervention may know about this mixer as layer `layer` of a model.
    pub fn site(&self, layer: usize) -> Site {
        Site {
            layer,
            first_head: 0,
            heads: self.config.inner_dim,
            groups: 1,
            key_dim: self.config.state_dim,
            value_dim: 1,
            has_step_size: true,
            decays: true,
            per_key_decay: true,
            rule: Rule::WeightedSum,
        }
    }

    /// What is selected, over its root mean square where the model has that.
    fn normalized(&self, selected: Tensor<3>) -> Result<Tensor<3>> {
        let Some(eps) = self.config.selection_norm else {
            return Ok(selected);
        };
        let plan = NormPlan {
            statistic: Statistic::MeanSquare,
            eps,
            group_size: selected.dims()[2],
            order: GateOrder::NormAfterGate,
        };
        gated_norm(selected, NormWeights::default(), plan)
    }

    /// The gates of convolved tokens `[batch, time, inner_dim]`.
    fn gates(&self, x: Tensor<3>) -> Result<Gates> {
        let Mamba1Config {
            inner_dim,
            state_dim,
            dt_rank,
            ..
        } = self.config;
        let [batch, time, _] = x.dims();
        let selected = self.x_proj.forward(x.clone())?;
        let [raw, key, query] = split(selected, [dt_rank, state_dim, state_dim])?;
        let raw = self.dt_proj.forward(self.normalized(raw)?)?;
        let (key, query) = (self.normalized(key)?, self.normalized(query)?);
        // Of the operator's two results only Δ is needed here: decays are per state value.
        let rates = Tensor::zeros([inner_dim], &raw.device());
        let (step, _) = step_size(raw, self.dt_bias.clone(), rates, (0.0, f32::INFINITY))?;
        let of_all = |x| split_to_heads(x, [(1, state_dim)]).map(|[x]| x);
        Ok(Gates {
            log_decay: LogDecay::PerStep(self.a.clone()),
            step_size: Some(step),
            skip: Some(self.skip.clone()),
            ..Gates::new(
                of_all(query)?,
                of_all(key)?,
                x.reshape([batch, time, inner_dim, 1]),
            )
        })
    }
}

impl Mixer for Mamba1 {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![self.site(layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        let (conv_states, sites) = (vec![self.conv.start(batch, device)], self.sites(layer));
        MixerState::Recurrent(RecurrentState::start(conv_states, &sites, chain, batch, device))
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let [batch, time, _] = input.dims();
        let inner = self.config.inner_dim;
        let state = state.recurrent()?;
        let projected = self.in_proj.forward(input)?;
        let [x, gate] = split(projected, [inner; 2])?;
        let x = self.conv.forward(x, Activation::Silu, state.conv_state(0)?)?;
        let gates = self.gates(x)?;
        let site = self.site(context.layer);
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        self.out_proj
            .forward(silu_gate(gate, read_out.reshape([batch, time, inner])))
    }

    /// Two per tap of the convolution, six per element of the state.
    fn flops_per_token(&self) -> u64 {
        6 * (self.config.inner_dim * self.config.state_dim) as u64 + self.conv.flops_per_token()
    }
}

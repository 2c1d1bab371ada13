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
//! *Falcon Mamba* (2410.05355), section 2, and Lieber et al., *Jamba* (2403.19887), section 3, for the norms of Δ_raw, B and C; Glorioso et
//! al., *Zamba* (2405.16712), for groups of channels, each with a W_x, W_Δ, B and C of its own.

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
    /// How Δ_raw, B and C are each normalised, where they are.
    pub selection_norm: Option<SelectionNorm>,
    /// Groups of channels that select by themselves, where the tensors have them as their first dimension (Zamba).
    pub groups: Option<usize>,
    /// Step sizes of a fresh layer.
    pub fresh_steps: StepSizes,
    /// Layers of the model, whose updates add up on its residual stream: a fresh W_out is the narrower the more there are.
    pub num_layers: usize,
}

/// RMSNorms of Δ_raw, B and C.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelectionNorm {
    /// Added to the mean square.
    pub eps: f32,
    /// Whether they have weights: Jamba's have, Falcon-Mamba's do not.
    pub weights: bool,
}

impl Mamba1Config {
    fn validate(&self) -> Result<()> {
        let (inner, groups) = (self.inner_dim, self.groups.unwrap_or(1));
        let sizes = [
            self.model_dim,
            inner,
            self.state_dim,
            self.dt_rank,
            self.conv.width,
            groups,
        ];
        if sizes.contains(&0) {
            return Err(Error::Value {
                what: "dimensions of a Mamba-1 mixer",
                expected: "all at least 1",
                found: format!("{self:?}"),
            });
        }
        match inner.is_multiple_of(groups) {
            true => Ok(()),
            false => Err(Error::Groups { heads: inner, groups }),
        }
    }
}

/// A Mamba-1 mixer: a selective scan between projections.
#[derive(Clone, Debug)]
pub struct Mamba1 {
    config: Mamba1Config,
    /// Rows in the order x, z.
    in_proj: Linear,
    conv: ShortConv,
    /// W_x, one projection per group; rows in the order Δ, B, C.
    x_proj: Vec<Linear>,
    /// W_Δ, one projection per group, without its bias.
    dt_proj: Vec<Linear>,
    /// Weights of the norms of Δ_raw, B and C, where they have any.
    norms: [Option<Tensor<1>>; 3],
    /// Added to the raw step size.
    dt_bias: Tensor<1>,
    /// A, negative, `[inner_dim, state_dim]`.
    a: Tensor<2>,
    /// D, the skip from x to its own output, `[inner_dim]`.
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
    /// | `dt_layernorm.weight`, `b_layernorm.weight`, `c_layernorm.weight`, where norms have weights | `dt_rank`; `state_dim` |
    ///
    /// With groups, `x_proj.weight`, `dt_proj.weight`, `dt_proj.bias`, `A_log` and `D` have them as their first dimension, and a
    /// group's share of the channels in the place of `inner_dim`.
    ///
    /// # Errors
    /// [`Error::Value`] for a dimension of 0, [`Error::Groups`] for groups that do not divide the channels; the source's for a tensor that is
    /// missing or of another shape.
    pub fn read<S: WeightSource>(config: Mamba1Config, source: &mut S) -> Result<Self, S::Error> {
        config.validate()?;
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
        // −A is 1, 2, … over the state of a channel, of 16 values in all published sizes.
        let rates = Init::Values(|index, _| ((index % 16 + 1) as f32).ln());
        let steps = Init::StepBias(fresh_steps);
        let conv = ShortConv::read(conv, inner, source, "conv1d")?;
        let in_proj = source.linear("in_proj", [2 * inner, model_dim], projection_bias)?;
        let selected = dt_rank + 2 * state_dim;
        let (x_proj, dt_proj, dt_bias, a_log, skip) = match config.groups {
            None => (
                vec![source.linear("x_proj", [selected, inner], false)?],
                vec![source.linear("dt_proj", [inner, dt_rank], false)?],
                source.vector("dt_proj.bias", inner, steps)?,
                source.tensor("A_log", [inner, state_dim], rates)?,
                source.vector("D", inner, Init::Ones)?,
            ),
            Some(groups) => {
                let width = inner / groups;
                let of_channels = [groups, width];
                let a_log = source.tensor("A_log", [groups, width, state_dim], rates)?;
                (
                    source.matrices("x_proj.weight", [groups, selected, width])?,
                    source.matrices("dt_proj.weight", [groups, width, dt_rank])?,
                    source
                        .tensor("dt_proj.bias", of_channels, steps)?
                        .reshape([inner]),
                    a_log.reshape([inner, state_dim]),
                    source.tensor("D", of_channels, Init::Ones)?.reshape([inner]),
                )
            }
        };
        let mut norm = |name: &str, length: usize| match config.selection_norm {
            Some(SelectionNorm { weights: true, .. }) => source
                .vector(&format!("{name}_layernorm.weight"), length, Init::Ones)
                .map(Some),
            _ => Ok(None),
        };
        let norms = [norm("dt", dt_rank)?, norm("b", state_dim)?, norm("c", state_dim)?];
        Ok(Self {
            config,
            conv,
            in_proj,
            x_proj,
            dt_proj,
            norms,
            dt_bias,
            a: a_log.exp().neg(),
            skip,
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
            groups: self.x_proj.len(),
            key_dim: self.config.state_dim,
            value_dim: 1,
            has_step_size: true,
            decays: true,
            per_key_decay: true,
            begins_with_prefix: false,
            rule: Rule::WeightedSum,
        }
    }

    /// Δ_raw, B or C, by its index, over its root mean square where the model has that.
    fn normalized(&self, index: usize, selected: Tensor<3>) -> Result<Tensor<3>> {
        let Some(SelectionNorm { eps, .. }) = self.config.selection_norm else {
            return Ok(selected);
        };
        let plan = NormPlan {
            statistic: Statistic::MeanSquare,
            eps,
            group_size: selected.dims()[2],
            order: GateOrder::NormAfterGate,
        };
        let weights = NormWeights {
            weight: self.norms[index].clone(),
            ..NormWeights::default()
        };
        gated_norm(selected, weights, plan)
    }

    /// Δ before its bias, B and C of the channels of one group.
    fn selected(&self, group: usize, x: Tensor<3>) -> Result<[Tensor<3>; 3]> {
        let (rank, state_dim) = (self.config.dt_rank, self.config.state_dim);
        let selected = self.x_proj[group].forward(x)?;
        let [raw, key, query] = split(selected, [rank, state_dim, state_dim])?;
        Ok([
            self.dt_proj[group].forward(self.normalized(0, raw)?)?,
            self.normalized(1, key)?,
            self.normalized(2, query)?,
        ])
    }

    /// As [`Mamba1::selected`] of all groups, side by side.
    fn selected_by_all(&self, x: Tensor<3>) -> Result<[Tensor<3>; 3]> {
        let groups = self.x_proj.len();
        if groups == 1 {
            return self.selected(0, x);
        }
        let width = self.config.inner_dim / groups;
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for group in 0..groups {
            let own = x.clone().narrow(2, group * width, width);
            for (part, found) in parts.iter_mut().zip(self.selected(group, own)?) {
                part.push(found);
            }
        }
        Ok(parts.map(|part| Tensor::cat(part, 2)))
    }

    /// The gates of convolved tokens `[batch, time, inner_dim]`.
    fn gates(&self, x: Tensor<3>) -> Result<Gates> {
        let Mamba1Config {
            inner_dim, state_dim, ..
        } = self.config;
        let [batch, time, _] = x.dims();
        let [raw, key, query] = self.selected_by_all(x.clone())?;
        // Of the operator's two results only Δ is needed here: decays are per state value.
        let rates = Tensor::zeros([inner_dim], &raw.device());
        let (step, _) = step_size(raw, self.dt_bias.clone(), rates, (0.0, f32::INFINITY))?;
        let groups = self.x_proj.len();
        let of_groups = |x| split_to_heads(x, [(groups, state_dim)]).map(|[x]| x);
        Ok(Gates {
            log_decay: LogDecay::PerStep(self.a.clone()),
            step_size: Some(step),
            skip: Some(self.skip.clone()),
            ..Gates::new(
                of_groups(query)?,
                of_groups(key)?,
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

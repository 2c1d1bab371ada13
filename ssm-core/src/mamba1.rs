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
//! exp(Δ A), one per token, channel and state value, are never stored. Source: Gu & Dao, *Mamba* (2312.00752), section 3.

use crate::error::{Error, Result};
use crate::gates::{Gates, LogDecay, Rule, expect_shape};
use crate::intervention::{Chain, Site};
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState, RecurrentState};
use crate::operators::pointwise::silu_gate;
use crate::operators::{causal_conv1d, split, split_to_heads, step_size};
use crate::sequences::Sequences;
use burn::tensor::{Device, Tensor};
use kernel_dsl::causal_conv1d::Activation;

/// The shape of a mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mamba1Config {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Channels of the recurrence.
    pub inner_dim: usize,
    /// N, rows of a channel's state.
    pub state_dim: usize,
    /// Rank of the projection of Δ.
    pub dt_rank: usize,
    /// Taps of the short convolution.
    pub conv_width: usize,
}

/// The weights of a mixer.
#[derive(Clone, Debug)]
pub struct Mamba1Weights {
    /// `[2 · inner_dim, model_dim]`, rows in the order x, z.
    pub in_proj: Linear,
    /// `[inner_dim, conv_width]`, the last tap meeting the current token.
    pub conv_weight: Tensor<2>,
    /// `[inner_dim]`.
    pub conv_bias: Option<Tensor<1>>,
    /// `[dt_rank + 2 · state_dim, inner_dim]`, rows in the order Δ, B, C.
    pub x_proj: Linear,
    /// `[inner_dim, dt_rank]`, without its bias.
    pub dt_proj: Linear,
    /// `[inner_dim]`, added to the raw step size.
    pub dt_bias: Tensor<1>,
    /// `[inner_dim, state_dim]`, log(−A).
    pub a_log: Tensor<2>,
    /// D, `[inner_dim]`.
    pub skip: Tensor<1>,
    /// `[model_dim, inner_dim]`.
    pub out_proj: Linear,
}

/// One Mamba-1 mixer.
#[derive(Clone, Debug)]
pub struct Mamba1 {
    config: Mamba1Config,
    weights: Mamba1Weights,
    /// A, negative.
    a: Tensor<2>,
}

impl Mamba1 {
    /// A mixer of weights that fit its configuration.
    ///
    /// # Errors
    /// [`Error::Shape`] for a weight of another shape, [`Error::Value`] for a dimension of 0.
    pub fn new(config: Mamba1Config, weights: Mamba1Weights) -> Result<Self> {
        validate(&config, &weights)?;
        let a = weights.a_log.clone().exp().neg();
        Ok(Self { config, weights, a })
    }

    /// The shape.
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

    /// The gates of convolved tokens `[batch, time, inner_dim]`.
    fn gates(&self, x: Tensor<3>) -> Result<Gates> {
        let Mamba1Config {
            inner_dim,
            state_dim,
            dt_rank,
            ..
        } = self.config;
        let [batch, time, _] = x.dims();
        let selected = self.weights.x_proj.forward(x.clone())?;
        let [raw, key, query] = split(selected, [dt_rank, state_dim, state_dim])?;
        let raw = self.weights.dt_proj.forward(raw)?;
        // Of the operator's two results only Δ is needed here: decays are per state value.
        let rates = Tensor::zeros([inner_dim], &raw.device());
        let (step, _) = step_size(raw, self.weights.dt_bias.clone(), rates, (0.0, f32::INFINITY))?;
        let of_all = |x| split_to_heads(x, [(1, state_dim)]).map(|[x]| x);
        Ok(Gates {
            log_decay: LogDecay::PerStep(self.a.clone()),
            step_size: Some(step),
            skip: Some(self.weights.skip.clone()),
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
        let conv_state = Tensor::zeros([batch, self.config.inner_dim, self.config.conv_width - 1], device);
        let sites = self.sites(layer);
        MixerState::Recurrent(RecurrentState::start(
            vec![conv_state],
            &sites,
            chain,
            batch,
            device,
        ))
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
        let projected = self.weights.in_proj.forward(input)?;
        let [x, gate] = split(projected, [inner; 2])?;
        let x = causal_conv1d(
            x,
            self.weights.conv_weight.clone(),
            self.weights.conv_bias.clone(),
            Activation::Silu,
            &Sequences::Equal,
            state.conv_state(0)?,
        )?;
        let gates = self.gates(x)?;
        let site = self.site(context.layer);
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        self.weights
            .out_proj
            .forward(silu_gate(gate, read_out.reshape([batch, time, inner])))
    }

    /// Two per tap of the convolution, six per element of the state.
    fn flops_per_token(&self) -> u64 {
        let config = &self.config;
        (config.inner_dim * (2 * config.conv_width + 6 * config.state_dim)) as u64
    }
}

fn validate(config: &Mamba1Config, weights: &Mamba1Weights) -> Result<()> {
    let Mamba1Config {
        model_dim,
        inner_dim: inner,
        state_dim,
        dt_rank,
        conv_width,
    } = *config;
    if [model_dim, inner, state_dim, dt_rank, conv_width].contains(&0) {
        return Err(Error::Value {
            what: "dimensions of a Mamba-1 mixer",
            expected: "all at least 1",
            found: format!("{config:?}"),
        });
    }
    let projections = [
        ("in_proj", &weights.in_proj, [2 * inner, model_dim]),
        ("x_proj", &weights.x_proj, [dt_rank + 2 * state_dim, inner]),
        ("dt_proj", &weights.dt_proj, [inner, dt_rank]),
        ("out_proj", &weights.out_proj, [model_dim, inner]),
    ];
    for (what, linear, expected) in projections {
        let found = [linear.out_features(), linear.in_features()];
        expect_shape(what, &expected, &found)?;
    }
    expect_shape("conv1d.weight", &[inner, conv_width], &weights.conv_weight.dims())?;
    if let Some(bias) = &weights.conv_bias {
        expect_shape("conv1d.bias", &[inner], &bias.dims())?;
    }
    expect_shape("dt_proj.bias", &[inner], &weights.dt_bias.dims())?;
    expect_shape("A_log", &[inner, state_dim], &weights.a_log.dims())?;
    expect_shape("D", &[inner], &weights.skip.dims())
}

//! The Mamba-2 mixer.
//!
//! With u_t the layer's input and one projection giving z, x, B, C and a raw step size per head:
//!
//! ```text
//! x, B, C = SiLU(conv(x, B, C))          Δ = clamp(softplus(raw + bias), dt_limit)
//! h_t = exp(−Δ_t e^{A_log}) h_{t-1} + B_t (Δ_t x_t)ᵀ          y_t = C_tᵀ h_t + D x_t
//! out = W_out · RMSNorm(y ∘ SiLU(z))
//! ```
//!
//! that is, the recurrence with q = C, k = B, v = x, a scalar decay per head and token, and a skip. Source: Dao & Gu,
//! *Transformers are SSMs* (2405.21060), section 7.

use crate::error::{Error, Result};
use crate::gates::{Gates, LogDecay, Rule, expect_shape};
use crate::intervention::{Chain, Site};
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState, RecurrentState};
use crate::operators::norm::{NormPlan, NormWeights, Statistic, expect_epsilon, gated_norm};
use crate::operators::pointwise::silu_gate;
use crate::operators::step_size::expect_limit;
use crate::operators::{causal_conv1d, split, split_to_heads, step_size};
use crate::sequences::Sequences;
use burn::tensor::{Device, Tensor};
pub use kernel_dsl::causal_conv1d::Activation;
pub use kernel_dsl::gated_norm::GateOrder;

/// The shape of a mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct Mamba2Config {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads H.
    pub num_heads: usize,
    /// Columns P of a head's state.
    pub head_dim: usize,
    /// Rows N of a head's state.
    pub state_dim: usize,
    /// Groups that share B and C.
    pub num_groups: usize,
    /// Taps of the short convolution.
    pub conv_width: usize,
    /// Bounds of Δ after the softplus.
    pub dt_limit: (f32, f32),
    /// The norm before the output projection; `None` multiplies by SiLU(z) only.
    pub norm: Option<GatedNorm>,
}

/// The norm before the output projection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedNorm {
    /// Added to the mean square.
    pub eps: f32,
    /// Whether SiLU(z) is applied before or after the norm.
    pub order: GateOrder,
}

impl Mamba2Config {
    /// H · P, the width of x and z.
    pub fn inner_dim(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Channels of the short convolution: x, B and C.
    pub fn conv_dim(&self) -> usize {
        self.inner_dim() + 2 * self.num_groups * self.state_dim
    }

    /// Rows of the input projection: z, x, B, C and Δ.
    pub fn projection_dim(&self) -> usize {
        self.inner_dim() + self.conv_dim() + self.num_heads
    }
}

/// The weights of a mixer.
#[derive(Clone, Debug)]
pub struct Mamba2Weights {
    /// `[projection_dim, model_dim]`, rows in the order z, x, B, C, Δ.
    pub in_proj: Linear,
    /// `[conv_dim, conv_width]`, the last tap meeting the current token.
    pub conv_weight: Tensor<2>,
    /// `[conv_dim]`.
    pub conv_bias: Option<Tensor<1>>,
    /// `[num_heads]`, added to the raw step size.
    pub dt_bias: Tensor<1>,
    /// `[num_heads]`, log(−A).
    pub a_log: Tensor<1>,
    /// D, `[num_heads]` or `[inner_dim]`.
    pub skip: Tensor<1>,
    /// `[inner_dim]`, present exactly when the configuration has a norm.
    pub norm_weight: Option<Tensor<1>>,
    /// `[model_dim, inner_dim]`.
    pub out_proj: Linear,
}

/// One Mamba-2 mixer.
#[derive(Clone, Debug)]
pub struct Mamba2 {
    config: Mamba2Config,
    weights: Mamba2Weights,
}

impl Mamba2 {
    /// A mixer of weights that fit its configuration.
    ///
    /// # Errors
    /// [`Error::Shape`] for a weight of another shape, [`Error::Groups`] for groups that do not divide the heads,
    /// [`Error::Value`] for a dimension of 0, bounds of Δ out of order or a negative ε.
    pub fn new(config: Mamba2Config, weights: Mamba2Weights) -> Result<Self> {
        validate(&config, &weights)?;
        Ok(Self { config, weights })
    }

    /// The shape.
    pub fn config(&self) -> &Mamba2Config {
        &self.config
    }

    /// What an intervention may know about this mixer as layer `layer` of a model.
    pub fn site(&self, layer: usize) -> Site {
        Site {
            layer,
            first_head: 0,
            heads: self.config.num_heads,
            groups: self.config.num_groups,
            key_dim: self.config.state_dim,
            value_dim: self.config.head_dim,
            has_step_size: true,
            decays: true,
            per_key_decay: false,
            rule: Rule::WeightedSum,
        }
    }

    /// RMSNorm(y ∘ SiLU(z)) over the channels of a group, in the configured order; y ∘ SiLU(z) without a norm.
    fn gate(&self, read_out: Tensor<3>, gate: Tensor<3>) -> Result<Tensor<3>> {
        let Some(norm) = self.config.norm else {
            return Ok(silu_gate(gate, read_out));
        };
        let plan = NormPlan {
            statistic: Statistic::MeanSquare,
            eps: norm.eps,
            group_size: self.config.inner_dim() / self.config.num_groups,
            order: norm.order,
        };
        let weights = NormWeights {
            gate: Some(gate),
            weight: self.weights.norm_weight.clone(),
            bias: None,
        };
        gated_norm(read_out, weights, plan)
    }

    /// Columns of the convolution are x, B, C in this order.
    fn gates(&self, convolved: Tensor<3>, raw_step: Tensor<3>) -> Result<Gates> {
        let config = &self.config;
        let of_group = (config.num_groups, config.state_dim);
        let heads = [(config.num_heads, config.head_dim), of_group, of_group];
        let [value, key, query] = split_to_heads(convolved, heads)?;
        let weights = &self.weights;
        let (step, log_decay) = step_size(
            raw_step,
            weights.dt_bias.clone(),
            weights.a_log.clone(),
            config.dt_limit,
        )?;
        Ok(Gates {
            log_decay: LogDecay::PerHeadToken(log_decay),
            step_size: Some(step),
            skip: Some(weights.skip.clone()),
            ..Gates::new(query, key, value)
        })
    }
}

impl Mixer for Mamba2 {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![self.site(layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        let conv_state = Tensor::zeros(
            [batch, self.config.conv_dim(), self.config.conv_width - 1],
            device,
        );
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
        let (config, weights) = (&self.config, &self.weights);
        let [batch, time, _] = input.dims();
        let (inner, conv_dim) = (config.inner_dim(), config.conv_dim());
        let state = state.recurrent()?;
        let projected = weights.in_proj.forward(input)?;
        let [gate, convolved, raw_step] = split(projected, [inner, conv_dim, config.num_heads])?;
        let convolved = causal_conv1d(
            convolved,
            weights.conv_weight.clone(),
            weights.conv_bias.clone(),
            Activation::Silu,
            &Sequences::Equal,
            state.conv_state(0)?,
        )?;
        let gates = self.gates(convolved, raw_step)?;
        let site = self.site(context.layer);
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        weights
            .out_proj
            .forward(self.gate(read_out.reshape([batch, time, inner]), gate)?)
    }

    /// Two per tap of the convolution, six per element of the state.
    fn flops_per_token(&self) -> u64 {
        let config = &self.config;
        (2 * config.conv_dim() * config.conv_width + 6 * config.inner_dim() * config.state_dim) as u64
    }
}

fn validate(config: &Mamba2Config, weights: &Mamba2Weights) -> Result<()> {
    let (inner, conv_dim, heads) = (config.inner_dim(), config.conv_dim(), config.num_heads);
    let sizes = [
        config.model_dim,
        heads,
        config.head_dim,
        config.state_dim,
        config.num_groups,
        config.conv_width,
    ];
    if sizes.contains(&0) {
        return Err(Error::Value {
            what: "dimensions of a Mamba-2 mixer",
            expected: "all at least 1",
            found: format!("{config:?}"),
        });
    }
    if heads % config.num_groups != 0 {
        return Err(Error::Groups {
            heads,
            groups: config.num_groups,
        });
    }
    expect_limit(config.dt_limit)?;
    if let Some(norm) = config.norm {
        expect_epsilon(norm.eps)?;
    }
    let projection = |linear: &Linear| [linear.out_features(), linear.in_features()];
    expect_shape(
        "in_proj",
        &[config.projection_dim(), config.model_dim],
        &projection(&weights.in_proj),
    )?;
    expect_shape(
        "out_proj",
        &[config.model_dim, inner],
        &projection(&weights.out_proj),
    )?;
    expect_shape(
        "conv1d.weight",
        &[conv_dim, config.conv_width],
        &weights.conv_weight.dims(),
    )?;
    if let Some(bias) = &weights.conv_bias {
        expect_shape("conv1d.bias", &[conv_dim], &bias.dims())?;
    }
    expect_shape("dt_bias", &[heads], &weights.dt_bias.dims())?;
    expect_shape("A_log", &[heads], &weights.a_log.dims())?;
    if weights.skip.dims() != [inner] {
        expect_shape("D", &[heads], &weights.skip.dims())?;
    }
    match (&config.norm, &weights.norm_weight) {
        (Some(_), Some(weight)) => expect_shape("norm.weight", &[inner], &weight.dims()),
        (None, None) => Ok(()),
        (norm, _) => Err(Error::Value {
            what: "norm.weight",
            expected: "present exactly when the configuration has a norm",
            found: if norm.is_some() {
                "absent".into()
            } else {
                "present".into()
            },
        }),
    }
}

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
use crate::gates::{Gates, LogDecay, Rule};
use crate::intervention::{Chain, Site};
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState, RecurrentState};
use crate::operators::norm::{NormPlan, NormWeights, Statistic, expect_epsilon, gated_norm};
use crate::operators::pointwise::silu_gate;
use crate::operators::step_size::expect_limit;
use crate::operators::{split, split_to_heads, step_size};
use crate::short_conv::{ShortConv, ShortConvConfig};
use crate::weights::{Init, StepSizes, WeightSource};
use burn::tensor::{Device, Tensor};
pub use spillway_kernel_dsl::causal_conv1d::Activation;
pub use spillway_kernel_dsl::gated_norm::GateOrder;

/// The configuration of a mixer of Mamba-2.
#[derive(Clone, Debug, PartialEq)]
pub struct Mamba2Config {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// H, the number of heads.
    pub num_heads: usize,
    /// Columns P of a head's state.
    pub head_dim: usize,
    /// Rows N of a head's state.
    pub state_dim: usize,
    /// Groups that share B and C.
    pub num_groups: usize,
    /// The short convolution before the recurrence.
    pub conv: ShortConvConfig,
    /// Whether the projections have biases.
    pub projection_bias: bool,
    /// Whether the skip D has a value per channel rather than per head.
    pub skip_per_channel: bool,
    /// Bounds of Δ after the softplus.
    pub dt_limit: (f32, f32),
    /// The norm before the output projection; `None` multiplies by SiLU(z) only.
    pub norm: Option<GatedNorm>,
    /// Factors on what the input projection gives, in the order z, x, B, C, Δ, where a model has them (Falcon-H1).
    pub factors: Option<[f32; 5]>,
    /// How decay rates and step sizes of a fresh layer are drawn.
    pub fresh: FreshGates,
    /// Layers of the model, whose updates add up on its residual stream: a fresh W_out is the narrower the more there are.
    pub num_layers: usize,
}

/// How the decay rates and step sizes of a fresh layer are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FreshGates {
    /// The ends of −A, uniform between them.
    pub rates: (f32, f32),
    /// Δ before any token has been seen.
    pub steps: StepSizes,
}

impl Default for FreshGates {
    fn default() -> Self {
        Self {
            rates: (1.0, 16.0),
            steps: StepSizes::default(),
        }
    }
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

    fn factor_of_rows(&self, device: &Device) -> Option<Tensor<3>> {
        let [z, x, b, c, step] = self.factors?;
        let of_group = self.num_groups * self.state_dim;
        let parts = [
            (z, self.inner_dim()),
            (x, self.inner_dim()),
            (b, of_group),
            (c, of_group),
            (step, self.num_heads),
        ];
        let rows = parts
            .into_iter()
            .flat_map(|(factor, rows)| std::iter::repeat_n(factor, rows));
        let rows: Vec<f32> = rows.collect();
        Some(Tensor::<1>::from_floats(rows.as_slice(), device).reshape([1, 1, self.projection_dim()]))
    }

    fn validate(&self) -> Result<()> {
        let (heads, groups) = (self.num_heads, self.num_groups);
        let sizes = [
            self.model_dim,
            heads,
            self.head_dim,
            self.state_dim,
            groups,
            self.conv.width,
        ];
        if sizes.contains(&0) {
            return Err(Error::Value {
                what: "dimensions of a Mamba-2 mixer",
                expected: "all at least 1",
                found: format!("{self:?}"),
            });
        }
        if !heads.is_multiple_of(groups) {
            return Err(Error::Groups { heads, groups });
        }
        expect_limit(self.dt_limit)?;
        match self.norm {
            Some(norm) => expect_epsilon(norm.eps),
            None => Ok(()),
        }
    }
}

/// A Mamba-2 mixer: a recurrence with a decay per head and token, between projections.
#[derive(Clone, Debug)]
pub struct Mamba2 {
    config: Mamba2Config,
    /// Rows in the order z, x, B, C, Δ.
    in_proj: Linear,
    conv: ShortConv,
    /// Added to the raw step size.
    dt_bias: Tensor<1>,
    /// A_log = log(−A), `[num_heads]`.
    a_log: Tensor<1>,
    /// D, the skip from x to its own output, `[num_heads]` or, with `skip_per_channel`, `[inner_dim]`.
    skip: Tensor<1>,
    /// Present exactly when the configuration has a norm.
    norm_weight: Option<Tensor<1>>,
    /// The factors of all rows, `[1, 1, projection_dim]`.
    factors: Option<Tensor<3>>,
    out_proj: Linear,
}

impl Mamba2 {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `in_proj` | `projection_dim` × `model_dim`, rows in the order z, x, B, C, Δ |
    /// | `conv1d` | `conv_dim` × 1 × taps |
    /// | `dt_bias`; `A_log`, log(−A) | `num_heads` |
    /// | `D` | `num_heads`, or `inner_dim` with `skip_per_channel` |
    /// | `norm.weight`, where there is a norm | `inner_dim` |
    /// | `out_proj` | `model_dim` × `inner_dim` |
    ///
    /// # Errors
    /// [`Error::Groups`] for groups that do not divide the heads, [`Error::Value`] for a dimension of 0, bounds of Δ out of order
    /// or a negative ε; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: Mamba2Config, source: &mut S) -> Result<Self, S::Error> {
        config.validate()?;
        let (heads, inner, bias) = (config.num_heads, config.inner_dim(), config.projection_bias);
        let (low, high) = config.fresh.rates;
        let skip = match config.skip_per_channel {
            true => inner,
            false => heads,
        };
        let conv = ShortConv::read(config.conv, config.conv_dim(), source, "conv1d")?;
        let in_proj = source.linear("in_proj", [config.projection_dim(), config.model_dim], bias)?;
        let dt_bias = source.vector("dt_bias", heads, Init::StepBias(config.fresh.steps))?;
        Ok(Self {
            conv,
            in_proj,
            factors: config.factor_of_rows(&dt_bias.device()),
            dt_bias,
            a_log: source.vector("A_log", heads, Init::LogOfUniform(low, high))?,
            skip: source.vector("D", skip, Init::Ones)?,
            norm_weight: match config.norm {
                Some(_) => Some(source.vector("norm.weight", inner, Init::Ones)?),
                None => None,
            },
            out_proj: source.linear_with(
                "out_proj",
                [config.model_dim, inner],
                bias,
                // As narrow as the authors' code draws it.
                Init::fan_in(inner * config.num_layers),
            )?,
            config,
        })
    }

    /// The configuration that the mixer was read with.
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
            begins_with_prefix: false,
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
            weight: self.norm_weight.clone(),
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
        let (step, log_decay) = step_size(
            raw_step,
            self.dt_bias.clone(),
            self.a_log.clone(),
            config.dt_limit,
        )?;
        Ok(Gates {
            log_decay: LogDecay::PerHeadToken(log_decay),
            step_size: Some(step),
            skip: Some(self.skip.clone()),
            ..Gates::new(query, key, value)
        })
    }
}

impl Mixer for Mamba2 {
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
        let config = &self.config;
        let [batch, time, _] = input.dims();
        let (inner, conv_dim) = (config.inner_dim(), config.conv_dim());
        let state = state.recurrent()?;
        let mut projected = self.in_proj.forward(input)?;
        if let Some(factors) = &self.factors {
            projected = projected * factors.clone();
        }
        let [gate, convolved, raw_step] = split(projected, [inner, conv_dim, config.num_heads])?;
        let convolved = self
            .conv
            .forward(convolved, Activation::Silu, state.conv_state(0)?)?;
        let gates = self.gates(convolved, raw_step)?;
        let site = self.site(context.layer);
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        self.out_proj
            .forward(self.gate(read_out.reshape([batch, time, inner]), gate)?)
    }

    /// Two per tap of the convolution, six per element of the state.
    fn flops_per_token(&self) -> u64 {
        let config = &self.config;
        6 * (config.inner_dim() * config.state_dim) as u64 + self.conv.flops_per_token()
    }
}

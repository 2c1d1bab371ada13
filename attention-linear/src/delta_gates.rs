//! What the mixers of delta rules have in common: how strongly a token overwrites, what decays, keys of length one.
//!
//! ```text
//! β = σ(W_β x), or twice that                          per head
//! ln a = −e^{A_log} softplus(W_a x + bias)             per head, or per head and key row
//! ln a = bound · σ(e^{A_log} (W_a x + bias))           per head and key row: a in (e^{bound}, 1)
//! ```
//!
//! Sources: Yang et al., *Gated delta networks* (2412.06464), section 3.4; Kimi Team, *Kimi Linear* (2510.26692), equation 1, for the decay
//! per key row. The bounded form is that of flash-linear-attention's `lower_bound`.

use crate::heads::{self, Heads};
use crate::projection::Factored;
use burn::tensor::Tensor;
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::operators::pointwise::{exp, sigmoid};
use spillway_ssm_core::operators::{gated_norm, step_size};
use spillway_ssm_core::weights::StepSizes;
use spillway_ssm_core::{Error, Init, Linear, LogDecay, Result, Site, WeightSource};

/// Added to the sum of squares of a query or key that is divided by its length.
const LENGTH_EPS: f32 = 1e-6;

/// `rows` of heads of `key_dim` features, each divided by √(Σ x² + 10⁻⁶).
pub(crate) fn unit_length(rows: Tensor<3>, key_dim: usize) -> Result<Tensor<3>> {
    let plan = NormPlan {
        statistic: Statistic::SumOfSquares,
        eps: LENGTH_EPS,
        group_size: key_dim,
        order: GateOrder::NormAfterGate,
    };
    gated_norm(rows, NormWeights::default(), plan)
}

/// How strongly a token overwrites what the state holds under its key.
#[derive(Clone, Debug)]
pub(crate) struct Beta {
    /// `None` is the largest β always.
    projection: Option<Linear>,
    heads: usize,
    largest: f32,
}

impl Beta {
    /// `b_proj`, heads × `model_dim`, where β follows the input.
    pub(crate) fn read<S: WeightSource>(
        [heads, model_dim]: [usize; 2],
        follows_input: bool,
        negative_eigenvalues: bool,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        Ok(Self {
            projection: match follows_input {
                true => Some(source.linear("b_proj", [heads, model_dim], false)?),
                false => None,
            },
            heads,
            largest: if negative_eigenvalues { 2.0 } else { 1.0 },
        })
    }

    /// β of every token and head, `[batch, time, heads]`, from the `input` `[batch, time, model_dim]`.
    pub(crate) fn of(&self, input: &Tensor<3>) -> Result<Tensor<3>> {
        let Some(projection) = &self.projection else {
            let [batch, time, _] = input.dims();
            return Ok(Tensor::full(
                [batch, time, self.heads],
                self.largest,
                &input.device(),
            ));
        };
        let beta = sigmoid(projection.forward(input.clone())?);
        Ok(match self.largest {
            1.0 => beta,
            largest => beta * largest,
        })
    }
}

/// What of the state decays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DecayConfig {
    /// Nothing decays: ln a = 0 (DeltaNet).
    None,
    /// Every head, by the token (Gated DeltaNet).
    PerHead,
    /// Every key row of every head, by the token (Kimi Delta Attention).
    PerKey {
        /// Features between the two projections that give the decays; `None` is a single projection.
        rank: Option<usize>,
        /// What ln a lies above; `None` is the form without a bound.
        lower_bound: Option<f32>,
    },
}

impl DecayConfig {
    /// The site of a delta rule over `heads` with this decay.
    pub(crate) fn site(&self, heads: &Heads, layer: usize) -> Site {
        Site {
            rule: spillway_ssm_core::Rule::Delta,
            decays: !matches!(self, Self::None),
            per_key_decay: matches!(self, Self::PerKey { .. }),
            ..heads.site(layer)
        }
    }
}

/// The decay of a state.
#[derive(Clone, Debug)]
pub(crate) enum Decay {
    None,
    PerHead(Rate),
    /// One decay per key row, from the formula of `PerHead`; `A_log` is repeated for the rows of a head.
    PerKey(Rate),
    Bounded {
        rate: Rate,
        bound: f32,
    },
}

/// −e^{A_log} softplus(W_a x + bias).
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    projection: Factored,
    bias: Tensor<1>,
    a_log: Tensor<1>,
}

impl Decay {
    /// Per head `a_proj`, heads × `model_dim`, `dt_bias` and `A_log`; per key row `f_proj`, heads · `key_dim` × `model_dim` or in two
    /// factors, `dt_bias` of as many and `A_log` per head.
    pub(crate) fn read<S: WeightSource>(
        config: DecayConfig,
        heads: &Heads,
        model_dim: usize,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let count = heads.count();
        let bias = Init::StepBias(StepSizes::default());
        Ok(match config {
            DecayConfig::None => Self::None,
            DecayConfig::PerHead => Self::PerHead(Rate {
                projection: Factored::read("a_proj", [count, model_dim], None, false, source)?,
                bias: source.vector("dt_bias", count, bias)?,
                // A rate that is uniform up to 16.
                a_log: source.vector("A_log", count, Init::LogOfUniform(f32::MIN_POSITIVE, 16.0))?,
            }),
            DecayConfig::PerKey { rank, lower_bound } => {
                expect_bound(lower_bound)?;
                let rows = count * heads.key_dim;
                let projection = Factored::read("f_proj", [rows, model_dim], rank, false, source)?;
                let bias = source.vector("dt_bias", rows, bias)?;
                let a_log = source.vector("A_log", count, Init::LogOfUniform(1.0, 16.0))?;
                let a_log: Tensor<2> = a_log.unsqueeze_dim(1);
                let rate = Rate {
                    projection,
                    bias,
                    a_log: a_log.repeat_dim(1, heads.key_dim).reshape([rows]),
                };
                match lower_bound {
                    None => Self::PerKey(rate),
                    Some(bound) => Self::Bounded { rate, bound },
                }
            }
        })
    }

    /// ln a of every token.
    pub(crate) fn of(&self, input: &Tensor<3>, heads: &Heads) -> Result<LogDecay> {
        let per_key = |rows| LogDecay::PerKeyToken(heads::split(rows, heads.count()));
        Ok(match self {
            Self::None => LogDecay::None,
            Self::PerHead(rate) => LogDecay::PerHeadToken(rate.log_decay(input)?),
            Self::PerKey(rate) => per_key(rate.log_decay(input)?),
            Self::Bounded { rate, bound } => per_key(rate.bounded(input)? * *bound),
        })
    }
}

impl Rate {
    fn log_decay(&self, input: &Tensor<3>) -> Result<Tensor<3>> {
        let raw = self.projection.forward(input.clone())?;
        let (_, log_decay) = step_size(raw, self.bias.clone(), self.a_log.clone(), (0.0, f32::INFINITY))?;
        Ok(log_decay)
    }

    /// σ(e^{A_log} (W_a x + bias)).
    fn bounded(&self, input: &Tensor<3>) -> Result<Tensor<3>> {
        let raw = self.projection.forward(input.clone())? + self.bias.clone().unsqueeze();
        Ok(sigmoid(raw * exp(self.a_log.clone()).unsqueeze()))
    }
}

fn expect_bound(bound: Option<f32>) -> Result<()> {
    match bound {
        Some(bound) if !(bound < 0.0 && bound.is_finite()) => Err(Error::Value {
            what: "lower bound of a log decay",
            expected: "below 0 and finite",
            found: bound.to_string(),
        }),
        _ => Ok(()),
    }
}

//! DeltaNet and Gated DeltaNet: linear attention that replaces what it holds under a key.
//!
//! ```text
//! q, k = norm(act(conv(W_q x))), norm(act(conv(W_k x)))      v = SiLU(conv(W_v x))      β = σ(W_β x), or twice that
//! h ← a_t h        h_t = h + β_t k_t (v_t − hᵀ k_t)ᵀ         y_t = K^{-1/2} · q_tᵀ h_t
//! out = W_out (RMSNorm per head (y) ∘ SiLU(W_gate x))
//! ```
//!
//! a = 1 in DeltaNet; ln a = −e^{A_log} softplus(W_a x + bias) per head in Gated DeltaNet. With β in (0, 2)
//! the transition I − β k kᵀ has eigenvalues in (−1, 1). Sources: Yang et al., *Parallelizing linear transformers with the delta
//! rule over sequence length* (2406.06484) and *Gated delta networks* (2412.06464), equation 10; Grazzi et al., *Unlocking
//! state-tracking in linear RNNs through negative eigenvalues* (2411.12537).

use crate::expect;
use crate::feature_map::FeatureMap;
use crate::heads::{self, Heads};
use crate::projection::{BranchPlan, Branches, Output, OutputConfig};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::operators::pointwise::sigmoid;
use spillway_ssm_core::operators::{gated_norm, step_size};
use spillway_ssm_core::weights::StepSizes;
use spillway_ssm_core::{
    Chain, Erase, Gates, Init, Linear, LogDecay, Result, Rule, ShortConvConfig, WeightSource,
};

/// Added to the sum of squares of a query or key that is divided by its length.
const LENGTH_EPS: f32 = 1e-6;

/// The configuration of a mixer of DeltaNet and Gated DeltaNet.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaNetConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads of queries, keys and values.
    pub heads: Heads,
    /// The convolutions of queries, keys and values.
    pub conv: Option<ShortConvConfig>,
    /// What queries and keys go through after their projection (and convolution).
    pub activation: QueryKeyActivation,
    /// What queries and keys are divided by.
    pub norm: QueryKeyNorm,
    /// Whether β follows the input; it is 1 without.
    pub beta: bool,
    /// Whether the state decays.
    pub decays: bool,
    /// Whether β is doubled, so that the transition may have negative eigenvalues.
    pub negative_eigenvalues: bool,
    /// ε of the norm of the read-out, over the `value_dim` features of each head.
    pub norm_eps: f32,
    /// Gate and norm of the read-out.
    pub output: OutputConfig,
}

/// What queries and keys go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKeyActivation {
    /// x σ(x), which the convolution applies.
    Silu,
    /// max(x, 0).
    Relu,
    /// ELU(x) + 1.
    EluPlusOne,
    /// x.
    Identity,
}

/// What queries and keys are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// √(Σ x² + 10⁻⁶).
    Length,
    /// Σ x.
    Sum,
}

/// The decay of Gated DeltaNet.
#[derive(Clone, Debug)]
struct Decay {
    step: Linear,
    /// `[heads]`, added to W_a x.
    bias: Tensor<1>,
    /// `[heads]`.
    a_log: Tensor<1>,
}

/// A DeltaNet or Gated DeltaNet mixer.
#[derive(Clone, Debug)]
pub struct DeltaNet {
    config: DeltaNetConfig,
    branches: Branches<3>,
    feature_map: FeatureMap,
    beta: Option<Linear>,
    decay: Option<Decay>,
    output: Output,
}

impl DeltaNet {
    /// The mixer of the weights of `source`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q_proj` | query heads · `key_dim` × `model_dim` |
    /// | `k_proj` | key heads · `key_dim` × `model_dim` |
    /// | `v_proj` | value heads · `value_dim` × `model_dim` |
    /// | `q_conv1d`, `k_conv1d`, `v_conv1d`, where there are convolutions | channels × 1 × taps |
    /// | `b_proj`, W_β, with `beta` | heads × `model_dim` |
    /// | `a_proj`, W_a, with `decays` | heads × `model_dim` |
    /// | `dt_bias`, `A_log`, with `decays` | heads |
    /// | `g_proj`, where there is a gate | heads · `value_dim` × `model_dim` |
    /// | `g_norm.weight`, where the norm has one | `value_dim` |
    /// | `o_proj` | `model_dim` × heads · `value_dim` |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Groups`] for heads that cannot share, [`spillway_ssm_core::Error::Value`] for a dimension of 0 or a negative ε;
    /// the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: DeltaNetConfig, source: &mut S) -> Result<Self, S::Error> {
        let (model_dim, heads) = (config.model_dim, config.heads);
        expect::positive("width of a delta rule", &[model_dim])?;
        heads.validate()?;
        let (activation, feature_map) = match config.activation {
            QueryKeyActivation::Silu => (Activation::Silu, FeatureMap::Identity),
            QueryKeyActivation::Relu => (Activation::None, FeatureMap::Relu),
            QueryKeyActivation::EluPlusOne => (Activation::None, FeatureMap::EluPlusOne),
            QueryKeyActivation::Identity => (Activation::None, FeatureMap::Identity),
        };
        let plans = BranchPlan::of_heads(&heads, [activation, activation, Activation::Silu]);
        let (count, groups) = (heads.count(), (heads.count(), heads.value_dim));
        Ok(Self {
            branches: Branches::read(plans, model_dim, config.conv, source)?,
            feature_map,
            beta: match config.beta {
                true => Some(source.linear("b_proj", [count, model_dim], false)?),
                false => None,
            },
            decay: match config.decays {
                true => Some(Decay {
                    step: source.linear("a_proj", [count, model_dim], false)?,
                    bias: source.vector("dt_bias", count, Init::StepBias(StepSizes::default()))?,
                    // A rate that is uniform up to 16.
                    a_log: source.vector("A_log", count, Init::LogOfUniform(f32::MIN_POSITIVE, 16.0))?,
                }),
                false => None,
            },
            output: Output::read(config.output, model_dim, groups, config.norm_eps, source)?,
            config,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> &DeltaNetConfig {
        &self.config
    }

    fn site(&self, layer: usize) -> Site {
        Site {
            rule: Rule::Delta,
            decays: self.decay.is_some(),
            ..self.config.heads.site(layer)
        }
    }

    /// The features of `heads` heads, normalised.
    fn features(&self, rows: Tensor<3>, heads: usize) -> Result<Tensor<4>> {
        let mapped = |rows| self.feature_map.apply(heads::split(rows, heads));
        match self.config.norm {
            QueryKeyNorm::Sum => {
                let features = mapped(rows)?;
                let sum = features.clone().sum_dim(3);
                Ok(features / sum)
            }
            QueryKeyNorm::Length => {
                let [batch, time, width] = rows.dims();
                let plan = NormPlan {
                    statistic: Statistic::SumOfSquares,
                    eps: LENGTH_EPS,
                    group_size: self.config.heads.key_dim,
                    order: GateOrder::NormAfterGate,
                };
                let rows = mapped(rows)?.reshape([batch, time, width]);
                let rows = gated_norm(rows, NormWeights::default(), plan)?;
                Ok(heads::split(rows, heads))
            }
        }
    }

    /// β, `[batch, time, heads]`.
    fn beta(&self, input: &Tensor<3>) -> Result<Tensor<3>> {
        let largest = if self.config.negative_eigenvalues {
            2.0
        } else {
            1.0
        };
        let Some(linear) = &self.beta else {
            let [batch, time, _] = input.dims();
            let shape = [batch, time, self.config.heads.count()];
            return Ok(Tensor::full(shape, largest, &input.device()));
        };
        let beta = sigmoid(linear.forward(input.clone())?);
        Ok(match self.config.negative_eigenvalues {
            true => beta * 2.0,
            false => beta,
        })
    }

    fn log_decay(&self, input: &Tensor<3>) -> Result<LogDecay> {
        let Some(Decay { step, bias, a_log }) = &self.decay else {
            return Ok(LogDecay::None);
        };
        let raw = step.forward(input.clone())?;
        let (_, log_decay) = step_size(raw, bias.clone(), a_log.clone(), (0.0, f32::INFINITY))?;
        Ok(LogDecay::PerHeadToken(log_decay))
    }
}

impl Mixer for DeltaNet {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![self.site(layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        self.branches.start(&self.sites(layer), batch, chain, device)
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let (heads, state) = (&self.config.heads, state.recurrent()?);
        let [query, key, value] = self.branches.forward(&input, state)?;
        let gates = Gates {
            log_decay: self.log_decay(&input)?,
            erase: Erase::Delta(self.beta(&input)?),
            scale: (heads.key_dim as f32).powf(-0.5),
            ..Gates::new(
                self.features(query, heads.query)?,
                heads.repeat_keys(self.features(key, heads.key)?),
                heads.repeat_values(heads::split(value, heads.value)),
            )
        };
        let site = self.site(context.layer);
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        self.output.forward(read_out, input)
    }

    /// Of a state value: decay, what is held under the key, what replaces it, and the read-out.
    fn flops_per_token(&self) -> u64 {
        let [_, heads, key_dim, value_dim] = self.site(0).state_shape(1);
        8 * (heads * key_dim * value_dim) as u64 + self.branches.flops_per_token()
    }
}

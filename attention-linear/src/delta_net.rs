//! DeltaNet, Gated DeltaNet and Kimi Delta Attention: linear attention that replaces what it holds under a key.
//!
//! ```text
//! q, k = norm(act(conv(W_q x))), norm(act(conv(W_k x)))      v = SiLU(conv(W_v x))      β = σ(W_β x), or twice that
//! h ← a_t ∘ h      h_t = h + β_t k_t (v_t − hᵀ k_t)ᵀ         y_t = K^{-1/2} · q_tᵀ h_t
//! out = W_out (RMSNorm per head (y) ∘ SiLU(W_gate x))
//! ```
//!
//! a = 1 in DeltaNet; ln a = −e^{A_log} softplus(W_a x + bias) per head in Gated DeltaNet, and per key row of every head in Kimi Delta
//! Attention, whose gate is σ(W_gate x). With β in (0, 2)
//! the transition I − β k kᵀ has eigenvalues in (−1, 1). Sources: Yang et al., *Parallelizing linear transformers with the delta
//! rule over sequence length* (2406.06484) and *Gated delta networks* (2412.06464), equation 10; Kimi Team, *Kimi Linear* (2510.26692);
//! Grazzi et al., *Unlocking state-tracking in linear RNNs through negative eigenvalues* (2411.12537).

pub use crate::delta_gates::DecayConfig;

use crate::delta_gates::{Beta, Decay, unit_length};
use crate::expect;
use crate::feature_map::FeatureMap;
use crate::heads::{self, Heads};
use crate::projection::{BranchPlan, Branches, Output, OutputConfig, QueryKeyValue};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::{Chain, Erase, Error, Gates, Result, ShortConvConfig, WeightSource};

/// The configuration of a mixer of DeltaNet, Gated DeltaNet or Kimi Delta Attention.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaNetConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads of queries, keys and values.
    pub heads: Heads,
    /// Whether one matrix projects to queries, keys and values, and one convolution goes over all.
    pub joint: bool,
    /// The convolutions of queries, keys and values.
    pub conv: Option<ShortConvConfig>,
    /// What queries and keys go through after their projection (and convolution).
    pub activation: QueryKeyActivation,
    /// What queries and keys are divided by.
    pub norm: QueryKeyNorm,
    /// Whether β follows the input; it is 1 without.
    pub beta: bool,
    /// What of the state decays.
    pub decay: DecayConfig,
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
    /// The rectifier, max(x, 0).
    Relu,
    /// ELU(x) + 1.
    EluPlusOne,
    /// No activation: x itself.
    Identity,
}

/// What queries and keys are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// √(Σ x² + 10⁻⁶).
    Length,
    /// Σ x, the sum of the features of a head.
    Sum,
}

/// A mixer of DeltaNet, Gated DeltaNet or Kimi Delta Attention.
#[derive(Clone, Debug)]
pub struct DeltaNet {
    config: DeltaNetConfig,
    branches: QueryKeyValue,
    feature_map: FeatureMap,
    beta: Beta,
    decay: Decay,
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
    /// | `qkv_proj`, `qkv_conv1d`, in the place of all these, with `joint` | their rows, one after another |
    /// | `b_proj`, W_β, with `beta` | heads × `model_dim` |
    /// | `a_proj`, W_a, with a decay per head | heads × `model_dim` |
    /// | `f_proj`, W_a, with a decay per key row, in one matrix | heads · `key_dim` × `model_dim` |
    /// | `f_proj.0`, `f_proj.1`, or in two | rank × `model_dim`, heads · `key_dim` × rank |
    /// | `dt_bias`, with a decay | as many as the rows of W_a |
    /// | `A_log`, with a decay | heads |
    /// | `g_proj`, where there is a gate; `g_proj.0`, `g_proj.1` with a rank | heads · `value_dim` × `model_dim` |
    /// | `g_norm.weight`, where the norm has one | `value_dim` |
    /// | `o_proj` | `model_dim` × heads · `value_dim` |
    ///
    /// # Errors
    /// [`Error::Groups`] for heads that cannot share, [`Error::Value`] for a dimension of 0, a negative ε, a bound of the decay that is none or a joint
    /// convolution that would end in different activations; the source's for a tensor that is missing or of another shape.
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
        let branches = match (config.joint, activation) {
            (true, Activation::Silu) => QueryKeyValue::joint(&heads, model_dim, config.conv, source)?,
            (true, Activation::None) => {
                return Err(S::Error::from(Error::Value {
                    what: "activation of queries and keys that are projected with the values",
                    expected: "that of the values, SiLU",
                    found: format!("{:?}", config.activation),
                }));
            }
            (false, _) => {
                let plans = BranchPlan::of_heads(&heads, [activation, activation, Activation::Silu]);
                QueryKeyValue::Separate(Branches::read(plans, model_dim, config.conv, source)?)
            }
        };
        let count = heads.count();
        Ok(Self {
            branches,
            feature_map,
            beta: Beta::read(
                [count, model_dim],
                config.beta,
                config.negative_eigenvalues,
                source,
            )?,
            decay: Decay::read(config.decay, &heads, model_dim, source)?,
            output: Output::read(
                config.output,
                model_dim,
                (count, heads.value_dim),
                config.norm_eps,
                source,
            )?,
            config,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> &DeltaNetConfig {
        &self.config
    }

    fn site(&self, layer: usize) -> Site {
        self.config.decay.site(&self.config.heads, layer)
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
                let rows = mapped(rows)?.reshape([batch, time, width]);
                let rows = unit_length(rows, self.config.heads.key_dim)?;
                Ok(heads::split(rows, heads))
            }
        }
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
            log_decay: self.decay.of(&input, heads)?,
            erase: Erase::Delta(self.beta.of(&input)?),
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

    /// Operations of a token: 8 per state value (decay, what is held under k, what replaces it, read-out), and the branches'.
    fn flops_per_token(&self) -> u64 {
        let [_, heads, key_dim, value_dim] = self.site(0).state_shape(1);
        8 * (heads * key_dim * value_dim) as u64 + self.branches.flops_per_token()
    }
}

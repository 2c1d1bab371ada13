//! HGRN-2: HGRN with a matrix for a state, whose keys are what the decay lets go.
//!
//! ```text
//! a = b + (1 − b) σ(W_f u)        k = 1 − a        q = SiLU(W_q u)        v = W_i u
//! h_t = diag(a_t) h_{t-1} + k_t v_tᵀ               y_t = K^{-1/2} · q_tᵀ h_t
//! out = W_out RMSNorm(y)                           the norm over all heads together
//! ```
//!
//! b is the lower bound of the decays, as in [`hgrn`](crate::hgrn). Each projection may go through a short convolution, before
//! the activations. Source: Qin et al., *HGRN2: Gated Linear RNNs with State Expansion* (2404.07904), equations 2 to 4.

use crate::expect;
use crate::heads;
use crate::hgrn::ForgetGate;
use crate::projection::{BranchPlan, Branches, Output, OutputConfig};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::operators::pointwise::silu;
use spillway_ssm_core::{Chain, Gates, LogDecay, Result, ShortConvConfig, WeightSource};

/// The shape of an HGRN-2 mixer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hgrn2Config {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads of the recurrence.
    pub num_heads: usize,
    /// K, rows of a head's state: by how much it expands the state of HGRN.
    pub key_dim: usize,
    /// V, columns of a head's state.
    pub value_dim: usize,
    /// The convolutions of queries, forget gate and input.
    pub conv: Option<ShortConvConfig>,
    /// ε of the norm of the read-out, over all heads together.
    pub norm_eps: f32,
    /// Gate and norm of the read-out.
    pub output: OutputConfig,
}

/// An HGRN-2 mixer: a gated linear recurrence of matrices between projections.
#[derive(Clone, Debug)]
pub struct Hgrn2 {
    config: Hgrn2Config,
    branches: Branches<3>,
    forget: ForgetGate,
    output: Output,
}

impl Hgrn2 {
    /// The mixer of the weights of `source`, with the lower bound b of each key row, `[num_heads · key_dim]`, in \[0, 1); `None`
    /// is 0.
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q_proj`, `f_proj` | `num_heads` · `key_dim` × `model_dim` |
    /// | `i_proj` | `num_heads` · `value_dim` × `model_dim` |
    /// | `q_conv1d`, `f_conv1d`, `i_conv1d`, where there are convolutions | channels × 1 × taps |
    /// | `g_proj`, where there is a gate | `num_heads` · `value_dim` × `model_dim` |
    /// | `g_norm.weight`, where the norm has one | `num_heads` · `value_dim` |
    /// | `o_proj` | `model_dim` × `num_heads` · `value_dim` |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Shape`] for another number of bounds, [`spillway_ssm_core::Error::Value`] for a dimension of 0 or a negative ε; the
    /// source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(
        config: Hgrn2Config,
        lower_bound: Option<Tensor<1>>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let Hgrn2Config {
            model_dim,
            num_heads,
            key_dim,
            value_dim,
            ..
        } = config;
        expect::positive(
            "dimensions of an HGRN-2 mixer",
            &[model_dim, num_heads, key_dim, value_dim],
        )?;
        let (keys, values) = (num_heads * key_dim, num_heads * value_dim);
        let plans = [("q", keys), ("f", keys), ("i", values)].map(|(name, channels)| BranchPlan {
            name,
            channels,
            activation: Activation::None,
        });
        Ok(Self {
            config,
            branches: Branches::read(plans, model_dim, config.conv, source)?,
            forget: ForgetGate::new(keys, lower_bound)?,
            output: Output::read(config.output, model_dim, (1, values), config.norm_eps, source)?,
        })
    }

    /// The sizes that this mixer was made with.
    pub fn config(&self) -> Hgrn2Config {
        self.config
    }

    fn site(&self, layer: usize) -> Site {
        let Hgrn2Config {
            num_heads,
            key_dim,
            value_dim,
            ..
        } = self.config;
        Site {
            per_key_decay: true,
            ..Site::weighted_sum(layer, num_heads, key_dim, value_dim)
        }
    }
}

impl Mixer for Hgrn2 {
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
        let state = state.recurrent()?;
        let [query, forget, value] = self.branches.forward(&input, state)?;
        let [key, log_decay] = self.forget.decay(forget)?;
        let split = |rows| heads::split(rows, self.config.num_heads);
        let gates = Gates {
            log_decay: LogDecay::PerKeyToken(split(log_decay)),
            scale: (self.config.key_dim as f32).powf(-0.5),
            ..Gates::new(split(silu(query)), split(key), split(value))
        };
        let site = self.site(context.layer);
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        self.output.forward(read_out, input)
    }

    fn flops_per_token(&self) -> u64 {
        let Hgrn2Config {
            num_heads,
            key_dim,
            value_dim,
            ..
        } = self.config;
        6 * (num_heads * key_dim * value_dim) as u64 + self.branches.flops_per_token()
    }
}

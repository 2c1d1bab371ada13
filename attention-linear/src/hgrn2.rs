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
use crate::projection::{BranchPlan, BranchWeights, Branches, Output, OutputWeights};
use burn::tensor::{Device, Tensor};
use ssm_core::intervention::Site;
use ssm_core::mixer::{Context, Mixer, MixerState, RecurrentState};
use ssm_core::operators::causal_conv1d::Activation;
use ssm_core::operators::pointwise::silu;
use ssm_core::{Chain, Gates, LogDecay, Result};

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
    /// ε of the norm of the read-out.
    pub norm_eps: f32,
}

/// The weights of an HGRN-2 mixer.
#[derive(Clone, Debug)]
pub struct Hgrn2Weights {
    /// W_q, `[num_heads · key_dim, model_dim]`.
    pub query: BranchWeights,
    /// W_f, `[num_heads · key_dim, model_dim]`.
    pub forget: BranchWeights,
    /// W_i, `[num_heads · value_dim, model_dim]`.
    pub input: BranchWeights,
    /// b, `[num_heads · key_dim]`, in \[0, 1); `None` is 0.
    pub lower_bound: Option<Tensor<1>>,
    /// Norm over `[num_heads · value_dim]`, and output.
    pub output: OutputWeights,
}

/// One HGRN-2 mixer.
#[derive(Clone, Debug)]
pub struct Hgrn2 {
    config: Hgrn2Config,
    branches: Branches<3>,
    forget: ForgetGate,
    output: Output,
}

impl Hgrn2 {
    /// A mixer of weights that fit its configuration.
    ///
    /// # Errors
    /// [`ssm_core::Error::Shape`] for a weight of another shape, [`ssm_core::Error::Value`] for a dimension of 0 or a negative ε.
    pub fn new(config: Hgrn2Config, weights: Hgrn2Weights) -> Result<Self> {
        let Hgrn2Config {
            model_dim,
            num_heads,
            key_dim,
            value_dim,
            norm_eps,
        } = config;
        expect::positive(
            "dimensions of an HGRN-2 mixer",
            &[model_dim, num_heads, key_dim, value_dim],
        )?;
        let (keys, values) = (num_heads * key_dim, num_heads * value_dim);
        let plans =
            [("q_proj", keys), ("f_proj", keys), ("i_proj", values)].map(|(what, channels)| BranchPlan {
                what,
                channels,
                activation: Activation::None,
            });
        Ok(Self {
            branches: Branches::new(model_dim, plans, [weights.query, weights.forget, weights.input])?,
            forget: ForgetGate::new(keys, weights.lower_bound)?,
            output: Output::new(model_dim, (1, values), norm_eps, weights.output)?,
            config,
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
        let convolutions = self.branches.start(batch, device);
        let sites = self.sites(layer);
        MixerState::Recurrent(RecurrentState::start(convolutions, &sites, chain, batch, device))
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

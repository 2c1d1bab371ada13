//! Gated DeltaNet-2: a delta rule that erases by key channel and writes by value channel, each with a gate of its own.
//!
//! ```text
//! q, k = norm(SiLU(conv(W_q x))), norm(SiLU(conv(W_k x)))        v = SiLU(conv(W_v x))
//! b = σ(W_b x), or twice that        w = σ(W_w x)        ln a = −e^{A_log} softplus(W_2 W_1 x + bias), per key row
//! h ← a_t ∘ h        h_t = h + k_t (w_t ∘ v_t − hᵀ (b_t ∘ k_t))ᵀ        y_t = K^{-1/2} · q_tᵀ h_t
//! out = W_out (RMSNorm per head (y) ∘ σ(W_gate x))
//! ```
//!
//! With b = w = β, a number, it is [Kimi Delta Attention](crate::delta_net). For the recurrence it is a transition of low rank: a ∘ b ∘ k reads what
//! the state held before it decayed, and −k is what it adds to. Source: the equation at the head of flash-linear-attention's layer and plain
//! form of Gated DeltaNet-2 (*Decoupling erase and write in linear attention*).

use crate::delta_gates::{Decay, DecayConfig, unit_length};
use crate::expect;
use crate::heads::{self, Heads};
use crate::projection::{BranchPlan, Branches, Output, OutputConfig};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::operators::pointwise::{exp, sigmoid};
use spillway_ssm_core::{Chain, Erase, Gates, Linear, LogDecay, Result, ShortConvConfig, WeightSource};

/// The configuration of a mixer of Gated DeltaNet-2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedDeltaNet2Config {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads of queries, keys and values; as many of queries as of keys.
    pub heads: Heads,
    /// The convolutions of queries, keys and values.
    pub conv: Option<ShortConvConfig>,
    /// Features between the two projections that give the decays.
    pub decay_rank: usize,
    /// Whether b is doubled, so that the transition may have negative eigenvalues.
    pub negative_eigenvalues: bool,
    /// ε of the norm of the read-out, over the `value_dim` features of each head.
    pub norm_eps: f32,
    /// Gate and norm of the read-out.
    pub output: OutputConfig,
}

/// One mixer of Gated DeltaNet-2.
#[derive(Clone, Debug)]
pub struct GatedDeltaNet2 {
    config: GatedDeltaNet2Config,
    branches: Branches<3>,
    erase: Linear,
    write: Linear,
    decay: Decay,
    output: Output,
}

impl GatedDeltaNet2 {
    /// The mixer of the weights of `source`: the projections, convolutions and output of a
    /// [Gated DeltaNet](crate::delta_net::DeltaNet::read), and
    ///
    /// | name | shape |
    /// |---|---|
    /// | `b_proj` | key heads · `key_dim` × `model_dim` |
    /// | `w_proj` | value heads · `value_dim` × `model_dim` |
    /// | `f_proj.0`, `f_proj.1` | `decay_rank` × `model_dim`, key heads · `key_dim` × `decay_rank` |
    /// | `dt_bias` | key heads · `key_dim` |
    /// | `A_log` | key heads |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Shape`] for other heads of keys than of queries, [`spillway_ssm_core::Error::Groups`] for heads that cannot
    /// share, [`spillway_ssm_core::Error::Value`] for a dimension of 0 or a negative ε; the source's for a tensor that is missing or of
    /// another shape.
    pub fn read<S: WeightSource>(config: GatedDeltaNet2Config, source: &mut S) -> Result<Self, S::Error> {
        let (model_dim, heads) = (config.model_dim, config.heads);
        let sizes = [model_dim, config.decay_rank];
        expect::positive("width and rank of a Gated DeltaNet-2", &sizes)?;
        heads.validate()?;
        expect::shape("heads of the keys", &[heads.query], &[heads.key])?;
        let [_, keys, values] = heads.widths();
        let plans = BranchPlan::of_heads(&heads, [Activation::Silu; 3]);
        let decay = DecayConfig::PerKey {
            rank: Some(config.decay_rank),
            lower_bound: None,
        };
        let groups = (heads.count(), heads.value_dim);
        Ok(Self {
            branches: Branches::read(plans, model_dim, config.conv, source)?,
            erase: source.linear("b_proj", [keys, model_dim], false)?,
            write: source.linear("w_proj", [values, model_dim], false)?,
            decay: Decay::read(decay, &of_keys(&heads), model_dim, source)?,
            output: Output::read(config.output, model_dim, groups, config.norm_eps, source)?,
            config,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> GatedDeltaNet2Config {
        self.config
    }

    fn site(&self, layer: usize) -> Site {
        let heads = &self.config.heads;
        let decay = DecayConfig::PerKey {
            rank: None,
            lower_bound: None,
        };
        Site {
            groups: heads.count(),
            ..decay.site(heads, layer)
        }
    }

    /// Rows of the key heads, for every head of the recurrence.
    fn spread(&self, rows: Tensor<4>) -> Tensor<4> {
        let heads = &self.config.heads;
        heads::repeat(rows, 2, heads.count() / heads.key)
    }

    fn gates(&self, input: &Tensor<3>, [query, key, value]: [Tensor<3>; 3]) -> Result<Gates> {
        let heads = &self.config.heads;
        let direction = |rows| -> Result<Tensor<4>> {
            let rows = unit_length(rows, heads.key_dim)?;
            Ok(self.spread(heads::split(rows, heads.key)))
        };
        let (query, key) = (direction(query)?, direction(key)?);
        let erase = sigmoid(self.erase.forward(input.clone())?);
        let erase = match self.config.negative_eigenvalues {
            true => erase * 2.0,
            false => erase,
        };
        let write = sigmoid(self.write.forward(input.clone())?);
        let value = heads::split(value * write, heads.value);
        let mut gates = Gates::new(query, key.clone(), value);
        gates.scale = (heads.key_dim as f32).powf(-0.5);
        gates.log_decay = self.decay.of(input, &of_keys(heads))?;
        let mut reader = key.clone() * self.spread(heads::split(erase, heads.key));
        if let LogDecay::PerKeyToken(log_decay) = gates.log_decay {
            let log_decay = self.spread(log_decay);
            reader = reader * exp(log_decay.clone());
            gates.log_decay = LogDecay::PerKeyToken(log_decay);
        }
        gates.erase = Erase::LowRank {
            p: reader,
            b: key.neg(),
        };
        Ok(gates)
    }
}

/// Heads of queries and keys, with as many of values: those that decays belong to.
fn of_keys(heads: &Heads) -> Heads {
    Heads {
        value: heads.key,
        ..*heads
    }
}

impl Mixer for GatedDeltaNet2 {
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
        let branches = self.branches.forward(&input, state)?;
        let gates = self.gates(&input, branches)?;
        let site = self.site(context.layer);
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        self.output.forward(read_out, input)
    }

    /// Operations of a token: 8 per state value (decay, what is held under the reader, what replaces it, read-out), and the branches'.
    fn flops_per_token(&self) -> u64 {
        let [_, heads, key_dim, value_dim] = self.site(0).state_shape(1);
        8 * (heads * key_dim * value_dim) as u64 + self.branches.flops_per_token()
    }
}

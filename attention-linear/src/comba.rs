//! Comba: a delta rule that corrects itself by what the state held before it decayed, and reads less of what it just wrote.
//!
//! ```text
//! k = SiLU(conv(W_k x))        p = σ(d) k        q = SiLU(conv(W_q x)) − D p        v = SiLU(conv(W_v x))        β = σ(W_β x)
//! q, k, p each divided by its length
//! h_t = a_t h_{t-1} + β_t k_t (v_t − h_{t-1}ᵀ p_t)ᵀ                                  y_t = K^{-1/2} · q_tᵀ h_t
//! out = W_out (RMSNorm per head (y) ∘ σ(W_gate x))
//! ```
//!
//! The decay a is that of [Gated DeltaNet](crate::delta_net); d and D are numbers per head. For the recurrence this is a transition
//! of low rank: p reads, −β k is what it adds to. Source: Hu et al., *Comba: Improving bilinear RNNs with closed-loop control* (2506.02475).

use crate::delta_gates::{Beta, Decay, DecayConfig, unit_length};
use crate::expect;
use crate::heads::{self, Heads};
use crate::projection::{BranchPlan, Branches, Output, OutputConfig};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::operators::pointwise::sigmoid;
use spillway_ssm_core::{Chain, Erase, Gates, Init, Result, ShortConvConfig, WeightSource};

/// The configuration of a Comba mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct CombaConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads of queries, keys and values; as many of queries as of keys.
    pub heads: Heads,
    /// The convolutions of queries, keys and values.
    pub conv: Option<ShortConvConfig>,
    /// Whether p is a part of k; it is k without.
    pub inner_decay: bool,
    /// Whether D p is taken off the queries.
    pub output_correction: bool,
    /// ε of the norm of the read-out, over the `value_dim` features of each head.
    pub norm_eps: f32,
    /// Gate and norm of the read-out.
    pub output: OutputConfig,
}

/// A Comba mixer: a delta rule that corrects itself by what the state held before it decayed.
#[derive(Clone, Debug)]
pub struct Comba {
    config: CombaConfig,
    branches: Branches<3>,
    /// d, `[heads of keys]`.
    inner_decay: Option<Tensor<1>>,
    /// D, `[heads of keys]`.
    correction: Option<Tensor<1>>,
    beta: Beta,
    decay: Decay,
    output: Output,
}

impl Comba {
    /// The mixer of the weights of `source`: the projections, convolutions, decay and output of a
    /// [Gated DeltaNet](crate::delta_net::DeltaNet::read), and
    ///
    /// | name | shape |
    /// |---|---|
    /// | `decay`, d, with `inner_decay` | heads of keys |
    /// | `D`, with `output_correction` | heads of keys |
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Groups`] for heads that cannot share, [`spillway_ssm_core::Error::Value`] for a dimension of 0 or a negative ε;
    /// the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: CombaConfig, source: &mut S) -> Result<Self, S::Error> {
        let (model_dim, heads) = (config.model_dim, config.heads);
        expect::positive("width of a Comba mixer", &[model_dim])?;
        heads.validate()?;
        let plans = BranchPlan::of_heads(&heads, [Activation::Silu; 3]);
        let (count, groups) = (heads.count(), (heads.count(), heads.value_dim));
        let mut per_head = |there: bool, name: &str| {
            there
                .then(|| source.vector(name, heads.key, Init::Ones))
                .transpose()
        };
        Ok(Self {
            inner_decay: per_head(config.inner_decay, "decay")?,
            correction: per_head(config.output_correction, "D")?,
            branches: Branches::read(plans, model_dim, config.conv, source)?,
            beta: Beta::read([count, model_dim], true, false, source)?,
            decay: Decay::read(DecayConfig::PerHead, &heads, model_dim, source)?,
            output: Output::read(config.output, model_dim, groups, config.norm_eps, source)?,
            config,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> &CombaConfig {
        &self.config
    }

    fn site(&self, layer: usize) -> Site {
        let heads = &self.config.heads;
        Site {
            groups: heads.count(),
            ..DecayConfig::PerHead.site(heads, layer)
        }
    }

    /// q, k and p of every head of the recurrence, of length one, `[batch, time, heads, key_dim]`.
    fn directions(&self, query: Tensor<3>, key: Tensor<3>) -> Result<[Tensor<4>; 3]> {
        let heads = &self.config.heads;
        let [query, key] = [query, key].map(|rows| heads::split(rows, heads.key));
        let per_head = |numbers: &Tensor<1>| numbers.clone().reshape([1, 1, heads.key, 1]);
        let reader = match &self.inner_decay {
            Some(decay) => key.clone() * sigmoid(per_head(decay)),
            None => key.clone(),
        };
        let query = match &self.correction {
            Some(correction) => query - reader.clone() * per_head(correction),
            None => query,
        };
        let direction = |x: Tensor<4>| -> Result<Tensor<4>> {
            let shape @ [batch, time, count, dim] = x.dims();
            let rows = unit_length(x.reshape([batch, time, count * dim]), dim)?;
            Ok(heads::repeat(rows.reshape(shape), 2, heads.count() / heads.key))
        };
        Ok([direction(query)?, direction(key)?, direction(reader)?])
    }
}

impl Mixer for Comba {
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
        let [query, key, reader] = self.directions(query, key)?;
        let written = key * self.beta.of(&input)?.unsqueeze_dim::<4>(3);
        let gates = Gates {
            log_decay: self.decay.of(&input, heads)?,
            erase: Erase::LowRank {
                p: reader,
                b: written.clone().neg(),
            },
            scale: (heads.key_dim as f32).powf(-0.5),
            ..Gates::new(query, written, heads::split(value, heads.value))
        };
        let site = self.site(context.layer);
        let read_out = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        self.output.forward(read_out, input)
    }

    /// Operations of a token: 8 per state value (decay, what is held under p, what replaces it, read-out), and the branches'.
    fn flops_per_token(&self) -> u64 {
        let [_, heads, key_dim, value_dim] = self.site(0).state_shape(1);
        8 * (heads * key_dim * value_dim) as u64 + self.branches.flops_per_token()
    }
}

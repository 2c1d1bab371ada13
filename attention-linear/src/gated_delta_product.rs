//! Gated DeltaProduct: several steps of the delta rule for every token, so that its transition is a product of reflections.
//!
//! ```text
//! h ← a_t h_{t-1}          for j = 1 … n:  h ← h + β_{t,j} k_{t,j} (v_{t,j} − hᵀ k_{t,j})ᵀ          y_t = K^{-1/2} · q_tᵀ h
//! ```
//!
//! Queries, keys, values, β, decay and output are those of [Gated DeltaNet](crate::delta_net), n times as many of keys, values and β. With β
//! up to 2 a token may rotate the state. Source: Siems et al., *DeltaProduct: Improving state-tracking in linear RNNs via Householder
//! products* (2502.10297), section 3.
//!
//! For the recurrence a token is n steps, of which the first decays and the last is read. Interventions that count tokens count these steps.

use crate::delta_gates::{Beta, Decay, DecayConfig, unit_length};
use crate::expect;
use crate::heads::{self, Heads};
use crate::projection::{BranchPlan, Branches, Output, OutputConfig};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::intervention::Site;
use spillway_ssm_core::mixer::{Context, Mixer, MixerState};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::{Chain, Erase, Gates, LogDecay, Result, ShortConvConfig, WeightSource};

/// The configuration of a Gated DeltaProduct mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedDeltaProductConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Heads of queries, keys and values; as many of queries as of keys.
    pub heads: Heads,
    /// n, steps of the delta rule for a token.
    pub steps: usize,
    /// The convolutions of queries, keys and values.
    pub conv: Option<ShortConvConfig>,
    /// Whether the state decays.
    pub decays: bool,
    /// Whether β is doubled, so that a step may turn a direction around.
    pub negative_eigenvalues: bool,
    /// ε of the norm of the read-out, over the `value_dim` features of each head.
    pub norm_eps: f32,
    /// Gate and norm of the read-out.
    pub output: OutputConfig,
}

/// One Gated DeltaProduct mixer.
#[derive(Clone, Debug)]
pub struct GatedDeltaProduct {
    config: GatedDeltaProductConfig,
    branches: Branches<3>,
    beta: Beta,
    decay: Decay,
    output: Output,
}

impl GatedDeltaProduct {
    /// The mixer of the weights of `source`, named as those of a [Gated DeltaNet](crate::delta_net::DeltaNet::read). `k_proj`, `v_proj`, their
    /// convolutions and `b_proj` have n times the rows: all heads of the first step, then all heads of the second.
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Groups`] for heads that cannot share, [`spillway_ssm_core::Error::Value`] for a dimension of 0 or a negative ε;
    /// the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: GatedDeltaProductConfig, source: &mut S) -> Result<Self, S::Error> {
        let (model_dim, heads, steps) = (config.model_dim, config.heads, config.steps);
        expect::positive("width and steps of a DeltaProduct mixer", &[model_dim, steps])?;
        heads.validate()?;
        let [query, mut key, mut value] = BranchPlan::of_heads(&heads, [Activation::Silu; 3]);
        key.channels *= steps;
        value.channels *= steps;
        let (count, groups) = (heads.count(), (heads.count(), heads.value_dim));
        Ok(Self {
            branches: Branches::read([query, key, value], model_dim, config.conv, source)?,
            beta: Beta::read(
                [steps * count, model_dim],
                true,
                config.negative_eigenvalues,
                source,
            )?,
            decay: Decay::read(config.decay(), &heads, model_dim, source)?,
            output: Output::read(config.output, model_dim, groups, config.norm_eps, source)?,
            config,
        })
    }

    /// The configuration that the mixer was read with.
    pub fn config(&self) -> &GatedDeltaProductConfig {
        &self.config
    }

    fn site(&self, layer: usize) -> Site {
        self.config.decay().site(&self.config.heads, layer)
    }

    /// Rows of a token and all its steps as steps of heads, `[batch, time · steps, heads, dim]`.
    fn steps(&self, rows: Tensor<3>, heads: usize) -> Tensor<4> {
        let [batch, time, width] = rows.dims();
        let steps = self.config.steps;
        rows.reshape([batch, time * steps, heads, width / (steps * heads)])
    }

    /// A token's rows at one of its steps, zeros at the others.
    fn at_step(&self, rows: Tensor<3>, step: usize) -> Tensor<3> {
        let [batch, time, width] = rows.dims();
        let (device, steps) = (rows.device(), self.config.steps);
        let none = |count: usize| Tensor::zeros([batch, time, count, width], &device);
        let mut parts = vec![rows.unsqueeze_dim::<4>(2)];
        if step > 0 {
            parts.insert(0, none(step));
        }
        if step + 1 < steps {
            parts.push(none(steps - step - 1));
        }
        Tensor::cat(parts, 2).reshape([batch, time * steps, width])
    }

    fn gates(&self, input: &Tensor<3>, [query, key, value]: [Tensor<3>; 3]) -> Result<Gates> {
        let GatedDeltaProductConfig { heads, steps, .. } = &self.config;
        let [batch, time, _] = input.dims();
        let query = unit_length(query, heads.key_dim)?;
        let key = unit_length(key, heads.key_dim)?;
        let beta = self.beta.of(input)?;
        Ok(Gates {
            log_decay: match self.decay.of(input, heads)? {
                LogDecay::PerHeadToken(of_token) => LogDecay::PerHeadToken(self.at_step(of_token, 0)),
                other => other,
            },
            erase: Erase::Delta(beta.reshape([batch, time * steps, heads.count()])),
            scale: (heads.key_dim as f32).powf(-0.5),
            ..Gates::new(
                heads::split(self.at_step(query, steps - 1), heads.query),
                self.steps(key, heads.key),
                self.steps(value, heads.value),
            )
        })
    }
}

impl GatedDeltaProductConfig {
    fn decay(&self) -> DecayConfig {
        match self.decays {
            true => DecayConfig::PerHead,
            false => DecayConfig::None,
        }
    }
}

impl Mixer for GatedDeltaProduct {
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
        let [batch, time, _] = input.dims();
        if time == 0 {
            return Ok(input);
        }
        let state = state.recurrent()?;
        let branches = self.branches.forward(&input, state)?;
        let gates = self.gates(&input, branches)?;
        let (site, steps) = (self.site(context.layer), self.config.steps);
        let recurrence = state.recurrence(0)?;
        // The state says how many tokens it has seen; while it runs, how many steps.
        recurrence.state.position *= steps as u64;
        let read_outs = context.chain.run(&site, gates, recurrence, context.chunking)?;
        recurrence.state.position /= steps as u64;
        let [.., heads, value_dim] = read_outs.dims();
        let read_outs: Tensor<5> = read_outs.reshape([batch, time, steps, heads, value_dim]);
        let last = read_outs.narrow(2, steps - 1, 1);
        self.output
            .forward(last.reshape([batch, time, heads, value_dim]), input)
    }

    /// Operations of a token: 8 per state value and step (decay, what is held under k, what replaces it, read-out), and the branches'.
    fn flops_per_token(&self) -> u64 {
        let [_, heads, key_dim, value_dim] = self.site(0).state_shape(1);
        8 * (self.config.steps * heads * key_dim * value_dim) as u64 + self.branches.flops_per_token()
    }
}

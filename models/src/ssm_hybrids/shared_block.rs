//! The block of attention and MLP that Zamba and Zamba2 have once, or a few times, for many layers.
//!
//! With r the residual stream, e the embeddings of the tokens and y = block([r; e]):
//!
//! ```text
//! block(x):  MLP(norm(attention(norm(x))))        nothing is added to its input or within
//! r ← r + mamba(norm(r + W y))
//! ```
//!
//! The weights of the block are the same wherever it stands. What a place adds of its own are W, Mamba's weights, and in Zamba2 adapters
//! of low rank beside the first projection of the MLP, and perhaps beside those to queries, keys and values.
//!
//! Source: Glorioso et al., *Zamba* (2405.16712), section 2, and *Zamba2* (2411.15242).

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use spillway_attention_linear::gated_mlp::GatedMlp;
use spillway_attention_linear::softmax_attention::SoftmaxAttention;
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic, gated_norm};
use spillway_ssm_core::{Chain, Context, Error, Init, Linear, Mixer, MixerState, Result, Site, WeightSource};

use crate::error::ModelError;
use crate::loader::Loader;

/// RMSNorm over all channels of a token: x / √(mean x² + ε) times the weights.
#[derive(Clone, Debug)]
pub(super) struct RmsNorm {
    weight: Tensor<1>,
    eps: f32,
}

impl RmsNorm {
    /// Reads a norm of `width` channels, whose weights are the tensor `NAME.weight`.
    pub(super) fn read(
        loader: &mut Loader<'_>,
        name: &str,
        width: usize,
        eps: f32,
    ) -> std::result::Result<Self, ModelError> {
        Ok(Self {
            weight: loader.vector(&format!("{name}.weight"), width, Init::Ones)?,
            eps,
        })
    }

    fn of(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        let plan = NormPlan {
            statistic: Statistic::MeanSquare,
            eps: self.eps,
            group_size: input.dims()[2],
            order: GateOrder::NormAfterGate,
        };
        let weights = NormWeights {
            weight: Some(self.weight.clone()),
            ..NormWeights::default()
        };
        gated_norm(input, weights, plan)
    }
}

/// The weights that all places have in common.
#[derive(Debug)]
pub(super) struct SharedBlock {
    /// Norm of r and e side by side, before the attention.
    pub(super) input_norm: RmsNorm,
    pub(super) attention: SoftmaxAttention,
    pub(super) mlp_norm: RmsNorm,
    pub(super) mlp: GatedMlp,
}

/// An adapter of low rank, x ↦ W₂ W₁ x, held as W₁ and W₂.
#[derive(Clone, Debug)]
pub(super) struct Adapter(pub(super) [Linear; 2]);

impl Adapter {
    /// `NAME.0`, rank × `in_features`, and `NAME.1`, `out_features` × rank.
    pub(super) fn read(
        loader: &mut Loader<'_>,
        name: &str,
        [in_features, rank, out_features]: [usize; 3],
    ) -> std::result::Result<Self, ModelError> {
        Ok(Self([
            loader.linear(&format!("{name}.0"), [rank, in_features], false)?,
            loader.linear(&format!("{name}.1"), [out_features, rank], false)?,
        ]))
    }

    fn apply(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        self.0[1].forward(self.0[0].forward(input)?)
    }
}

/// A layer with the shared block and Mamba; what it is given is r itself.
#[derive(Clone, Debug)]
pub(super) struct HybridLayer {
    pub(super) block: Arc<SharedBlock>,
    /// This place's adapter beside the first projection of the MLP, if it has one.
    pub(super) mlp_adapter: Option<Adapter>,
    /// This place's adapters beside the projections to queries, keys and values, if it has them.
    pub(super) attention_adapters: Option<[Adapter; 3]>,
    /// W of this place, which multiplies the shared block's result y.
    pub(super) linear: Linear,
    pub(super) norm: RmsNorm,
    pub(super) mamba: Arc<dyn Mixer>,
}

impl HybridLayer {
    /// The shared block's result `y = block([r; e])` at this place, where r is `residual` and e the embeddings.
    fn block(
        &self,
        residual: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let embedded = context.shared.embedded.clone().ok_or_else(|| Error::Value {
            what: "embeddings of the tokens",
            expected: "there for layers that read them",
            found: "nothing".into(),
        })?;
        let joined = self
            .block
            .input_norm
            .of(Tensor::cat(vec![residual, embedded], 2))?;
        let added = match &self.attention_adapters {
            None => None,
            Some(adapters) => {
                let parts = adapters.iter().map(|adapter| adapter.apply(joined.clone()));
                Some(Tensor::cat(parts.collect::<Result<_>>()?, 2))
            }
        };
        let attended = self.block.attention.attend(joined, added, state, context)?;
        let normed = self.block.mlp_norm.of(attended)?;
        let [up_and_gate, down] = self.block.mlp.projections();
        let mut both = up_and_gate.forward(normed.clone())?;
        if let Some(adapter) = &self.mlp_adapter {
            both = both + adapter.apply(normed)?;
        }
        down.forward(self.block.mlp.gated(both)?)
    }
}

impl Mixer for HybridLayer {
    fn sites(&self, layer: usize) -> Vec<Site> {
        self.mamba.sites(layer)
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        MixerState::Several(vec![
            self.block.attention.start(layer, batch, chain, device),
            self.mamba.start(layer, batch, chain, device),
        ])
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let [of_attention, of_mamba] = state.parts::<2>()?;
        let block = self.block(input.clone(), of_attention, context)?;
        let normed = self.norm.of(input + self.linear.forward(block)?)?;
        self.mamba.forward(normed, of_mamba, context)
    }

    fn reads_embedding(&self) -> bool {
        true
    }

    fn flops_per_token(&self) -> u64 {
        self.mamba.flops_per_token()
    }

    fn cache_bytes_per_token(&self) -> u64 {
        self.block.attention.cache_bytes_per_token()
    }
}

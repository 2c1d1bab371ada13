//! The mixtures of experts of Qwen Team: a softmax chooses, and one more expert reads every token, behind a gate.
//!
//! ```text
//! out = Σ_{e chosen} w_e expert_e(x) + σ(W_s x) shared(x)
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `num_experts`, `num_experts_per_tok` | experts, and how many of them a token goes to |
//! | `moe_intermediate_size`, `shared_expert_intermediate_size` | width of an expert, and of the shared one |
//!
//! Tensors of `mlp`: `gate`, the router; `experts`, in either of two forms; `shared_expert.{gate,up,down}_proj` and `shared_expert_gate`.

use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::mixture::{
    Expert, ExpertTensors, Mixture, MixtureConfig, RouterConfig, Scores,
};
use spillway_ssm_core::WeightSource;

use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::loader::Loader;

/// The experts of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Experts {
    mixture: MixtureConfig,
    shared: GatedMlpConfig,
}

impl Experts {
    /// Reads the fields; how weights follow from logits, and where the tensors are, is the architecture's.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] for a field of the wrong type or more experts of a token than there are.
    pub(crate) fn new(
        fields: &Fields<'_>,
        model_dim: usize,
        scores: Scores,
        tensors: ExpertTensors,
    ) -> Result<Self, CheckpointError> {
        let experts = fields.dimension("num_experts")?;
        let chosen = fields.dimension("num_experts_per_tok")?;
        if chosen > experts {
            let expected = format!("at most the {experts} experts that there are");
            return Err(fields.wrong("num_experts_per_tok", &expected, Some(&chosen.into())));
        }
        Ok(Self {
            mixture: MixtureConfig {
                router: RouterConfig {
                    model_dim,
                    experts,
                    chosen,
                    scores,
                },
                expert_dim: model_dim,
                hidden_dim: fields.dimension_or("moe_intermediate_size", 512)?,
                experts: tensors,
            },
            shared: GatedMlpConfig {
                model_dim,
                hidden_dim: fields.dimension_or("shared_expert_intermediate_size", 512)?,
                up_gate_bias: false,
                down_bias: false,
            },
        })
    }

    /// The mixture of the layer whose tensors are below `name`.
    pub(crate) fn read(&self, loader: &mut Loader<'_>, name: &str) -> Result<Mixture, ModelError> {
        let name = format!("{name}.mlp");
        let names = &[("router", "gate")];
        let mixture = Mixture::read(self.mixture, &mut loader.below(name.clone(), names))?;
        let shared = format!("{name}.shared_expert");
        let shared = GatedMlp::read(self.shared, &mut loader.below(shared, &[]))?;
        let gate = format!("{name}.shared_expert_gate");
        let gate = loader.linear(&gate, [1, self.shared.model_dim], false)?;
        Ok(mixture.with_shared(Expert::Gated(shared), Some(gate)))
    }

    /// What there is to say about them, by name.
    pub(crate) fn details(&self) -> [(&'static str, String); 3] {
        let router = &self.mixture.router;
        [
            ("experts", router.experts.to_string()),
            ("experts of a token", router.chosen.to_string()),
            ("width of an expert", self.mixture.hidden_dim.to_string()),
        ]
    }
}

//! A mixture of experts: a channel mixer of many, of which every token goes through a few.
//!
//! ```text
//! out = Σ_{e chosen} w_e expert_e(x)  (+ shared(x), perhaps times σ(W_s x))        w, chosen: see [`RouterConfig`]
//! ```
//!
//! Tokens are gathered by their experts, so that an expert is one product over the tokens that chose it, and one that no token
//! chose is not read at all. Every expert is a [`GatedMlp`] or [`Mlp`] with packed weights of its own, whether a checkpoint stores them
//! one by one or all in one tensor. Gradients go through the experts and the weights; the choice itself has none.
//!
//! Source: Shazeer et al., *Outrageously large neural networks* (1701.06538).

mod router;

pub use router::{RouterConfig, Scores};

use crate::expect;
use crate::gated_mlp::{GatedMlp, GatedMlpConfig, RowOrder};
use crate::mlp::{Mlp, MlpActivation, MlpConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use router::{Router, Routes};
use spillway_ssm_core::operators::pointwise::sigmoid;
use spillway_ssm_core::{Chain, Context, Linear, Mixer, MixerState, Result, WeightSource};

/// The configuration of a mixture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixtureConfig {
    /// The router, which chooses the experts that a token goes to.
    pub router: RouterConfig,
    /// Width of what experts read and give: `model_dim`, but where they stand between [projections](Mixture::within).
    pub expert_dim: usize,
    /// Width between an expert's projections.
    pub hidden_dim: usize,
    /// What an expert is, and where its tensors are.
    pub experts: ExpertTensors,
}

/// What an expert is, and where its tensors are; none has biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertTensors {
    /// A [`GatedMlp`] with a SiLU, its tensors below `experts.e`; pairs of its own name of a tensor and the source's.
    Gated(&'static [(&'static str, &'static str)]),
    /// An [`Mlp`] with a squared ReLU, likewise.
    SquaredRelu(&'static [(&'static str, &'static str)]),
    /// A [`GatedMlp`] with a SiLU; all are in two tensors, of these names: W_gate and W_up `[experts, 2 · hidden_dim, expert_dim]`,
    /// rows of the gate first, and W_down `[experts, expert_dim, hidden_dim]`.
    Joined {
        /// Name of the tensor of W_gate and W_up.
        gate_up: &'static str,
        /// Name of the tensor of W_down.
        down: &'static str,
    },
}

/// A channel mixer without a state, as experts and what stands beside them are.
#[derive(Clone, Debug)]
pub enum Expert {
    /// A channel mixer with a gate.
    Gated(GatedMlp),
    /// A channel mixer without a gate.
    Plain(Mlp),
}

impl Expert {
    /// `[batch, time, width]` to the same shape.
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Shape`] when the input is of another width.
    pub fn apply(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        match self {
            Self::Gated(mlp) => mlp.apply(input),
            Self::Plain(mlp) => mlp.apply(input),
        }
    }
}

/// A mixture of experts; it carries nothing from token to token.
#[derive(Clone, Debug)]
pub struct Mixture {
    config: MixtureConfig,
    router: Router,
    experts: Vec<Expert>,
    /// Projections around all experts but the shared one: from `model_dim` to `expert_dim`, and back.
    projections: Option<[Linear; 2]>,
    shared: Option<Expert>,
    shared_gate: Option<Linear>,
}

impl Mixture {
    /// The mixture of the weights of `source`: `router.weight` and of sigmoids `router.bias`, see [`RouterConfig`], and the experts, see
    /// [`ExpertTensors`].
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a dimension of 0, or for more experts or groups chosen than there are; the source's for a tensor
    /// that is missing or of another shape.
    pub fn read<S: WeightSource>(config: MixtureConfig, source: &mut S) -> Result<Self, S::Error> {
        let dims = [config.expert_dim, config.hidden_dim];
        expect::positive("dimensions of a mixture of experts", &dims)?;
        let router = Router::read(config.router, source)?;
        let RouterConfig { experts, chosen, .. } = config.router;
        source.set_share(chosen, experts);
        let below = |expert: usize| format!("experts.{expert}");
        let read: Result<Vec<Expert>, S::Error> = match config.experts {
            ExpertTensors::Gated(names) => (0..experts)
                .map(|expert| config.gated_expert(&mut source.below(below(expert), names)))
                .collect(),
            ExpertTensors::SquaredRelu(names) => (0..experts)
                .map(|expert| config.plain_expert(&mut source.below(below(expert), names)))
                .collect(),
            ExpertTensors::Joined { gate_up, down } => config.joined(gate_up, down, source),
        };
        source.set_share(1, 1);
        Ok(Self {
            config,
            router,
            experts: read?,
            projections: None,
            shared: None,
            shared_gate: None,
        })
    }

    /// The mixture with an expert that every token goes through, times σ of a projection to one value where there is one.
    pub fn with_shared(self, shared: Expert, gate: Option<Linear>) -> Self {
        Self {
            shared: Some(shared),
            shared_gate: gate,
            ..self
        }
    }

    /// The mixture with its experts, but for the shared one, between two projections: from `model_dim` to `expert_dim` and back.
    pub fn within(self, projections: [Linear; 2]) -> Self {
        Self {
            projections: Some(projections),
            ..self
        }
    }

    /// The configuration that the mixture was read with.
    pub fn config(&self) -> MixtureConfig {
        self.config
    }

    /// `[batch, time, model_dim]` to the same shape.
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Shape`] when the input is of another width.
    pub fn apply(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        let [batch, time, width] = input.dims();
        if batch * time == 0 {
            return Ok(input);
        }
        let tokens: Tensor<3> = input.reshape([1, batch * time, width]);
        let routes = self.router.route(tokens.clone())?;
        let mut out = match &self.projections {
            None => self.routed(tokens.clone(), routes)?,
            Some([to, from]) => from.forward(self.routed(to.forward(tokens.clone())?, routes)?)?,
        };
        if let Some(shared) = &self.shared {
            let mut beside = shared.apply(tokens.clone())?;
            if let Some(gate) = &self.shared_gate {
                beside = beside * sigmoid(gate.forward(tokens)?);
            }
            out = out + beside;
        }
        Ok(out.reshape([batch, time, width]))
    }

    /// The weighted sum of the chosen experts of `[1, tokens, expert_dim]`.
    fn routed(&self, tokens: Tensor<3>, routes: Routes) -> Result<Tensor<3>> {
        let [_, count, width] = tokens.dims();
        let (chosen, device) = (self.config.router.chosen, tokens.device());
        let gathering = Gathering::of(&routes.experts, chosen, self.experts.len());
        let mut outputs = Vec::new();
        for (expert, rows) in self.experts.iter().zip(&gathering.rows) {
            if rows.is_empty() {
                continue;
            }
            let own = tokens.clone().select(1, indices(rows, &device));
            outputs.push(expert.apply(own)?);
        }
        let outputs: Tensor<2> = Tensor::cat(outputs, 1).reshape([count * chosen, width]);
        let by_token: Tensor<3> = outputs
            .select(0, indices(&gathering.places, &device))
            .reshape([count, chosen, width]);
        let weighted = by_token * routes.weights.unsqueeze_dim::<3>(2);
        Ok(weighted.sum_dim(1).reshape([1, count, width]))
    }
}

impl MixtureConfig {
    fn gated(&self) -> GatedMlpConfig {
        GatedMlpConfig {
            model_dim: self.expert_dim,
            hidden_dim: self.hidden_dim,
            up_gate_bias: false,
            down_bias: false,
        }
    }

    fn gated_expert<S: WeightSource>(&self, source: &mut S) -> Result<Expert, S::Error> {
        Ok(Expert::Gated(GatedMlp::read(self.gated(), source)?))
    }

    fn plain_expert<S: WeightSource>(&self, source: &mut S) -> Result<Expert, S::Error> {
        let config = MlpConfig {
            model_dim: self.expert_dim,
            hidden_dim: self.hidden_dim,
            activation: MlpActivation::SquaredRelu,
            bias: false,
        };
        Ok(Expert::Plain(Mlp::read(config, source)?))
    }

    fn joined<S: WeightSource>(
        &self,
        gate_up: &str,
        down: &str,
        source: &mut S,
    ) -> Result<Vec<Expert>, S::Error> {
        let (count, width, hidden) = (self.router.experts, self.expert_dim, self.hidden_dim);
        let both = source.matrices(gate_up, [count, 2 * hidden, width])?;
        let down = source.matrices(down, [count, width, hidden])?;
        let experts = both.into_iter().zip(down);
        let expert =
            |(both, down)| Expert::Gated(GatedMlp::of(self.gated(), RowOrder::GateFirst, [both, down]));
        Ok(experts.map(expert).collect())
    }
}

/// Which tokens every expert reads, and where a token finds what its experts give of it.
struct Gathering {
    /// The tokens of every expert, in ascending order.
    rows: Vec<Vec<usize>>,
    /// For every choice of every token its row among the outputs of all experts, one expert's after another's.
    places: Vec<usize>,
}

impl Gathering {
    /// `experts` are those of every token, `chosen` of them, one token's after another's.
    fn of(experts: &[usize], chosen: usize, count: usize) -> Self {
        let mut rows = vec![Vec::new(); count];
        let mut within = Vec::with_capacity(experts.len());
        for (choice, &expert) in experts.iter().enumerate() {
            within.push(rows[expert].len());
            rows[expert].push(choice / chosen);
        }
        let first: Vec<usize> = rows
            .iter()
            .scan(0, |end, rows: &Vec<usize>| {
                let first = *end;
                *end += rows.len();
                Some(first)
            })
            .collect();
        let places = experts.iter().zip(within);
        Self {
            places: places.map(|(&expert, row)| first[expert] + row).collect(),
            rows,
        }
    }
}

fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}

impl Mixer for Mixture {
    fn start(&self, _layer: usize, _batch: usize, _chain: &Chain, _device: &Device) -> MixerState {
        MixerState::Stateless
    }

    fn forward(
        &self,
        input: Tensor<3>,
        _state: &mut MixerState,
        _context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        self.apply(input)
    }

    /// Multiplications and additions of the router's product W x: 2 for each expert and feature.
    fn flops_per_token(&self) -> u64 {
        2 * (self.config.router.experts * self.config.router.model_dim) as u64
    }
}

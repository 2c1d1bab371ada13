//! What stands before and after the recurrence of most mixers of this line.
//!
//! ```text
//! before:  act(conv(W x)), the short convolution where a model has one
//! after:   W_out (norm(y) ∘ act(W_gate x)), the gate where a model has one
//! ```

use crate::expect;
use crate::heads::Heads;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::mixer::{MixerState, RecurrentState};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::operators::pointwise::{sigmoid_gate, silu};
use spillway_ssm_core::operators::{gated_norm, split};
use spillway_ssm_core::{Chain, Init, Linear, Result, ShortConv, ShortConvConfig, Site, WeightSource};

/// What is expected of a branch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BranchPlan {
    /// The letter before `_proj` and `_conv1d`.
    pub name: &'static str,
    pub channels: usize,
    /// After the convolution, or after the projection where there is none.
    pub activation: Activation,
}

impl BranchPlan {
    /// The projections to queries, keys and values, and what each ends in.
    pub(crate) fn of_heads(heads: &Heads, activations: [Activation; 3]) -> [Self; 3] {
        let [query, key, value] = heads.widths();
        let [of_query, of_key, of_value] = activations;
        let branch = |name, channels, activation| Self {
            name,
            channels,
            activation,
        };
        [
            branch("q", query, of_query),
            branch("k", key, of_key),
            branch("v", value, of_value),
        ]
    }
}

/// A projection, with a short convolution after it where the model has one.
#[derive(Clone, Debug)]
struct Branch {
    linear: Linear,
    conv: Option<ShortConv>,
    activation: Activation,
}

impl Branch {
    /// `NAME_proj` and, with a convolution, `NAME_conv1d`.
    fn read<S: WeightSource>(
        plan: BranchPlan,
        model_dim: usize,
        conv: Option<ShortConvConfig>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let BranchPlan {
            name,
            channels,
            activation,
        } = plan;
        Ok(Self {
            linear: source.linear(&format!("{name}_proj"), [channels, model_dim], false)?,
            conv: match conv {
                Some(conv) => {
                    let name = format!("{name}_conv1d");
                    Some(ShortConv::read(conv, channels, source, &name)?)
                }
                None => None,
            },
            activation,
        })
    }
}

/// Projections of the same input.
#[derive(Clone, Debug)]
pub(crate) struct Branches<const N: usize>([Branch; N]);

impl Branches<3> {
    /// Projections to queries, keys and values; a convolution ends in a SiLU, and without one they are taken as they are.
    pub(crate) fn query_key_value<S: WeightSource>(
        heads: &Heads,
        model_dim: usize,
        conv: Option<ShortConvConfig>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let activation = match conv {
            Some(_) => Activation::Silu,
            None => Activation::None,
        };
        Self::read(
            BranchPlan::of_heads(heads, [activation; 3]),
            model_dim,
            conv,
            source,
        )
    }
}

/// Projections of one input to queries, keys and values.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one of these exists per layer; a box would cost more"
)]
pub(crate) enum QueryKeyValue {
    /// Three projections, perhaps with a convolution each.
    Separate(Branches<3>),
    /// One projection and one convolution of the rows of queries, then those of keys, then those of values.
    Joint { branch: Branches<1>, widths: [usize; 3] },
}

impl QueryKeyValue {
    /// `qkv_proj` and, with a convolution, `qkv_conv1d`, which end in a SiLU.
    pub(crate) fn joint<S: WeightSource>(
        heads: &Heads,
        model_dim: usize,
        conv: Option<ShortConvConfig>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let widths = heads.widths();
        let plan = BranchPlan {
            name: "qkv",
            channels: widths.iter().sum(),
            activation: Activation::Silu,
        };
        Ok(Self::Joint {
            branch: Branches::read([plan], model_dim, conv, source)?,
            widths,
        })
    }

    /// As [`Branches::start`]: what a mixer of these projections carries before the first token.
    pub(crate) fn start(&self, sites: &[Site], batch: usize, chain: &Chain, device: &Device) -> MixerState {
        match self {
            Self::Separate(branches) => branches.start(sites, batch, chain, device),
            Self::Joint { branch, .. } => branch.start(sites, batch, chain, device),
        }
    }

    /// Queries, keys and values of `input` `[batch, time, model_dim]`, as [`Branches::forward`].
    pub(crate) fn forward(&self, input: &Tensor<3>, state: &mut RecurrentState) -> Result<[Tensor<3>; 3]> {
        match self {
            Self::Separate(branches) => branches.forward(input, state),
            Self::Joint { branch, widths } => {
                let [joined] = branch.forward(input, state)?;
                split(joined, *widths)
            }
        }
    }

    /// As [`Branches::flops_per_token`]: multiplications and additions of the convolutions for one token.
    pub(crate) fn flops_per_token(&self) -> u64 {
        match self {
            Self::Separate(branches) => branches.flops_per_token(),
            Self::Joint { branch, .. } => branch.flops_per_token(),
        }
    }
}

impl<const N: usize> Branches<N> {
    pub(crate) fn read<S: WeightSource>(
        plans: [BranchPlan; N],
        model_dim: usize,
        conv: Option<ShortConvConfig>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let branches = plans.map(|plan| Branch::read(plan, model_dim, conv, source));
        let branches = branches.into_iter().collect::<Result<Vec<_>, _>>()?;
        let Ok(branches) = branches.try_into() else {
            unreachable!("one branch per plan");
        };
        Ok(Self(branches))
    }

    /// What a mixer of these branches and one or more recurrences carries before the first token.
    pub(crate) fn start(&self, sites: &[Site], batch: usize, chain: &Chain, device: &Device) -> MixerState {
        let convs = self.0.iter().filter_map(|branch| branch.conv.as_ref());
        let conv_states = convs.map(|conv| conv.start(batch, device)).collect();
        MixerState::Recurrent(RecurrentState::start(conv_states, sites, chain, batch, device))
    }

    /// `[batch, time, model_dim]` to `[batch, time, channels]` of every branch.
    pub(crate) fn forward(&self, input: &Tensor<3>, state: &mut RecurrentState) -> Result<[Tensor<3>; N]> {
        let mut convolutions = 0;
        let mut outputs = Vec::with_capacity(N);
        for branch in &self.0 {
            let projected = branch.linear.forward(input.clone())?;
            outputs.push(match (&branch.conv, branch.activation) {
                (Some(conv), activation) => {
                    convolutions += 1;
                    conv.forward(projected, activation, state.conv_state(convolutions - 1)?)?
                }
                (None, Activation::Silu) => silu(projected),
                (None, Activation::None) => projected,
            });
        }
        let Ok(outputs) = outputs.try_into() else {
            unreachable!("one output per branch");
        };
        Ok(outputs)
    }

    /// Multiplications and additions of the convolutions for one token.
    pub(crate) fn flops_per_token(&self) -> u64 {
        let convs = self.0.iter().filter_map(|branch| branch.conv.as_ref());
        convs.map(ShortConv::flops_per_token).sum()
    }
}

/// A projection through one matrix, or through two with a narrow layer between them.
#[derive(Clone, Debug)]
pub(crate) struct Factored {
    down: Option<Linear>,
    up: Linear,
}

impl Factored {
    /// `NAME`, `out` × `in`; with a rank `NAME.0`, rank × `in`, and `NAME.1`, `out` × rank. The last of them may have a bias.
    pub(crate) fn read<S: WeightSource>(
        name: &str,
        [outputs, inputs]: [usize; 2],
        rank: Option<usize>,
        bias: bool,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        Ok(match rank {
            None => Self {
                down: None,
                up: source.linear(name, [outputs, inputs], bias)?,
            },
            Some(rank) => Self {
                down: Some(source.linear(&format!("{name}.0"), [rank, inputs], false)?),
                up: source.linear(&format!("{name}.1"), [outputs, rank], bias)?,
            },
        })
    }

    pub(crate) fn forward(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        match &self.down {
            Some(down) => self.up.forward(down.forward(input)?),
            None => self.up.forward(input),
        }
    }
}

/// What stands after a recurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputConfig {
    /// The gate, where there is one.
    pub gate: Option<GateConfig>,
    /// Whether the norm has a weight.
    pub norm_weight: bool,
}

/// The gate of a read-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateConfig {
    /// What its projection goes through before it multiplies.
    pub activation: GateActivation,
    /// Features between two projections in the place of one; `None` is one.
    pub rank: Option<usize>,
    /// Whether the projection, or the second of them, has a bias.
    pub bias: bool,
}

impl GateConfig {
    /// SiLU(W_gate x), the gate of most models.
    pub const SILU: Self = Self {
        activation: GateActivation::Silu,
        rank: None,
        bias: false,
    };
}

/// What a gate goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateActivation {
    /// SiLU: x σ(x).
    Silu,
    /// The sigmoid, σ(x).
    Sigmoid,
}

/// Norm, gate and projection after a recurrence.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    plan: NormPlan,
    gate: Option<(GateActivation, Factored)>,
    /// Weight of the norm, `[width]`: the same for every group of features that is normalised on its own.
    norm: Option<Tensor<1>>,
    out: Linear,
}

impl Output {
    /// For read-outs of `groups` × `group_size` features, which are the width: `g_proj` (width × `model_dim`, or two matrices
    /// `g_proj.0` and `g_proj.1` by way of a rank), `g_norm.weight` (`group_size`) and `o_proj` (`model_dim` × width).
    pub(crate) fn read<S: WeightSource>(
        config: OutputConfig,
        model_dim: usize,
        (groups, group_size): (usize, usize),
        eps: f32,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        expect::epsilon(eps)?;
        let width = groups * group_size;
        let mut gate = |gate: GateConfig| {
            let projection = Factored::read("g_proj", [width, model_dim], gate.rank, gate.bias, source)?;
            Ok::<_, S::Error>((gate.activation, projection))
        };
        Ok(Self {
            plan: NormPlan {
                statistic: Statistic::MeanSquare,
                eps,
                group_size,
                order: GateOrder::NormBeforeGate,
            },
            gate: config.gate.map(&mut gate).transpose()?,
            norm: match config.norm_weight {
                true => {
                    let weight = source.vector("g_norm.weight", group_size, Init::Ones)?;
                    Some(weight.repeat(&[groups]))
                }
                false => None,
            },
            out: source.linear("o_proj", [model_dim, width], false)?,
        })
    }

    /// `read_out` `[batch, time, heads, value_dim]` and the mixer's input to the mixer's output.
    pub(crate) fn forward(&self, read_out: Tensor<4>, input: Tensor<3>) -> Result<Tensor<3>> {
        let [batch, time, heads, value_dim] = read_out.dims();
        let read_out = read_out.reshape([batch, time, heads * value_dim]);
        let normed = |gate| {
            let weights = NormWeights {
                gate,
                weight: self.norm.clone(),
                bias: None,
            };
            gated_norm(read_out, weights, self.plan)
        };
        self.out.forward(match &self.gate {
            None => normed(None)?,
            Some((GateActivation::Silu, gate)) => normed(Some(gate.forward(input)?))?,
            Some((GateActivation::Sigmoid, gate)) => sigmoid_gate(gate.forward(input)?, normed(None)?),
        })
    }
}

//! What stands before and after the recurrence of most mixers of this line.
//!
//! ```text
//! before:  act(conv(W x)), the short convolution where a model has one
//! after:   W_out (norm(y) ∘ SiLU(W_gate x)), the gate where a model has one
//! ```

use crate::expect;
use burn::tensor::{Device, Tensor};
use ssm_core::mixer::RecurrentState;
use ssm_core::operators::causal_conv1d::Activation;
use ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use ssm_core::operators::pointwise::silu;
use ssm_core::operators::{causal_conv1d, gated_norm};
use ssm_core::{Linear, Result, Sequences};

/// The weights of a short convolution.
#[derive(Clone, Debug)]
pub struct ConvWeights {
    /// `[channels, width]`, the last tap meeting the current token.
    pub weight: Tensor<2>,
    /// `[channels]`.
    pub bias: Option<Tensor<1>>,
}

/// A projection, with a short convolution after it where the model has one.
#[derive(Clone, Debug)]
pub struct BranchWeights {
    /// `[channels, model_dim]`.
    pub linear: Linear,
    /// Over the channels.
    pub conv: Option<ConvWeights>,
}

impl From<Linear> for BranchWeights {
    fn from(linear: Linear) -> Self {
        Self { linear, conv: None }
    }
}

/// What is expected of a branch.
pub(crate) struct BranchPlan {
    /// In messages.
    pub what: &'static str,
    pub channels: usize,
    /// After the convolution, or after the projection where there is none.
    pub activation: Activation,
}

impl BranchPlan {
    /// A branch whose convolution ends in a SiLU; without one the projection is taken as it is.
    pub(crate) fn silu_after_conv(what: &'static str, channels: usize, weights: &BranchWeights) -> Self {
        let activation = match weights.conv {
            Some(_) => Activation::Silu,
            None => Activation::None,
        };
        Self {
            what,
            channels,
            activation,
        }
    }
}

#[derive(Clone, Debug)]
struct Branch {
    weights: BranchWeights,
    activation: Activation,
}

/// Projections of the same input.
#[derive(Clone, Debug)]
pub(crate) struct Branches<const N: usize>([Branch; N]);

impl<const N: usize> Branches<N> {
    pub(crate) fn new(model_dim: usize, plans: [BranchPlan; N], weights: [BranchWeights; N]) -> Result<Self> {
        for (plan, weights) in plans.iter().zip(&weights) {
            expect::projection(plan.what, &weights.linear, plan.channels, model_dim)?;
            let Some(conv) = &weights.conv else { continue };
            let [_, width] = conv.weight.dims();
            expect::positive("taps of a short convolution", &[width])?;
            expect::shape(
                "weight of a short convolution",
                &[plan.channels, width],
                &conv.weight.dims(),
            )?;
            if let Some(bias) = &conv.bias {
                expect::shape("bias of a short convolution", &[plan.channels], &bias.dims())?;
            }
        }
        let mut activations = plans.map(|plan| plan.activation).into_iter();
        Ok(Self(weights.map(|weights| Branch {
            weights,
            // One plan for each of the weights, by type.
            activation: activations.next().unwrap_or(Activation::None),
        })))
    }

    /// The states of the convolutions that there are.
    pub(crate) fn start(&self, batch: usize, device: &Device) -> Vec<Tensor<3>> {
        let convs = self.0.iter().filter_map(|branch| branch.weights.conv.as_ref());
        convs
            .map(|conv| {
                let [channels, width] = conv.weight.dims();
                Tensor::zeros([batch, channels, width - 1], device)
            })
            .collect()
    }

    /// `[batch, time, model_dim]` to `[batch, time, channels]` of every branch.
    pub(crate) fn forward(&self, input: &Tensor<3>, state: &mut RecurrentState) -> Result<[Tensor<3>; N]> {
        let mut convolutions = 0;
        let mut outputs = Vec::with_capacity(N);
        for Branch { weights, activation } in &self.0 {
            let projected = weights.linear.forward(input.clone())?;
            outputs.push(match (&weights.conv, activation) {
                (Some(conv), _) => {
                    convolutions += 1;
                    causal_conv1d(
                        projected,
                        conv.weight.clone(),
                        conv.bias.clone(),
                        *activation,
                        &Sequences::Equal,
                        state.conv_state(convolutions - 1)?,
                    )?
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
        let convs = self.0.iter().filter_map(|branch| branch.weights.conv.as_ref());
        convs
            .map(|conv| 2 * conv.weight.dims().iter().map(|n| *n as u64).product::<u64>())
            .sum()
    }
}

/// The weights of a mixer's output projection.
#[derive(Clone, Debug)]
pub struct OutputWeights {
    /// W_gate, `[width, model_dim]`.
    pub gate: Option<Linear>,
    /// Weight of the norm, `[group]`, the same for every group of features that is normalised on its own.
    pub norm: Option<Tensor<1>>,
    /// W_out, `[model_dim, width]`.
    pub out: Linear,
}

/// Norm, gate and projection after a recurrence.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    plan: NormPlan,
    weights: OutputWeights,
}

impl Output {
    /// For read-outs of `groups` × `group_size` features.
    pub(crate) fn new(
        model_dim: usize,
        (groups, group_size): (usize, usize),
        eps: f32,
        weights: OutputWeights,
    ) -> Result<Self> {
        let width = groups * group_size;
        if let Some(gate) = &weights.gate {
            expect::projection("g_proj", gate, width, model_dim)?;
        }
        if let Some(norm) = &weights.norm {
            expect::shape("weight of the norm of the read-out", &[group_size], &norm.dims())?;
        }
        expect::epsilon(eps)?;
        expect::projection("o_proj", &weights.out, model_dim, width)?;
        Ok(Self {
            plan: NormPlan {
                statistic: Statistic::MeanSquare,
                eps,
                group_size,
                order: GateOrder::NormBeforeGate,
            },
            weights: OutputWeights {
                norm: weights.norm.map(|norm| norm.repeat(&[groups])),
                ..weights
            },
        })
    }

    /// `read_out` `[batch, time, heads, value_dim]` and the mixer's input to the mixer's output.
    pub(crate) fn forward(&self, read_out: Tensor<4>, input: Tensor<3>) -> Result<Tensor<3>> {
        let [batch, time, heads, value_dim] = read_out.dims();
        let weights = NormWeights {
            gate: self
                .weights
                .gate
                .as_ref()
                .map(|gate| gate.forward(input))
                .transpose()?,
            weight: self.weights.norm.clone(),
            bias: None,
        };
        let read_out = read_out.reshape([batch, time, heads * value_dim]);
        self.weights
            .out
            .forward(gated_norm(read_out, weights, self.plan)?)
    }
}

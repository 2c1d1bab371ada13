//! The gated channel mixer of Llama-like models and of the linear-attention line (SwiGLU), and its kin with a GELU.
//!
//! ```text
//! out = W_down (act(c W_gate x) ∘ W_up x)            c = 1 but in Falcon-H1
//! ```
//!
//! Source: Shazeer, *GLU variants improve transformer* (2002.05202), equation 6.

use crate::expect;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::operators::pointwise::{gelu, gelu_tanh, silu_gate};
use spillway_ssm_core::operators::split;
use spillway_ssm_core::{Chain, Context, Linear, Mixer, MixerState, Result, WeightSource};

/// The shape of a gated channel mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatedMlpConfig {
    /// Width of the layer's input and output.
    pub model_dim: usize,
    /// Width between the projections.
    pub hidden_dim: usize,
    /// Whether W_up and W_gate have biases.
    pub up_gate_bias: bool,
    /// Whether W_down has a bias.
    pub down_bias: bool,
}

/// What is applied to the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateActivation {
    /// SiLU: x σ(x).
    #[default]
    Silu,
    /// GELU: x Φ(x).
    Gelu,
    /// GELU approximated by a tanh.
    GeluTanh,
}

/// Which rows come first where one tensor holds those of W_up and W_gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowOrder {
    /// The rows of W_up come first.
    #[default]
    UpFirst,
    /// The rows of W_gate come first.
    GateFirst,
}

/// One gated channel mixer; it carries nothing from token to token.
#[derive(Clone, Debug)]
pub struct GatedMlp {
    config: GatedMlpConfig,
    /// The rows of W_up and of W_gate. One product reads both.
    up_and_gate: Linear,
    order: RowOrder,
    activation: GateActivation,
    /// c, the factor on W_gate x before the activation.
    gate_factor: f32,
    down: Linear,
}

impl GatedMlp {
    /// The mixer of the weights of `source`: `up_proj` and `gate_proj`, stacked, `hidden_dim` × `model_dim` each, and `down_proj`,
    /// `model_dim` × `hidden_dim`.
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Value`] for a dimension of 0; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(config: GatedMlpConfig, source: &mut S) -> Result<Self, S::Error> {
        Self::read_in_order(config, RowOrder::UpFirst, source)
    }

    /// As [`GatedMlp::read`], from a source that calls both `up_proj` and `gate_proj` by one name, whose rows are in this order.
    ///
    /// # Errors
    /// As [`GatedMlp::read`].
    pub fn read_in_order<S: WeightSource>(
        config: GatedMlpConfig,
        order: RowOrder,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let (model_dim, hidden) = (config.model_dim, config.hidden_dim);
        expect::positive("dimensions of a gated channel mixer", &[model_dim, hidden])?;
        let mut rows = [("up_proj", hidden), ("gate_proj", hidden)];
        if order == RowOrder::GateFirst {
            rows.reverse();
        }
        let up_and_gate = source.stacked(&rows, model_dim, config.up_gate_bias)?;
        let down = source.linear("down_proj", [model_dim, hidden], config.down_bias)?;
        Ok(Self::of(config, order, [up_and_gate, down]))
    }

    /// The mixer of W_up and W_gate in one projection, and of W_down, which have the shapes that `config` says.
    pub(crate) fn of(config: GatedMlpConfig, order: RowOrder, [up_and_gate, down]: [Linear; 2]) -> Self {
        Self {
            config,
            up_and_gate,
            order,
            activation: GateActivation::Silu,
            gate_factor: 1.0,
            down,
        }
    }

    /// The mixer with another activation of its gate.
    pub fn with_activation(self, activation: GateActivation) -> Self {
        Self { activation, ..self }
    }

    /// The mixer with a factor c on W_gate x before the activation.
    pub fn with_gate_factor(self, gate_factor: f32) -> Self {
        Self { gate_factor, ..self }
    }

    /// The configuration that the MLP was read with.
    pub fn config(&self) -> GatedMlpConfig {
        self.config
    }

    /// `[batch, time, model_dim]` to the same shape.
    ///
    /// # Errors
    /// [`spillway_ssm_core::Error::Shape`] when the input is of another width.
    pub fn apply(&self, input: Tensor<3>) -> Result<Tensor<3>> {
        let both = self.up_and_gate.forward(input)?;
        self.down.forward(self.gated(both)?)
    }

    /// act(c W_gate x) ∘ W_up x of both products side by side.
    pub fn gated(&self, both: Tensor<3>) -> Result<Tensor<3>> {
        let [first, second] = split(both, [self.config.hidden_dim; 2])?;
        let (up, mut gate) = match self.order {
            RowOrder::UpFirst => (first, second),
            RowOrder::GateFirst => (second, first),
        };
        if self.gate_factor != 1.0 {
            gate = gate.mul_scalar(self.gate_factor);
        }
        Ok(match self.activation {
            GateActivation::Silu => silu_gate(gate, up),
            GateActivation::Gelu => gelu(gate) * up,
            GateActivation::GeluTanh => gelu_tanh(gate) * up,
        })
    }

    /// W_up and W_gate in one projection, and W_down.
    pub fn projections(&self) -> [&Linear; 2] {
        [&self.up_and_gate, &self.down]
    }
}

impl Mixer for GatedMlp {
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
}

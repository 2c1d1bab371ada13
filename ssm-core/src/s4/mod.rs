//! The S4 block: a linear state space per channel, and a gated projection over channels.
//!
//! ```text
//! x′ = A x + B u,  z = C x + D u      A = Λ − P P*, Λ = −f(A_real) − i A_imag, Δ = g(inv_dt)
//! out = GLU(W GELU(z) + b)            GLU(a, b) = a ∘ σ(b)
//! ```
//!
//! | form | what differs |
//! |---|---|
//! | S4D | no P |
//! | DSS-exp, DSS-softmax | no P, each mode for itself ([`ModeSum`]) |
//! | bidirectional | `z_t = Σ_s K_s u_{t−s} + Σ_s K′_s u_{t+1+s} + D u_t`, the rows of C for K′ after those for K |
//! | `taps` | K ends after so many taps |
//! | gate | out = GLU(W a′(v ∘ (W_o GELU(z) + b_o)) + b) with v = a(W_g u + b_g), and W_o where the widths differ |
//!
//! The recurrence carries one complex state per channel; a prompt is computed in chunks, so that prefill, decoding and training are
//! one call from any state. A kernel that ends is carried as the outputs to come. A bidirectional block, and DSS-softmax without
//! `taps`, read whole sequences and carry nothing. Tensors have the names and shapes of state-spaces/s4, version 4, where channel h
//! uses copy h mod `copies` of (A, B, P). Sources: Gu, Goel & Ré (2111.00396), section 3; Gu et al. (2206.11893) for S4D; Gupta, Gu &
//! Berant (2203.14343) for DSS.

mod config;
mod fresh;
mod system;
mod truncated;
mod view;

use crate::error::Result;
use crate::intervention::Chain;
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState};
use crate::operators::pointwise::{gelu, sigmoid_gate};
use crate::operators::split;
use crate::weights::WeightSource;
use crate::whole_sequences::{before_padding, expect_first};
use burn::tensor::{Device, Tensor};
pub use config::{Activation, Gate, ModeSum, Projection, S4Config};
pub use fresh::FreshSystem;
use view::View;
pub(crate) use view::kernel_of;

/// An S4 block: a linear state space per channel, and a projection over channels.
#[derive(Clone, Debug)]
pub struct S4 {
    config: S4Config,
    view: View,
    gate: Option<GateBranch>,
    out: Option<Linear>,
}

/// The projections of a gate.
#[derive(Clone, Debug)]
struct GateBranch {
    shape: Gate,
    /// W_g, the projection of the block's input to the gate's width, with the bias b_g.
    input: Linear,
    /// W_o, where the outputs of the state space are not as many as the gate's.
    output: Option<Linear>,
}

impl S4 {
    /// The block of the weights of `source`, with H = `model_dim`, S = `copies`, N = `state_dim`, M the outputs of a channel in all
    /// directions, and G the gate's width over H:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `kernel.inv_dt` | H × 1 |
    /// | `kernel.A_real`, `kernel.A_imag` | S × N/2 |
    /// | `kernel.B`, `kernel.C` | 1 × S × N/2 × 2, M × H × N/2 × 2: real and imaginary parts |
    /// | `kernel.P`, where there is one | rank × S × N/2 × 2 |
    /// | `D` | `channels` × H |
    /// | `input_gate` (with bias), where there is a gate | G · H × H |
    /// | `output_gate` (with bias), where G is not `channels` | G · H × `channels` · H |
    /// | `output_linear` (with bias) | 2H or H × G · H, where there is a gate, or × `channels` · H |
    ///
    /// # Errors
    /// [`crate::Error::Value`] for dimensions that are 0 or do not divide, or names that are not known; the source's for a tensor that is
    /// missing or of another shape.
    pub fn read<S: WeightSource>(config: S4Config, source: &mut S) -> Result<Self, S::Error> {
        config.validate().map_err(S::Error::from)?;
        let (width, inner) = (config.model_dim, config.inner());
        let out = match config.projection {
            Projection::Glu => Some(source.linear("output_linear", [2 * width, inner], true)?),
            Projection::Linear => Some(source.linear("output_linear", [width, inner], true)?),
            Projection::None => None,
        };
        let gate = match config.gate {
            None => None,
            Some(shape) => Some(GateBranch {
                shape,
                input: source.linear("input_gate", [inner, width], true)?,
                output: match config.channels * width {
                    outputs if outputs == inner => None,
                    outputs => Some(source.linear("output_gate", [inner, outputs], true)?),
                },
            }),
        };
        Ok(Self {
            view: View::new(&config, config.system(source)?),
            gate,
            out,
            config,
        })
    }

    /// The configuration that the block was read with.
    pub fn config(&self) -> &S4Config {
        &self.config
    }

    /// Refuses to go on from earlier tokens where there is nothing to go on from.
    fn expect_whole(&self, positions: &[u64]) -> Result<()> {
        if self.view.streams() {
            return Ok(());
        }
        let why = match self.config.bidirectional {
            true => "none: a bidirectional block reads whole sequences and has no state to go on from",
            false => "none: DSS-softmax without l_max reads whole sequences and has no state to go on from",
        };
        expect_first(positions, why)
    }

    /// z, the outputs of the state space, times the gate.
    fn gated(&self, branch: &GateBranch, z: Tensor<3>, input: Tensor<3>) -> Result<Tensor<3>> {
        let gate = branch.shape.activation.of(branch.input.forward(input)?);
        let z = match &branch.output {
            Some(output) => output.forward(z)?,
            None => z,
        };
        Ok(branch.shape.of_product.of(z * gate))
    }
}

impl Mixer for S4 {
    fn start(&self, _layer: usize, batch: usize, _chain: &Chain, device: &Device) -> MixerState {
        self.view.start(batch, device)
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        self.expect_whole(context.positions)?;
        let input = match context.lengths {
            Some(lengths) => before_padding(input, lengths)?,
            None => input,
        };
        let mixed = gelu(self.view.forward(input.clone(), state)?);
        let mixed = match &self.gate {
            Some(branch) => self.gated(branch, mixed, input)?,
            None => mixed,
        };
        let Some(out) = &self.out else {
            return Ok(mixed);
        };
        let mixed = out.forward(mixed)?;
        match self.config.projection {
            Projection::Glu => {
                let [value, gate] = split(mixed, [self.config.model_dim; 2])?;
                Ok(sigmoid_gate(gate, value))
            }
            Projection::Linear | Projection::None => Ok(mixed),
        }
    }

    fn sees_later_tokens(&self) -> bool {
        self.config.bidirectional
    }

    fn flops_per_token(&self) -> u64 {
        self.view.flops_per_token()
    }
}

//! The S4 block: a linear state space per channel, and a gated projection over channels.
//!
//! ```text
//! x′ = A x + B u,  z = C x + D u      A = Λ − P P*, Λ = −f(A_real) − i A_imag, Δ = g(inv_dt)
//! out = GLU(W GELU(z) + b)            GLU(a, b) = a ∘ σ(b)
//! ```
//!
//! Without P it is S4D. The recurrence carries one complex state per channel; a prompt is computed in chunks, so that prefill,
//! decoding and training are one call from any state. Tensors have the names and shapes of state-spaces/s4, version 4, where channel
//! h uses copy h mod `copies` of (A, B, P). Sources: Gu, Goel & Ré (2111.00396), section 3; Gu et al. (2206.11893) for S4D.

use crate::backend::host;
use crate::error::{Error, Result};
use crate::intervention::Chain;
use crate::linear::Linear;
use crate::mixer::{Context, Mixer, MixerState, RecurrentState};
use crate::operators::linear_state_space::{FixedLinearSystem, LinearSystem, Rule, Spectrum};
use crate::operators::pointwise::{gelu, sigmoid_gate};
use crate::operators::split;
use crate::state_space::init::{Initial, SpectrumOptions, StepRange, Transform, copies};
use crate::state_space::{
    Complex64, Discretisation, Dplr, StateSpace as _, StateSpaceError, TruncatedOutput,
};
use crate::weights::{Init, StepSizes, WeightSource};
use burn::tensor::{Device, Tensor, TensorData, activation};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::f32::consts::FRAC_1_SQRT_2;

/// What comes after the state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Projection {
    /// W to twice the width and a gate: `glu`.
    Glu,
    /// W alone: `id`.
    Linear,
    /// Nothing, not even a W; the outputs of a channel must be one.
    None,
}

/// The shape of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct S4Config {
    /// Width of the layer's input and output, H.
    pub model_dim: usize,
    /// Outputs of each channel's state space.
    pub channels: usize,
    /// N, with N/2 conjugate pairs of modes.
    pub state_dim: usize,
    /// Rank of P; 0 for S4D.
    pub rank: usize,
    /// Copies of (A, B, P); a divisor of `model_dim`.
    pub copies: usize,
    /// How time becomes discrete. S4 with P knows the bilinear rule alone.
    pub rule: Rule,
    /// What `inv_dt` becomes Δ by.
    pub step_transform: Transform,
    /// What `A_real` becomes −Re Λ by.
    pub rate_transform: Transform,
    /// What comes after the state space.
    pub projection: Projection,
    /// Where Λ, B and P of a fresh block come from, by published name: `legs`, `diag-lin`, …
    pub fresh: String,
    /// Step sizes of a fresh block.
    pub fresh_steps: StepRange,
    /// L where `kernel.C` is C̃ = C (I − Ā^L), as S4 with P keeps it for kernels of L taps; 0 where it is C.
    pub truncated_at: usize,
}

/// One S4 block.
#[derive(Clone, Debug)]
pub struct S4 {
    config: S4Config,
    system: FixedLinearSystem,
    out: Option<Linear>,
}

impl S4 {
    /// The block of the weights of `source`, with H = `model_dim`, S = `copies` and N = `state_dim`:
    ///
    /// | name | shape |
    /// |---|---|
    /// | `kernel.inv_dt` | H × 1 |
    /// | `kernel.A_real`, `kernel.A_imag` | S × N/2 |
    /// | `kernel.B`, `kernel.C` | 1 × S × N/2 × 2, `channels` × H × N/2 × 2: real and imaginary parts |
    /// | `kernel.P`, where there is one | rank × S × N/2 × 2 |
    /// | `D` | `channels` × H |
    /// | `output_linear` (with bias) | 2H × `channels` · H, or H × `channels` · H |
    ///
    /// # Errors
    /// [`Error::Value`] for dimensions that are 0 or do not divide, or names that are not known; the source's for a tensor that is
    /// missing or of another shape.
    pub fn read<S: WeightSource>(config: S4Config, source: &mut S) -> Result<Self, S::Error> {
        config.validate().map_err(S::Error::from)?;
        let (width, inner) = (config.model_dim, config.channels * config.model_dim);
        let out = match config.projection {
            Projection::Glu => Some(source.linear("output_linear", [2 * width, inner], true)?),
            Projection::Linear => Some(source.linear("output_linear", [width, inner], true)?),
            Projection::None => None,
        };
        Ok(Self {
            system: config.system(source)?.into(),
            out,
            config,
        })
    }

    /// The shape.
    pub fn config(&self) -> &S4Config {
        &self.config
    }
}

impl S4Config {
    fn validate(&self) -> Result<()> {
        let sizes = [self.model_dim, self.channels, self.state_dim, self.copies];
        let divides = self.copies > 0 && self.model_dim.is_multiple_of(self.copies);
        let outputs = self.projection != Projection::None || self.channels == 1;
        let rule = self.rank == 0 || self.rule == Rule::Bilinear;
        if divides && outputs && rule && !sizes.contains(&0) && self.state_dim.is_multiple_of(2) {
            return Ok(());
        }
        Err(Error::Value {
            what: "dimensions of an S4 block",
            expected: "all at least 1, state_dim even, copies a divisor of model_dim, one channel where nothing mixes them, and the \
                       bilinear rule where there is a low-rank part",
            found: format!("{self:?}"),
        })
    }

    /// Copies of (Λ, B, P) as a fresh block starts; random ones are the same in every block.
    fn initial(&self) -> Result<Vec<Initial>> {
        let mut rng = StdRng::seed_from_u64(0);
        let options = SpectrumOptions::default();
        copies(
            &self.fresh,
            self.copies,
            self.state_dim,
            self.rank,
            &options,
            &mut rng,
        )
        .map_err(|error| unusable(&error))
    }

    fn system<S: WeightSource>(&self, source: &mut S) -> Result<LinearSystem, S::Error> {
        let (h, s, modes) = (self.model_dim, self.copies, self.state_dim / 2);
        let initial = self.initial()?;
        let repeated =
            |of: &dyn Fn(&Initial) -> Vec<f32>| Init::Repeated(initial.iter().flat_map(of).collect());
        let mut rates = Vec::with_capacity(s * modes);
        for rate in initial.iter().flat_map(|initial| &initial.real) {
            rates.push(
                self.rate_transform
                    .invert_rate(*rate)
                    .map_err(|error| unusable(&error))? as f32,
            );
        }
        let real = source.tensor("kernel.A_real", [s, modes], Init::Repeated(rates.into()))?;
        let imag = repeated(&|initial| initial.imag.iter().map(|im| *im as f32).collect());
        let imag = source.tensor("kernel.A_imag", [s, modes], imag)?;
        let input = repeated(&|initial| interleaved(&initial.input));
        let b = source.tensor("kernel.B", [1, s, modes, 2], input)?;
        let c = source.tensor(
            "kernel.C",
            [self.channels, h, modes, 2],
            Init::Normal(FRAC_1_SQRT_2),
        )?;
        let low_rank = match self.rank {
            0 => None,
            rank => {
                let of_rank = |k: usize| initial.iter().map(move |initial| &initial.low_rank[k]);
                let p: Vec<f32> = (0..rank).flat_map(of_rank).flat_map(|p| interleaved(p)).collect();
                Some(source.tensor("kernel.P", [rank, s, modes, 2], Init::Repeated(p.into()))?)
            }
        };
        let step = source.tensor("kernel.inv_dt", [h, 1], self.fresh_step())?;
        let system = LinearSystem {
            step_size: transformed(self.step_transform, step.reshape([h])),
            a: Tensor::stack(vec![transformed(self.rate_transform, real).neg(), imag.neg()], 2),
            b: b.reshape([s, modes, 2]),
            c,
            low_rank,
            skip: Some(source.tensor("D", [self.channels, h], Init::Normal(1.0))?),
            rule: self.rule,
            spectrum: Spectrum::ConjugatePairs,
        };
        match (self.rank, self.truncated_at) {
            (0, _) | (_, 0) => Ok(system),
            (_, length) => {
                let c = untruncated(&system, length)?;
                Ok(LinearSystem { c, ..system })
            }
        }
    }

    /// Log-uniform step sizes, as the transform has them.
    fn fresh_step(&self) -> Init {
        let StepRange { min, max } = self.fresh_steps;
        match self.step_transform {
            Transform::Softplus => Init::StepBias(StepSizes { min, max, floor: 0.0 }),
            _ => Init::Uniform(min.ln() as f32, max.ln() as f32),
        }
    }
}

fn unusable(error: &StateSpaceError) -> Error {
    Error::Value {
        what: "initialisation of a state space",
        expected: "a published name that fits the state and the copies",
        found: error.to_string(),
    }
}

/// C = C̃ (I − Ā^L)⁻¹ of every channel and output, in f64.
fn untruncated(system: &LinearSystem, length: usize) -> Result<Tensor<4>> {
    let [outputs, channels, modes, _] = system.c.dims();
    let copies = system.a.dims()[0];
    let (a, b, c) = (
        complex(system.a.clone())?,
        complex(system.b.clone())?,
        complex(system.c.clone())?,
    );
    let p = system
        .low_rank
        .clone()
        .map(complex)
        .transpose()?
        .unwrap_or_default();
    let steps = values(system.step_size.clone())?;
    let mut found = Vec::with_capacity(2 * outputs * channels * modes);
    for (row, truncated) in c.chunks_exact(modes).enumerate() {
        let (channel, copy) = (row % channels, row % channels % copies);
        let of_copy = |values: &[Complex64]| values[copy * modes..][..modes].to_vec();
        let low_rank = p.chunks_exact(copies * modes).map(of_copy).collect();
        let truncated = TruncatedOutput {
            output: truncated.to_vec(),
            length,
        };
        let output = Dplr::new(of_copy(&a), low_rank, of_copy(&b), truncated.output.clone(), 0.0)
            .and_then(|continuous| continuous.discretise(Discretisation::BILINEAR, f64::from(steps[channel])))
            .and_then(|discrete| discrete.untruncate(&truncated))
            .map_err(|error| Error::Value {
                what: "kernel.C of an S4 block, which is kept for kernels of one length",
                expected: "a C that it can be taken back to",
                found: error.to_string(),
            })?;
        found.extend(interleaved(&output));
    }
    let data = TensorData::new(found, [outputs, channels, modes, 2]);
    Ok(Tensor::from_data(data, &system.c.device()))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    host::values(tensor).map_err(|reason| Error::Kernel {
        operation: "reading the parameters of an S4 block",
        reason,
    })
}

fn complex<const D: usize>(tensor: Tensor<D>) -> Result<Vec<Complex64>> {
    let values = values(tensor)?;
    let pairs = values.chunks_exact(2);
    Ok(pairs
        .map(|pair| Complex64::new(f64::from(pair[0]), f64::from(pair[1])))
        .collect())
}

fn interleaved(values: &[Complex64]) -> Vec<f32> {
    values.iter().flat_map(|z| [z.re as f32, z.im as f32]).collect()
}

/// A transform of a tensor.
fn transformed<const D: usize>(transform: Transform, x: Tensor<D>) -> Tensor<D> {
    match transform {
        Transform::None => x,
        Transform::Exp => x.exp(),
        Transform::Relu => activation::relu(x).add_scalar(1e-4),
        Transform::Sigmoid => activation::sigmoid(x),
        Transform::Softplus => activation::softplus(x, 1.0),
    }
}

impl Mixer for S4 {
    fn start(&self, _layer: usize, batch: usize, _chain: &Chain, device: &Device) -> MixerState {
        MixerState::Recurrent(RecurrentState {
            systems: vec![self.system.system().start(batch, device)],
            ..RecurrentState::default()
        })
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        _context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let state = state.recurrent()?;
        let activated = gelu(self.system.forward(input, state.system(0)?)?);
        let Some(out) = &self.out else {
            return Ok(activated);
        };
        let mixed = out.forward(activated)?;
        match self.config.projection {
            Projection::Glu => {
                let [value, gate] = split(mixed, [self.config.model_dim; 2])?;
                Ok(sigmoid_gate(gate, value))
            }
            Projection::Linear | Projection::None => Ok(mixed),
        }
    }

    fn flops_per_token(&self) -> u64 {
        self.system.system().flops_per_token()
    }
}

//! A causal filter for every channel, with nothing around it: a diagonal state space, or a kernel of free taps.
//!
//! ```text
//! y_t = 2 Re(C x_t) + D u_t, x_t = e^{ΔA} x_{t−1} + (e^{ΔA} − 1)/A u_t        A = −e^{A_re_log} + i A_im, Δ = e^{log_dt}
//! y_t = Σ_{l<L} K_l u_{t−l} + D u_t                                           free
//! ```
//!
//! Both go on from a state: modes, or what the tokens so far add to the next L − 1 outputs. Source: Gu et al. (2206.11893), section 3,
//! whose S4D-Lin a fresh state space is; free kernels start at variance 1/L.

use crate::error::{Error, Result};
use crate::mixer::RecurrentState;
use crate::operators::linear_state_space::{FixedLinearSystem, LinearSystem, Rule, Spectrum};
use crate::operators::long_convolution::Method;
use crate::operators::vandermonde::{Discretization, ModeSet};
use crate::operators::{
    DiagonalPlan, DiagonalSystem, LongConvolutionInputs, long_convolution_piece, vandermonde_kernel,
};
use crate::state_space::init::StepRange;
use crate::weights::{Init, WeightSource};
use burn::tensor::{Device, Tensor};
use std::f32::consts::{FRAC_1_SQRT_2, PI};

/// What a channel is filtered by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FilterKind {
    /// A diagonal state space.
    StateSpace {
        /// N, with N/2 conjugate pairs of modes.
        state_dim: usize,
        /// Step sizes of a fresh one.
        steps: StepRange,
    },
    /// So many free taps, the token's own among them.
    Free(usize),
}

/// The filters of some channels.
#[derive(Clone, Debug)]
pub enum ChannelFilter {
    /// A diagonal state space for every channel.
    StateSpace(Box<FixedLinearSystem>),
    /// A kernel of free taps for every channel.
    Free(Box<FreeKernels>),
}

/// A kernel of free taps for every channel.
#[derive(Clone, Debug)]
pub struct FreeKernels {
    /// K, `[1, channels, taps]`, lag 0 first.
    pub kernel: Tensor<3>,
    /// D, the skip from an input to its own output, `[1, channels]`.
    pub skip: Tensor<2>,
}

impl ChannelFilter {
    /// The filters of the weights of `source`, with H = `channels`:
    ///
    /// | of | name | shape |
    /// |---|---|---|
    /// | state spaces | `log_dt`; `A_re_log`, `A_im`; `C`, real and imaginary parts | H; H × N/2; H × N/2 × 2 |
    /// | free kernels | `K`, lag 0 first | H × L |
    /// | both | `D` | H |
    ///
    /// # Errors
    /// [`Error::Value`] for a dimension of 0 or an odd state; the source's for a tensor that is missing or of another shape.
    pub fn read<S: WeightSource>(
        kind: FilterKind,
        channels: usize,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let fits = match kind {
            FilterKind::StateSpace { state_dim, .. } => state_dim > 0 && state_dim.is_multiple_of(2),
            FilterKind::Free(taps) => taps > 0,
        };
        if channels == 0 || !fits {
            return Err(S::Error::from(Error::Value {
                what: "filter of channels",
                expected: "at least one channel, and an even state or at least one tap",
                found: format!("{channels} channels, {kind:?}"),
            }));
        }
        match kind {
            FilterKind::StateSpace { state_dim, steps } => {
                let system = read_state_space(channels, state_dim / 2, steps, source)?;
                Ok(Self::StateSpace(Box::new(system.into())))
            }
            FilterKind::Free(taps) => {
                let fresh = Init::Normal((1.0 / taps as f32).sqrt());
                let kernel: Tensor<2> = source.tensor("K", [channels, taps], fresh)?;
                let skip = source.vector("D", channels, Init::Normal(1.0))?;
                Ok(Self::Free(Box::new(FreeKernels {
                    kernel: kernel.unsqueeze_dim(0),
                    skip: skip.unsqueeze_dim(0),
                })))
            }
        }
    }

    /// The filters of several sets of channels as those of all of them, one set after another.
    ///
    /// # Errors
    /// [`Error::Value`] for none, and for sets of different kinds.
    pub fn side_by_side(filters: Vec<Self>) -> Result<Self> {
        let (mut systems, mut kernels, mut skips) = (Vec::new(), Vec::new(), Vec::new());
        for filter in filters {
            match filter {
                Self::StateSpace(system) => systems.push(system.system().clone()),
                Self::Free(free) => {
                    kernels.push(free.kernel);
                    skips.push(free.skip);
                }
            }
        }
        match (systems.is_empty(), kernels.is_empty()) {
            (false, true) => Ok(Self::StateSpace(Box::new(joined(systems).into()))),
            (true, false) => Ok(Self::Free(Box::new(FreeKernels {
                kernel: Tensor::cat(kernels, 1),
                skip: Tensor::cat(skips, 1),
            }))),
            (empty, _) => Err(Error::Value {
                what: "filters to be joined",
                expected: "at least one, all of one kind",
                found: if empty { "none" } else { "both kinds" }.into(),
            }),
        }
    }

    /// What is carried before the first token of `batch` sequences.
    pub fn start(&self, batch: usize, device: &Device) -> RecurrentState {
        match self {
            Self::StateSpace(system) => RecurrentState {
                systems: vec![system.system().start(batch, device)],
                ..RecurrentState::default()
            },
            Self::Free(free) => {
                let [_, channels, taps] = free.kernel.dims();
                RecurrentState {
                    carried: vec![Tensor::zeros([batch, taps - 1, channels], device)],
                    ..RecurrentState::default()
                }
            }
        }
    }

    /// `[batch, time, channels]` to the same shape, from the state that [`ChannelFilter::start`] gave, which moves on.
    ///
    /// # Errors
    /// [`Error::Shape`] when input or state do not fit; [`Error::Value`] for parameters of a training that diverged.
    pub fn forward(&self, input: Tensor<3>, state: &mut RecurrentState) -> Result<Tensor<3>> {
        match self {
            Self::StateSpace(system) => system.forward(input, state.system(0)?),
            Self::Free(free) => {
                let inputs = LongConvolutionInputs {
                    input,
                    kernel: free.kernel.clone(),
                    later_kernel: None,
                    skip: Some(free.skip.clone()),
                    response: None,
                };
                long_convolution_piece(inputs, Method::Auto, state.carried(0)?)
            }
        }
    }

    /// K over the first `length` taps or fewer, `[1, channels, taps]`: what is convolved with where a sequence is read whole.
    ///
    /// # Errors
    /// [`Error::Kernel`] for parameters of a training that diverged.
    pub fn kernel(&self, length: usize) -> Result<Tensor<3>> {
        match self {
            Self::StateSpace(system) => {
                let LinearSystem {
                    step_size, a, b, c, ..
                } = system.system().clone();
                let channels = step_size.dims()[0];
                let plan = DiagonalPlan {
                    length,
                    discretization: Discretization::ZeroOrderHold,
                    mode_set: ModeSet::ConjugatePairs,
                };
                let step = step_size.reshape([channels, 1]);
                vandermonde_kernel(DiagonalSystem { step, a, b, c }, &plan)
            }
            Self::Free(free) => {
                let taps = free.kernel.dims()[2].min(length);
                Ok(free.kernel.clone().narrow(2, 0, taps))
            }
        }
    }

    /// D, the skip from an input to its own output, `[1, channels]`, where there is one.
    pub fn skip(&self) -> Option<Tensor<2>> {
        match self {
            Self::StateSpace(system) => system.system().skip.clone(),
            Self::Free(free) => Some(free.skip.clone()),
        }
    }

    /// Multiplications and additions of one token.
    pub fn flops_per_token(&self) -> u64 {
        match self {
            Self::StateSpace(system) => system.system().flops_per_token(),
            Self::Free(free) => {
                2 * free
                    .kernel
                    .dims()
                    .iter()
                    .map(|size| *size as u64)
                    .product::<u64>()
            }
        }
    }
}

/// S4D-Lin: A = −½ + iπn, B = 1, Δ log-uniform.
fn read_state_space<S: WeightSource>(
    channels: usize,
    modes: usize,
    steps: StepRange,
    source: &mut S,
) -> Result<LinearSystem, S::Error> {
    let log_steps = Init::Uniform(steps.min.ln() as f32, steps.max.ln() as f32);
    let frequencies: Vec<f32> = (0..modes).map(|n| PI * n as f32).collect();
    let step_size = source.vector("log_dt", channels, log_steps)?.exp();
    let real: Tensor<2> = source.tensor("A_re_log", [channels, modes], Init::Constant(0.5_f32.ln()))?;
    let imag: Tensor<2> = source.tensor("A_im", [channels, modes], Init::Repeated(frequencies.into()))?;
    let c: Tensor<3> = source.tensor("C", [channels, modes, 2], Init::Normal(FRAC_1_SQRT_2))?;
    let skip = source.vector("D", channels, Init::Normal(1.0))?;
    let device = skip.device();
    let one = Tensor::<2>::ones([channels, modes], &device);
    Ok(LinearSystem {
        step_size,
        a: Tensor::stack(vec![real.exp().neg(), imag], 2),
        b: Tensor::stack(vec![one.clone(), one.zeros_like()], 2),
        c: c.unsqueeze_dim(0),
        low_rank: None,
        skip: Some(skip.unsqueeze_dim(0)),
        rule: Rule::ZeroOrderHold,
        spectrum: Spectrum::ConjugatePairs,
    })
}

/// The channels of systems that have a copy of (Λ, B) for each, and D, one system's after another's.
fn joined(systems: Vec<LinearSystem>) -> LinearSystem {
    let (mut steps, mut a, mut b, mut c, mut skips) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for system in systems {
        steps.push(system.step_size);
        a.push(system.a);
        b.push(system.b);
        c.push(system.c);
        skips.extend(system.skip);
    }
    LinearSystem {
        step_size: Tensor::cat(steps, 0),
        a: Tensor::cat(a, 0),
        b: Tensor::cat(b, 0),
        c: Tensor::cat(c, 1),
        low_rank: None,
        skip: Some(Tensor::cat(skips, 1)),
        rule: Rule::ZeroOrderHold,
        spectrum: Spectrum::ConjugatePairs,
    }
}

//! The three ways in which the state space of a block is computed.

use super::config::{ModeSum, S4Config};
use crate::error::Result;
use crate::mixer::{MixerState, RecurrentState};
use crate::operators::linear_state_space::{FixedLinearSystem, LinearSystem, linear_state_space};
use crate::operators::long_convolution::{Later, Method};
use crate::operators::{
    DiagonalPlan, DiagonalSystem, LongConvolutionInputs, long_convolution, long_convolution_piece,
    vandermonde_kernel,
};
use burn::tensor::{Device, Tensor};
use std::sync::OnceLock;

/// A view of a linear system.
#[derive(Clone, Debug)]
pub(super) enum View {
    /// The recurrent view: from state to state.
    Recurrent(Box<FixedLinearSystem>),
    /// The convolutional view: a convolution with the system's kernels.
    Convolutional(Box<Kernels>),
}

/// A system whose kernels are convolved with.
#[derive(Clone, Debug)]
pub(super) struct Kernels {
    /// C is that of all directions.
    system: LinearSystem,
    plan: DiagonalPlan,
    bidirectional: bool,
    taps: Option<usize>,
    /// K of so many taps, once it has been asked for.
    kernel: OnceLock<Tensor<3>>,
}

impl View {
    pub(super) fn new(config: &S4Config, system: LinearSystem) -> Self {
        let whole = config.taps.is_none() && !config.bidirectional && config.modes != ModeSum::Softmax;
        match whole {
            true => Self::Recurrent(Box::new(system.into())),
            false => Self::Convolutional(Box::new(Kernels {
                system,
                plan: DiagonalPlan {
                    length: 0,
                    discretization: config.discretization(),
                    mode_set: config.modes.mode_set(),
                },
                bidirectional: config.bidirectional,
                taps: config.taps,
                kernel: OnceLock::new(),
            })),
        }
    }

    /// Whether pieces of a sequence give what the whole gives.
    pub(super) fn streams(&self) -> bool {
        match self {
            Self::Recurrent(_) => true,
            Self::Convolutional(kernels) => kernels.stream_of().is_some(),
        }
    }

    pub(super) fn start(&self, batch: usize, device: &Device) -> MixerState {
        match self {
            Self::Recurrent(system) => MixerState::Recurrent(RecurrentState {
                systems: vec![system.system().start(batch, device)],
                ..RecurrentState::default()
            }),
            Self::Convolutional(kernels) => match kernels.stream_of() {
                None => MixerState::Stateless,
                Some(taps) => MixerState::Recurrent(RecurrentState {
                    carried: vec![Tensor::zeros([batch, taps - 1, kernels.outputs()], device)],
                    ..RecurrentState::default()
                }),
            },
        }
    }

    /// z, `[batch, time, channels · model_dim]`.
    pub(super) fn forward(&self, input: Tensor<3>, state: &mut MixerState) -> Result<Tensor<3>> {
        match self {
            Self::Recurrent(system) => system.forward(input, state.recurrent()?.system(0)?),
            Self::Convolutional(kernels) => kernels.forward(input, state),
        }
    }

    pub(super) fn flops_per_token(&self) -> u64 {
        match self {
            Self::Recurrent(system) => system.system().flops_per_token(),
            Self::Convolutional(kernels) => match kernels.stream_of() {
                // A product with every tap.
                Some(taps) => 2 * (taps * kernels.outputs()) as u64,
                None => kernels.system.flops_per_token(),
            },
        }
    }
}

impl Kernels {
    /// The taps of a stream, where pieces can be read.
    fn stream_of(&self) -> Option<usize> {
        self.taps.filter(|_| !self.bidirectional)
    }

    /// Outputs of all channels.
    fn outputs(&self) -> usize {
        let [rows, channels, ..] = self.system.c.dims();
        match self.bidirectional {
            true => rows / 2 * channels,
            false => rows * channels,
        }
    }

    fn forward(&self, input: Tensor<3>, state: &mut MixerState) -> Result<Tensor<3>> {
        let [batch, time, _] = input.dims();
        if time == 0 {
            return Ok(Tensor::zeros([batch, 0, self.outputs()], &input.device()));
        }
        let kernel = match self.taps {
            None => self.kernel(time)?,
            Some(taps) => self.kept(taps)?,
        };
        let rows = kernel.dims()[0] / 2;
        let (kernel, later_kernel) = match self.bidirectional {
            false => (kernel, None),
            true => {
                let later = kernel.clone().narrow(0, rows, rows);
                (kernel.narrow(0, 0, rows), Some((Later::Next, later)))
            }
        };
        let inputs = LongConvolutionInputs {
            input,
            kernel,
            later_kernel,
            skip: self.system.skip.clone(),
            response: None,
        };
        match self.stream_of() {
            None => long_convolution(inputs, Method::Auto),
            Some(_) => long_convolution_piece(inputs, Method::Auto, state.recurrent()?.carried(0)?),
        }
    }

    /// K of a length that is always the same, made once.
    fn kept(&self, taps: usize) -> Result<Tensor<3>> {
        if let Some(kernel) = self.kernel.get() {
            return Ok(kernel.clone());
        }
        let kernel = self.kernel(taps)?;
        Ok(self.kernel.get_or_init(|| kernel).clone())
    }

    fn kernel(&self, length: usize) -> Result<Tensor<3>> {
        kernel_of(&self.system, &DiagonalPlan { length, ..self.plan })
    }
}

/// K of a system without its D, `[rows, model_dim, length]`. The plan's rule is that of systems without P.
pub(crate) fn kernel_of(system: &LinearSystem, plan: &DiagonalPlan) -> Result<Tensor<3>> {
    let [rows, channels, ..] = system.c.dims();
    if system.low_rank.is_some() {
        return impulse_response(system, plan.length);
    }
    let diagonal = DiagonalSystem {
        step: system.step_size.clone().reshape([channels, 1]),
        a: system.a.clone(),
        b: system.b.clone(),
        c: system.c.clone(),
    };
    Ok(vandermonde_kernel(diagonal, plan)?.reshape([rows, channels, plan.length]))
}

/// K as the response to 1, 0, 0, …
fn impulse_response(system: &LinearSystem, length: usize) -> Result<Tensor<3>> {
    let [rows, channels, ..] = system.c.dims();
    let device = system.c.device();
    let mut impulse = vec![Tensor::ones([1, 1, channels], &device)];
    if length > 1 {
        impulse.push(Tensor::zeros([1, length - 1, channels], &device));
    }
    let system = LinearSystem {
        skip: None,
        ..system.clone()
    };
    let mut state = system.start(1, &device);
    let response = linear_state_space(Tensor::cat(impulse, 1), &system, &mut state)?;
    Ok(response.reshape([length, rows, channels]).permute([1, 2, 0]))
}

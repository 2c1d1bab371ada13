//! Convolution kernels of diagonal state spaces, what initial states add to outputs, and the states after signals.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, slice};
use crate::backend::host;
use crate::backend::operands::each;
use crate::backend::{Input, Operator, Spec, operands, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use burn::tensor::{DType, Tensor};
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use spillway_kernel_dsl::Rows;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::cube::{DType as DeviceType, DeviceBuffer, DeviceRows};
use spillway_kernel_dsl::vandermonde as kernel;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::vandermonde::cube as device;
pub use spillway_kernel_dsl::vandermonde::{Discretization, ModeSet};

/// What of a diagonal system's kernel is not a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiagonalPlan {
    /// L, positions.
    pub length: usize,
    /// How a mode becomes discrete.
    pub discretization: Discretization,
    /// Whether a mode stands for a conjugate pair.
    pub mode_set: ModeSet,
}

/// A diagonal system x′ = Λx + Bu, y = Cx for every channel, with a step Δ. Complex numbers are a last axis of two.
#[derive(Clone, Debug)]
pub struct DiagonalSystem {
    /// Δ > 0, `[channels, 1]` or `[channels, modes]`.
    pub step: Tensor<2>,
    /// λ, `[copies, modes, 2]`; channel h has copy h mod copies.
    pub a: Tensor<3>,
    /// B, `[copies, modes, 2]`.
    pub b: Tensor<3>,
    /// C, `[readouts, channels, modes, 2]`.
    pub c: Tensor<4>,
}

/// K_l = f Re Σ_n C_n b̄_n ā_nˡ for l < L, with f = 2 where a mode stands for a conjugate pair.
///
/// Roots come from f64, on the CPU wherever the tensors live. Source: Gu et al., *On the Parameterization and Initialization of Diagonal
/// State Space Models* (2206.11893); see [`spillway_kernel_dsl::vandermonde`] for rules and gradients.
///
/// # Shapes
/// The result is `[readouts, channels, length]`, in f32.
///
/// # Errors
/// [`Error::Shape`]; [`Error::Kernel`] for a step that is not positive and a mode that leaves f32 within the length; [`Error::Value`]
/// for a B or C that is not finite; [`Error::Device`] and [`Error::DType`].
pub fn vandermonde_kernel(system: DiagonalSystem, plan: &DiagonalPlan) -> Result<Tensor<3>> {
    let problem = problem(&system, plan, 0)?;
    let found = run(Vandermonde(problem), inputs(system, None))?;
    Ok(Tensor::from_dispatch(found.kernel))
}

/// What a diagonal system does from initial states with signals, beside its kernel.
#[derive(Clone, Debug)]
pub struct DiagonalResponse {
    /// K, `[readouts, channels, length]`.
    pub kernel: Tensor<3>,
    /// S_l = f Re Σ_n C_n s_n ā_nˡ⁺¹: what the initial state s adds to output l, `[batch, readouts, channels, length]`.
    pub state_kernel: Tensor<4>,
    /// x_L = ā^L s + Σ_l ā^{L−1−l} b̄ u_l, `[batch, channels, modes, 2]`.
    pub next_state: Tensor<4>,
}

/// As [`vandermonde_kernel`], with the responses to initial states and the states after signals.
///
/// # Shapes
/// `state` `[batch, channels, modes, 2]`, `signal` `[batch, channels, length]`, at least one of a batch.
///
/// # Errors
/// As [`vandermonde_kernel`], and [`Error::Value`] for no sequence. [`Discretization::Softmax`] has no states: [`Error::Kernel`].
pub fn vandermonde_response(
    system: DiagonalSystem,
    state: Tensor<4>,
    signal: Tensor<3>,
    plan: &DiagonalPlan,
) -> Result<DiagonalResponse> {
    let [batch, ..] = state.dims();
    if batch == 0 {
        return Err(Error::Value {
            what: "sequences of a diagonal system",
            expected: "at least 1",
            found: "0".into(),
        });
    }
    let problem = problem(&system, plan, batch)?;
    let kernel::Problem { channels, modes, .. } = problem;
    expect_shape("state", &[batch, channels, modes, 2], &state.dims())?;
    host::expect_finite("state", &state)?;
    expect_shape("signal", &[batch, channels, plan.length], &signal.dims())?;
    let found = run(Vandermonde(problem), inputs(system, Some((state, signal))))?;
    let (Some(state_kernel), Some(next_state)) = (found.state_kernel, found.next_state) else {
        unreachable!("the operator answers to states with responses");
    };
    Ok(DiagonalResponse {
        kernel: Tensor::from_dispatch(found.kernel),
        state_kernel: Tensor::from_dispatch(state_kernel),
        next_state: Tensor::from_dispatch(next_state),
    })
}

fn problem(system: &DiagonalSystem, plan: &DiagonalPlan, batch: usize) -> Result<kernel::Problem> {
    let [copies, modes, _] = system.a.dims();
    let [readouts, channels, ..] = system.c.dims();
    let per_mode = system.step.dims()[1] == modes && modes != 1;
    let steps = if per_mode { modes } else { 1 };
    expect_shape("A of a diagonal system", &[copies, modes, 2], &system.a.dims())?;
    expect_shape("B of a diagonal system", &[copies, modes, 2], &system.b.dims())?;
    expect_shape(
        "C of a diagonal system",
        &[readouts, channels, modes, 2],
        &system.c.dims(),
    )?;
    expect_shape(
        "steps of a diagonal system",
        &[channels, steps],
        &system.step.dims(),
    )?;
    let problem = kernel::Problem {
        channels,
        modes,
        copies,
        readouts,
        batch,
        length: plan.length,
        discretization: plan.discretization,
        mode_set: plan.mode_set,
        steps: match per_mode {
            true => kernel::Steps::PerMode,
            false => kernel::Steps::PerChannel,
        },
    };
    let refused = |reason: String| Error::Kernel {
        operation: "vandermonde_kernel",
        reason,
    };
    let step = host::values(system.step.clone()).map_err(refused)?;
    let a = host::values(system.a.clone()).map_err(refused)?;
    problem
        .check(&step, &a)
        .map_err(|error| refused(error.to_string()))?;
    host::expect_finite("B of a diagonal system", &system.b)?;
    host::expect_finite("C of a diagonal system", &system.c)?;
    Ok(problem)
}

fn inputs(system: DiagonalSystem, states: Option<(Tensor<4>, Tensor<3>)>) -> Inputs<Input<'static>> {
    let DiagonalSystem { step, a, b, c } = system;
    let (state, signal) = states.unzip();
    Inputs {
        step: step.into(),
        a: a.into(),
        b: b.into(),
        c: c.into(),
        state: state.map(Input::from),
        signal: signal.map(Input::from),
    }
}

operands! {
    /// What the kernel is made of, and the states and signals where there are any.
    Inputs { step, a, b, c; optional state, signal }
}

operands! {
    /// The kernel, and what comes of states and signals.
    Outputs { kernel; optional state_kernel, next_state }
}

#[derive(Debug)]
struct Vandermonde(kernel::Problem);

/// The inputs on the CPU.
struct Held {
    step: FlexTensor,
    a: FlexTensor,
    b: FlexTensor,
    c: FlexTensor,
    state: Option<FlexTensor>,
    signal: Option<RowTensor>,
}

impl Held {
    fn new(inputs: Inputs<FlexTensor>) -> Self {
        Self {
            step: contiguous(inputs.step),
            a: contiguous(inputs.a),
            b: contiguous(inputs.b),
            c: contiguous(inputs.c),
            state: inputs.state.map(contiguous),
            signal: inputs.signal.map(|tensor| RowTensor::new(tensor, 1)),
        }
    }

    fn view(&self) -> kernel::Inputs<'_> {
        let nothing = || flex::validated(Rows::contiguous(&[], 0, 0));
        kernel::Inputs {
            step: slice(&self.step),
            a: slice(&self.a),
            b: slice(&self.b),
            c: slice(&self.c),
            state: self.state.as_ref().map(slice).unwrap_or_default(),
            signal: self.signal.as_ref().map_or_else(nothing, RowTensor::view),
        }
    }
}

impl Vandermonde {
    fn specs(&self) -> Outputs<Spec> {
        let kernel::Problem {
            channels,
            modes,
            readouts,
            batch,
            length,
            ..
        } = self.0;
        let spec = |shape: Vec<usize>| Spec::new(shape, DType::F32);
        Outputs {
            kernel: spec(vec![readouts, channels, length]),
            state_kernel: (batch > 0).then(|| spec(vec![batch, readouts, channels, length])),
            next_state: (batch > 0).then(|| spec(vec![batch, channels, modes, 2])),
        }
    }

    /// What there is none of is empty.
    #[cfg(feature = "cube")]
    fn hold_on_cube(&self, place: &Place, inputs: Inputs<CubeTensor>) -> kernel::DeviceInputs {
        let empty = || cube::launched(DeviceBuffer::empty(&place.client, 0, DeviceType::F32));
        kernel::Operands {
            step: cube::values(inputs.step),
            a: cube::values(inputs.a),
            b: cube::values(inputs.b),
            c: cube::values(inputs.c),
            state: inputs.state.map_or_else(empty, cube::values),
            signal: match inputs.signal {
                Some(signal) => cube::rows(signal, 1),
                None => cube::launched(DeviceRows::contiguous(empty(), 0, self.0.length)),
            },
        }
    }
}

impl Operator for Vandermonde {
    type Inputs = Inputs<()>;
    type Outputs = Outputs<()>;

    fn name(&self) -> &'static str {
        "vandermonde_kernel"
    }

    fn outputs(&self, _: Inputs<Spec>) -> Outputs<Spec> {
        self.specs()
    }

    fn forward_flex(&self, inputs: Inputs<FlexTensor>) -> Outputs<FlexTensor> {
        let inputs = Held::new(inputs);
        let shapes = each::<Outputs<()>, _, _>(self.specs(), |spec| spec.shape);
        let zeros = |shape: Vec<usize>| vec![0.0; shape.iter().product()];
        let mut found = each::<Outputs<()>, _, _>(shapes.clone(), zeros);
        flex::validated(kernel::kernel(
            &self.0,
            &inputs.view(),
            &mut kernel::Outputs {
                kernel: &mut found.kernel,
                state_kernel: found.state_kernel.as_deref_mut().unwrap_or_default(),
                next_state: found.next_state.as_deref_mut().unwrap_or_default(),
            },
        ));
        flex::tensors::<Outputs<()>>(found, shapes)
    }

    fn backward_flex(
        &self,
        inputs: Inputs<FlexTensor>,
        cotangents: Outputs<Option<FlexTensor>>,
    ) -> Inputs<FlexTensor> {
        let shapes = flex::shapes::<Inputs<()>>(&inputs);
        let mut found = flex::buffers::<Inputs<()>>(&inputs);
        let inputs = Held::new(inputs);
        let rows = |tensor: Option<FlexTensor>| tensor.map(|tensor| RowTensor::new(tensor, 1));
        let kernel_rows = rows(cotangents.kernel);
        let state_rows = rows(cotangents.state_kernel.flatten());
        let next_state = cotangents.next_state.flatten().map(contiguous);
        flex::validated(kernel::backward(
            &self.0,
            &inputs.view(),
            &kernel::Cotangents {
                kernel: kernel_rows.as_ref().map(RowTensor::view),
                state_kernel: state_rows.as_ref().map(RowTensor::view),
                next_state: next_state.as_ref().map(slice),
            },
            &mut kernel::Gradients {
                step: &mut found.step,
                a: &mut found.a,
                b: &mut found.b,
                c: &mut found.c,
                state: found.state.as_deref_mut().unwrap_or_default(),
                signal: found.signal.as_deref_mut().unwrap_or_default(),
            },
        ));
        flex::tensors::<Inputs<()>>(found, shapes)
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: Inputs<CubeTensor>) -> Outputs<CubeTensor> {
        let place = Place::of(&inputs.step);
        let inputs = self.hold_on_cube(&place, inputs);
        let found = cube::launched(device::kernel(&place.client, &self.0, &inputs));
        let specs = self.specs();
        let tensor = |buffer, spec: Option<Spec>| spec.map(|spec| place.tensor(buffer, &spec));
        Outputs {
            kernel: place.tensor(found.kernel, &specs.kernel),
            state_kernel: tensor(found.state_kernel, specs.state_kernel),
            next_state: tensor(found.next_state, specs.next_state),
        }
    }

    #[cfg(feature = "cube")]
    fn backward_cube(
        &self,
        inputs: Inputs<CubeTensor>,
        cotangents: Outputs<Option<CubeTensor>>,
    ) -> Inputs<CubeTensor> {
        let specs = cube::specs::<Inputs<()>>(&inputs);
        let place = Place::of(&inputs.step);
        let inputs = self.hold_on_cube(&place, inputs);
        let rows = |tensor: Option<CubeTensor>| tensor.map(|tensor| cube::rows_as(tensor, 1, DType::F32));
        let cotangents = kernel::DeviceCotangents {
            kernel: rows(cotangents.kernel),
            state_kernel: rows(cotangents.state_kernel.flatten()),
            next_state: cotangents.next_state.flatten().map(cube::values),
        };
        let found = cube::launched(device::backward(&place.client, &self.0, &inputs, &cotangents));
        let found = Inputs {
            step: found.step,
            a: found.a,
            b: found.b,
            c: found.c,
            state: specs.state.is_some().then_some(found.state),
            signal: specs.signal.is_some().then_some(found.signal),
        };
        place.tensors::<Inputs<()>>(found, specs)
    }
}

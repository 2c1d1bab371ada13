//! Convolution kernels of diagonal and low-rank state spaces, and what initial states add to outputs.

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
use spillway_kernel_dsl::cauchy as kernel;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::cauchy::cube as device;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::cube::{DType as DeviceType, DeviceBuffer, DeviceRows};

/// A system x′ = (Λ − P P*)x + Bu, y = Cx for every channel, with a step Δ. Complex numbers are a last axis of two.
#[derive(Clone, Debug)]
pub struct LowRankSystem {
    /// Δ > 0, `[channels]`.
    pub step: Tensor<1>,
    /// λ with a negative real part, one of each conjugate pair, `[copies, modes, 2]`; channel h has copy h mod copies.
    pub a: Tensor<3>,
    /// B, `[copies, modes, 2]`.
    pub b: Tensor<3>,
    /// P, `[rank, copies, modes, 2]`.
    pub p: Tensor<4>,
    /// C̃ = C(I − Ā^M), `[readouts, channels, modes, 2]`.
    pub c: Tensor<4>,
    /// M, the positions that C̃ stands for.
    pub nodes: usize,
}

/// K_l = C Āˡ B̄ for l < `length`, under the bilinear rule.
///
/// Sums and transforms run in f64, on the CPU wherever the tensors live. Source: Gu et al., *Efficiently Modeling Long Sequences with
/// Structured State Spaces* (2111.00396); see [`spillway_kernel_dsl::cauchy`] for the algorithm, its gradients, and C̃ from C.
///
/// # Shapes
/// The result is `[readouts, channels, length]`, in f32.
///
/// # Errors
/// [`Error::Shape`]; [`Error::Kernel`] for a length beyond the nodes, a step that is not positive and a rate that does not decay;
/// [`Error::Value`] for a B, P, C̃ or state that is not finite; [`Error::Device`] and [`Error::DType`].
pub fn cauchy_kernel(system: LowRankSystem, length: usize) -> Result<Tensor<3>> {
    let problem = problem(&system, length, 0)?;
    let found = run(Cauchy(problem), inputs(system, None))?;
    Ok(Tensor::from_dispatch(found.kernel))
}

/// As [`cauchy_kernel`], and what initial states add to output l, S_l = C Āˡ⁺¹ s.
///
/// # Shapes
/// `state` `[batch, channels, modes, 2]`, at least one of a batch; the results are `[readouts, channels, length]` and
/// `[batch, readouts, channels, length]`.
///
/// # Errors
/// As [`cauchy_kernel`], and [`Error::Value`] for no sequence.
pub fn cauchy_response(
    system: LowRankSystem,
    state: Tensor<4>,
    length: usize,
) -> Result<(Tensor<3>, Tensor<4>)> {
    let [batch, ..] = state.dims();
    if batch == 0 {
        return Err(Error::Value {
            what: "sequences of a diagonal and low-rank system",
            expected: "at least 1",
            found: "0".into(),
        });
    }
    let problem = problem(&system, length, batch)?;
    let kernel::Problem { channels, modes, .. } = problem;
    expect_shape("state", &[batch, channels, modes, 2], &state.dims())?;
    host::expect_finite("state", &state)?;
    let found = run(Cauchy(problem), inputs(system, Some(state)))?;
    let Some(state_kernel) = found.state_kernel else {
        unreachable!("the operator answers to states with responses");
    };
    Ok((
        Tensor::from_dispatch(found.kernel),
        Tensor::from_dispatch(state_kernel),
    ))
}

fn problem(system: &LowRankSystem, length: usize, batch: usize) -> Result<kernel::Problem> {
    let [copies, modes, _] = system.a.dims();
    let [readouts, channels, ..] = system.c.dims();
    let [rank, ..] = system.p.dims();
    let copy = [copies, modes, 2];
    expect_shape("A of a low-rank system", &copy, &system.a.dims())?;
    expect_shape("B of a low-rank system", &copy, &system.b.dims())?;
    expect_shape("P", &[rank, copies, modes, 2], &system.p.dims())?;
    expect_shape("C̃", &[readouts, channels, modes, 2], &system.c.dims())?;
    expect_shape("steps of a low-rank system", &[channels], &system.step.dims())?;
    let problem = kernel::Problem {
        channels,
        modes,
        rank,
        copies,
        readouts,
        batch,
        nodes: system.nodes,
        length,
    };
    let refused = |reason: String| Error::Kernel {
        operation: "cauchy_kernel",
        reason,
    };
    let step = host::values(system.step.clone()).map_err(refused)?;
    let a = host::values(system.a.clone()).map_err(refused)?;
    problem
        .check(&step, &a)
        .map_err(|error| refused(error.to_string()))?;
    host::expect_finite("B of a low-rank system", &system.b)?;
    host::expect_finite("P", &system.p)?;
    host::expect_finite("C̃", &system.c)?;
    Ok(problem)
}

fn inputs(system: LowRankSystem, state: Option<Tensor<4>>) -> Inputs<Input<'static>> {
    Inputs {
        step: system.step.into(),
        a: system.a.into(),
        b: system.b.into(),
        p: system.p.into(),
        c: system.c.into(),
        state: state.map(Input::from),
    }
}

operands! {
    /// What the kernel is made of, and the states where there are any.
    Inputs { step, a, b, p, c; optional state }
}

operands! {
    /// The kernel, and the responses to states.
    Outputs { kernel; optional state_kernel }
}

#[derive(Debug)]
struct Cauchy(kernel::Problem);

/// The inputs on the CPU.
struct Held {
    step: FlexTensor,
    a: FlexTensor,
    b: FlexTensor,
    p: FlexTensor,
    c: RowTensor,
    state: Option<RowTensor>,
}

impl Held {
    fn new(inputs: Inputs<FlexTensor>) -> Self {
        Self {
            step: contiguous(inputs.step),
            a: contiguous(inputs.a),
            b: contiguous(inputs.b),
            p: contiguous(inputs.p),
            c: RowTensor::new(inputs.c, 2),
            state: inputs.state.map(|tensor| RowTensor::new(tensor, 2)),
        }
    }

    fn view(&self, problem: &kernel::Problem) -> kernel::Inputs<'_> {
        let nothing = || flex::validated(Rows::contiguous(&[], 0, 2 * problem.modes));
        kernel::Inputs {
            step: slice(&self.step),
            a: slice(&self.a),
            b: slice(&self.b),
            p: slice(&self.p),
            c: self.c.view(),
            state: self.state.as_ref().map_or_else(nothing, RowTensor::view),
        }
    }
}

impl Cauchy {
    fn specs(&self) -> Outputs<Spec> {
        let kernel::Problem {
            channels,
            readouts,
            batch,
            length,
            ..
        } = self.0;
        let spec = |shape: Vec<usize>| Spec::new(shape, DType::F32);
        Outputs {
            kernel: spec(vec![readouts, channels, length]),
            state_kernel: (batch > 0).then(|| spec(vec![batch, readouts, channels, length])),
        }
    }

    /// The inputs on a device; what there is none of is empty.
    #[cfg(feature = "cube")]
    fn hold_on_cube(&self, place: &Place, inputs: Inputs<CubeTensor>) -> kernel::DeviceInputs {
        let empty = || {
            let buffer = DeviceBuffer::empty(&place.client, 0, DeviceType::F32);
            DeviceRows::contiguous(cube::launched(buffer), 0, 2 * self.0.modes)
        };
        let rows = |tensor| cube::rows_as(tensor, 2, DType::F32);
        kernel::Operands {
            step: cube::values(inputs.step),
            a: cube::values(inputs.a),
            b: cube::values(inputs.b),
            p: cube::values(inputs.p),
            c: rows(inputs.c),
            state: match inputs.state {
                Some(state) => rows(state),
                None => cube::launched(empty()),
            },
        }
    }
}

impl Operator for Cauchy {
    type Inputs = Inputs<()>;
    type Outputs = Outputs<()>;

    fn name(&self) -> &'static str {
        "cauchy_kernel"
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
            &inputs.view(&self.0),
            &mut kernel::Outputs {
                kernel: &mut found.kernel,
                state_kernel: found.state_kernel.as_deref_mut().unwrap_or_default(),
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
        let of_kernel = rows(cotangents.kernel);
        let of_responses = rows(cotangents.state_kernel.flatten());
        flex::validated(kernel::backward(
            &self.0,
            &inputs.view(&self.0),
            &kernel::Cotangents {
                kernel: of_kernel.as_ref().map(RowTensor::view),
                state_kernel: of_responses.as_ref().map(RowTensor::view),
            },
            &mut kernel::Gradients {
                step: &mut found.step,
                a: &mut found.a,
                b: &mut found.b,
                p: &mut found.p,
                c: &mut found.c,
                state: found.state.as_deref_mut().unwrap_or_default(),
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
        let responses = found.state_kernel;
        Outputs {
            kernel: place.tensor(found.kernel, &specs.kernel),
            state_kernel: specs.state_kernel.map(|spec| place.tensor(responses, &spec)),
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
        };
        let found = cube::launched(device::backward(&place.client, &self.0, &inputs, &cotangents));
        let found = Inputs {
            step: found.step,
            a: found.a,
            b: found.b,
            p: found.p,
            c: found.c,
            state: specs.state.is_some().then_some(found.state),
        };
        place.tensors::<Inputs<()>>(found, specs)
    }
}

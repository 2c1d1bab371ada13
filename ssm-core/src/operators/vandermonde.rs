//! Convolution kernels of diagonal state spaces, what initial states add to outputs, and the states after signals.

use crate::backend::host::{self, empty, unflattened};
use crate::backend::{Input, Spec, over_rows, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use burn::tensor::{DType, Tensor};
use spillway_kernel_dsl::vandermonde as kernel;
pub use spillway_kernel_dsl::vandermonde::{Discretization, ModeSet};

/// What of a diagonal system's kernel is not a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiagonalPlan {
    /// L, the number of positions that the kernel is computed at.
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
    let (device, kernel::Problem { channels, modes, .. }) = (system.step.device(), problem);
    let no_state = empty([0, channels, modes, 2], &device);
    let no_signal = empty([0, channels, plan.length], &device);
    let found = run(Vandermonde(problem), inputs(system, no_state, no_signal))?;
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
    let kernel::Problem {
        channels,
        modes,
        readouts,
        length,
        ..
    } = problem;
    expect_shape("state", &[batch, channels, modes, 2], &state.dims())?;
    host::expect_finite("state", &state)?;
    expect_shape("signal", &[batch, channels, length], &signal.dims())?;
    let found = run(Vandermonde(problem), inputs(system, state, signal))?;
    Ok(DiagonalResponse {
        kernel: Tensor::from_dispatch(found.kernel),
        state_kernel: unflattened(found.state_kernel, [batch, readouts, channels, length]),
        next_state: Tensor::from_dispatch(found.next_state),
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

fn inputs(
    system: DiagonalSystem,
    state: Tensor<4>,
    signal: Tensor<3>,
) -> kernel::Operands<Input<'static>, Input<'static>> {
    kernel::Operands {
        step: system.step.into(),
        a: system.a.into(),
        b: system.b.into(),
        c: system.c.into(),
        state: state.into(),
        signal: signal.into(),
    }
}

/// The sizes are those of the tensors.
#[derive(Debug)]
struct Vandermonde(kernel::Problem);

impl Vandermonde {
    fn problem(&self, _: &kernel::Operands<Vec<usize>, Vec<usize>>) -> kernel::Problem {
        self.0
    }

    /// Responses of all readouts to all states one after another: only their last dimension is a row.
    fn results(&self, inputs: kernel::Operands<Spec, Spec>) -> kernel::Results<Spec, Spec> {
        let kernel::Problem {
            channels,
            readouts,
            batch,
            length,
            ..
        } = self.0;
        let spec = |rows| Spec::new([rows, channels, length], DType::F32);
        kernel::Results {
            kernel: spec(readouts),
            state_kernel: spec(batch * readouts),
            next_state: Spec::new(inputs.state.shape, DType::F32),
        }
    }
}

over_rows! {
    Vandermonde, "vandermonde_kernel", kernel;
    inputs<R, V>;
    outputs<R, V>;
    functions: kernel, backward;
}

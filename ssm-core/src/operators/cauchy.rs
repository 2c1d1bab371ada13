//! Convolution kernels of diagonal and low-rank state spaces, and what initial states add to outputs.

use crate::backend::host::{self, empty, unflattened};
use crate::backend::{Input, Spec, over_rows, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use burn::tensor::{DType, Tensor};
use spillway_kernel_dsl::cauchy as kernel;

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
    let none = empty([0, problem.channels, problem.modes, 2], &system.step.device());
    let found = run(Cauchy(problem), inputs(system, none))?;
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
    let kernel::Problem {
        channels,
        modes,
        readouts,
        ..
    } = problem;
    expect_shape("state", &[batch, channels, modes, 2], &state.dims())?;
    host::expect_finite("state", &state)?;
    let found = run(Cauchy(problem), inputs(system, state))?;
    Ok((
        Tensor::from_dispatch(found.kernel),
        unflattened(found.state_kernel, [batch, readouts, channels, length]),
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

fn inputs(system: LowRankSystem, state: Tensor<4>) -> kernel::Operands<Input<'static>, Input<'static>> {
    kernel::Operands {
        step: system.step.into(),
        a: system.a.into(),
        b: system.b.into(),
        p: system.p.into(),
        c: system.c.into(),
        state: state.into(),
    }
}

/// The sizes are those of the tensors, but for the nodes and the length.
#[derive(Debug)]
struct Cauchy(kernel::Problem);

impl Cauchy {
    fn problem(&self, _: &kernel::Operands<Vec<usize>, Vec<usize>>) -> kernel::Problem {
        self.0
    }

    /// Responses of all readouts to all states one after another: only their last dimension is a row.
    fn results(&self, _: kernel::Operands<Spec, Spec>) -> kernel::Results<Spec> {
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
        }
    }
}

over_rows! {
    Cauchy, "cauchy_kernel", kernel;
    inputs<R, V>;
    outputs<R>;
    functions: kernel, backward;
}

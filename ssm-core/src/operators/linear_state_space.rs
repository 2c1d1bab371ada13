//! Linear state spaces as recurrences.

use crate::backend::flex::{self, RowTensor, contiguous, slice};
use crate::backend::host::{expect_finite, from_host, host, is_host, values as values_of};
use crate::backend::{Input, Spec, over_rows, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use burn::tensor::{DType, Device, Tensor};
use burn_flex::FlexTensor;
use spillway_kernel_dsl::Sequences;
use spillway_kernel_dsl::linear_state_space as kernel;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::linear_state_space::cube as device;
pub use spillway_kernel_dsl::linear_state_space::{Rule, Spectrum};
use std::sync::{Arc, OnceLock};

/// A linear state space for each of H channels, continuous as it is trained.
///
/// ```text
/// x′ = A x + B u, y = w Re(C x) + D u        A = Λ − P P*, w = 2 where a mode stands for a conjugate pair
/// ```
///
/// S copies of (Λ, B, P) are shared: channel h has copy h mod S. Complex numbers are pairs (re, im). Sources: Gu et al. (2111.00396),
/// sections 2.3 and 3, and (2206.11893), section 3.
#[derive(Clone, Debug)]
pub struct LinearSystem {
    /// Δ, the step size of every channel, `[channels]`, positive.
    pub step_size: Tensor<1>,
    /// Λ, `[copies, modes, 2]`.
    pub a: Tensor<3>,
    /// B, `[copies, modes, 2]`.
    pub b: Tensor<3>,
    /// C, `[outputs, channels, modes, 2]`.
    pub c: Tensor<4>,
    /// P, `[rank, copies, modes, 2]`, which needs the bilinear rule and conjugate pairs.
    pub low_rank: Option<Tensor<4>>,
    /// D, the skip from an input to its own outputs, `[outputs, channels]`; `None` is 0.
    pub skip: Option<Tensor<2>>,
    /// How time becomes discrete.
    pub rule: Rule,
    /// What the modes stand for.
    pub spectrum: Spectrum,
}

impl LinearSystem {
    /// x before the first token of `batch` sequences, `[batch, channels, modes, 2]` zeros.
    pub fn start(&self, batch: usize, device: &Device) -> Tensor<4> {
        let [_, channels, modes, _] = self.c.dims();
        Tensor::zeros([batch, channels, modes, 2], device)
    }

    /// Multiplications and additions of one token: eight per mode and output, and eight more per mode and rank.
    pub fn flops_per_token(&self) -> u64 {
        let [outputs, channels, modes, _] = self.c.dims();
        let rank = self.low_rank.as_ref().map_or(0, |p| p.dims()[0]);
        8 * (channels * modes * (1 + outputs + 2 * rank)) as u64
    }

    /// The discrete system in this machine's memory; nothing for parameters that have none.
    fn discrete(&self) -> Option<Arc<kernel::System>> {
        self.check_values().ok()?;
        let [outputs, channels, modes, _] = self.c.dims();
        let held = |tensor: FlexTensor| contiguous(tensor);
        let values = kernel::Operands::<RowTensor, FlexTensor> {
            input: RowTensor::new(flex::tensor(Vec::new(), &[0, 0, channels]), 1),
            token_step_size: None,
            step_size: Some(held(host(self.step_size.clone()))),
            a: held(host(self.a.clone())),
            b: held(host(self.b.clone())),
            c: held(host(self.c.clone())),
            low_rank: self.low_rank.clone().map(|p| held(host(p))),
            skip: self.skip.clone().map(|skip| held(host(skip))),
            state: None,
        };
        let problem = kernel::Problem {
            batch: 0,
            time: 0,
            sequences: Sequences::Equal,
            channels,
            outputs,
            state_dim: modes,
            copies: self.a.dims()[0],
            rank: self.low_rank.as_ref().map_or(0, |p| p.dims()[0]),
            rule: self.rule,
            spectrum: self.spectrum,
        };
        let views = values
            .as_ref()
            .map(|_, rows| rows.view(), |_, values| slice(values));
        kernel::System::new(&problem, &views).ok().map(Arc::new)
    }

    /// Refuses what no system may have, as parameters may after a training that diverged: a Δ that is not positive, a mode that grows,
    /// numbers that are none. Few values beside those of a call; of B, C, P and D a device is not asked, for that would hold it up.
    fn check_values(&self) -> Result<()> {
        if is_host([&self.c.device().inner()]) {
            expect_finite("B of a state space", &self.b)?;
            expect_finite("C of a state space", &self.c)?;
            self.low_rank
                .as_ref()
                .map_or(Ok(()), |p| expect_finite("P of a state space", p))?;
            self.skip
                .as_ref()
                .map_or(Ok(()), |skip| expect_finite("D of a state space", skip))?;
        }
        let values = |values: std::result::Result<Vec<f32>, String>| {
            values.map_err(|reason| Error::Kernel {
                operation: "linear_state_space",
                reason,
            })
        };
        let wrong = |what, expected, found| {
            Err(Error::Value {
                what,
                expected,
                found,
            })
        };
        let steps = values(values_of(self.step_size.clone()))?;
        if let Some(step) = steps.iter().find(|step| !(**step > 0.0 && step.is_finite())) {
            let what = "step size of a linear state space";
            return wrong(what, "a positive, finite number", step.to_string());
        }
        let decays = |mode: &[f32]| match self.rule {
            // What rounding to f32 leaves of a mode that neither grows nor decays lies above 1.
            Rule::Given => mode[0] * mode[0] + mode[1] * mode[1] <= 1.0 + 1e-6,
            _ => mode[0] <= 0.0 && mode[0].is_finite() && mode[1].is_finite(),
        };
        let modes = values(values_of(self.a.clone()))?;
        match modes.chunks_exact(2).find(|mode| !decays(mode)) {
            None => Ok(()),
            Some(mode) => wrong(
                "mode of a linear state space",
                "one that does not grow",
                format!("{} + {} i", mode[0], mode[1]),
            ),
        }
    }

    fn validate(&self, channels: usize) -> Result<()> {
        let [outputs, _, modes, _] = self.c.dims();
        let copies = self.a.dims()[0];
        expect_shape("step size of a state space", &[channels], &self.step_size.dims())?;
        expect_shape("A of a state space", &[copies, modes, 2], &self.a.dims())?;
        expect_shape("B of a state space", &[copies, modes, 2], &self.b.dims())?;
        expect_shape(
            "C of a state space",
            &[outputs, channels, modes, 2],
            &self.c.dims(),
        )?;
        if let Some(p) = &self.low_rank {
            expect_shape("P of a state space", &[p.dims()[0], copies, modes, 2], &p.dims())?;
        }
        if let Some(skip) = &self.skip {
            expect_shape("D of a state space", &[outputs, channels], &skip.dims())?;
        }
        if copies == 0 || !channels.is_multiple_of(copies) {
            return Err(Error::Value {
                what: "copies of A and B of a state space",
                expected: "a divisor of the channels",
                found: format!("{copies} for {channels} channels"),
            });
        }
        let plain = self.rule == Rule::Bilinear && self.spectrum == Spectrum::ConjugatePairs;
        if self.low_rank.is_some() && !plain {
            return Err(Error::Value {
                what: "rule of a state space with a low-rank part",
                expected: "bilinear, with conjugate pairs",
                found: format!("{:?}, {:?}", self.rule, self.spectrum),
            });
        }
        Ok(())
    }
}

/// A state space whose parameters stay as they are: on the CPU it is made discrete once, at the first token that comes alone.
#[derive(Clone, Debug)]
pub struct FixedLinearSystem {
    system: LinearSystem,
    /// The discrete system, once it is made; `None` in it where a call is not to use one.
    discrete: OnceLock<Option<Arc<kernel::System>>>,
}

impl From<LinearSystem> for FixedLinearSystem {
    fn from(system: LinearSystem) -> Self {
        Self {
            system,
            discrete: OnceLock::new(),
        }
    }
}

impl FixedLinearSystem {
    /// The continuous system, as it was given.
    pub fn system(&self) -> &LinearSystem {
        &self.system
    }

    /// As [`linear_state_space`].
    ///
    /// # Errors
    /// As there.
    pub fn forward(&self, input: Tensor<3>, state: &mut Tensor<4>) -> Result<Tensor<3>> {
        let [batch, time, channels] = input.dims();
        let alone = time == 1 && is_host([&input.device(), &state.device(), &self.system.c.device()]);
        if !alone {
            return linear_state_space(input, &self.system, state);
        }
        let [outputs, of_system, modes, _] = self.system.c.dims();
        self.system.validate(channels)?;
        expect_shape(
            "state of a state space",
            &[batch, of_system, modes, 2],
            &state.dims(),
        )?;
        let Some(discrete) = self.discrete.get_or_init(|| self.system.discrete()) else {
            return linear_state_space(input, &self.system, state);
        };
        let rows = RowTensor::new(host(input), 1);
        let held = std::mem::replace(state, Tensor::zeros([0; 4], &Device::flex()));
        let mut held = flex::owned(host(held));
        let mut out = vec![0.0; batch * outputs * channels];
        flex::validated(discrete.step(rows.view(), None, held.storage_mut(), &mut out));
        *state = from_host(held);
        Ok(from_host(flex::tensor(out, &[batch, 1, outputs * channels])))
    }
}

/// x_t = Ā x_{t−1} + B̄ u_t, y_t = w Re(C x_t) + D u_t per channel; `state` is left after the last token.
///
/// Output c of channel h is column c·channels + h.
///
/// # Shapes
/// `input` `[batch, time, channels]`, result `[batch, time, outputs · channels]`, `state` `[batch, channels, modes, 2]` in f32.
///
/// # Errors
/// [`Error::Shape`], [`Error::Value`] for copies that do not divide the channels, a rule that does not know P, a Δ that is not
/// positive, a mode that grows or a parameter that is not finite, [`Error::Device`], [`Error::DType`] and [`Error::Kernel`].
pub fn linear_state_space(
    input: Tensor<3>,
    system: &LinearSystem,
    state: &mut Tensor<4>,
) -> Result<Tensor<3>> {
    let [batch, _, channels] = input.dims();
    system.validate(channels)?;
    let [_, _, modes, _] = system.c.dims();
    let expected = [batch, channels, modes, 2];
    expect_shape("state of a state space", &expected, &state.dims())?;
    system.check_values()?;
    let operator = LinearStateSpace {
        rule: system.rule,
        spectrum: system.spectrum,
    };
    let inputs = kernel::Operands {
        input: input.into(),
        token_step_size: None,
        step_size: Some(system.step_size.clone().into()),
        a: system.a.clone().into(),
        b: system.b.clone().into(),
        c: system.c.clone().into(),
        low_rank: system.low_rank.clone().map(Input::from),
        skip: system.skip.clone().map(Input::from),
        state: Some(Input::State(state)),
    };
    let found = run(operator, inputs)?;
    *state = Tensor::from_dispatch(found.state);
    Ok(Tensor::from_dispatch(found.out))
}

/// What of a state space is not a tensor.
#[derive(Debug)]
struct LinearStateSpace {
    rule: Rule,
    spectrum: Spectrum,
}

/// The shapes of a state space's operands.
type Shapes = kernel::Operands<Vec<usize>, Vec<usize>>;

impl LinearStateSpace {
    fn problem(&self, shapes: &Shapes) -> kernel::Problem<'static> {
        kernel::Problem {
            batch: shapes.input[0],
            time: shapes.input[1],
            sequences: Sequences::Equal,
            channels: shapes.input[2],
            outputs: shapes.c[0],
            state_dim: shapes.c[2],
            copies: shapes.a[0],
            rank: shapes.low_rank.as_ref().map_or(0, |shape| shape[0]),
            rule: self.rule,
            spectrum: self.spectrum,
        }
    }

    fn results(&self, inputs: kernel::Operands<Spec, Spec>) -> kernel::Results<Spec, Spec> {
        let dtype = inputs.input.dtype;
        let problem = self.problem(&inputs.map(|_, spec| spec.shape, |_, spec| spec.shape));
        let state = [problem.batch, problem.channels, problem.state_dim, 2];
        let out = [problem.batch, problem.time, problem.outputs * problem.channels];
        kernel::Results {
            out: Spec::new(out, dtype),
            state: Spec::new(state, DType::F32),
        }
    }
}

over_rows! {
    LinearStateSpace, "linear_state_space", kernel;
    inputs<R, V>;
    outputs<R, V>;
    host: {
        forward(_, problem, inputs, found): kernel::forward(problem, inputs, found),
        backward(_, problem, inputs, cotangents, found): {
            kernel::backward(problem, inputs, kernel::DEFAULT_CHUNK_SIZE, cotangents, found)
        },
    }
    device: {
        forward(_, client, problem, inputs): device::forward(client, problem, inputs),
        backward(_, client, problem, inputs, cotangents): device::backward(client, problem, inputs, cotangents),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(step: f32, rate: f32) -> Result<Tensor<3>> {
        let device = Device::flex();
        let system = LinearSystem {
            step_size: Tensor::from_floats([step], &device),
            a: Tensor::from_floats([[[rate, 1.0]]], &device),
            b: Tensor::ones([1, 1, 2], &device),
            c: Tensor::ones([1, 1, 1, 2], &device),
            low_rank: None,
            skip: None,
            rule: Rule::ZeroOrderHold,
            spectrum: Spectrum::ConjugatePairs,
        };
        let mut state = system.start(1, &device);
        linear_state_space(Tensor::ones([1, 3, 1], &device), &system, &mut state)?;
        let input = Tensor::ones([1, 1, 1], &device);
        FixedLinearSystem::from(system).forward(input, &mut state)
    }

    #[test]
    fn parameters_of_a_training_that_diverged_are_an_error_and_no_panic() {
        assert!(call(0.1, -0.5).is_ok());
        for (step, rate) in [
            (f32::NAN, -0.5),
            (0.0, -0.5),
            (0.1, 0.5),
            (0.1, f32::NAN),
            (f32::INFINITY, -1.0),
        ] {
            let error = call(step, rate).expect_err("no such system").to_string();
            assert!(error.contains("linear state space"), "{error}");
        }
    }
}

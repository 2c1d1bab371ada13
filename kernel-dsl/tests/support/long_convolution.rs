//! Long convolutions with their inputs and cotangents, as tests draw them.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use proptest::prelude::*;
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::long_convolution::{
    Cotangents, Direction, GradientBuffers, Inputs, Later, Method, Outputs, Problem, Results, backward,
    long_convolution, reference,
};

use super::support::differences::{compare, inner};
use super::support::relative_error;
use super::tokenwise::random;

/// Allowed relative error of anything in f32. Transforms err by about 10⁻⁷ per factor of ten of their length.
const TOLERANCE: f64 = 1e-6;

/// A convolution, its inputs and the cotangents of what it gives.
#[derive(Clone, Debug)]
pub struct LongConvolution {
    pub problem: Problem,
    /// Between the rows of input and response.
    pub gap: usize,
    pub input: Vec<f32>,
    pub kernel: Vec<f32>,
    pub later_kernel: Option<Vec<f32>>,
    pub skip: Option<Vec<f32>>,
    pub response: Option<Vec<f32>>,
    pub tail: Option<Vec<f32>>,
    pub out_cotangent: Option<Vec<f32>>,
    pub tail_cotangent: Option<Vec<f32>>,
}

impl LongConvolution {
    /// A convolution with all that its direction lets it have.
    pub fn example(problem: Problem, seed: u64) -> Self {
        Self::drawn(problem, 0, [true; 5], seed)
    }

    fn drawn(problem: Problem, gap: usize, given: [bool; 5], seed: u64) -> Self {
        let [skip, response, tail, by_out, by_tail] = given;
        let (tokens, outputs) = (problem.tokens(), problem.outputs());
        let mut next = seed;
        let mut values = |len: usize| {
            next = next.wrapping_add(1);
            random(next, len, 1.0)
        };
        let both = matches!(problem.direction, Direction::Both(_));
        Self {
            problem,
            gap,
            input: values(tokens * (problem.channels + gap)),
            kernel: values(problem.kernel_len()),
            later_kernel: both.then(|| values(problem.kernel_len())),
            skip: skip.then(|| values(outputs)),
            response: response.then(|| values(tokens * (outputs + gap))),
            tail: tail.then(|| values(problem.tail_len())),
            out_cotangent: by_out.then(|| values(tokens * outputs)),
            tail_cotangent: by_tail.then(|| values(problem.tail_len())),
        }
    }

    pub fn inputs(&self) -> Inputs<'_> {
        let problem = &self.problem;
        let rows =
            |values, cols| Rows::new(values, problem.tokens(), cols, cols + self.gap).expect("whole rows");
        Inputs {
            input: rows(&self.input, problem.channels),
            kernel: &self.kernel,
            later_kernel: self.later_kernel.as_deref(),
            skip: self.skip.as_deref(),
            response: self
                .response
                .as_deref()
                .map(|values| rows(values, problem.outputs())),
            tail: self.tail.as_deref(),
        }
    }

    pub fn cotangents(&self) -> Cotangents<'_> {
        let (tokens, outputs) = (self.problem.tokens(), self.problem.outputs());
        let rows = |values| Rows::contiguous(values, tokens, outputs).expect("whole rows");
        Cotangents {
            out: self.out_cotangent.as_deref().map(rows),
            tail: self.tail_cotangent.as_deref(),
        }
    }

    /// Output and tail on the host.
    pub fn run(&self) -> Results<Vec<f32>, Vec<f32>> {
        let mut found = Results {
            out: vec![f32::NAN; self.problem.tokens() * self.problem.outputs()],
            tail: vec![f32::NAN; self.problem.tail_len()],
        };
        let mut outputs = Outputs {
            out: &mut found.out,
            tail: &mut found.tail,
        };
        long_convolution(&self.problem, &self.inputs(), &mut outputs).expect("valid");
        found
    }

    /// Gradients on the host.
    pub fn pull_back(&self) -> GradientBuffers {
        let mut found = GradientBuffers::zeros(&self.problem, &self.inputs());
        let mut nothing = found.as_written();
        let everything = [
            Some(&mut nothing.input),
            Some(&mut nothing.kernel),
            nothing.later_kernel.as_mut(),
            nothing.skip.as_mut(),
            nothing.response.as_mut(),
            nothing.tail.as_mut(),
        ];
        everything
            .into_iter()
            .flatten()
            .for_each(|values| values.fill(f32::NAN));
        backward(&self.problem, &self.inputs(), &self.cotangents(), &mut nothing).expect("valid");
        found
    }

    pub fn expected(&self) -> (Results<Vec<f64>, Vec<f64>>, GradientBuffers<f64>) {
        let results = reference::long_convolution(&self.problem, &self.inputs()).expect("valid");
        let gradients =
            reference::backward(&self.problem, &self.inputs(), &self.cotangents()).expect("valid");
        (results, gradients)
    }

    /// Σ ⟨cotangent, result⟩ of the definition.
    fn loss(&self) -> f64 {
        let found = reference::long_convolution(&self.problem, &self.inputs()).expect("valid");
        let of = |cotangent: &Option<Vec<f32>>, values: &[f64]| {
            cotangent.as_deref().map_or(0.0, |c| inner(c, values))
        };
        of(&self.out_cotangent, &found.out) + of(&self.tail_cotangent, &found.tail)
    }

    /// The gradients of the definition against differences of it. There must be no gaps, which have no gradient.
    pub fn check_definition(&self) -> Result<(), String> {
        assert_eq!(self.gap, 0);
        let expected = self.expected().1;
        let vary = |what: &str,
                    values: &Option<Vec<f32>>,
                    gradient: Option<Vec<f64>>,
                    set: fn(&mut Self, Vec<f32>)| {
            let (Some(values), Some(gradient)) = (values, gradient) else {
                return Ok(());
            };
            let mut moved = self.clone();
            compare(what, values, &gradient, |values| {
                set(&mut moved, values.to_vec());
                moved.loss()
            })
        };
        vary(
            "the input",
            &Some(self.input.clone()),
            Some(expected.input),
            |case, v| case.input = v,
        )?;
        vary(
            "the kernel",
            &Some(self.kernel.clone()),
            Some(expected.kernel),
            |case, v| case.kernel = v,
        )?;
        vary(
            "the later kernel",
            &self.later_kernel,
            expected.later_kernel,
            |case, v| {
                case.later_kernel = Some(v);
            },
        )?;
        vary("the skip", &self.skip, expected.skip, |case, v| {
            case.skip = Some(v)
        })?;
        vary("the response", &self.response, expected.response, |case, v| {
            case.response = Some(v)
        })?;
        vary("the tail", &self.tail, expected.tail, |case, v| {
            case.tail = Some(v)
        })
    }

    /// The host against the definition, in every form.
    pub fn check_host(&self) -> Result<(), String> {
        let (results, gradients) = self.expected();
        for method in [Method::Auto, Method::Direct, Method::Fourier] {
            let mut case = self.clone();
            case.problem.method = method;
            let found = case.run();
            close(
                &format!("the output ({method:?})"),
                &found.out,
                &results.out,
                TOLERANCE,
            )?;
            close(
                &format!("the tail ({method:?})"),
                &found.tail,
                &results.tail,
                TOLERANCE,
            )?;
            let found = case.pull_back();
            close_gradients(&format!("{method:?}"), &found, &gradients, TOLERANCE)?;
        }
        Ok(())
    }
}

/// All gradients.
pub fn close_gradients(
    form: &str,
    found: &GradientBuffers,
    expected: &GradientBuffers<f64>,
    tolerance: f64,
) -> Result<(), String> {
    let some = |found, expected| Some((found, expected));
    let optional = |found, expected| Option::zip(found, expected);
    let pairs = [
        ("input", some(&found.input, &expected.input)),
        ("kernel", some(&found.kernel, &expected.kernel)),
        (
            "later_kernel",
            optional(found.later_kernel.as_ref(), expected.later_kernel.as_ref()),
        ),
        ("skip", optional(found.skip.as_ref(), expected.skip.as_ref())),
        (
            "response",
            optional(found.response.as_ref(), expected.response.as_ref()),
        ),
        ("tail", optional(found.tail.as_ref(), expected.tail.as_ref())),
    ];
    for (what, pair) in pairs {
        if let Some((found, expected)) = pair {
            close(
                &format!("the gradient of {what} ({form})"),
                found,
                expected,
                tolerance,
            )?;
        }
    }
    Ok(())
}

/// Where the terms of a sum cancel, rounding leaves an error of their size: values of size one err by no more than `tolerance` in the
/// root mean square either.
pub fn close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) -> Result<(), String> {
    let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
    let error = relative_error(found, expected);
    let absolute = if norm == 0.0 { error } else { error * norm } / (expected.len().max(1) as f64).sqrt();
    // Written so that NaN fails.
    let close = error <= tolerance || absolute <= tolerance;
    match close {
        true => Ok(()),
        false => Err(format!(
            "{what} is off by {error:e} ({absolute:e} per value), allowed {tolerance:e}"
        )),
    }
}

pub fn any_direction() -> impl Strategy<Value = Direction> {
    prop_oneof![
        Just(Direction::Causal),
        Just(Direction::Streamed),
        Just(Direction::Both(Later::Next)),
        Just(Direction::Both(Later::Current)),
    ]
}

/// Sequences of up to `time` tokens and kernels of up to `taps` taps.
pub fn any_long_convolution(
    time: usize,
    taps: usize,
    channels: usize,
    gap: usize,
) -> impl Strategy<Value = LongConvolution> {
    let shape = (0..3_usize, 0..time + 1, 0..channels + 1, 0..3_usize, 1..taps + 1);
    (
        shape,
        any_direction(),
        0..gap + 1,
        any::<[bool; 5]>(),
        any::<u64>(),
    )
        .prop_map(
            |((batch, time, channels, multiplicity, taps), direction, gap, given, seed)| {
                let problem = Problem {
                    batch,
                    time,
                    channels,
                    multiplicity,
                    taps,
                    direction,
                    method: Method::Auto,
                };
                LongConvolution::drawn(problem, gap, given, seed)
            },
        )
}

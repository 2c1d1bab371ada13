//! Convolutions over several axes with their inputs and cotangents, as tests draw them.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use proptest::prelude::*;
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::long_convolution::nd::{
    Axes, Axis, Cotangents, GradientBuffers, Inputs, Method, Outputs, Problem, backward, long_convolution,
    reference,
};

use super::long_convolution::close;
use super::support::differences::{compare, inner};
use super::tokenwise::random;

/// Allowed relative error of anything in f32, as along one axis.
const TOLERANCE: f64 = 1e-6;

/// A convolution, its inputs and the cotangent of what it gives.
#[derive(Clone, Debug)]
pub struct LongConvolutionNd {
    pub problem: Problem,
    /// Between the rows of the input.
    pub gap: usize,
    pub input: Vec<f32>,
    pub kernel: Vec<f32>,
    pub skip: Option<Vec<f32>>,
    pub cotangent: Vec<f32>,
}

impl LongConvolutionNd {
    pub fn example(problem: Problem, seed: u64) -> Self {
        Self::drawn(problem, 0, true, seed)
    }

    fn drawn(problem: Problem, gap: usize, skip: bool, seed: u64) -> Self {
        let (tokens, outputs) = (problem.tokens(), problem.outputs());
        let values = |shift: u64, len: usize| random(seed.wrapping_add(shift), len, 1.0);
        Self {
            problem,
            gap,
            input: values(1, tokens * (problem.channels + gap)),
            kernel: values(2, problem.kernel_len()),
            skip: skip.then(|| values(3, outputs)),
            cotangent: values(4, tokens * outputs),
        }
    }

    pub fn inputs(&self) -> Inputs<'_> {
        let Problem { channels, .. } = self.problem;
        Inputs {
            input: Rows::new(&self.input, self.problem.tokens(), channels, channels + self.gap)
                .expect("whole rows"),
            kernel: &self.kernel,
            skip: self.skip.as_deref(),
        }
    }

    fn cotangents(&self) -> Cotangents<'_> {
        let (tokens, outputs) = (self.problem.tokens(), self.problem.outputs());
        Cotangents {
            out: Rows::contiguous(&self.cotangent, tokens, outputs).expect("whole rows"),
        }
    }

    pub fn run(&self) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.problem.tokens() * self.problem.outputs()];
        long_convolution(&self.problem, &self.inputs(), &mut Outputs { out: &mut out }).expect("valid");
        out
    }

    pub fn pull_back(&self) -> GradientBuffers {
        let mut found = GradientBuffers::zeros(&self.problem, &self.inputs());
        let mut nothing = found.as_written();
        nothing.input.fill(f32::NAN);
        nothing.kernel.fill(f32::NAN);
        if let Some(skip) = nothing.skip.as_mut() {
            skip.fill(f32::NAN);
        }
        backward(&self.problem, &self.inputs(), &self.cotangents(), &mut nothing).expect("valid");
        found
    }

    /// Σ ⟨cotangent, output⟩ of the definition.
    fn loss(&self) -> f64 {
        let found = reference::long_convolution(&self.problem, &self.inputs()).expect("valid");
        inner(&self.cotangent, &found.out)
    }

    /// The gradients of the definition against differences of it. There must be no gaps, which have no gradient.
    pub fn check_definition(&self) -> Result<(), String> {
        assert_eq!(self.gap, 0);
        let expected = reference::backward(&self.problem, &self.inputs(), &self.cotangents()).expect("valid");
        let mut moved = self.clone();
        compare("the input", &self.input, &expected.input, |values| {
            moved.input = values.to_vec();
            moved.loss()
        })?;
        let mut moved = self.clone();
        compare("the kernel", &self.kernel, &expected.kernel, |values| {
            moved.kernel = values.to_vec();
            moved.loss()
        })?;
        let (Some(skip), Some(gradient)) = (&self.skip, &expected.skip) else {
            return Ok(());
        };
        let mut moved = self.clone();
        compare("the skip", skip, gradient, |values| {
            moved.skip = Some(values.to_vec());
            moved.loss()
        })
    }

    /// The host against the definition, in every form.
    pub fn check_host(&self) -> Result<(), String> {
        let output = reference::long_convolution(&self.problem, &self.inputs()).expect("valid");
        let expected = reference::backward(&self.problem, &self.inputs(), &self.cotangents()).expect("valid");
        for method in [Method::Auto, Method::PerAxis, Method::Fourier] {
            let mut case = self.clone();
            case.problem.method = method;
            close(
                &format!("the output ({method:?})"),
                &case.run(),
                &output.out,
                TOLERANCE,
            )?;
            let found = case.pull_back();
            let of = |what: &str, found: &[f32], expected: &[f64]| {
                close(
                    &format!("the gradient of {what} ({method:?})"),
                    found,
                    expected,
                    TOLERANCE,
                )
            };
            of("the input", &found.input, &expected.input)?;
            of("the kernel", &found.kernel, &expected.kernel)?;
            if let (Some(found), Some(expected)) = (&found.skip, &expected.skip) {
                of("the skip", found, expected)?;
            }
        }
        Ok(())
    }
}

/// One to three axes of up to `sizes[count − 1]` positions and as many taps on either side.
pub fn any_axes(sizes: [usize; 3]) -> impl Strategy<Value = Axes> {
    (1..4_usize)
        .prop_flat_map(move |count| {
            let most = sizes[count - 1];
            let axis = (0..most + 1, 1..most + 2, 0..most + 2);
            prop::collection::vec(axis, count)
        })
        .prop_map(|axes| {
            let axes = axes
                .into_iter()
                .map(|(size, taps, later)| Axis { size, taps, later });
            Axes::new(&axes.collect::<Vec<_>>()).expect("one to three axes")
        })
}

/// Convolutions of any rank over such axes.
pub fn any_long_convolution_nd(
    sizes: [usize; 3],
    channels: usize,
    gap: usize,
) -> impl Strategy<Value = LongConvolutionNd> {
    let shape = (0..3_usize, 0..channels + 1, 0..3_usize, 0..4_usize);
    (shape, any_axes(sizes), 0..gap + 1, any::<bool>(), any::<u64>()).prop_map(
        |((batch, channels, multiplicity, rank), axes, gap, skip, seed)| {
            let problem = Problem {
                batch,
                axes,
                channels,
                multiplicity,
                rank,
                method: Method::Auto,
            };
            LongConvolutionNd::drawn(problem, gap, skip, seed)
        },
    )
}

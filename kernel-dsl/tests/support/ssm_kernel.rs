//! State spaces with their inputs and cotangents, as tests draw them.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use proptest::prelude::*;
use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::cauchy;
use spillway_kernel_dsl::vandermonde::{self, Discretization, ModeSet, Steps};

use super::support::differences::{compare, inner};
use super::support::{error_beside, relative_error};
use super::tokenwise::random;

/// Allowed relative error of an output, and of a gradient, on the host.
const TOLERANCE: f64 = 2e-6;
/// The same on a device, whose powers are multiplied up from every sixteenth and whose sums are f32.
pub const ON_DEVICES: f64 = 6e-6;

fn rows(values: &[f32], rows: usize, cols: usize) -> Rows<'_> {
    Rows::contiguous(values, rows, cols).expect("whole rows")
}

/// Rates with real parts in −`damping` and imaginary parts up to `frequency`.
fn rates(seed: u64, count: usize, damping: (f32, f32), frequency: f32) -> Vec<f32> {
    let draws = random(seed, 2 * count, 1.0);
    let (low, high) = damping;
    draws
        .chunks_exact(2)
        .flat_map(|pair| [-(low + (high - low) * pair[0].abs()), frequency * pair[1]])
        .collect()
}

fn steps(seed: u64, count: usize, (low, high): (f32, f32)) -> Vec<f32> {
    let draws = random(seed, count, 1.0);
    draws.iter().map(|x| low + (high - low) * x.abs()).collect()
}

fn close(what: &str, found: &[f32], expected: &[f64]) -> Result<(), String> {
    close_sums(what, found, expected, expected, TOLERANCE)
}

/// The same of sums whose terms have these sizes.
fn close_sums(
    what: &str,
    found: &[f32],
    expected: &[f64],
    terms: &[f64],
    tolerance: f64,
) -> Result<(), String> {
    let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
    let error = relative_error(found, expected);
    // Written so that NaN fails. Where all but nothing is expected, what is left of terms of size one may stay.
    let near = error_beside(found, expected, terms) <= tolerance || error * norm <= 0.5 * tolerance;
    if near {
        Ok(())
    } else {
        Err(format!("{what} is off by {error:e}"))
    }
}

/// A diagonal system.
#[derive(Clone, Debug)]
pub struct Diagonal {
    pub problem: vandermonde::Problem,
    pub step: Vec<f32>,
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub c: Vec<f32>,
    pub state: Vec<f32>,
    pub signal: Vec<f32>,
    kernel_cotangent: Vec<f32>,
    response_cotangent: Vec<f32>,
    state_cotangent: Vec<f32>,
}

impl Diagonal {
    pub fn new(problem: vandermonde::Problem, seed: u64) -> Self {
        let vandermonde::Problem {
            channels,
            modes,
            copies,
            readouts,
            batch,
            length,
            ..
        } = problem;
        let count = match problem.steps {
            Steps::PerChannel => channels,
            Steps::PerMode => channels * modes,
        };
        let responses = batch * readouts * channels * length;
        Self {
            problem,
            step: steps(seed, count, (0.05, 0.3)),
            a: rates(seed ^ 1, copies * modes, (0.1, 2.0), 6.0),
            b: random(seed ^ 2, 2 * copies * modes, 1.0),
            c: random(seed ^ 3, 2 * readouts * channels * modes, 1.0),
            state: random(seed ^ 4, 2 * batch * channels * modes, 1.0),
            signal: random(seed ^ 5, batch * channels * length, 1.0),
            kernel_cotangent: random(seed ^ 6, readouts * channels * length, 1.0),
            response_cotangent: random(seed ^ 7, responses, 1.0),
            state_cotangent: random(seed ^ 8, 2 * batch * channels * modes, 1.0),
        }
    }

    /// Of such a size that threads and several blocks and strips are at work.
    pub fn large() -> Self {
        let problem = vandermonde::Problem {
            channels: 5,
            modes: 7,
            copies: 2,
            readouts: 2,
            batch: 2,
            length: 2500,
            discretization: Discretization::ZeroOrderHold,
            mode_set: ModeSet::ConjugatePairs,
            steps: Steps::PerChannel,
        };
        Self::new(problem, 11)
    }

    /// Leaves the states alone.
    pub fn without_readouts(self, problem: vandermonde::Problem) -> Self {
        let problem = vandermonde::Problem {
            readouts: 0,
            ..problem
        };
        let none = Vec::new;
        Self {
            problem,
            c: none(),
            kernel_cotangent: none(),
            response_cotangent: none(),
            ..self
        }
    }

    pub fn inputs(&self) -> vandermonde::Inputs<'_> {
        let vandermonde::Problem {
            channels,
            batch,
            length,
            ..
        } = self.problem;
        vandermonde::Inputs {
            step: &self.step,
            a: &self.a,
            b: &self.b,
            c: &self.c,
            state: &self.state,
            signal: rows(&self.signal, batch * channels, length),
        }
    }

    pub fn cotangents(&self) -> vandermonde::Cotangents<'_> {
        let vandermonde::Problem {
            channels,
            readouts,
            batch,
            length,
            ..
        } = self.problem;
        let responses = batch * readouts * channels;
        vandermonde::Cotangents {
            kernel: Some(rows(&self.kernel_cotangent, readouts * channels, length)),
            state_kernel: Some(rows(&self.response_cotangent, responses, length)),
            next_state: Some(&self.state_cotangent),
        }
    }

    pub fn run(&self) -> vandermonde::Results<Vec<f32>, Vec<f32>> {
        let mut results = vandermonde::Results {
            kernel: vec![f32::NAN; self.kernel_cotangent.len()],
            state_kernel: vec![f32::NAN; self.response_cotangent.len()],
            next_state: vec![f32::NAN; self.state.len()],
        };
        vandermonde::kernel(&self.problem, &self.inputs(), &mut results.as_written()).expect("valid");
        results
    }

    /// The gradients on the host.
    pub fn pull_back(&self) -> vandermonde::GradientBuffers {
        let mut found = vandermonde::GradientBuffers {
            step: vec![f32::NAN; self.step.len()],
            a: vec![f32::NAN; self.a.len()],
            b: vec![f32::NAN; self.b.len()],
            c: vec![f32::NAN; self.c.len()],
            state: vec![f32::NAN; self.state.len()],
            signal: vec![f32::NAN; self.signal.len()],
        };
        let (inputs, cotangents) = (self.inputs(), self.cotangents());
        vandermonde::backward(&self.problem, &inputs, &cotangents, &mut found.as_written()).expect("valid");
        found
    }

    /// The host against the definition, forward and backward.
    pub fn check_host(&self) -> Result<(), String> {
        self.check_results(&self.run(), TOLERANCE)?;
        self.check_gradients(&self.pull_back(), TOLERANCE)
    }

    /// What was computed against the definition.
    pub fn check_results(
        &self,
        found: &vandermonde::Results<Vec<f32>, Vec<f32>>,
        tolerance: f64,
    ) -> Result<(), String> {
        let close = |what: &str, found: &[f32], expected: &[f64]| {
            close_sums(what, found, expected, expected, tolerance)
        };
        let expected = vandermonde::reference::kernel(&self.problem, &self.inputs()).expect("valid");
        close("the kernel", &found.kernel, &expected.kernel)?;
        close("the response", &found.state_kernel, &expected.state_kernel)?;
        close("the state", &found.next_state, &expected.next_state)
    }

    /// Gradients against those of the definition.
    pub fn check_gradients(
        &self,
        found: &vandermonde::GradientBuffers,
        tolerance: f64,
    ) -> Result<(), String> {
        let close = |what: &str, found: &[f32], expected: &[f64]| {
            close_sums(what, found, expected, expected, tolerance)
        };
        let cotangents = self.cotangents();
        let expected =
            vandermonde::reference::backward(&self.problem, &self.inputs(), &cotangents).expect("valid");
        // Re(Λ* ā) over Δ of all modes: real numbers of any sign, whose sum may vanish.
        let smallest = self.step.iter().copied().fold(f32::INFINITY, f32::min);
        let rates = self.a.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        let gradients = expected.a.iter().map(|x| x * x).sum::<f64>();
        let terms = [(rates * gradients).sqrt() / f64::from(smallest)];
        let what = "the gradient of the step";
        close_sums(what, &found.step, &expected.step, &terms, tolerance)?;
        close("the gradient of A", &found.a, &expected.a)?;
        close("the gradient of B", &found.b, &expected.b)?;
        close("the gradient of C", &found.c, &expected.c)?;
        close("the gradient of the state", &found.state, &expected.state)?;
        close("the gradient of the signal", &found.signal, &expected.signal)
    }

    fn loss(&self) -> f64 {
        let results = vandermonde::reference::kernel(&self.problem, &self.inputs()).expect("valid");
        inner(&self.kernel_cotangent, &results.kernel)
            + inner(&self.response_cotangent, &results.state_kernel)
            + inner(&self.state_cotangent, &results.next_state)
    }

    /// The definition's gradients against differences.
    pub fn check_definition(&self) -> Result<(), String> {
        let gradients = vandermonde::reference::backward(&self.problem, &self.inputs(), &self.cotangents())
            .expect("valid");
        let mut moved = self.clone();
        let mut check = |what: &str, gradient: &[f64], at: fn(&mut Self) -> &mut Vec<f32>| {
            let values = at(&mut moved).clone();
            let result = compare(what, &values, gradient, |values| {
                at(&mut moved).copy_from_slice(values);
                moved.loss()
            });
            at(&mut moved).copy_from_slice(&values);
            result
        };
        check("the step", &gradients.step, |s| &mut s.step)?;
        check("A", &gradients.a, |s| &mut s.a)?;
        check("B", &gradients.b, |s| &mut s.b)?;
        check("C", &gradients.c, |s| &mut s.c)?;
        check("the state", &gradients.state, |s| &mut s.state)?;
        check("the signal", &gradients.signal, |s| &mut s.signal)
    }
}

/// Any diagonal system of fewer than so many positions and modes.
pub fn any_diagonal(longest: usize, most: usize) -> impl Strategy<Value = Diagonal> {
    let sizes = (
        0..4_usize,
        0..most,
        1..3_usize,
        1..3_usize,
        0..3_usize,
        0..longest,
    );
    let rule = prop_oneof![
        Just(Discretization::ZeroOrderHold),
        Just(Discretization::Bilinear),
        Just(Discretization::ExponentialEuler),
        Just(Discretization::Softmax),
    ];
    (sizes, rule, any::<(bool, bool, bool, u64)>()).prop_map(|(sizes, rule, flags)| {
        let (channels, modes, copies, readouts, batch, length) = sizes;
        let (all, per_mode, growing, seed) = flags;
        let softmax = rule == Discretization::Softmax;
        let problem = vandermonde::Problem {
            channels,
            modes,
            copies,
            readouts,
            batch: if softmax { 0 } else { batch },
            length,
            discretization: rule,
            mode_set: if all {
                ModeSet::All
            } else {
                ModeSet::ConjugatePairs
            },
            steps: if per_mode {
                Steps::PerMode
            } else {
                Steps::PerChannel
            },
        };
        let mut system = Diagonal::new(problem, seed);
        if softmax && growing {
            // Powers of every other mode count from the end.
            system.a.iter_mut().step_by(4).for_each(|re| *re = -*re);
        }
        system
    })
}

/// A diagonal system and a low-rank part.
#[derive(Clone, Debug)]
pub struct LowRank {
    pub problem: cauchy::Problem,
    pub step: Vec<f32>,
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub p: Vec<f32>,
    pub c: Vec<f32>,
    pub state: Vec<f32>,
    kernel_cotangent: Vec<f32>,
    response_cotangent: Vec<f32>,
}

impl LowRank {
    pub fn new(problem: cauchy::Problem, seed: u64) -> Self {
        let cauchy::Problem {
            channels,
            modes,
            rank,
            copies,
            readouts,
            batch,
            length,
            ..
        } = problem;
        let responses = batch * readouts * channels * length;
        Self {
            problem,
            step: steps(seed, channels, (0.1, 0.4)),
            a: rates(seed ^ 1, copies * modes, (0.5, 2.0), 6.0),
            b: random(seed ^ 2, 2 * copies * modes, 1.0),
            p: random(seed ^ 3, 2 * rank * copies * modes, 0.7),
            c: random(seed ^ 4, 2 * readouts * channels * modes, 1.0),
            state: random(seed ^ 5, 2 * batch * channels * modes, 1.0),
            kernel_cotangent: random(seed ^ 6, readouts * channels * length, 1.0),
            response_cotangent: random(seed ^ 7, responses, 1.0),
        }
    }

    /// Of such a size that threads and several blocks of nodes are at work, on a node of −1.
    pub fn large() -> Self {
        let problem = cauchy::Problem {
            channels: 12,
            modes: 5,
            rank: 2,
            copies: 2,
            readouts: 2,
            batch: 1,
            nodes: 100,
            length: 90,
        };
        Self::new(problem, 12)
    }

    pub fn inputs(&self) -> cauchy::Inputs<'_> {
        let cauchy::Problem {
            channels,
            modes,
            readouts,
            batch,
            ..
        } = self.problem;
        cauchy::Inputs {
            step: &self.step,
            a: &self.a,
            b: &self.b,
            p: &self.p,
            c: rows(&self.c, readouts * channels, 2 * modes),
            state: rows(&self.state, batch * channels, 2 * modes),
        }
    }

    pub fn cotangents(&self) -> cauchy::Cotangents<'_> {
        let cauchy::Problem {
            channels,
            readouts,
            batch,
            length,
            ..
        } = self.problem;
        let responses = batch * readouts * channels;
        cauchy::Cotangents {
            kernel: Some(rows(&self.kernel_cotangent, readouts * channels, length)),
            state_kernel: Some(rows(&self.response_cotangent, responses, length)),
        }
    }

    pub fn run(&self) -> cauchy::Results<Vec<f32>> {
        let mut results = cauchy::Results {
            kernel: vec![f32::NAN; self.kernel_cotangent.len()],
            state_kernel: vec![f32::NAN; self.response_cotangent.len()],
        };
        cauchy::kernel(&self.problem, &self.inputs(), &mut results.as_written()).expect("valid");
        results
    }

    /// The gradients on the host.
    pub fn pull_back(&self) -> cauchy::GradientBuffers {
        let mut found = cauchy::GradientBuffers {
            step: vec![f32::NAN; self.step.len()],
            a: vec![f32::NAN; self.a.len()],
            b: vec![f32::NAN; self.b.len()],
            p: vec![f32::NAN; self.p.len()],
            c: vec![f32::NAN; self.c.len()],
            state: vec![f32::NAN; self.state.len()],
        };
        let (inputs, cotangents) = (self.inputs(), self.cotangents());
        cauchy::backward(&self.problem, &inputs, &cotangents, &mut found.as_written()).expect("valid");
        found
    }

    /// The host against the definition, forward and backward.
    pub fn check_host(&self) -> Result<(), String> {
        let expected = cauchy::reference::kernel(&self.problem, &self.inputs()).expect("valid");
        let found = self.run();
        close("the kernel", &found.kernel, &expected.kernel)?;
        close("the response", &found.state_kernel, &expected.state_kernel)?;
        let cotangents = self.cotangents();
        let expected =
            cauchy::reference::backward(&self.problem, &self.inputs(), &cotangents).expect("valid");
        let found = self.pull_back();
        close("the gradient of the step", &found.step, &expected.step)?;
        close("the gradient of A", &found.a, &expected.a)?;
        close("the gradient of B", &found.b, &expected.b)?;
        close("the gradient of P", &found.p, &expected.p)?;
        close("the gradient of C̃", &found.c, &expected.c)?;
        close("the gradient of the state", &found.state, &expected.state)
    }

    fn loss(&self) -> f64 {
        let results = cauchy::reference::kernel(&self.problem, &self.inputs()).expect("valid");
        inner(&self.kernel_cotangent, &results.kernel)
            + inner(&self.response_cotangent, &results.state_kernel)
    }

    /// The definition's gradients against differences.
    pub fn check_definition(&self) -> Result<(), String> {
        let gradients =
            cauchy::reference::backward(&self.problem, &self.inputs(), &self.cotangents()).expect("valid");
        let mut moved = self.clone();
        let mut check = |what: &str, gradient: &[f64], at: fn(&mut Self) -> &mut Vec<f32>| {
            let values = at(&mut moved).clone();
            let result = compare(what, &values, gradient, |values| {
                at(&mut moved).copy_from_slice(values);
                moved.loss()
            });
            at(&mut moved).copy_from_slice(&values);
            result
        };
        check("the step", &gradients.step, |s| &mut s.step)?;
        check("A", &gradients.a, |s| &mut s.a)?;
        check("B", &gradients.b, |s| &mut s.b)?;
        check("P", &gradients.p, |s| &mut s.p)?;
        check("C̃", &gradients.c, |s| &mut s.c)?;
        check("the state", &gradients.state, |s| &mut s.state)
    }

    /// The truncated readout against its definition, and its gradients against differences of that.
    pub fn check_truncation(&self) -> Result<(), String> {
        let truncated =
            |system: &Self| cauchy::reference::truncate(&system.problem, &system.inputs()).expect("valid");
        let mut found = vec![f32::NAN; self.c.len()];
        cauchy::truncation::truncate(&self.problem, &self.inputs(), &mut found).expect("valid");
        close("C̃", &found, &truncated(self))?;
        let cotangent = random(9, self.c.len(), 1.0);
        let [mut step, mut a, mut p, mut c] =
            [&self.step, &self.a, &self.p, &self.c].map(|values| vec![f32::NAN; values.len()]);
        let mut gradients = cauchy::truncation::TruncationGradients {
            step: &mut step,
            a: &mut a,
            p: &mut p,
            c: &mut c,
        };
        cauchy::truncation::truncate_backward(&self.problem, &self.inputs(), &cotangent, &mut gradients)
            .expect("valid");
        let mut moved = self.clone();
        let mut check = |what: &str, gradient: &[f32], at: fn(&mut Self) -> &mut Vec<f32>| {
            let values = at(&mut moved).clone();
            let gradient: Vec<f64> = gradient.iter().map(|&g| f64::from(g)).collect();
            let result = compare(what, &values, &gradient, |values| {
                at(&mut moved).copy_from_slice(values);
                inner(&cotangent, &truncated(&moved))
            });
            at(&mut moved).copy_from_slice(&values);
            result
        };
        check("the step", &step, |s| &mut s.step)?;
        check("A", &a, |s| &mut s.a)?;
        check("P", &p, |s| &mut s.p)?;
        check("C", &c, |s| &mut s.c)
    }
}

//! Golden cases of long convolutions, in the layouts of this crate. What they apply to the output (GELU, GLU, a mask) is applied here.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use spillway_kernel_dsl::Rows;
use spillway_kernel_dsl::long_convolution::{
    Cotangents, Direction, GradientBuffers, Inputs, Later, Method, Problem,
};

use super::support::Case;

/// A case with its token-major input.
pub struct Convolution {
    case: Case,
    batch: usize,
    time: usize,
    channels: usize,
    multiplicity: usize,
    taps: usize,
    direction: Direction,
    activation: Activation,
    /// Whether rows of the case are channels.
    channel_rows: bool,
    /// Whether the case's output channels are h-major.
    swapped: bool,
    input: Vec<f32>,
    kernel: Vec<f32>,
    later_kernel: Option<Vec<f32>>,
    response: Option<Vec<f32>>,
    /// Per output and sequence.
    mask: Option<Vec<f32>>,
    /// Name of the output.
    out: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Activation {
    None,
    /// y Φ(y).
    Gelu,
    /// The first half of the outputs times σ of the second.
    Glu,
}

impl Convolution {
    /// state-spaces/s4.
    pub fn of_s4(case: Case) -> Self {
        let (batch, time, channels, taps) = (case.dim("B"), case.dim("L"), case.dim("H"), case.dim("Lk"));
        let both = case.scalar("bidirectional") != 0.0;
        let activation = match case.text("activation") {
            None => Activation::None,
            Some("gelu") => Activation::Gelu,
            Some("glu") => Activation::Glu,
            Some(other) => panic!("{} has the activation {other}", case.name),
        };
        let channel_rows = case.scalar("transposed") != 0.0;
        let multiplicity = case.dim("C") * if activation == Activation::Glu { 2 } else { 1 };
        // The first half of the kernels looks back.
        let mut kernel = case.input("k").to_vec();
        let later_kernel = both.then(|| kernel.split_off(multiplicity * channels * taps));
        let input = case.input("u");
        Self {
            batch,
            time,
            channels,
            multiplicity,
            taps,
            direction: if both {
                Direction::Both(Later::Next)
            } else {
                Direction::Causal
            },
            activation,
            channel_rows,
            swapped: case.scalar("swap_channels") != 0.0,
            input: if channel_rows {
                exchange(input, channels, time)
            } else {
                input.to_vec()
            },
            kernel,
            later_kernel,
            response: case
                .input_if_any("k_state")
                .map(|response| exchange(response, multiplicity * channels, time)),
            mask: None,
            out: "y",
            case,
        }
    }

    /// H3.
    pub fn of_h3(case: Case) -> Self {
        let (batch, time, channels) = (case.dim("B"), case.dim("L"), case.dim("H"));
        let later_kernel = case.input_if_any("k_rev").map(<[f32]>::to_vec);
        Self {
            batch,
            time,
            channels,
            multiplicity: 1,
            taps: time,
            direction: match later_kernel {
                Some(_) => Direction::Both(Later::Current),
                None => Direction::Causal,
            },
            activation: if case.scalar("gelu") != 0.0 {
                Activation::Gelu
            } else {
                Activation::None
            },
            channel_rows: true,
            swapped: false,
            input: exchange(case.input("u"), channels, time),
            kernel: case.input("k").to_vec(),
            later_kernel,
            response: None,
            mask: case.input_if_any("mask").map(<[f32]>::to_vec),
            out: "out",
            case,
        }
    }

    pub fn problem(&self, method: Method) -> Problem {
        Problem {
            batch: self.batch,
            time: self.time,
            channels: self.channels,
            multiplicity: self.multiplicity,
            taps: self.taps,
            direction: self.direction,
            method,
        }
    }

    fn outputs(&self) -> usize {
        self.multiplicity * self.channels
    }

    fn rows<'a>(&self, values: &'a [f32], cols: usize) -> Rows<'a> {
        Rows::contiguous(values, self.batch * self.time, cols).expect("whole rows")
    }

    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            input: self.rows(&self.input, self.channels),
            kernel: &self.kernel,
            later_kernel: self.later_kernel.as_deref(),
            skip: Some(self.case.input("D")),
            response: self
                .response
                .as_deref()
                .map(|values| self.rows(values, self.outputs())),
            tail: None,
        }
    }

    pub fn cotangents<'a>(&self, cotangent: &'a [f32]) -> Cotangents<'a> {
        Cotangents {
            out: Some(self.rows(cotangent, self.outputs())),
            tail: None,
        }
    }

    /// Columns of the case's output.
    fn case_columns(&self) -> usize {
        self.outputs() / if self.activation == Activation::Glu { 2 } else { 1 }
    }

    /// The column of this crate's output that is column `i` of the case's, which is h-major where it is swapped.
    fn column(&self, i: usize) -> usize {
        match self.swapped {
            true => i % self.multiplicity * self.channels + i / self.multiplicity,
            false => i,
        }
    }

    /// Token-major from the case's layout.
    fn token_major(&self, values: &[f32]) -> Vec<f32> {
        let columns = self.case_columns();
        let values = if self.channel_rows {
            exchange(values, columns, self.time)
        } else {
            values.to_vec()
        };
        let mut found = vec![0.0; values.len()];
        for (found, values) in found.chunks_exact_mut(columns).zip(values.chunks_exact(columns)) {
            (0..columns).for_each(|i| found[self.column(i)] = values[i]);
        }
        found
    }

    /// What the case does to the output, token-major, and the pull-back of the case's cotangent through it.
    fn activate(&self, out: &[f32], cotangent: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (outputs, columns) = (self.outputs(), self.case_columns());
        let mask = |row: usize, column: usize| match &self.mask {
            Some(mask) => f64::from(mask[row / self.time * columns + column]),
            None => 1.0,
        };
        let (mut found, mut by_out) = (vec![0.0; cotangent.len()], vec![0.0; out.len()]);
        for row in 0..self.batch * self.time {
            for column in 0..columns {
                let at = row * columns + column;
                let (y, c) = (
                    f64::from(out[row * outputs + column]),
                    f64::from(cotangent[at]) * mask(row, column),
                );
                let value = match self.activation {
                    Activation::None => {
                        by_out[row * outputs + column] = c as f32;
                        y
                    }
                    Activation::Gelu => {
                        let (cdf, density) =
                            (normal_cdf(y), (-y * y / 2.0).exp() / std::f64::consts::TAU.sqrt());
                        by_out[row * outputs + column] = (c * (cdf + y * density)) as f32;
                        y * cdf
                    }
                    Activation::Glu => {
                        let gate = 1.0 / (1.0 + (-f64::from(out[row * outputs + columns + column])).exp());
                        by_out[row * outputs + column] = (c * gate) as f32;
                        by_out[row * outputs + columns + column] = (c * y * gate * (1.0 - gate)) as f32;
                        y * gate
                    }
                };
                found[at] = (value * mask(row, column)) as f32;
            }
        }
        (found, by_out)
    }

    pub fn check_output(&self, form: &str, out: &[f32]) {
        let cotangent = vec![0.0; self.batch * self.time * self.case_columns()];
        let (found, _) = self.activate(out, &cotangent);
        let columns = self.case_columns();
        let mut swapped = vec![0.0; found.len()];
        for (swapped, found) in swapped.chunks_exact_mut(columns).zip(found.chunks_exact(columns)) {
            (0..columns).for_each(|i| swapped[i] = found[self.column(i)]);
        }
        let found = if self.channel_rows {
            exchange(&swapped, self.time, columns)
        } else {
            swapped
        };
        self.case.check(form, self.out, &found);
    }

    /// The cotangent of the convolution's own output, which was `out`.
    pub fn cotangent(&self, out: &[f32]) -> Vec<f32> {
        let cotangent = self.token_major(self.case.cotangent(self.out));
        self.activate(out, &cotangent).1
    }

    pub fn check_gradients(&self, form: &str, found: &GradientBuffers) {
        let by_input = match self.channel_rows {
            true => exchange(&found.input, self.time, self.channels),
            false => found.input.clone(),
        };
        self.case.check_gradient(form, "u", &by_input);
        match (&found.later_kernel, self.case.gradient_if_any("k_rev")) {
            (Some(later), Some(_)) => {
                self.case.check_gradient(form, "k", &found.kernel);
                self.case.check_gradient(form, "k_rev", later);
            }
            (later, _) => {
                let later = later.as_deref().unwrap_or_default();
                self.case
                    .check_gradient(form, "k", &[&found.kernel[..], later].concat());
            }
        }
        self.case
            .check_gradient(form, "D", found.skip.as_deref().expect("there is a skip"));
        if let Some(response) = &found.response {
            self.case
                .check_gradient(form, "k_state", &exchange(response, self.time, self.outputs()));
        }
    }
}

/// Φ, by the complement of the error function.
fn normal_cdf(x: f64) -> f64 {
    // Σ x^{2k+1} / (1·3·5 ⋯ (2k+1)), which has positive terms only.
    let (mut term, mut sum, mut k) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        k += 2.0;
        term *= x * x / k;
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

/// Exchanges the two last dimensions, `[.., rows, cols]` to `[.., cols, rows]`.
fn exchange(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let matrices = values.chunks_exact(rows * cols);
    matrices
        .flat_map(|m| (0..cols).flat_map(move |c| (0..rows).map(move |r| m[r * cols + c])))
        .collect()
}

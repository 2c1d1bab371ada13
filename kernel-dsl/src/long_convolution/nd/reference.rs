//! The definition in f64.

use super::{Axis, Cotangents, GradientBuffers, Inputs, LongConvolutionNdError, Problem, Results};

/// Output.
///
/// # Errors
/// [`LongConvolutionNdError`] when a shape does not fit.
pub fn long_convolution(
    problem: &Problem,
    inputs: &Inputs,
) -> Result<Results<Vec<f64>>, LongConvolutionNdError> {
    problem.validate_inputs(inputs)?;
    let mut out = vec![0.0; problem.tokens() * problem.outputs()];
    each_meeting(problem, |meeting| {
        let kernel: f64 = (0..problem.rank)
            .map(|term| meeting.tap(inputs, term, None))
            .sum();
        out[meeting.out()] += kernel * meeting.input(inputs);
    });
    if let Some(skip) = inputs.skip {
        for (place, out) in out.iter_mut().enumerate() {
            let (row, column) = (place / problem.outputs(), place % problem.outputs());
            *out += f64::from(skip[column]) * f64::from(inputs.input.row(row)[column % problem.channels]);
        }
    }
    Ok(Results { out })
}

/// Gradients of ⟨cotangents, output⟩.
///
/// # Errors
/// [`LongConvolutionNdError`] when a shape does not fit.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
) -> Result<GradientBuffers<f64>, LongConvolutionNdError> {
    problem.validate_inputs(inputs)?;
    let mut gradients = GradientBuffers::zeros(problem, inputs);
    problem.validate_backward(inputs, cotangents, &gradients.as_written())?;
    let (channels, outputs) = (problem.channels, problem.outputs());
    each_meeting(problem, |meeting| {
        let cotangent = f64::from(cotangents.out.row(meeting.to)[meeting.column]);
        let by_tap = cotangent * meeting.input(inputs);
        for term in 0..problem.rank {
            let place = meeting.from * channels + meeting.column % channels;
            gradients.input[place] += cotangent * meeting.tap(inputs, term, None);
            for axis in 0..meeting.lags.len() {
                gradients.kernel[meeting.place(term, axis)] += by_tap * meeting.tap(inputs, term, Some(axis));
            }
        }
    });
    if let (Some(by_skip), Some(skip)) = (&mut gradients.skip, inputs.skip) {
        for row in 0..problem.tokens() {
            for column in 0..outputs {
                let cotangent = f64::from(cotangents.out.row(row)[column]);
                by_skip[column] += cotangent * f64::from(inputs.input.row(row)[column % channels]);
                gradients.input[row * channels + column % channels] += cotangent * f64::from(skip[column]);
            }
        }
    }
    Ok(gradients)
}

/// An input and an output that a tap brings together.
struct Meeting<'a> {
    problem: &'a Problem,
    /// The rows of input and output.
    from: usize,
    to: usize,
    /// The column of the output.
    column: usize,
    /// The index of the tap on each axis.
    lags: Vec<usize>,
}

/// Every pair of an output and an input that meet.
fn each_meeting(problem: &Problem, mut each: impl FnMut(&Meeting)) {
    let axes = problem.axes.as_slice();
    let positions = problem.positions();
    for (b, to, from) in (0..problem.batch)
        .flat_map(|b| (0..positions * positions).map(move |pair| (b, pair / positions, pair % positions)))
    {
        let Some(lags) = taps_between(axes, to, from) else {
            continue;
        };
        let mut meeting = Meeting {
            problem,
            from: b * positions + from,
            to: b * positions + to,
            column: 0,
            lags,
        };
        for column in 0..problem.outputs() {
            meeting.column = column;
            each(&meeting);
        }
    }
}

/// The taps by which output `to` sees input `from`, if there is one on every axis.
fn taps_between(axes: &[Axis], mut to: usize, mut from: usize) -> Option<Vec<usize>> {
    let mut lags = vec![0; axes.len()];
    for (axis, lag) in axes.iter().zip(&mut lags).rev() {
        let index = (to % axis.size + axis.later).checked_sub(from % axis.size)?;
        *lag = Some(index).filter(|index| *index < axis.lags())?;
        (to, from) = (to / axis.size, from / axis.size);
    }
    Some(lags)
}

impl Meeting<'_> {
    fn input(&self, inputs: &Inputs) -> f64 {
        f64::from(inputs.input.row(self.from)[self.column % self.problem.channels])
    }

    /// Where the output lies.
    fn out(&self) -> usize {
        self.to * self.problem.outputs() + self.column
    }

    /// Where the tap of a term on an axis lies.
    fn place(&self, term: usize, axis: usize) -> usize {
        let axes = &self.problem.axes;
        let before: usize = axes.as_slice()[..axis].iter().map(Axis::lags).sum();
        (term * self.problem.outputs() + self.column) * axes.lags() + before + self.lags[axis]
    }

    /// The product of a term's taps, but for one axis.
    fn tap(&self, inputs: &Inputs, term: usize, without: Option<usize>) -> f64 {
        let axes = (0..self.lags.len()).filter(|axis| Some(*axis) != without);
        axes.map(|axis| f64::from(inputs.kernel[self.place(term, axis)]))
            .product()
    }
}

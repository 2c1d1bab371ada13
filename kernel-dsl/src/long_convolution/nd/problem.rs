//! Shapes of a convolution over several axes, and every way they can be wrong.

use std::ops::Range;

use thiserror::Error;

use crate::long_convolution::problem::{Reach, TAPS_PER_LEVEL};
use crate::operands::operator;
use crate::shape::{ShapeError, all_fit};

/// Most axes that a convolution can have.
pub(in crate::long_convolution) const MOST: usize = 3;

/// An axis, and the taps along it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Number of positions along the axis.
    pub size: usize,
    /// Taps for lags 0 … taps − 1, of which there is at least one.
    pub taps: usize,
    /// Taps for lags −1 … −later: those that meet later positions.
    pub later: usize,
}

/// The axes of a convolution, one to three, the last one fastest in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axes {
    axes: [Axis; MOST],
    count: usize,
}

/// How a convolution over several axes is computed. All forms agree up to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// The cheaper of the others, by their counts of operations.
    #[default]
    Auto,
    /// Along one axis after another, term by term.
    PerAxis,
    /// By a Fourier transform over all axes, of all terms at once.
    Fourier,
}

/// Shape of a convolution over several axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Images, or whatever has these axes.
    pub batch: usize,
    /// Axes of an image, and the taps along each.
    pub axes: Axes,
    /// Channels of the input.
    pub channels: usize,
    /// Outputs of each of them.
    pub multiplicity: usize,
    /// Outer products in the sum that is a kernel.
    pub rank: usize,
    /// How the convolution is computed.
    pub method: Method,
}

operator! {
    "long convolution over several axes", Problem as problem;
    /// What a convolution over several axes reads.
    inputs<R, V> {
        /// u, `[batch · positions, channels]`.
        input: Rows[problem.tokens(), problem.channels],
        /// k_i, `[rank, multiplicity, channels, lags]`: the taps of the first axis from lag −later to taps − 1, then those of the next.
        kernel: Values[problem.kernel_len()],
        /// Skip weights D, `[multiplicity, channels]`; zeros where there are none.
        skip: Option<Values>[problem.outputs()],
    }
    /// What a convolution over several axes writes.
    output<R> {
        /// y, `[batch · positions, multiplicity · channels]`.
        out: Rows[problem.tokens(), problem.outputs()],
    }
}

/// Why a convolution over several axes cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LongConvolutionNdError {
    /// No axes, or more than there can be.
    #[error("a long convolution over several axes needs 1 to 3 axes, found {0}")]
    Axes(usize),
    /// An axis without taps.
    #[error("a long convolution needs at least 1 tap on every axis, found 0 on axis {axis}")]
    NoTaps {
        /// Index of the axis, from 0.
        axis: usize,
    },
    /// No memory could hold it.
    #[error("long convolution over several axes: the sizes {0:?} multiply to more than an index can hold")]
    TooLarge(Problem),
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl Axis {
    /// Number of taps along the axis, those of negative lags included.
    pub fn lags(&self) -> usize {
        self.later + self.taps
    }

    /// The taps that meet a position at all.
    pub(in crate::long_convolution) fn reach(&self) -> Reach {
        Reach {
            ahead: self.taps.min(self.size),
            later: self.later.min(self.size.saturating_sub(1)),
            shift: 1,
            positions: self.size,
            time: self.size,
        }
    }

    /// The indices of these taps among those of the axis.
    pub(in crate::long_convolution) fn used(&self) -> Range<usize> {
        let reach = self.reach();
        self.later - reach.back()..self.later + reach.ahead
    }

    /// Multiply-adds that a line along it costs at least, and whether tap by tap is the cheaper way.
    fn line(&self) -> (usize, bool) {
        let reach = self.reach();
        let (direct, fourier) = (reach.meetings(), reach.transform_cost());
        (direct.min(fourier), direct <= fourier)
    }

    /// Whether lines along it are better summed up tap by tap.
    pub(in crate::long_convolution) fn is_direct(&self) -> bool {
        self.line().1
    }
}

impl Axes {
    /// Axes, the slowest in memory first.
    ///
    /// # Errors
    /// [`LongConvolutionNdError::Axes`] for none and for more than three, [`LongConvolutionNdError::NoTaps`].
    pub fn new(axes: &[Axis]) -> Result<Self, LongConvolutionNdError> {
        if !(1..=MOST).contains(&axes.len()) {
            return Err(LongConvolutionNdError::Axes(axes.len()));
        }
        if let Some(axis) = axes.iter().position(|axis| axis.taps == 0) {
            return Err(LongConvolutionNdError::NoTaps { axis });
        }
        let nothing = Axis {
            size: 1,
            taps: 1,
            later: 0,
        };
        let mut all = [nothing; MOST];
        all[..axes.len()].copy_from_slice(axes);
        Ok(Self {
            axes: all,
            count: axes.len(),
        })
    }

    /// The axes, the slowest in memory first.
    pub fn as_slice(&self) -> &[Axis] {
        &self.axes[..self.count]
    }

    /// Positions on all of them together.
    pub fn positions(&self) -> usize {
        self.as_slice().iter().map(|axis| axis.size).product()
    }

    /// Taps along all of them together.
    pub fn lags(&self) -> usize {
        self.as_slice().iter().map(Axis::lags).sum()
    }
}

impl Problem {
    /// Positions of an image.
    pub fn positions(&self) -> usize {
        self.axes.positions()
    }

    /// Rows of input and output.
    pub fn tokens(&self) -> usize {
        self.batch * self.positions()
    }

    /// Columns of the output, `multiplicity · channels`.
    pub fn outputs(&self) -> usize {
        self.multiplicity * self.channels
    }

    /// Length of all kernels, `rank · multiplicity · channels · lags`.
    pub fn kernel_len(&self) -> usize {
        self.rank * self.outputs() * self.axes.lags()
    }

    /// Whether to go along one axis after another.
    pub(in crate::long_convolution) fn is_per_axis(&self) -> bool {
        match self.method {
            Method::PerAxis => true,
            Method::Fourier => false,
            Method::Auto => self.per_axis_cost() <= self.fourier_cost(),
        }
    }

    /// Multiply-adds per image and channel, along one axis after another.
    pub(in crate::long_convolution) fn per_axis_cost(&self) -> usize {
        let positions = self.positions();
        let of_axis = |axis: &Axis| (positions / axis.size.max(1)).saturating_mul(axis.line().0);
        let term = self.axes.as_slice().iter().map(of_axis);
        let term = term.fold(0, usize::saturating_add);
        term.saturating_mul(self.rank).saturating_mul(self.multiplicity)
    }

    /// Cost of a transform over all axes in multiply-adds per image and channel: there for the input, back for each output; half length on one axis.
    fn fourier_cost(&self) -> usize {
        let places = |axis: &Axis| axis.reach().places().next_power_of_two();
        let axes = self.axes.as_slice().iter();
        let points = axes.clone().map(places).fold(1, usize::saturating_mul);
        let levels: usize = axes.map(|axis| places(axis).ilog2() as usize).sum();
        let transform = (points / 2).max(1).saturating_mul(TAPS_PER_LEVEL * levels.max(1)) / 2;
        transform.saturating_mul(1 + self.multiplicity)
    }

    fn validate(&self) -> Result<(), LongConvolutionNdError> {
        // Scratch holds twice what positions and taps together are on every axis, rounded up to powers of two, and complex.
        let place = |axis: &Axis| {
            let sum = axis.size.checked_add(axis.taps)?.checked_add(axis.later)?;
            sum.checked_mul(2)
        };
        let places: Option<Vec<usize>> = self.axes.as_slice().iter().map(place).collect();
        let others = [
            self.batch,
            self.channels.max(64),
            self.multiplicity,
            self.rank,
            16,
        ];
        match places {
            Some(places) if all_fit(&[&others[..], &places].concat()) => Ok(()),
            _ => Err(LongConvolutionNdError::TooLarge(*self)),
        }
    }

    pub(in crate::long_convolution) fn validate_inputs(
        &self,
        inputs: &Inputs,
    ) -> Result<(), LongConvolutionNdError> {
        self.validate()?;
        Ok(self.expect_inputs(inputs)?)
    }

    pub(in crate::long_convolution) fn validate_forward(
        &self,
        inputs: &Inputs,
        outputs: &Outputs,
    ) -> Result<(), LongConvolutionNdError> {
        self.validate_inputs(inputs)?;
        Ok(self.expect_outputs(outputs)?)
    }

    pub(in crate::long_convolution) fn validate_backward<T>(
        &self,
        inputs: &Inputs,
        cotangents: &Cotangents,
        gradients: &Gradients<T>,
    ) -> Result<(), LongConvolutionNdError> {
        self.validate_inputs(inputs)?;
        Ok(self.expect_backward(inputs, cotangents, gradients)?)
    }
}

impl<T: Clone + Default> GradientBuffers<T> {
    /// Zeros in the shapes of the inputs.
    pub fn zeros(problem: &Problem, inputs: &Inputs) -> Self {
        inputs.extents(problem).zeros()
    }
}

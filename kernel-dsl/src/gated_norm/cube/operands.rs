//! The norm's operands as kernels see them, and the statistics of one group.

use cubecl::prelude::*;

use super::units;
use crate::cube::math::silu;
use crate::cube::reduce::sum_over_cube;
use crate::cube::view::RowsView;
use crate::cube::{Client, DeviceRows, Limits};
use crate::gated_norm::problem::{DeviceInputs, GateOrder, Problem, Statistic};

/// What another view is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Addend {
    /// The input, before it is normalised.
    Input,
    /// The gradient of the input.
    Gradient,
}

/// The choices that make another kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    /// Units of a cube.
    pub units: usize,
    pub statistic: Statistic,
    /// Where the gate acts, if there is one.
    pub gate: Option<GateOrder>,
    pub weight: bool,
    pub bias: bool,
    /// What the addend is added to, if there is one.
    pub addend: Option<Addend>,
}

impl Variant {
    pub fn new(client: &Client, problem: &Problem, inputs: &DeviceInputs, addend: Option<Addend>) -> Self {
        Self {
            units: units(problem, &Limits::of(client)),
            statistic: problem.statistic,
            gate: inputs.gate.as_ref().map(|_| problem.order),
            weight: inputs.weight.is_some(),
            bias: inputs.bias.is_some(),
            addend,
        }
    }

    /// Whether the gate multiplies the input.
    pub fn gates_input(self) -> bool {
        self.gate == Some(GateOrder::NormAfterGate)
    }

    /// Whether the gate multiplies the output.
    pub fn gates_output(self) -> bool {
        self.gate == Some(GateOrder::NormBeforeGate)
    }

    fn centres(self) -> bool {
        self.statistic == Statistic::Variance
    }
}

/// x, z, weight, bias, and what is added.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Operands<F: Float> {
    pub input: RowsView<F>,
    pub gate: RowsView<F>,
    pub addend: RowsView<F>,
    pub weight: Box<[f32]>,
    pub bias: Box<[f32]>,
}

/// Sizes that do not make another kernel.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sizes {
    pub features: usize,
    pub group_size: usize,
    pub eps: f32,
    /// What a sum over a group is multiplied by.
    pub share: f32,
}

impl DeviceInputs {
    /// Where an operand is absent the input is bound, which the kernel does not read.
    pub(super) fn operands<F: Float>(&self, addend: Option<&DeviceRows>) -> OperandsLaunch<F> {
        let input = self.input.buffer();
        OperandsLaunch::new(
            self.input.view(),
            self.gate.as_ref().unwrap_or(&self.input).view(),
            addend.unwrap_or(&self.input).view(),
            self.weight.as_ref().unwrap_or(input).arg(),
            self.bias.as_ref().unwrap_or(input).arg(),
        )
    }

    /// Values of the largest buffer that a kernel indexes.
    pub(super) fn longest(&self, others: &[usize]) -> usize {
        let gate = self.gate.as_ref().map_or(0, |gate| gate.buffer().len());
        others
            .iter()
            .copied()
            .fold(self.input.buffer().len().max(gate), usize::max)
    }
}

pub(super) fn sizes(problem: &Problem) -> SizesLaunch {
    SizesLaunch::new(
        problem.features,
        problem.group_size,
        problem.eps,
        problem.statistic.weight(problem.group_size) as f32,
    )
}

#[cube]
impl<F: Float> Operands<F> {
    /// What is normalised, y.
    pub fn argument(&self, row: usize, col: usize, #[comptime] variant: Variant) -> f32 {
        let mut y = self.input.at(row, col);
        if comptime!(variant.addend == Some(Addend::Input)) {
            y += self.addend.at(row, col);
        }
        if comptime!(variant.gates_input()) {
            y *= silu(self.gate.at(row, col));
        }
        y
    }

    /// n ∘ weight + bias.
    pub fn affine(&self, normed: f32, col: usize, #[comptime] variant: Variant) -> f32 {
        let mut value = normed * self.weight(col, variant);
        if comptime!(variant.bias) {
            value += self.bias[col];
        }
        value
    }

    pub fn weight(&self, col: usize, #[comptime] variant: Variant) -> f32 {
        let mut value = 1.0f32;
        if comptime!(variant.weight) {
            value = self.weight[col];
        }
        value
    }
}

/// μ and r = 1/√(σ + ε) of one group.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Moments {
    pub mean: f32,
    pub scale: f32,
}

/// The moments of the group that begins at column `first` of a row; the whole cube calls this.
#[cube]
pub(super) fn moments<F: Float>(
    operands: &Operands<F>,
    sizes: &Sizes,
    row: usize,
    first: usize,
    scratch: &mut Shared<[f32]>,
    #[comptime] variant: Variant,
) -> Moments {
    let end = first + sizes.group_size;
    let mut mean = 0.0f32;
    if comptime!(variant.centres()) {
        let mut sum = 0.0f32;
        let mut col = first + UNIT_POS as usize;
        while col < end {
            sum += operands.argument(row, col, variant);
            col += variant.units;
        }
        mean = sum_over_cube(sum, scratch, variant.units) * sizes.share;
    }
    let mut squares = 0.0f32;
    let mut col = first + UNIT_POS as usize;
    while col < end {
        let y = operands.argument(row, col, variant) - mean;
        squares += y * y;
        col += variant.units;
    }
    let statistic = sum_over_cube(squares, scratch, variant.units) * sizes.share;
    Moments {
        mean,
        scale: 1.0f32 / (statistic + sizes.eps).sqrt(),
    }
}

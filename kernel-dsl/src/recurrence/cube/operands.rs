//! The recurrence's operands as kernels see them.

use cubecl::prelude::*;

use crate::cube::view::{RowsView, RowsViewLaunch};
use crate::cube::{DType, DeviceBuffer};
use crate::decay::{DecayScope, LogDecay};
use crate::recurrence::problem::{DeviceInputs, Problem, ReadOut};

/// The choices that make another kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    pub decay: DecayScope,
    pub bonus: bool,
    pub step_size: bool,
    pub skip: bool,
    /// Longest span of tokens inside of which decays per key are taken pair by pair.
    pub block: usize,
}

impl Variant {
    pub(super) fn new(problem: &Problem, inputs: &DeviceInputs, block: usize) -> Self {
        Self {
            decay: problem.decay.scope(),
            bonus: problem.read_out == ReadOut::Bonus,
            step_size: inputs.step_size.is_some(),
            skip: inputs.skip.is_some(),
            block,
        }
    }

    /// What a kernel needs to know that touches nothing but decays; so there are fewer kernels to compile.
    pub(super) fn of_decays(self) -> Self {
        Self {
            bonus: false,
            step_size: false,
            skip: false,
            ..self
        }
    }

    /// As [`Variant::of_decays`], for a kernel that reads before or after a token's own decay.
    pub(super) fn of_reads(self) -> Self {
        Self {
            bonus: self.bonus,
            ..self.of_decays()
        }
    }

    /// As [`Variant::of_decays`], for a kernel that steps the values.
    pub(super) fn of_steps(self) -> Self {
        Self {
            step_size: self.step_size,
            ..self.of_decays()
        }
    }

    /// For a kernel that touches no decay.
    pub(super) fn without_decays(self) -> Self {
        Self {
            decay: DecayScope::None,
            ..self
        }
    }
}

/// q, k and v.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Tokens<F: Float> {
    pub query: RowsView<F>,
    pub key: RowsView<F>,
    pub value: RowsView<F>,
}

/// ln a and δ.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Gates<G: Float> {
    pub log_decay: RowsView<G>,
    pub step_size: RowsView<G>,
}

/// u and D. The skip of head `h` and column `p` lies at `h·skip_head + p·skip_column`.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Constants {
    pub bonus: Box<[f32]>,
    pub skip: Box<[f32]>,
    pub skip_head: usize,
    pub skip_column: usize,
}

/// Sizes that do not make another kernel.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sizes {
    pub heads: usize,
    pub heads_per_group: usize,
    pub key_dim: usize,
    pub value_dim: usize,
    pub scale: f32,
}

#[cube]
impl<G: Float> Gates<G> {
    /// ln a of key `key` of a head; with one value per head, `key` does not matter.
    pub fn log_decay(
        &self,
        sizes: &Sizes,
        row: usize,
        head: usize,
        key: usize,
        #[comptime] variant: Variant,
    ) -> f32 {
        let mut value = 0.0f32;
        match comptime!(variant.decay) {
            DecayScope::None => {}
            DecayScope::Head => value = self.log_decay.at(row, head),
            DecayScope::Key => value = self.log_decay.at(row, head * sizes.key_dim + key),
        }
        value
    }

    /// δ of a head.
    pub fn step_size(&self, row: usize, head: usize, #[comptime] variant: Variant) -> f32 {
        let mut value = 1.0f32;
        if comptime!(variant.step_size) {
            value = self.step_size.at(row, head);
        }
        value
    }
}

#[cube]
impl Constants {
    /// D of a column.
    pub fn skip(&self, head: usize, column: usize, #[comptime] variant: Variant) -> f32 {
        let mut value = 0.0f32;
        if comptime!(variant.skip) {
            value = self.skip[head * self.skip_head + column * self.skip_column];
        }
        value
    }
}

/// The arguments of a launch. Where an operand is absent some other buffer is bound, which the kernel does not read.
impl DeviceInputs<'_> {
    /// Type of the log decays and step sizes.
    pub(crate) fn gate_type(&self) -> DType {
        match (&self.log_decay, &self.step_size) {
            (LogDecay::Token(rows), _) => rows.dtype(),
            (LogDecay::Constant(values), _) => values.dtype(),
            (LogDecay::None, Some(step_size)) => step_size.dtype(),
            (LogDecay::None, None) => DType::F32,
        }
    }

    pub(super) fn tokens<F: Float>(&self) -> TokensLaunch<F> {
        TokensLaunch::new(self.query.view(), self.key.view(), self.value.view())
    }

    pub(super) fn gates<G: Float>(&self) -> GatesLaunch<G> {
        let log_decay = match &self.log_decay {
            LogDecay::None => self.query.view(),
            LogDecay::Constant(values) => RowsViewLaunch::new(values.arg(), 0, 0),
            LogDecay::Token(rows) => rows.view(),
        };
        GatesLaunch::new(log_decay, self.step_size.as_ref().unwrap_or(&self.query).view())
    }

    pub(super) fn constants(&self, problem: &Problem) -> ConstantsLaunch {
        let or_any = |buffer: &Option<DeviceBuffer>| match buffer {
            Some(buffer) => buffer.arg(),
            None => self.query.buffer().arg(),
        };
        let per_head = self.skip.as_ref().is_some_and(|skip| skip.len() == problem.heads);
        let (head, column) = if per_head { (1, 0) } else { (problem.value_dim, 1) };
        ConstantsLaunch::new(or_any(&self.bonus), or_any(&self.skip), head, column)
    }

    pub(super) fn sizes(&self, problem: &Problem) -> SizesLaunch {
        SizesLaunch::new(
            problem.heads,
            problem.heads / problem.groups,
            problem.key_dim,
            problem.value_dim,
            self.scale,
        )
    }

    /// Values of the largest buffer that a kernel indexes.
    pub(super) fn longest(&self, others: &[usize]) -> usize {
        let gates = self.log_decay.token().map_or(0, |rows| rows.buffer().len());
        let step = self.step_size.as_ref().map_or(0, |rows| rows.buffer().len());
        let tokens = [&self.query, &self.key, &self.value].map(|rows| rows.buffer().len());
        let longest = tokens
            .into_iter()
            .chain([gates, step])
            .chain(others.iter().copied())
            .max();
        longest.unwrap_or(0)
    }
}

//! WKV-4 on the CPU: SIMD by run-time dispatch, threads over (sequence, segment of channels).

mod backward;
mod forward;
mod sums;

use std::ops::Range;

use rayon::prelude::*;

pub use backward::{DEFAULT_CHUNK_SIZE, backward};
pub use forward::{element, sequential, step};

use super::problem::{Inputs, Problem};
use crate::vector::part;

/// Weights (tokens times channels) from which a call pays for waking other threads.
const WORTH_THREADS: usize = 1 << 14;

/// Some channels of one sequence: what a thread works on at a time.
#[derive(Clone, Copy)]
struct Segment<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    sequence: usize,
    /// Index of the segment's first channel.
    first: usize,
    /// Number of channels in the segment.
    count: usize,
}

impl<'a> Segment<'a> {
    /// The rows of the sequence.
    fn span(&self) -> Range<usize> {
        self.inputs.sequences.span(self.sequence, self.problem.time)
    }

    #[inline(always)]
    fn channels(&self) -> Range<usize> {
        self.first..self.first + self.count
    }

    #[inline(always)]
    fn key(&self, row: usize) -> &'a [f32] {
        part(&self.inputs.key, row, self.channels())
    }

    #[inline(always)]
    fn value(&self, row: usize) -> &'a [f32] {
        part(&self.inputs.value, row, self.channels())
    }

    fn log_decay(&self) -> &'a [f32] {
        &self.inputs.log_decay[self.channels()]
    }

    fn bonus(&self) -> &'a [f32] {
        &self.inputs.bonus[self.channels()]
    }
}

/// Runs `work` on every segment of `channels_each` channels of every sequence, on all threads where it pays.
fn for_each_segment<'a>(
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    channels_each: usize,
    work: impl Fn(Segment<'a>) + Sync,
) {
    let per_sequence = problem.channels.div_ceil(channels_each);
    let segment = |index: usize| {
        let first = index % per_sequence * channels_each;
        Segment {
            problem,
            inputs,
            sequence: index / per_sequence,
            first,
            count: channels_each.min(problem.channels - first),
        }
    };
    let count = problem.batch * per_sequence;
    let weights = problem.rows(&inputs.sequences).saturating_mul(problem.channels);
    if weights >= WORTH_THREADS && count > 1 && rayon::current_num_threads() > 1 {
        (0..count).into_par_iter().for_each(|index| work(segment(index)));
    } else {
        (0..count).for_each(|index| work(segment(index)));
    }
}

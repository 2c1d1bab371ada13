//! The selective scan on the CPU: SIMD by run-time dispatch, threads over (sequence, segment of channels).

mod backward;
mod backward_chunk;
mod forward;

use std::ops::Range;

use rayon::prelude::*;

pub use backward::{DEFAULT_CHUNK_SIZE, backward};
pub use forward::{element, sequential, step};

use super::problem::{Inputs, Problem};
use crate::vector::part;

/// Decays (tokens times channels times state values) from which a call pays for waking other threads.
const WORTH_THREADS: usize = 1 << 16;
/// State values of a segment: with the values of A, 16 KiB, which stay in the first cache from token to token.
const SEGMENT_VALUES: usize = 1 << 11;
/// Most channels of a segment, so that states of a few values still leave work for every thread.
const SEGMENT_CHANNELS: usize = 256;
/// Values in the widest vector; segments are whole vectors but for the last of a group.
const WIDEST_VECTOR: usize = 16;

/// Some channels of one group of one sequence: what a thread works on at a time.
///
/// Which channels share a segment depends on the problem alone, so that sums over channels have the same bits whatever the
/// number of threads.
#[derive(Clone, Copy)]
struct Segment<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    sequence: usize,
    group: usize,
    /// The segment's place in its group.
    place: usize,
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

    /// Where the segment lies in `[channels, state_dim]`.
    fn state_values(&self) -> Range<usize> {
        self.first * self.problem.state_dim..(self.first + self.count) * self.problem.state_dim
    }

    /// Where the group lies in the columns of b and c.
    #[inline(always)]
    fn group_values(&self) -> Range<usize> {
        self.group * self.problem.state_dim..(self.group + 1) * self.problem.state_dim
    }

    #[inline(always)]
    fn input(&self, row: usize) -> &'a [f32] {
        part(&self.inputs.input, row, self.channels())
    }

    #[inline(always)]
    fn step_size(&self, row: usize) -> &'a [f32] {
        part(&self.inputs.step_size, row, self.channels())
    }

    #[inline(always)]
    fn b(&self, row: usize) -> &'a [f32] {
        part(&self.inputs.b, row, self.group_values())
    }

    #[inline(always)]
    fn c(&self, row: usize) -> &'a [f32] {
        part(&self.inputs.c, row, self.group_values())
    }

    #[inline(always)]
    fn gate(&self, row: usize) -> Option<&'a [f32]> {
        match &self.inputs.gate {
            Some(gate) => Some(part(gate, row, self.channels())),
            None => None,
        }
    }

    fn skip(&self) -> Option<&'a [f32]> {
        self.inputs.skip.map(|skip| &skip[self.channels()])
    }

    /// A of the segment, `[count, state_dim]`.
    fn a(&self) -> &'a [f32] {
        &self.inputs.a[self.state_values()]
    }
}

/// How channels are cut into segments.
#[derive(Clone, Copy)]
struct Segments<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    per_group: usize,
    channels_each: usize,
}

impl<'a> Segments<'a> {
    fn new(problem: &'a Problem, inputs: &'a Inputs<'a>) -> Self {
        let vectors = SEGMENT_VALUES / problem.state_dim.max(1) / WIDEST_VECTOR;
        let channels_each = (vectors.max(1) * WIDEST_VECTOR).min(SEGMENT_CHANNELS);
        Self {
            problem,
            inputs,
            per_group: problem.channels_per_group().div_ceil(channels_each),
            channels_each,
        }
    }

    fn segment(&self, index: usize) -> Segment<'a> {
        let (index, place) = (index / self.per_group, index % self.per_group);
        let (sequence, group) = (index / self.problem.groups, index % self.problem.groups);
        let in_group = self.problem.channels_per_group();
        let offset = place * self.channels_each;
        Segment {
            problem: self.problem,
            inputs: self.inputs,
            sequence,
            group,
            place,
            first: group * in_group + offset,
            count: self.channels_each.min(in_group - offset),
        }
    }

    /// Runs `work` on every segment of every sequence, on all threads where it pays.
    fn for_each(&self, work: impl Fn(Segment<'a>) + Sync) {
        let count = self.problem.batch * self.problem.groups * self.per_group;
        let decays = self
            .problem
            .rows(&self.inputs.sequences)
            .saturating_mul(self.problem.channels)
            .saturating_mul(self.problem.state_dim);
        if decays >= WORTH_THREADS && count > 1 && rayon::current_num_threads() > 1 {
            (0..count)
                .into_par_iter()
                .for_each(|index| work(self.segment(index)));
        } else {
            (0..count).for_each(|index| work(self.segment(index)));
        }
    }
}

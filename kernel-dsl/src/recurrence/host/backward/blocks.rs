//! How the work is divided, and what each part has to itself.

use crate::matrix::MatrixMut;
use crate::recurrence::host::{Head, SharedOutput};
use crate::recurrence::problem::{Inputs, Problem};

/// Heads of one group that one thread takes together, because they share products of queries and keys. A fixed number: the
/// order of sums must not depend on the number of threads.
const HEADS_PER_BLOCK: usize = 8;

/// Gradients of what one head of one sequence reads at every token.
pub(super) struct Constants {
    /// ḋ of a constant ln a, one value or `key_dim`.
    pub(super) log_decay: Vec<f64>,
    /// Gradient u̇ of the bonus, `[key_dim]`.
    pub(super) bonus: Vec<f64>,
    /// Gradient Ḋ of the skip, `[value_dim]`.
    pub(super) skip: Vec<f64>,
}

impl Constants {
    pub(super) fn new(problem: &Problem) -> Self {
        Self {
            log_decay: vec![0.0; problem.decay.values_per_head(problem.key_dim)],
            bonus: vec![0.0; problem.key_dim],
            skip: vec![0.0; problem.value_dim],
        }
    }
}

/// Where the gradients by q and k of one block of heads go: the gradients themselves for the first block of a group, and
/// buffers that are added later for the others.
#[derive(Clone, Copy)]
pub(super) struct KeySink<'a> {
    query: SharedOutput<'a>,
    key: SharedOutput<'a>,
    first_row: usize,
    group: usize,
}

impl<'a> KeySink<'a> {
    /// Where q̇ and k̇ of `n` tokens from `start` on go.
    ///
    /// # Safety
    /// While the matrices live, nothing else may access the same group of the same sequence.
    pub(super) unsafe fn rows(&self, start: usize, n: usize) -> (MatrixMut<'a>, MatrixMut<'a>) {
        // SAFETY: as the caller promises.
        unsafe {
            (
                self.query.matrix_at(self.first_row + start, n, self.group),
                self.key.matrix_at(self.first_row + start, n, self.group),
            )
        }
    }
}

/// Some heads of one group of one sequence.
pub(super) struct Block<'a> {
    pub(super) first: Head<'a>,
    pub(super) initial_states: &'a [f32],
    /// ḣ `[heads, key_dim, value_dim]`: of the end at first, of the beginning at last.
    pub(super) state_gradients: &'a mut [f32],
    pub(super) constants: Vec<Constants>,
    pub(super) keys: KeySink<'a>,
}

impl<'a> Block<'a> {
    /// The heads, each with its entering state, its ḣ and its constants.
    pub(super) fn heads(&mut self) -> impl Iterator<Item = (Head<'a>, &[f32], &mut [f32], &mut Constants)> {
        let (first, len) = (self.first, self.first.problem.head_state_len());
        self.initial_states
            .chunks_exact(len)
            .zip(self.state_gradients.chunks_exact_mut(len))
            .zip(&mut self.constants)
            .enumerate()
            .map(move |(i, ((initial, gradient), constants))| (first.later(i), initial, gradient, constants))
    }
}

/// Gradients by q and k of all blocks of a group but the first, each `[time, key_dim]`.
pub(super) struct ExtraKeys {
    buffers: Vec<(Vec<f32>, Vec<f32>)>,
}

impl ExtraKeys {
    pub(super) fn new(problem: &Problem, inputs: &Inputs) -> Self {
        let per_group = blocks_per_group(problem) - 1;
        let zeros = |b: usize| vec![0.0; inputs.sequences.span(b, problem.time).len() * problem.key_dim];
        let buffers = (0..problem.batch)
            .flat_map(|b| (0..problem.groups * per_group).map(move |_| (zeros(b), zeros(b))));
        Self {
            buffers: buffers.collect(),
        }
    }

    /// All blocks, in the order of the states; `keys` are the gradients by q and k themselves.
    pub(super) fn blocks<'a>(
        &'a mut self,
        problem: &'a Problem,
        inputs: &'a Inputs<'a>,
        initial_state: &'a [f32],
        state_gradient: &'a mut [f32],
        keys: (SharedOutput<'a>, SharedOutput<'a>),
    ) -> Vec<Block<'a>> {
        let len = problem.head_state_len();
        let heads_per_group = problem.heads / problem.groups;
        let mut extra = self.buffers.iter_mut();
        let mut blocks = Vec::with_capacity(problem.batch * problem.groups * blocks_per_group(problem));
        let groups = initial_state
            .chunks_exact(heads_per_group * len)
            .zip(state_gradient.chunks_exact_mut(heads_per_group * len));
        for (index, (initial, gradient)) in groups.enumerate() {
            let (b, group) = (index / problem.groups, index % problem.groups);
            let states = initial
                .chunks(HEADS_PER_BLOCK * len)
                .zip(gradient.chunks_mut(HEADS_PER_BLOCK * len));
            for (i, (initial_states, state_gradients)) in states.enumerate() {
                let first = Head::new(problem, inputs, b, group * heads_per_group + i * HEADS_PER_BLOCK);
                let own = if i > 0 { extra.next() } else { None };
                let count = initial_states.len() / len;
                blocks.push(Block {
                    first,
                    initial_states,
                    state_gradients,
                    constants: (0..count).map(|_| Constants::new(problem)).collect(),
                    keys: match own {
                        Some((query, key)) => KeySink {
                            query: SharedOutput::of(query, 1, problem.key_dim),
                            key: SharedOutput::of(key, 1, problem.key_dim),
                            first_row: 0,
                            group: 0,
                        },
                        None => KeySink {
                            query: keys.0,
                            key: keys.1,
                            first_row: first.first_row,
                            group,
                        },
                    },
                });
            }
        }
        blocks
    }

    /// Adds the buffers to the gradients, in the order of the heads.
    pub(super) fn add_to(&self, problem: &Problem, inputs: &Inputs, query: &mut [f32], key: &mut [f32]) {
        let Problem { groups, key_dim, .. } = *problem;
        let per_group = blocks_per_group(problem) - 1;
        for (i, (extra_query, extra_key)) in self.buffers.iter().enumerate() {
            let (b, group) = (i / (groups * per_group), i / per_group % groups);
            let first_row = inputs.sequences.span(b, problem.time).start;
            for (sum, extra) in [(&mut *query, extra_query), (&mut *key, extra_key)] {
                for (t, extra) in extra.chunks_exact(key_dim).enumerate() {
                    let at = ((first_row + t) * groups + group) * key_dim;
                    sum[at..at + key_dim]
                        .iter_mut()
                        .zip(extra)
                        .for_each(|(sum, x)| *sum += x);
                }
            }
        }
    }
}

fn blocks_per_group(problem: &Problem) -> usize {
    (problem.heads / problem.groups).div_ceil(HEADS_PER_BLOCK).max(1)
}

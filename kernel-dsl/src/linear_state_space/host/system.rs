//! A system made discrete once, for every token that follows.

use pulp::c64;

use super::WIDEST_VECTOR;
use super::token::{Feedback, Modes};
use super::token_steps::Rates;
use crate::aligned::AlignedBytes;
use crate::blocks::collect;
use crate::linear_state_space::channel::{Channel, Discrete};
use crate::linear_state_space::problem::{Inputs, Problem, Rule, StateSpaceError};

/// The constants of a linear state space as steps take them, in f32 from f64: what a decoder keeps.
#[derive(Debug)]
pub struct System {
    pub(super) channels: usize,
    pub(super) outputs: usize,
    pub(super) state_dim: usize,
    pub(super) rank: usize,
    pub(super) rule: Rule,
    /// Whether every token has step sizes of its own.
    pub(super) token_steps: bool,
    /// Values of a row of constants: 2 `state_dim`, filled up with zeros to whole vectors.
    pub(super) width: usize,
    /// Per channel three rows of [`Modes`] or [`Rates`], then C of every output with its weight and sign, then E and F.
    rows: AlignedBytes,
    /// Skip weights D, `[channels, outputs]`.
    pub(super) skip: Vec<f32>,
}

/// The constants of one channel.
#[derive(Clone, Copy)]
pub(super) struct Constants<'a> {
    /// Three rows of [`Modes`] or [`Rates`], `[3, width]`.
    modes: &'a [f32],
    /// C of every output with its weight and sign, `[outputs, width]`.
    pub c: &'a [f32],
    pub feedback: Feedback<'a>,
    /// Skip weight D of every output, `[outputs]`.
    pub skip: &'a [f32],
}

impl<'a> Constants<'a> {
    /// The modes, where no token has step sizes of its own.
    #[inline(always)]
    pub(super) fn modes(&self) -> Modes<'a> {
        modes_of(self.modes)
    }

    /// What modes are made of, where every token has.
    #[inline(always)]
    pub(super) fn rates(&self) -> Rates<'a> {
        let width = self.modes.len() / 3;
        Rates {
            a: &self.modes[..width],
            gain: &self.modes[width..2 * width],
            rest: &self.modes[2 * width..],
        }
    }
}

/// Three rows as modes.
#[inline(always)]
pub(super) fn modes_of(rows: &[f32]) -> Modes<'_> {
    let width = rows.len() / 3;
    Modes {
        re: &rows[..width],
        im: &rows[width..2 * width],
        input: &rows[2 * width..],
    }
}

impl System {
    /// Makes a system discrete. Of the inputs it reads all but tokens and state.
    ///
    /// # Errors
    /// [`StateSpaceError`] when a shape, a choice or a value is wrong.
    pub fn new(problem: &Problem, inputs: &Inputs) -> Result<Self, StateSpaceError> {
        problem.validate_inputs(inputs)?;
        let discrete = discretised(problem, inputs);
        Self::of(problem, inputs, &discrete)
    }

    /// The constants of validated inputs.
    pub(super) fn of(
        problem: &Problem,
        inputs: &Inputs,
        discrete: &[(Channel, Discrete)],
    ) -> Result<Self, StateSpaceError> {
        let Problem {
            channels,
            outputs,
            state_dim,
            rank,
            rule,
            ..
        } = *problem;
        let width = (2 * state_dim).next_multiple_of(WIDEST_VECTOR);
        let rows = (3 + outputs)
            .checked_add(2 * rank)
            .and_then(|rows| rows.checked_mul(channels)?.checked_mul(width * size_of::<f32>()))
            .and_then(AlignedBytes::zeroed)
            .ok_or(StateSpaceError::TooLarge)?;
        let mut system = Self {
            channels,
            outputs,
            state_dim,
            rank,
            rule,
            token_steps: inputs.token_step_size.is_some(),
            width,
            rows,
            skip: discrete
                .iter()
                .flat_map(|(channel, _)| &channel.skip)
                .map(|&d| d as f32)
                .collect(),
        };
        let weight = problem.spectrum.weight();
        for (h, (channel, discrete)) in discrete.iter().enumerate() {
            system.fill(h, weight, channel, discrete);
        }
        Ok(system)
    }

    fn fill(&mut self, h: usize, weight: f64, channel: &Channel, discrete: &Discrete) {
        let (width, outputs, n) = (self.width, self.outputs, self.state_dim);
        let (token_steps, rule, per_channel) = (self.token_steps, self.rule, self.rows_per_channel());
        let all: &mut [f32] = bytemuck::cast_slice_mut(&mut self.rows);
        let (modes, rest) = all[h * per_channel * width..][..per_channel * width].split_at_mut(3 * width);
        if token_steps {
            for (i, (a, b)) in channel.a.iter().zip(&channel.b).enumerate() {
                let held = rule == Rule::ZeroOrderHold;
                let moves = a.norm_sqr() > 0.0;
                let gain = if held && moves { b / a } else { *b };
                let zero = c64::new(0.0, 0.0);
                let (gain, rest) = if held && !moves { (zero, *b) } else { (gain, zero) };
                for (row, value) in [*a, gain, rest].into_iter().enumerate() {
                    modes[row * width + i] = value.re as f32;
                    modes[row * width + width / 2 + i] = value.im as f32;
                }
            }
        } else {
            for (i, mode) in discrete.modes.iter().enumerate() {
                let (re, im) = (mode.change.re as f32, mode.change.im as f32);
                (modes[2 * i], modes[2 * i + 1]) = (re, re);
                (modes[width + 2 * i], modes[width + 2 * i + 1]) = (-im, im);
                modes[2 * width + 2 * i] = mode.input.re as f32;
                modes[2 * width + 2 * i + 1] = mode.input.im as f32;
            }
        }
        // Rows whose product with a state is w Re(C x), or 2 Re(E x).
        let of_read = |row: &mut [f32], values: &[c64], weight: f64| {
            for (pair, value) in row.chunks_exact_mut(2).zip(values) {
                (pair[0], pair[1]) = ((weight * value.re) as f32, (-weight * value.im) as f32);
            }
        };
        let mut rows = rest.chunks_exact_mut(width.max(1));
        for (row, output) in rows.by_ref().take(outputs).zip(0..) {
            of_read(row, &channel.c[output * n..][..n], weight);
        }
        for (row, k) in rows.by_ref().take(self.rank).zip(0..) {
            of_read(row, &discrete.read[k * n..][..n], 2.0);
        }
        for (row, k) in rows.zip(0..) {
            for (pair, f) in row.chunks_exact_mut(2).zip(&discrete.write[k * n..][..n]) {
                (pair[0], pair[1]) = (f.re as f32, f.im as f32);
            }
        }
    }

    fn rows_per_channel(&self) -> usize {
        3 + self.outputs + 2 * self.rank
    }

    /// The constants of channel `h`.
    #[inline(always)]
    pub(super) fn channel(&self, h: usize) -> Constants<'_> {
        let (width, per_channel) = (self.width, self.rows_per_channel());
        let all: &[f32] = bytemuck::cast_slice(&self.rows);
        let rows = &all[h * per_channel * width..][..per_channel * width];
        let (modes, rest) = rows.split_at(3 * width);
        let (c, rest) = rest.split_at(self.outputs * width);
        let (read, write) = rest.split_at(self.rank * width);
        Constants {
            modes,
            c,
            feedback: Feedback { read, write },
            skip: &self.skip[h * self.outputs..][..self.outputs],
        }
    }
}

/// Every channel as it is given and made discrete, from validated inputs.
pub(super) fn discretised(problem: &Problem, inputs: &Inputs) -> Vec<(Channel, Discrete)> {
    // About as many operations per mode as so many updates of modes.
    const COST: usize = 64;
    let updates = COST * problem.channels * problem.state_dim * (1 + problem.rank * problem.rank);
    collect(problem.channels, updates, |h| {
        let channel = Channel::of(problem, inputs, h);
        let discrete = Discrete::of(problem.rule, &channel);
        (channel, discrete)
    })
}

//! The definition in f64: plain loops over tokens, channels and modes. Everything else is tested against it.

use std::ops::Range;

use pulp::c64;

use super::channel::{Channel, inverted, write_gradients};
use super::discretise::Mode;
use super::problem::{Cotangents, Gradients, Inputs, Problem, Results, StateSpaceError};

/// The recurrence in f64, token by token (see [the module](crate::linear_state_space) for the formula).
///
/// # Errors
/// [`StateSpaceError`] when a shape, a choice or a value is wrong.
pub fn sequential(
    problem: &Problem,
    inputs: &Inputs,
    outputs: &mut Results<&mut [f64], &mut [f64]>,
) -> Result<(), StateSpaceError> {
    problem.validate_forward(inputs, outputs)?;
    outputs.out.fill(0.0);
    for b in 0..problem.batch {
        for h in 0..problem.channels {
            let sequence = Sequence::new(problem, inputs, b, h);
            let mut x = initial_state(problem, inputs, b, h);
            for row in sequence.rows() {
                x = sequence.next(row, &x);
                for (output, y) in sequence.read(row, &x).into_iter().enumerate() {
                    outputs.out[row * problem.outputs * problem.channels + output * problem.channels + h] = y;
                }
            }
            store(&x, &mut outputs.state[state_range(problem, b, h)]);
        }
    }
    Ok(())
}

/// Where the state of a channel lies.
fn state_range(problem: &Problem, b: usize, h: usize) -> Range<usize> {
    let len = 2 * problem.state_dim;
    (b * problem.channels + h) * len..(b * problem.channels + h + 1) * len
}

fn complex(values: &[f32]) -> Vec<c64> {
    let pairs = values.chunks_exact(2);
    pairs
        .map(|pair| c64::new(f64::from(pair[0]), f64::from(pair[1])))
        .collect()
}

fn initial_state(problem: &Problem, inputs: &Inputs, b: usize, h: usize) -> Vec<c64> {
    match inputs.state {
        Some(state) => complex(&state[state_range(problem, b, h)]),
        None => vec![c64::new(0.0, 0.0); problem.state_dim],
    }
}

fn store(values: &[c64], pairs: &mut [f64]) {
    for (pair, value) in pairs.chunks_exact_mut(2).zip(values) {
        (pair[0], pair[1]) = (value.re, value.im);
    }
}

/// 2 Re(aᴴ b), the inner product of two vectors of which each value stands for a conjugate pair.
fn inner(a: &[c64], b: &[c64]) -> f64 {
    2.0 * a.iter().zip(b).map(|(a, b)| (a.conj() * b).re).sum::<f64>()
}

/// One channel of one sequence.
struct Sequence<'a> {
    problem: &'a Problem<'a>,
    inputs: &'a Inputs<'a>,
    channel: Channel,
    /// What S4's step divides by.
    low_rank: LowRank,
    b: usize,
    h: usize,
}

/// The constants of S4's step: D = (2/Δ − Λ)⁻¹ and (1 + P* D P)⁻¹, which is real.
struct LowRank {
    d: Vec<c64>,
    core: Vec<f64>,
}

impl LowRank {
    fn of(channel: &Channel, rank: usize) -> Self {
        let n = channel.a.len();
        let d: Vec<c64> = channel.a.iter().map(|a| (2.0 / channel.step - a).inv()).collect();
        let dp: Vec<c64> = channel
            .p
            .iter()
            .enumerate()
            .map(|(at, p)| d[at % n] * p)
            .collect();
        let mut core = vec![0.0; rank * rank];
        for (at, value) in core.iter_mut().enumerate() {
            let (i, j) = (at / rank, at % rank);
            *value = inner(&channel.p[i * n..][..n], &dp[j * n..][..n]) + f64::from(u8::from(i == j));
        }
        Self {
            d,
            core: inverted(core, rank),
        }
    }
}

/// What S4's step makes of a state on its way to the next.
struct Between {
    /// t = (2/Δ + Λ) x − P (P* x) + 2 B u.
    t: Vec<c64>,
    /// P* x over both members of every pair, `[rank]`.
    w: Vec<f64>,
    /// (1 + P* D P)⁻¹ P* D t.
    q: Vec<f64>,
}

impl<'a> Sequence<'a> {
    fn new(problem: &'a Problem, inputs: &'a Inputs, b: usize, h: usize) -> Self {
        let channel = Channel::of(problem, inputs, h);
        let low_rank = LowRank::of(&channel, problem.rank);
        Self {
            problem,
            inputs,
            channel,
            low_rank,
            b,
            h,
        }
    }

    fn rows(&self) -> Range<usize> {
        self.problem.sequences.span(self.b, self.problem.time)
    }

    fn input(&self, row: usize) -> f64 {
        f64::from(self.inputs.input.row(row)[self.h])
    }

    fn step(&self, row: usize) -> f64 {
        let of_token = self
            .inputs
            .token_step_size
            .map(|steps| f64::from(steps.row(row)[self.h]));
        of_token.unwrap_or(self.channel.step)
    }

    fn mode(&self, row: usize, n: usize) -> Mode {
        self.problem
            .rule
            .mode(self.step(row), self.channel.a[n], self.channel.b[n])
    }

    fn p(&self, k: usize) -> &[c64] {
        let n = self.problem.state_dim;
        &self.channel.p[k * n..(k + 1) * n]
    }

    /// The state after a token.
    fn next(&self, row: usize, x: &[c64]) -> Vec<c64> {
        if self.problem.rank == 0 {
            let modes = x.iter().enumerate().map(|(n, x)| (self.mode(row, n), x));
            return modes
                .map(|(mode, x)| x + mode.change * x + mode.input * self.input(row))
                .collect();
        }
        let Between { t, q, .. } = self.between(row, x);
        let next = (0..x.len()).map(|n| self.low_rank.d[n] * (t[n] - self.of_rank(&q, n)));
        next.collect()
    }

    /// Entry `n` of the product P v.
    fn of_rank(&self, v: &[f64], n: usize) -> c64 {
        v.iter().enumerate().map(|(k, v)| self.p(k)[n] * *v).sum()
    }

    fn between(&self, row: usize, x: &[c64]) -> Between {
        let (rank, channel) = (self.problem.rank, &self.channel);
        let w: Vec<f64> = (0..rank).map(|k| inner(self.p(k), x)).collect();
        let t: Vec<c64> = (0..x.len())
            .map(|n| {
                (2.0 / channel.step + channel.a[n]) * x[n] - self.of_rank(&w, n)
                    + channel.b[n] * (2.0 * self.input(row))
            })
            .collect();
        let z: Vec<c64> = t.iter().zip(&self.low_rank.d).map(|(t, d)| t * d).collect();
        let v: Vec<f64> = (0..rank).map(|k| inner(self.p(k), &z)).collect();
        let core = |i: usize| (0..rank).map(|j| self.low_rank.core[i * rank + j] * v[j]).sum();
        Between {
            t,
            w,
            q: (0..rank).map(core).collect(),
        }
    }

    fn c(&self, output: usize) -> &[c64] {
        let n = self.problem.state_dim;
        &self.channel.c[output * n..(output + 1) * n]
    }

    /// The outputs of a token from the state after it.
    fn read(&self, row: usize, x: &[c64]) -> Vec<f64> {
        let weight = self.problem.spectrum.weight();
        let y = |output: usize| {
            let sum: f64 = self.c(output).iter().zip(x).map(|(c, x)| (c * x).re).sum();
            weight * sum + self.channel.skip[output] * self.input(row)
        };
        (0..self.problem.outputs).map(y).collect()
    }
}

/// The gradients in f64, from the states of all tokens.
///
/// With x̄_t the derivative of the loss by x_t, as that by its real part plus i times that by its imaginary part,
///
/// ```text
/// x̄_t += w C̄ᵀ ȳ_t (w = 2 or 1)      ∂C += w ȳ_t conj(x_t)      ∂D += ȳ_t u_t      ∂u_t = D ȳ_t + Re(B̄ᴴ x̄_t)
/// x̄_{t−1} = Āᴴ x̄_t                  ∂Ā += x̄_t conj(x_{t−1})    ∂B̄ += x̄_t u_t
/// ```
///
/// and from ∂Ā and ∂B̄ by the rule to Δ, Λ and B; with a low rank, through every quantity of S4's step instead.
///
/// # Errors
/// [`StateSpaceError`] when a shape, a choice or a value is wrong.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    cotangents: &Cotangents,
    gradients: &mut Gradients<f64>,
) -> Result<(), StateSpaceError> {
    problem.validate_backward(inputs, cotangents, gradients)?;
    gradients.input.fill(0.0);
    if let Some(steps) = &mut gradients.token_step_size {
        steps.fill(0.0);
    }
    let mut channels = vec![Channel::zeros(problem); problem.channels];
    for b in 0..problem.batch {
        for (h, found) in channels.iter_mut().enumerate() {
            sequence_backward(
                &Sequence::new(problem, inputs, b, h),
                cotangents,
                gradients,
                found,
            );
        }
    }
    write_gradients(problem, &channels, gradients, |value| value);
    Ok(())
}

fn sequence_backward(
    sequence: &Sequence,
    cotangents: &Cotangents,
    gradients: &mut Gradients<f64>,
    found: &mut Channel,
) {
    let (problem, h) = (sequence.problem, sequence.h);
    let mut states = vec![initial_state(problem, sequence.inputs, sequence.b, h)];
    for row in sequence.rows() {
        states.push(sequence.next(row, &states[states.len() - 1]));
    }
    let range = state_range(problem, sequence.b, h);
    let mut adjoint = match cotangents.state {
        Some(state) => complex(&state[range.clone()]),
        None => vec![c64::new(0.0, 0.0); problem.state_dim],
    };
    let mut core = vec![0.0; problem.rank * problem.rank];
    let mut d = vec![c64::new(0.0, 0.0); problem.state_dim];
    for (at, row) in sequence.rows().enumerate().rev() {
        let (before, after) = (&states[at], &states[at + 1]);
        let mut by_input = read_backward(sequence, cotangents, (row, after), &mut adjoint, found);
        by_input += match problem.rank {
            0 => diagonal_backward(sequence, (row, before), &mut adjoint, gradients, found),
            _ => low_rank_backward(sequence, (row, before), &mut adjoint, (&mut d, &mut core), found),
        };
        gradients.input[row * problem.channels + h] = by_input;
    }
    if problem.rank > 0 {
        constants_backward(sequence, &mut d, &core, found);
    }
    if let Some(state) = &mut gradients.state {
        store(&adjoint, &mut state[range]);
    }
}

/// Adds what the outputs of a token say to the derivative by the state after it; the derivative by the input on the way of D.
fn read_backward(
    sequence: &Sequence,
    cotangents: &Cotangents,
    (row, x): (usize, &[c64]),
    adjoint: &mut [c64],
    found: &mut Channel,
) -> f64 {
    let problem = sequence.problem;
    let (weight, n) = (problem.spectrum.weight(), problem.state_dim);
    let mut by_input = 0.0;
    for output in 0..problem.outputs {
        let column = output * problem.channels + sequence.h;
        let y = cotangents.out.map_or(0.0, |out| f64::from(out.row(row)[column]));
        for (i, c) in sequence.c(output).iter().enumerate() {
            adjoint[i] += c.conj() * (weight * y);
            found.c[output * n + i] += x[i].conj() * (weight * y);
        }
        found.skip[output] += y * sequence.input(row);
        by_input += y * sequence.channel.skip[output];
    }
    by_input
}

fn diagonal_backward(
    sequence: &Sequence,
    (row, before): (usize, &[c64]),
    adjoint: &mut [c64],
    gradients: &mut Gradients<f64>,
    found: &mut Channel,
) -> f64 {
    let (mut by_input, mut by_step) = (0.0, 0.0);
    for (n, adjoint) in adjoint.iter_mut().enumerate() {
        let mode = sequence.mode(row, n);
        by_input += (mode.input.conj() * *adjoint).re;
        let cotangent = Mode {
            change: *adjoint * before[n].conj(),
            input: *adjoint * sequence.input(row),
        };
        let (a, b) = (sequence.channel.a[n], sequence.channel.b[n]);
        let gradient = sequence
            .problem
            .rule
            .pull_back(sequence.step(row), (a, b), &mode, &cotangent);
        by_step += gradient.step;
        found.a[n] += gradient.a;
        found.b[n] += gradient.b;
        *adjoint += mode.change.conj() * *adjoint;
    }
    match &mut gradients.token_step_size {
        Some(steps) => steps[row * sequence.problem.channels + sequence.h] = by_step,
        None => found.step += by_step,
    }
    by_input
}

/// Through x⁺ = D (t − P q), q = core P* D t and t = (2/Δ + Λ) x − P (P* x) + 2 B u. Those by D and the core are collected.
fn low_rank_backward(
    sequence: &Sequence,
    (row, before): (usize, &[c64]),
    adjoint: &mut [c64],
    (by_d, by_core): (&mut [c64], &mut [f64]),
    found: &mut Channel,
) -> f64 {
    let (channel, d) = (&sequence.channel, &sequence.low_rank.d);
    let (n, rank) = (before.len(), sequence.problem.rank);
    let Between { t, w, q } = sequence.between(row, before);
    let z: Vec<c64> = t.iter().zip(d).map(|(t, d)| t * d).collect();
    let v: Vec<f64> = (0..rank).map(|k| inner(sequence.p(k), &z)).collect();
    let mut by_q = vec![0.0; rank];
    for i in 0..n {
        let through = d[i].conj() * adjoint[i];
        by_d[i] -= sequence.of_rank(&q, i).conj() * adjoint[i];
        for k in 0..rank {
            by_q[k] -= (sequence.p(k)[i].conj() * through).re;
            found.p[k * n + i] -= through * q[k];
        }
    }
    let mut by_v = vec![0.0; rank];
    for i in 0..rank {
        for j in 0..rank {
            by_core[i * rank + j] += by_q[i] * v[j];
            by_v[j] += sequence.low_rank.core[i * rank + j] * by_q[i];
        }
    }
    let mut by_t = vec![c64::new(0.0, 0.0); n];
    for i in 0..n {
        let mut by_z = adjoint[i];
        for (k, by_v) in by_v.iter().enumerate() {
            by_z += sequence.p(k)[i] * (2.0 * by_v);
            found.p[k * n + i] += z[i] * (2.0 * by_v);
        }
        by_t[i] = d[i].conj() * by_z;
        by_d[i] += t[i].conj() * by_z;
    }
    let by_w: Vec<f64> = (0..rank).map(|k| -0.5 * inner(sequence.p(k), &by_t)).collect();
    let (mut by_input, mut by_rate) = (0.0, 0.0);
    for i in 0..n {
        let by_t = by_t[i];
        found.a[i] += before[i].conj() * by_t;
        by_rate += (before[i].conj() * by_t).re;
        found.b[i] += by_t * (2.0 * sequence.input(row));
        by_input += 2.0 * (channel.b[i].conj() * by_t).re;
        adjoint[i] = (2.0 / channel.step + channel.a[i]).conj() * by_t;
        for k in 0..rank {
            found.p[k * n + i] += before[i] * (2.0 * by_w[k]) - by_t * w[k];
            adjoint[i] += sequence.p(k)[i] * (2.0 * by_w[k]);
        }
    }
    found.step -= 2.0 * by_rate / (channel.step * channel.step);
    by_input
}

/// Through the core (1 + P* D P)⁻¹ and D = (2/Δ − Λ)⁻¹.
fn constants_backward(sequence: &Sequence, by_d: &mut [c64], by_core: &[f64], found: &mut Channel) {
    let (n, rank) = (by_d.len(), sequence.problem.rank);
    let LowRank { d, core } = &sequence.low_rank;
    for i in 0..rank {
        for j in 0..rank {
            let mut by_matrix = 0.0;
            for k in 0..rank {
                for l in 0..rank {
                    by_matrix -= core[k * rank + i] * by_core[k * rank + l] * core[j * rank + l];
                }
            }
            let (pi, pj) = (sequence.p(i), sequence.p(j));
            for m in 0..n {
                found.p[i * n + m] += d[m] * pj[m] * (2.0 * by_matrix);
                found.p[j * n + m] += d[m].conj() * pi[m] * (2.0 * by_matrix);
                by_d[m] += pi[m] * pj[m].conj() * (2.0 * by_matrix);
            }
        }
    }
    let step = sequence.channel.step;
    for m in 0..n {
        let by_inverse = (d[m] * d[m]).conj() * by_d[m];
        found.a[m] += by_inverse;
        found.step += 2.0 * by_inverse.re / (step * step);
    }
}

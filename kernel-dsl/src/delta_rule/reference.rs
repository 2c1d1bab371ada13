//! The definition in f64, forward and backward: plain loops over tokens. Everything else is tested against it.

use super::problem::{
    Cotangents, DeltaRuleError, Gradients, Inputs, Problem, Transition, TransitionGradients,
};
use crate::decay::DecayScope;

/// The delta rule in f64, token by token (see [the module](crate::delta_rule) for the formula).
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]`, read and updated; `out` `[rows, heads, value_dim]`, 0 in rows that
/// belong to no sequence.
///
/// # Errors
/// [`DeltaRuleError`] when a shape is wrong.
pub fn delta_rule(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f64],
    out: &mut [f64],
) -> Result<(), DeltaRuleError> {
    problem.validate(inputs, state.len(), out.len())?;
    let (heads, value_dim) = (problem.heads, problem.value_dim);
    out.fill(0.0);
    for b in 0..problem.batch {
        for row in inputs.sequences.span(b, problem.time) {
            for head in 0..heads {
                let len = problem.head_state_len();
                let s = &mut state[(b * heads + head) * len..][..len];
                let token = Token::new(problem, inputs, row, head);
                token.update(s);
                let read = left_product(&token.query, s, value_dim);
                out[(row * heads + head) * value_dim..][..value_dim].copy_from_slice(&read);
            }
        }
    }
    Ok(())
}

/// The gradients of [`delta_rule`] in f64, by one sweep back over all states.
///
/// With G the derivative by S_t, complete once scale·q_t dy_tᵀ is added, and S = S_{t−1}:
///
/// ```text
/// dq_t = scale·S_t dy_t
/// low rank   S_t = a∘S + b uᵀ + k vᵀ,  u = Sᵀp        du = Gᵀb   dk = G v   dv = Gᵀk   db = G u   dp = S du
///                                                     d ln a = a∘Σ_v G∘S    dS = a∘G + p duᵀ
/// delta      S_t = R + β k eᵀ,  R = a∘S,  e = v − Rᵀk   de = β Gᵀk   dβ = kᵀG e   dk = β G e − R de   dv = de
///                                                     dR = G − k deᵀ   d ln a = Σ_v dR∘R   dS = a∘dR
/// ```
///
/// # Shapes
/// `initial_state` `[batch, heads, key_dim, value_dim]`; gradients as [`Gradients`] says.
///
/// # Errors
/// [`DeltaRuleError`] when a shape is wrong.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    initial_state: &[f64],
    cotangents: &Cotangents,
    gradients: &mut Gradients<f64>,
) -> Result<(), DeltaRuleError> {
    problem.validate_backward(inputs, initial_state.len(), cotangents, gradients)?;
    clear(gradients);
    let len = problem.head_state_len();
    for index in 0..problem.batch * problem.heads {
        let (b, head) = (index / problem.heads, index % problem.heads);
        let span = inputs.sequences.span(b, problem.time);
        let mut states = vec![initial_state[index * len..][..len].to_vec()];
        for row in span.clone() {
            let mut next = states[states.len() - 1].clone();
            Token::new(problem, inputs, row, head).update(&mut next);
            states.push(next);
        }
        let mut g = match cotangents.state {
            Some(state) => to_f64(&state[index * len..][..len]),
            None => vec![0.0; len],
        };
        for row in span.clone().rev() {
            let t = row - span.start;
            let dy = to_f64(&cotangents.out.row(row)[head * problem.value_dim..][..problem.value_dim]);
            let token = Token::new(problem, inputs, row, head);
            token_backward(&token, (&states[t], &states[t + 1]), &dy, &mut g, gradients);
        }
        gradients.state[index * len..][..len].copy_from_slice(&g);
    }
    Ok(())
}

fn clear(gradients: &mut Gradients<f64>) {
    gradients.query.fill(0.0);
    gradients.key.fill(0.0);
    gradients.value.fill(0.0);
    match &mut gradients.transition {
        TransitionGradients::Delta { beta } => beta.fill(0.0),
        TransitionGradients::LowRank { p, b } => {
            p.fill(0.0);
            b.fill(0.0);
        }
    }
    if let Some(log_decay) = gradients.log_decay.as_mut().either() {
        log_decay.fill(0.0);
    }
}

fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

/// What one head reads at one token, in f64.
struct Token<'a> {
    problem: &'a Problem,
    row: usize,
    head: usize,
    /// Scaled query scale·q, `[key_dim]`.
    query: Vec<f64>,
    scale: f64,
    key: Vec<f64>,
    value: Vec<f64>,
    /// a, one per key.
    decay: Vec<f64>,
    transition: TokenTransition,
}

enum TokenTransition {
    Delta { beta: f64 },
    LowRank { p: Vec<f64>, b: Vec<f64> },
}

impl<'a> Token<'a> {
    fn new(problem: &'a Problem, inputs: &Inputs, row: usize, head: usize) -> Self {
        let (key_dim, value_dim) = (problem.key_dim, problem.value_dim);
        let group = problem.group_of(head);
        let on_keys = |rows: &crate::Rows| to_f64(&rows.row(row)[group * key_dim..][..key_dim]);
        let scale = f64::from(inputs.scale);
        let log_decay = |n: usize| match (inputs.log_decay.token(), problem.decay.scope()) {
            (Some(rows), DecayScope::Head) => f64::from(rows.row(row)[head]),
            (Some(rows), DecayScope::Key) => f64::from(rows.row(row)[head * key_dim + n]),
            _ => 0.0,
        };
        Self {
            problem,
            row,
            head,
            query: on_keys(&inputs.query).iter().map(|q| scale * q).collect(),
            scale,
            key: on_keys(&inputs.key),
            value: to_f64(&inputs.value.row(row)[head * value_dim..][..value_dim]),
            decay: (0..key_dim).map(|n| log_decay(n).exp()).collect(),
            transition: match &inputs.transition {
                Transition::Delta { beta } => TokenTransition::Delta {
                    beta: f64::from(beta.row(row)[head]),
                },
                Transition::LowRank { p, b } => TokenTransition::LowRank {
                    p: on_keys(p),
                    b: on_keys(b),
                },
            },
        }
    }

    /// Updates the state in place, from S_{t−1} to S_t.
    fn update(&self, s: &mut [f64]) {
        let value_dim = self.problem.value_dim;
        match &self.transition {
            TokenTransition::Delta { beta } => {
                self.decay(s);
                let error = self.error(s);
                let written: Vec<f64> = error.iter().map(|e| beta * e).collect();
                add_outer(s, &self.key, &written);
            }
            TokenTransition::LowRank { p, b } => {
                let u = left_product(p, s, value_dim);
                self.decay(s);
                add_outer(s, b, &u);
                add_outer(s, &self.key, &self.value);
            }
        }
    }

    /// Decays the state in place: S ← a∘S.
    fn decay(&self, s: &mut [f64]) {
        for (n, a) in self.decay.iter().enumerate() {
            s[n * self.problem.value_dim..][..self.problem.value_dim]
                .iter_mut()
                .for_each(|x| *x *= a);
        }
    }

    /// e = v − Rᵀk of a decayed state R.
    fn error(&self, r: &[f64]) -> Vec<f64> {
        let read = left_product(&self.key, r, self.problem.value_dim);
        self.value.iter().zip(read).map(|(v, u)| v - u).collect()
    }
}

/// Adds the gradients of one token, given the states before and after it; `g` goes from dS_t to dS_{t−1}.
fn token_backward(
    token: &Token,
    (before, after): (&[f64], &[f64]),
    dy: &[f64],
    g: &mut [f64],
    gradients: &mut Gradients<f64>,
) {
    let Problem {
        heads,
        groups,
        key_dim,
        value_dim,
        ..
    } = *token.problem;
    let (row, head) = (token.row, token.head);
    let on_keys = (row * groups + token.problem.group_of(head)) * key_dim;
    let on_values = (row * heads + head) * value_dim;
    let dq = right_product(after, dy);
    add_scaled(&mut gradients.query[on_keys..][..key_dim], token.scale, &dq);
    add_outer(g, &token.query, dy);
    // d ln a per key, before it is summed for a scalar decay.
    let log_decay: Vec<f64>;
    match (&token.transition, &mut gradients.transition) {
        (TokenTransition::Delta { beta }, TransitionGradients::Delta { beta: d_beta }) => {
            let mut decayed = before.to_vec();
            token.decay(&mut decayed);
            let error = token.error(&decayed);
            let k_g = left_product(&token.key, g, value_dim);
            let d_error: Vec<f64> = k_g.iter().map(|x| beta * x).collect();
            d_beta[row * heads + head] = k_g.iter().zip(&error).map(|(x, e)| x * e).sum();
            let dk = &mut gradients.key[on_keys..][..key_dim];
            add_scaled(dk, *beta, &right_product(g, &error));
            add_scaled(dk, -1.0, &right_product(&decayed, &d_error));
            gradients.value[on_values..][..value_dim].copy_from_slice(&d_error);
            let negative: Vec<f64> = d_error.iter().map(|x| -x).collect();
            add_outer(g, &token.key, &negative);
            log_decay = row_dots(g, &decayed, key_dim);
            token.decay(g);
        }
        (TokenTransition::LowRank { p, b }, TransitionGradients::LowRank { p: dp, b: db }) => {
            let u = left_product(p, before, value_dim);
            let du = left_product(b, g, value_dim);
            let dv = left_product(&token.key, g, value_dim);
            gradients.value[on_values..][..value_dim].copy_from_slice(&dv);
            let dk = right_product(g, &token.value);
            add_scaled(&mut gradients.key[on_keys..][..key_dim], 1.0, &dk);
            add_scaled(&mut db[on_keys..][..key_dim], 1.0, &right_product(g, &u));
            add_scaled(&mut dp[on_keys..][..key_dim], 1.0, &right_product(before, &du));
            token.decay(g);
            log_decay = row_dots(g, before, key_dim);
            add_outer(g, p, &du);
        }
        _ => unreachable!("validation compared both transitions with the problem's"),
    }
    if let Some(gradient) = gradients.log_decay.as_mut().either() {
        set_log_decay(token, &log_decay, gradient);
    }
}

/// Writes d ln a of one token, summed over the keys that share a decay.
fn set_log_decay(token: &Token, per_key: &[f64], gradient: &mut [f64]) {
    let state = token.row * token.problem.heads + token.head;
    match token.problem.decay.scope() {
        DecayScope::None => {}
        DecayScope::Head => gradient[state] = per_key.iter().sum(),
        DecayScope::Key => gradient[state * per_key.len()..][..per_key.len()].copy_from_slice(per_key),
    }
}

/// Product Sᵀ x of a state and a vector over keys, `[value_dim]`.
fn left_product(x: &[f64], s: &[f64], value_dim: usize) -> Vec<f64> {
    let mut y = vec![0.0; value_dim];
    for (n, x) in x.iter().enumerate() {
        add_scaled(&mut y, *x, &s[n * value_dim..][..value_dim]);
    }
    y
}

/// Product S y of a state and a vector over values, `[key_dim]`.
fn right_product(s: &[f64], y: &[f64]) -> Vec<f64> {
    match y.len() {
        0 => Vec::new(),
        value_dim => s
            .chunks_exact(value_dim)
            .map(|row| row.iter().zip(y).map(|(s, y)| s * y).sum())
            .collect(),
    }
}

/// The sums of A∘B over each of `rows` rows.
fn row_dots(a: &[f64], b: &[f64], rows: usize) -> Vec<f64> {
    let width = a.len().checked_div(rows).unwrap_or(0);
    let dot = |n: usize| {
        let row = n * width..(n + 1) * width;
        a[row.clone()].iter().zip(&b[row]).map(|(a, b)| a * b).sum()
    };
    (0..rows).map(dot).collect()
}

/// S ← S + x yᵀ.
fn add_outer(s: &mut [f64], x: &[f64], y: &[f64]) {
    for (n, x) in x.iter().enumerate() {
        add_scaled(&mut s[n * y.len()..][..y.len()], *x, y);
    }
}

/// x ← x + factor·y.
fn add_scaled(x: &mut [f64], factor: f64, y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y);
}

//! The definition in f64: one plain loop over tokens and channels. Everything else is tested against it.

use super::problem::{Cotangents, EMPTY_MAX, Gradients, Inputs, OPERATOR, Problem, Wkv4Error};

/// The recurrence in f64, token by token (see [the module](crate::wkv4) for the formula).
///
/// # Shapes
/// `state` `[batch, 3, channels]`, read and updated; `out` `[rows, channels]`, 0 in rows of no sequence.
///
/// # Errors
/// [`Wkv4Error`] when a shape is wrong or a log decay is positive or NaN.
pub fn wkv4(problem: &Problem, inputs: &Inputs, state: &mut [f64], out: &mut [f64]) -> Result<(), Wkv4Error> {
    problem.validate_inputs(inputs)?;
    OPERATOR.values("state", problem.state_len(), state.len())?;
    OPERATOR.values("out", problem.out_len(&inputs.sequences), out.len())?;
    out.fill(0.0);
    for b in 0..problem.batch {
        for c in 0..problem.channels {
            let span = inputs.sequences.span(b, problem.time);
            if span.is_empty() {
                continue;
            }
            let mut sums = Sums::load(problem, state, (b, c));
            for row in span {
                let token = Token::new(inputs, row, c);
                out[row * problem.channels + c] = sums.read(&token).out;
                sums.update(&token);
            }
            sums.store(problem, state, (b, c));
        }
    }
    Ok(())
}

/// The gradients in f64, from the sums of all tokens.
///
/// With the true sums N_t and M_t (numerator and denominator times e^max), Z_t = M_{t-1} + e^{u+k_t} and cotangents ō:
///
/// ```text
/// ν_{t-1} = e^w ν_t + ō_t / Z_t                 derivative of the loss by N_{t-1}
/// μ_{t-1} = e^w μ_t − ō_t o_t / Z_t             derivative of the loss by M_{t-1}
/// ∂v_t = ō_t e^{u+k_t} / Z_t + e^{k_t} ν_t
/// ∂k_t = ō_t (v_t − o_t) e^{u+k_t} / Z_t + e^{k_t} (ν_t v_t + μ_t)
/// ∂u  += ō_t (v_t − o_t) e^{u+k_t} / Z_t
/// ∂w  += e^w (ν_t N_{t-1} + μ_t M_{t-1})
/// ```
///
/// Sums and their derivatives are kept with a factor e^max and e^p of their own, as in
/// [`wkv4::backward`](crate::wkv4::backward), which says why no exponent becomes positive. What the loss wants from the
/// maximum m itself, ρ = ∂m − num ∂num − den ∂den, goes the way that the larger operand of each m_t = max(m_{t-1} + w, k_t)
/// came from.
///
/// # Shapes
/// `initial_state` `[batch, 3, channels]`; [`Gradients`] has the others.
///
/// # Errors
/// [`Wkv4Error`] when a shape is wrong or a log decay is positive or NaN.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    initial_state: &[f64],
    cotangents: &Cotangents,
    gradients: &mut Gradients<f64>,
) -> Result<(), Wkv4Error> {
    problem.validate_backward(inputs, initial_state.len(), cotangents, gradients)?;
    gradients.log_decay.fill(0.0);
    gradients.bonus.fill(0.0);
    gradients.key.fill(0.0);
    gradients.value.fill(0.0);
    for b in 0..problem.batch {
        for c in 0..problem.channels {
            channel_backward(problem, inputs, initial_state, cotangents, gradients, (b, c));
        }
    }
    Ok(())
}

/// The gradients of one channel of one sequence.
fn channel_backward(
    problem: &Problem,
    inputs: &Inputs,
    initial_state: &[f64],
    cotangents: &Cotangents,
    gradients: &mut Gradients<f64>,
    (b, c): (usize, usize),
) {
    let span = inputs.sequences.span(b, problem.time);
    // The sums before each token, then the last.
    let mut sums = vec![Sums::load(problem, initial_state, (b, c))];
    for row in span.clone() {
        let mut next = sums[sums.len() - 1];
        next.update(&Token::new(inputs, row, c));
        sums.push(next);
    }
    let cotangent = |part: usize| match cotangents.state {
        Some(state) => f64::from(state[(b * 3 + part) * problem.channels + c]),
        None => 0.0,
    };
    if span.is_empty() {
        for part in 0..3 {
            gradients.state[(b * 3 + part) * problem.channels + c] = cotangent(part);
        }
        return;
    }
    let last = sums[sums.len() - 1];
    let mut adjoint = Adjoint {
        numerator: cotangent(0),
        denominator: cotangent(1),
        exponent: -last.max,
        max: cotangent(2) - cotangent(0) * last.numerator - cotangent(1) * last.denominator,
    };
    for (t, row) in span.enumerate().rev() {
        let token = Token::new(inputs, row, c);
        let at = row * problem.channels + c;
        let out = f64::from(cotangents.out.row(row)[c]);
        let before = sums[t];
        let read = before.read(&token);
        let by_present = out * read.present * (token.value - read.out);
        let kept = (token.key + adjoint.exponent).exp();
        gradients.value[at] = out * read.present + kept * adjoint.numerator;
        gradients.key[at] = by_present + kept * (adjoint.numerator * token.value + adjoint.denominator);
        gradients.bonus[c] += by_present;
        let decayed = (token.log_decay + adjoint.exponent + before.max).exp();
        gradients.log_decay[c] +=
            decayed * (adjoint.numerator * before.numerator + adjoint.denominator * before.denominator);
        if before.max + token.log_decay >= token.key {
            gradients.log_decay[c] += adjoint.max;
        } else {
            gradients.key[at] += adjoint.max;
            adjoint.max = 0.0;
        }
        adjoint.pass(token.log_decay, out, &read);
    }
    let first = sums[0];
    let scale = (adjoint.exponent + first.max).exp();
    let (numerator, denominator) = (scale * adjoint.numerator, scale * adjoint.denominator);
    let max = adjoint.max + numerator * first.numerator + denominator * first.denominator;
    for (part, value) in [numerator, denominator, max].into_iter().enumerate() {
        gradients.state[(b * 3 + part) * problem.channels + c] = value;
    }
}

/// What one channel reads at one token.
struct Token {
    log_decay: f64,
    bonus: f64,
    key: f64,
    value: f64,
}

impl Token {
    fn new(inputs: &Inputs, row: usize, c: usize) -> Self {
        Self {
            log_decay: f64::from(inputs.log_decay[c]),
            bonus: f64::from(inputs.bonus[c]),
            key: f64::from(inputs.key.row(row)[c]),
            value: f64::from(inputs.value.row(row)[c]),
        }
    }
}

/// The state of one channel: sums divided by e^max.
#[derive(Clone, Copy)]
struct Sums {
    numerator: f64,
    denominator: f64,
    max: f64,
}

/// What a token reads: o, the present token's share e^{u+k} / Z, and Z = z e^q as its logarithm's two parts.
struct Read {
    out: f64,
    present: f64,
    /// 1 / z, or 0 where no token has any weight.
    inverse: f64,
    /// q = max(m, u + k), the exponent taken out of Z.
    exponent: f64,
}

impl Sums {
    fn load(problem: &Problem, state: &[f64], (b, c): (usize, usize)) -> Self {
        let part = |part: usize| state[(b * 3 + part) * problem.channels + c];
        Self {
            numerator: part(0),
            denominator: part(1),
            max: part(2).max(f64::from(EMPTY_MAX)),
        }
    }

    fn store(&self, problem: &Problem, state: &mut [f64], (b, c): (usize, usize)) {
        for (part, value) in [self.numerator, self.denominator, self.max]
            .into_iter()
            .enumerate()
        {
            state[(b * 3 + part) * problem.channels + c] = value;
        }
    }

    /// o = (N + e^{u+k} v) / (M + e^{u+k}), 0 where the denominator is 0.
    fn read(&self, token: &Token) -> Read {
        let present = token.bonus + token.key;
        let exponent = self.max.max(present);
        let (past, present) = ((self.max - exponent).exp(), (present - exponent).exp());
        let z = past * self.denominator + present;
        let inverse = if z == 0.0 { 0.0 } else { 1.0 / z };
        Read {
            out: (past * self.numerator + present * token.value) * inverse,
            present: present * inverse,
            inverse,
            exponent,
        }
    }

    /// (N, M) ← e^w (N, M) + e^k (v, 1).
    fn update(&mut self, token: &Token) {
        let decayed = self.max + token.log_decay;
        let max = decayed.max(token.key).max(f64::from(EMPTY_MAX));
        let (past, present) = ((decayed - max).exp(), (token.key - max).exp());
        self.numerator = past * self.numerator + present * token.value;
        self.denominator = past * self.denominator + present;
        self.max = max;
    }
}

/// The derivatives of the loss by the true sums, divided by e^exponent, and what it wants from the maximum.
struct Adjoint {
    numerator: f64,
    denominator: f64,
    exponent: f64,
    max: f64,
}

impl Adjoint {
    /// Takes the derivatives from after a token to before it: e^w times themselves, plus (1, −o) ō / Z.
    fn pass(&mut self, log_decay: f64, out: f64, read: &Read) {
        let later = log_decay + self.exponent;
        let exponent = later.max(-read.exponent);
        let (kept, added) = (
            (later - exponent).exp(),
            out * read.inverse * (-read.exponent - exponent).exp(),
        );
        self.numerator = kept * self.numerator + added;
        self.denominator = kept * self.denominator - added * read.out;
        self.exponent = exponent;
    }
}

//! The recurrence by its definition, token by token in f64, for derivatives by finite differences.

use spillway_ssm_core::{Dims, Erase, Gates, LogDecay, ReadOut};

/// The values of gates and of the state before them, in the order in which [`Gates::map`] comes to the tensors, the state last.
pub type Values = Vec<Vec<f64>>;

/// What a loss wants of the read-outs and of the final state.
pub struct Cotangents {
    pub read_outs: Vec<f64>,
    pub final_state: Vec<f64>,
}

/// One token of one head.
struct Token<'a> {
    query: &'a [f64],
    key: &'a [f64],
    value: Vec<f64>,
    decay: Vec<f64>,
    erase: Taken<'a>,
}

enum Taken<'a> {
    Nothing,
    Delta(f64),
    LowRank { p: &'a [f64], b: &'a [f64] },
}

/// The tensors by their names, taken from [`Values`] in order.
struct Named<'a> {
    query: &'a [f64],
    key: &'a [f64],
    value: &'a [f64],
    log_decay: Option<&'a [f64]>,
    step_size: Option<&'a [f64]>,
    erase: [Option<&'a [f64]>; 2],
    bonus: Option<&'a [f64]>,
    skip: Option<&'a [f64]>,
    state: &'a [f64],
}

impl<'a> Named<'a> {
    fn of(gates: &Gates, values: &'a Values) -> Self {
        let mut rest = values.iter().map(Vec::as_slice);
        let mut next = |is_there: bool| is_there.then(|| rest.next().expect("a tensor"));
        let always = "a tensor of all gates";
        let (delta, low_rank) = match gates.erase {
            Erase::None => (false, false),
            Erase::Delta(_) => (true, false),
            Erase::LowRank { .. } => (false, true),
        };
        Self {
            query: next(true).expect(always),
            key: next(true).expect(always),
            value: next(true).expect(always),
            log_decay: next(!matches!(gates.log_decay, LogDecay::None)),
            step_size: next(gates.step_size.is_some()),
            erase: [next(delta || low_rank), next(low_rank)],
            bonus: next(!matches!(gates.read_out, ReadOut::Inclusive)),
            skip: next(gates.skip.is_some()),
            state: next(true).expect(always),
        }
    }

    fn token(&self, gates: &Gates, dims: &Dims, (b, t, h): (usize, usize, usize)) -> Token<'a> {
        let (keys, columns) = (dims.key_dim, dims.value_dim);
        let at = b * dims.time + t;
        let group = at * dims.groups + h / (dims.heads / dims.groups);
        let of_group = |values: &'a [f64]| &values[group * keys..][..keys];
        let head = at * dims.heads + h;
        let step = self.step_size.map_or(1.0, |step| step[head]);
        let decay = |k: usize| match (&gates.log_decay, self.log_decay) {
            (LogDecay::PerHead(_), Some(a)) => a[h],
            (LogDecay::PerKey(_), Some(a)) => a[h * keys + k],
            (LogDecay::PerHeadToken(_), Some(a)) => a[head],
            (LogDecay::PerKeyToken(_), Some(a)) => a[head * keys + k],
            (LogDecay::PerStep(_), Some(a)) => step * a[h * keys + k],
            _ => 0.0,
        };
        Token {
            query: of_group(self.query),
            key: of_group(self.key),
            value: self.value[head * columns..][..columns]
                .iter()
                .map(|v| step * v)
                .collect(),
            decay: (0..keys).map(|k| decay(k).exp()).collect(),
            erase: match (&gates.erase, self.erase) {
                (Erase::Delta(_), [Some(beta), _]) => Taken::Delta(beta[head]),
                (Erase::LowRank { .. }, [Some(p), Some(b)]) => Taken::LowRank {
                    p: of_group(p),
                    b: of_group(b),
                },
                _ => Taken::Nothing,
            },
        }
    }
}

/// Σ ȳ · y + Σ λ · h_T of gates whose tensors have these values.
pub fn loss(gates: &Gates, values: &Values, cotangents: &Cotangents) -> f64 {
    let dims = gates.dims();
    let named = Named::of(gates, values);
    let size = named.state.len() / (dims.batch * dims.heads);
    let mut sum = 0.0;
    for b in 0..dims.batch {
        for h in 0..dims.heads {
            let place = (b * dims.heads + h) * size;
            let mut state = named.state[place..][..size].to_vec();
            for t in 0..dims.time {
                let read = match gates.read_out {
                    ReadOut::Mean(_) => vec![mean(gates, &named, &dims, (b, t, h), &mut state)],
                    _ => token(gates, &named, &dims, (b, t, h), &mut state),
                };
                let at = ((b * dims.time + t) * dims.heads + h) * dims.value_dim;
                sum += dot(&read, &cotangents.read_outs[at..][..dims.value_dim]);
            }
            sum += dot(&state, &cotangents.final_state[place..][..size]);
        }
    }
    sum
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// xᵀ h.
fn read(x: &[f64], state: &[f64], columns: usize) -> Vec<f64> {
    let column = |c: usize| {
        x.iter()
            .enumerate()
            .map(|(k, x)| x * state[k * columns + c])
            .sum()
    };
    (0..columns).map(column).collect()
}

/// h ← h + x yᵀ.
fn write(state: &mut [f64], x: &[f64], y: &[f64]) {
    for (row, x) in state.chunks_mut(y.len()).zip(x) {
        row.iter_mut().zip(y).for_each(|(value, y)| *value += x * y);
    }
}

/// y of a token of a weighted sum or a delta rule; the state moves on.
fn token(
    gates: &Gates,
    named: &Named<'_>,
    dims: &Dims,
    place: (usize, usize, usize),
    state: &mut [f64],
) -> Vec<f64> {
    let (token, columns) = (named.token(gates, dims, place), dims.value_dim);
    let (b, t, h) = place;
    let before = state.to_vec();
    for (row, decay) in state.chunks_mut(columns).zip(&token.decay) {
        row.iter_mut().for_each(|value| *value *= decay);
    }
    match token.erase {
        Taken::Nothing => write(state, token.key, &token.value),
        Taken::Delta(beta) => {
            let held = read(token.key, state, columns);
            let change = token
                .value
                .iter()
                .zip(held)
                .map(|(value, held)| beta * (value - held));
            write(state, token.key, &change.collect::<Vec<_>>());
        }
        Taken::LowRank { p, b } => {
            write(state, b, &read(p, &before, columns));
            write(state, token.key, &token.value);
        }
    }
    let mut out = match named.bonus {
        None => read(token.query, state, columns),
        Some(bonus) => {
            let mut seen = before;
            let bonus = &bonus[h * dims.key_dim..][..dims.key_dim];
            let weighted: Vec<f64> = token
                .key
                .iter()
                .zip(bonus)
                .map(|(key, bonus)| key * bonus)
                .collect();
            write(&mut seen, &weighted, &token.value);
            read(token.query, &seen, columns)
        }
    };
    let at = ((b * dims.time + t) * dims.heads + h) * columns;
    for (c, out) in out.iter_mut().enumerate() {
        *out *= f64::from(gates.scale);
        // One skip for each head.
        *out += named.skip.map_or(0.0, |skip| skip[h] * named.value[at + c]);
    }
    out
}

/// y of a token of a weighted mean; the state is numerator, denominator and maximum.
fn mean(
    gates: &Gates,
    named: &Named<'_>,
    dims: &Dims,
    (b, t, h): (usize, usize, usize),
    state: &mut [f64],
) -> f64 {
    let at = (b * dims.time + t) * dims.heads + h;
    let (key, value) = (named.key[at], named.value[at]);
    let bonus = named.bonus.map_or(0.0, |bonus| bonus[h]);
    let decay = named.log_decay.map_or(0.0, |decay| decay[h]);
    let joined = |exponent: f64, key: f64, state: &[f64]| {
        let highest = exponent.max(key);
        let (past, present) = ((exponent - highest).exp(), (key - highest).exp());
        [
            state[0] * past + value * present,
            state[1] * past + present,
            highest,
        ]
    };
    let seen = joined(state[2], bonus + key, state);
    let after = joined(state[2] + decay, key, state);
    state.copy_from_slice(&after);
    f64::from(gates.scale) * seen[0] / seen[1]
}

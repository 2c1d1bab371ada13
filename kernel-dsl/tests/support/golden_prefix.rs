//! What golden cases of prefix linear attention, and of Based whose numerator decays, say: inputs in the order of rows, and what
//! is found against them.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use spillway_kernel_dsl::taylor_attention::{Cotangents, Expansion, GradientBuffers, Inputs, Problem};
use spillway_kernel_dsl::{Rows, Sequences};

use super::support::{Case, cases};

/// A case with its tensors `[batch, time, heads, dim]`.
pub struct Golden {
    pub case: Case,
    pub problem: Problem,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    prefix_key: Vec<f32>,
    prefix_value: Vec<f32>,
    log_decay: Option<Vec<f32>>,
    /// 1 for every token that is no padding, `[batch, time]`.
    mask: Vec<f32>,
    /// Factor on the output, `[batch, time, heads]`.
    gain: Vec<f32>,
    out_cotangent: Vec<f32>,
    state_cotangent: Option<Vec<f32>>,
}

/// The cases of both operators.
pub fn golden() -> Vec<Golden> {
    let prefixed = cases("jrt_prefix_linear_attn").into_iter().map(Golden::prefixed);
    let decaying = cases("based_decay").into_iter().map(Golden::decaying);
    prefixed.chain(decaying).collect()
}

impl Golden {
    fn prefixed(case: Case) -> Self {
        let [batch, time, heads] = ["B", "T", "H"].map(|name| case.dim(name));
        let (prefix, key_dim, value_dim) = (case.dim("E"), case.dim("F"), case.dim("V"));
        let ones = || vec![1.0; batch * time];
        let mask = case.input_if_any("mask").map_or_else(ones, <[f32]>::to_vec);
        // The peer makes masked keys 0 before the feature map, in both branches.
        let masked = |keys: &[f32], tokens: usize| {
            let width = heads * key_dim;
            let mut keys = keys.to_vec();
            for (row, keys) in keys.chunks_exact_mut(width).enumerate() {
                let kept = mask[row / tokens * time + row % tokens];
                keys.iter_mut().for_each(|x| *x *= kept);
            }
            keys
        };
        Self {
            problem: Problem {
                batch,
                time,
                prefix,
                heads,
                key_dim,
                value_dim,
                scale: 1.0 / (key_dim as f32).sqrt(),
                expansion: Expansion::Taylor,
                normalizer: Some(case.scalar("eps") as f32),
            },
            query: case.input("q").to_vec(),
            key: masked(case.input("k"), time),
            value: case.input("v").to_vec(),
            prefix_key: masked(case.input("k_enc"), prefix),
            prefix_value: case.input("v_enc").to_vec(),
            log_decay: None,
            gain: vec![1.0; batch * time * heads],
            out_cotangent: case.cotangent("o").to_vec(),
            state_cotangent: None,
            mask,
            case,
        }
    }

    fn decaying(case: Case) -> Self {
        let [batch, time, heads] = ["B", "T", "H"].map(|name| case.dim(name));
        let (key_dim, value_dim) = (case.dim("d"), case.dim("dv"));
        let rows = |values: &[f32], dim: usize| exchanged(values, [heads, time, dim]);
        let problem = Problem {
            batch,
            time,
            prefix: 0,
            heads,
            key_dim,
            value_dim,
            scale: 1.0 / (key_dim as f32).sqrt(),
            expansion: Expansion::Taylor,
            normalizer: Some(1e-12),
        };
        let gain = case.input("delta").to_vec();
        let mut out_cotangent = rows(case.cotangent("y"), value_dim);
        scale(&mut out_cotangent, &gain);
        Self {
            problem,
            query: rows(case.input("q"), key_dim),
            key: rows(case.input("k"), key_dim),
            value: rows(case.input("v"), value_dim),
            prefix_key: Vec::new(),
            prefix_value: Vec::new(),
            log_decay: Some(case.input("log_gamma").to_vec()),
            mask: vec![1.0; batch * time],
            out_cotangent,
            state_cotangent: Some(packed(
                &problem,
                case.cotangent("kv_state"),
                case.cotangent("k_state"),
            )),
            gain,
            case,
        }
    }

    pub fn inputs(&self) -> Inputs<'_> {
        let (keys, values) = (
            self.problem.heads * self.problem.key_dim,
            self.problem.heads * self.problem.value_dim,
        );
        let rows = |values, cols| {
            let rows = self.problem.batch * self.problem.time;
            Rows::contiguous(values, rows, cols).expect("whole rows")
        };
        let of_prefix = |values, cols| {
            let rows = self.problem.batch * self.problem.prefix;
            (rows > 0).then(|| Rows::contiguous(values, rows, cols).expect("whole rows"))
        };
        Inputs {
            query: rows(&self.query, keys),
            key: rows(&self.key, keys),
            value: rows(&self.value, values),
            prefix_key: of_prefix(&self.prefix_key, keys),
            prefix_value: of_prefix(&self.prefix_value, values),
            log_decay: self.log_decay.as_deref(),
            sequences: Sequences::Equal,
            prefix_padding: None,
        }
    }

    pub fn cotangents(&self) -> Cotangents<'_> {
        let (rows, cols) = (
            self.problem.batch * self.problem.time,
            self.problem.heads * self.problem.value_dim,
        );
        Cotangents {
            out: Rows::contiguous(&self.out_cotangent, rows, cols).expect("whole rows"),
            state: self.state_cotangent.as_deref(),
        }
    }

    /// Zeros in the shape of the gradients.
    pub fn buffers(&self) -> GradientBuffers {
        let zeros = |like: &[f32]| vec![f32::NAN; like.len()];
        let prefix = self.problem.prefix > 0;
        GradientBuffers {
            query: zeros(&self.query),
            key: zeros(&self.key),
            value: zeros(&self.value),
            prefix_key: prefix.then(|| zeros(&self.prefix_key)),
            prefix_value: prefix.then(|| zeros(&self.prefix_value)),
            log_decay: self.log_decay.as_deref().map(zeros),
            state: vec![f32::NAN; self.problem.state_len()],
        }
    }

    /// Panics unless output and final state agree.
    pub fn check(&self, form: &str, out: &[f32], state: &[f32]) {
        let (values, sums) = full(&self.problem, state);
        self.case.check(form, "kv_state", &values);
        self.case.check(form, "k_state", &sums);
        if !self.case.has_output("y") {
            return self.case.check(form, "o", out);
        }
        let mut out = out.to_vec();
        scale(&mut out, &self.gain);
        let Problem {
            time,
            heads,
            value_dim,
            ..
        } = self.problem;
        self.case
            .check(form, "y", &exchanged(&out, [time, heads, value_dim]));
    }

    /// Panics unless the gradients agree; `out` is the output.
    pub fn check_gradients(&self, form: &str, out: &[f32], found: &GradientBuffers) {
        let Problem {
            time,
            heads,
            key_dim,
            value_dim,
            ..
        } = self.problem;
        let check = |name: &str, found: &[f32]| self.case.check_gradient(form, name, found);
        if let (Some(by_key), Some(by_value)) = (&found.prefix_key, &found.prefix_value) {
            let masked = |gradient: &[f32], tokens: usize| {
                let mut gradient = gradient.to_vec();
                for (row, gradient) in gradient.chunks_exact_mut(heads * key_dim).enumerate() {
                    let kept = self.mask[row / tokens * time + row % tokens];
                    gradient.iter_mut().for_each(|x| *x *= kept);
                }
                gradient
            };
            check("q", &found.query);
            check("k", &masked(&found.key, time));
            check("v", &found.value);
            check("k_enc", &masked(by_key, self.problem.prefix));
            return check("v_enc", by_value);
        }
        let heads_first = |values: &[f32], dim: usize| exchanged(values, [time, heads, dim]);
        check("q", &heads_first(&found.query, key_dim));
        check("k", &heads_first(&found.key, key_dim));
        check("v", &heads_first(&found.value, value_dim));
        check("log_gamma", found.log_decay.as_deref().unwrap_or_default());
        let cotangent = exchanged(self.case.cotangent("y"), [heads, time, value_dim]);
        let products = cotangent.chunks_exact(value_dim).zip(out.chunks_exact(value_dim));
        let by_gain = products.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>());
        check("delta", &by_gain.collect::<Vec<_>>());
    }
}

/// Multiplies rows by a factor each.
fn scale(rows: &mut [f32], factors: &[f32]) {
    let dim = rows.len() / factors.len();
    for (row, factor) in rows.chunks_exact_mut(dim).zip(factors) {
        row.iter_mut().for_each(|x| *x *= factor);
    }
}

/// `[.., a, b, c]` to `[.., b, a, c]`.
fn exchanged(values: &[f32], [a, b, c]: [usize; 3]) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for values in values.chunks_exact(a * b * c) {
        for j in 0..b {
            (0..a).for_each(|i| out.extend_from_slice(&values[(i * b + j) * c..][..c]));
        }
    }
    out
}

/// Where each of the 1 + K + K² features lies among the packed ones, and its share of it.
fn places(key_dim: usize) -> Vec<(usize, f32)> {
    let mut places: Vec<(usize, f32)> = (0..=key_dim).map(|d| (d, 1.0)).collect();
    for i in 0..key_dim {
        for j in 0..key_dim {
            let (low, high) = (i.min(j), i.max(j));
            let before = low * key_dim - low * low.saturating_sub(1) / 2;
            let share = if i == j {
                1.0
            } else {
                std::f32::consts::FRAC_1_SQRT_2
            };
            places.push((1 + key_dim + before + high - low, share));
        }
    }
    places
}

/// A state as `[batch, heads, value_dim, 1 + K + K²]` and its denominator's sums.
fn full(problem: &Problem, state: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (places, columns) = (places(problem.key_dim), problem.columns());
    let (mut values, mut sums) = (Vec::new(), Vec::new());
    for head in state.chunks_exact(problem.features() * columns) {
        let column = |c: usize| {
            places
                .iter()
                .map(move |&(d, share)| share * head[d * columns + c])
        };
        (0..problem.value_dim).for_each(|c| values.extend(column(c)));
        sums.extend(column(problem.value_dim));
    }
    (values, sums)
}

/// The cotangent of a state from those of its two parts in full packing.
fn packed(problem: &Problem, values: &[f32], sums: &[f32]) -> Vec<f32> {
    let (places, columns) = (places(problem.key_dim), problem.columns());
    let mut state = vec![0.0; problem.state_len()];
    let heads = state.chunks_exact_mut(problem.features() * columns);
    for (index, head) in heads.enumerate() {
        for (n, &(d, share)) in places.iter().enumerate() {
            for c in 0..problem.value_dim {
                head[d * columns + c] += share * values[(index * problem.value_dim + c) * places.len() + n];
            }
            head[d * columns + problem.value_dim] += share * sums[index * places.len() + n];
        }
    }
    state
}

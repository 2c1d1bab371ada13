//! The mixers of delta rules with decays, token by token.

use super::arithmetic::{Heads, Row, State, add_product, dot, empty, map, read, sigmoid, split, spread};
use super::reference::Reference;
use super::rounding::rounded;

/// The sizes of a recurrence whose value heads share keys.
struct Sizes {
    heads: usize,
    key_dim: usize,
    value_dim: usize,
}

/// x / √(Σ x² + 10⁻⁶).
fn unit(x: &[f64]) -> Row {
    let length = (dot(x, x) + 1e-6).sqrt();
    x.iter().map(|x| rounded(x / length)).collect()
}

/// A step of the delta rule: what is held under `reader` is taken off the value that is written under `key`.
fn overwrite(state: &mut State, held: &[f64], key: &[f64], value: &[f64], beta: f64) {
    let change: Row = value.iter().zip(held).map(|(v, h)| beta * (v - h)).collect();
    add_product(state, key, &change);
}

fn decayed(state: &mut State, log_decay: f64) {
    let decay = log_decay.exp();
    state.iter_mut().flatten().for_each(|h| *h = rounded(*h * decay));
}

impl Reference {
    fn sizes(&self, head_dim: f64, expand_v: f64) -> Sizes {
        let key_dim = self.number("head_dim", head_dim);
        Sizes {
            heads: self.number("num_v_heads", self.heads() as f64) as usize,
            key_dim: key_dim as usize,
            value_dim: (key_dim * self.number("expand_v", expand_v)) as usize,
        }
    }

    fn silu_branch(&self, name: &str, part: &str, x: &[Row], width: usize) -> Heads {
        split(self.branch(&format!("{name}.{part}"), x, true, true), width)
    }

    /// −e^{A_log} softplus(W_a x + bias).
    fn log_decay(&self, name: &str, x: &[f64], head: usize) -> f64 {
        let raw = self.linear(&format!("{name}.a_proj"), x)[head];
        let bias = self.values(&format!("{name}.dt_bias"))[head];
        let rate = self.values(&format!("{name}.A_log"))[head].exp();
        -rate * (raw + bias).exp().ln_1p()
    }

    /// β, or twice that, of one of the rows of `b_proj`.
    fn beta(&self, name: &str, x: &[f64], row: usize, doubled: bool) -> f64 {
        let largest = if self.flag("allow_neg_eigval", doubled) {
            2.0
        } else {
            1.0
        };
        largest * sigmoid(self.linear(&format!("{name}.b_proj"), x)[row])
    }

    fn read_out(&self, name: &str, out: &[Row], x: &[Row], sizes: &Sizes) -> Vec<Row> {
        let eps = self.number("norm_eps", 1e-6);
        let scale = (sizes.key_dim as f64).powf(-0.5);
        let scaled = |row: &Row| row.iter().map(|y| y * scale).collect();
        let out: Vec<Row> = out.iter().map(scaled).collect();
        self.output_projection(name, "o_norm", &out, x, sizes.value_dim, eps)
    }

    pub(super) fn kimi_delta_attention(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let sizes = self.sizes(128.0, 1.0);
        let directions = |part| {
            let rows = self.silu_branch(name, part, x, sizes.key_dim);
            spread(map(rows, unit), sizes.heads)
        };
        let (query, key) = (directions("q"), directions("k"));
        let value = self.silu_branch(name, "v", x, sizes.value_dim);
        let narrow = self.linears(&format!("{name}.f_proj.0"), x);
        let raw = self.linears(&format!("{name}.f_proj.1"), &narrow);
        let bias = self.values(&format!("{name}.dt_bias"));
        let mut out = vec![Row::new(); x.len()];
        for head in 0..sizes.heads {
            let mut state = empty(sizes.key_dim, sizes.value_dim);
            let rate = self.values(&format!("{name}.A_log"))[head].exp();
            for (t, out) in out.iter_mut().enumerate() {
                for (i, row) in state.iter_mut().enumerate() {
                    let channel = head * sizes.key_dim + i;
                    let u = raw[t][channel] + bias[channel];
                    let log_decay = match self.config["lower_bound"].as_f64() {
                        Some(bound) => bound * sigmoid(rate * u),
                        None => -rate * u.exp().ln_1p(),
                    };
                    row.iter_mut().for_each(|h| *h = rounded(*h * log_decay.exp()));
                }
                let held = read(&state, &key[t][head]);
                let beta = self.beta(name, &x[t], head, false);
                overwrite(&mut state, &held, &key[t][head], &value[t][head], beta);
                out.extend(read(&state, &query[t][head]));
            }
        }
        self.read_out(name, &out, x, &sizes)
    }

    pub(super) fn gated_delta_product(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let sizes = self.sizes(256.0, 2.0);
        let (groups, steps) = (self.heads(), self.number("num_householder", 2.0) as usize);
        let share = sizes.heads / groups;
        let query = map(self.silu_branch(name, "q", x, sizes.key_dim), unit);
        let key = map(self.silu_branch(name, "k", x, sizes.key_dim), unit);
        let value = self.silu_branch(name, "v", x, sizes.value_dim);
        let mut out = vec![Row::new(); x.len()];
        for head in 0..sizes.heads {
            let mut state = empty(sizes.key_dim, sizes.value_dim);
            for (t, out) in out.iter_mut().enumerate() {
                if self.flag("use_forget_gate", true) {
                    decayed(&mut state, self.log_decay(name, &x[t], head));
                }
                for step in 0..steps {
                    let key = &key[t][step * groups + head / share];
                    let row = step * sizes.heads + head;
                    let held = read(&state, key);
                    let beta = self.beta(name, &x[t], row, true);
                    overwrite(&mut state, &held, key, &value[t][row], beta);
                }
                out.extend(read(&state, &query[t][head / share]));
            }
        }
        self.read_out(name, &out, x, &sizes)
    }

    #[expect(
        clippy::needless_range_loop,
        reason = "a head is an index into several things"
    )]
    pub(super) fn comba(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let sizes = self.sizes(256.0, 2.0);
        let share = sizes.heads / self.heads();
        let query = self.silu_branch(name, "q", x, sizes.key_dim);
        let key = self.silu_branch(name, "k", x, sizes.key_dim);
        let value = self.silu_branch(name, "v", x, sizes.value_dim);
        let number = |part: &str, there: &str, group: usize| {
            let tensor = format!("{name}.{part}");
            self.flag(there, true).then(|| self.values(&tensor)[group])
        };
        let mut out = vec![Row::new(); x.len()];
        for head in 0..sizes.heads {
            let group = head / share;
            let part = number("decay", "use_inner_decay", group).map_or(1.0, sigmoid);
            let correction = number("D", "use_output_correction", group).unwrap_or(0.0);
            let mut state = empty(sizes.key_dim, sizes.value_dim);
            for (t, out) in out.iter_mut().enumerate() {
                let reader: Row = key[t][group].iter().map(|k| rounded(k * part)).collect();
                let query = query[t][group].iter().zip(&reader);
                let query: Row = query.map(|(q, p)| q - rounded(correction * p)).collect();
                let held = read(&state, &unit(&reader));
                decayed(&mut state, self.log_decay(name, &x[t], head));
                let sigma = sigmoid(self.linear(&format!("{name}.b_proj"), &x[t])[head]);
                overwrite(&mut state, &held, &unit(&key[t][group]), &value[t][head], sigma);
                out.extend(read(&state, &unit(&query)));
            }
        }
        self.read_out(name, &out, x, &sizes)
    }

    pub(super) fn gated_delta_net2(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let sizes = self.sizes(128.0, 1.0);
        let share = sizes.heads / self.heads();
        let directions = |part| map(self.silu_branch(name, part, x, sizes.key_dim), unit);
        let (query, key) = (directions("q"), directions("k"));
        let value = self.silu_branch(name, "v", x, sizes.value_dim);
        let largest = if self.flag("allow_neg_eigval", false) {
            2.0
        } else {
            1.0
        };
        let gate = |part: &str, width| {
            let rows = self.linears(&format!("{name}.{part}_proj"), x);
            map(split(rows, width), |x| x.iter().map(|x| sigmoid(*x)).collect())
        };
        let (erase, write) = (gate("b", sizes.key_dim), gate("w", sizes.value_dim));
        let narrow = self.linears(&format!("{name}.f_proj.0"), x);
        let raw = split(self.linears(&format!("{name}.f_proj.1"), &narrow), sizes.key_dim);
        let bias = self.values(&format!("{name}.dt_bias"));
        let mut out = vec![Row::new(); x.len()];
        for head in 0..sizes.heads {
            let group = head / share;
            let mut state = empty(sizes.key_dim, sizes.value_dim);
            let rate = self.values(&format!("{name}.A_log"))[group].exp();
            for (t, out) in out.iter_mut().enumerate() {
                for (i, row) in state.iter_mut().enumerate() {
                    let u = raw[t][group][i] + bias[group * sizes.key_dim + i];
                    let decay = (-rate * u.exp().ln_1p()).exp();
                    row.iter_mut().for_each(|h| *h = rounded(*h * decay));
                }
                let product = |a: &[f64], b: &[f64], factor: f64| -> Row {
                    a.iter().zip(b).map(|(a, b)| rounded(factor * a * b)).collect()
                };
                let held = read(&state, &product(&erase[t][group], &key[t][group], largest));
                let written = product(&write[t][head], &value[t][head], 1.0);
                overwrite(&mut state, &held, &key[t][group], &written, 1.0);
                out.extend(read(&state, &query[t][group]));
            }
        }
        self.read_out(name, &out, x, &sizes)
    }
}

//! The mixers of the reference, token by token.

use serde_json::Value;

use super::arithmetic::{
    Heads, Row, add_product, dot, empty, map, read, sigmoid, silu, softmax, split, spread, turned,
};
use super::reference::Reference;
use super::rounding::rounded;

impl Reference {
    pub(super) fn softmax_attention(&self, spec: &Value, name: &str, x: &[Row]) -> Vec<Row> {
        let heads = spec["num_heads"].as_u64().unwrap() as usize;
        let width = self.dim() / heads;
        let base = spec["rope_theta"].as_f64().unwrap_or(10000.0);
        let window = spec["window_size"]
            .as_u64()
            .map_or(x.len(), |window| window as usize);
        let branch = |part: &str| split(self.linears(&format!("{name}.{part}_proj"), x), width);
        let (query, key) = (
            turned(branch("q"), base),
            spread(turned(branch("k"), base), heads),
        );
        let value = spread(branch("v"), heads);
        let token = |t: usize| {
            let first = (t + 1).saturating_sub(window);
            let head = |head: usize| {
                let scores = (first..=t).map(|i| dot(&query[t][head], &key[i][head]) / (width as f64).sqrt());
                let mut out = vec![0.0; width];
                for (i, p) in softmax(&scores.collect::<Row>()).iter().enumerate() {
                    let value = &value[first + i][head];
                    out.iter_mut().zip(value).for_each(|(o, v)| *o += rounded(p * v));
                }
                out
            };
            let read_out: Row = (0..heads).flat_map(head).collect();
            self.linear(&format!("{name}.o_proj"), &read_out)
        };
        (0..x.len()).map(token).collect()
    }

    pub(super) fn gated_linear_attention(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let kind = self.text("model_type");
        let (expand_k, expand_v) = match kind {
            "gla" => (0.5, 1.0),
            "retnet" => (1.0, 2.0),
            _ => (1.0, 1.0),
        };
        let heads = self.heads();
        let (key_dim, value_dim) = (self.width("expand_k", expand_k), self.width("expand_v", expand_v));
        let feature =
            |side: &str, rows: Vec<Row>| map(split(rows, key_dim), |x| self.feature_map(name, side, x));
        let branch = |part: &str| self.branch(&format!("{name}.{part}"), x, true, false);
        let (mut query, mut key) = (feature("q", branch("q")), feature("k", branch("k")));
        let over_sum = |x: &[f64]| {
            x.iter()
                .map(|v| rounded(v / (x.iter().sum::<f64>() + 1e-4)))
                .collect()
        };
        if self.flag("norm_q", false) {
            query = map(query, over_sum);
        }
        if self.flag("norm_k", false) {
            key = map(key, over_sum);
        }
        if kind == "retnet" {
            (query, key) = (turned(query, 10000.0), turned(key, 10000.0));
        }
        let (key, value) = (spread(key, heads), spread(split(branch("v"), value_dim), heads));
        let features = query[0][0].len();
        let decays = self.decays(name, x, features);
        let mut out = vec![Row::new(); x.len()];
        for head in 0..heads {
            let mut state = empty(features, value_dim);
            let mut sum = vec![0.0; features];
            for (t, out) in out.iter_mut().enumerate() {
                for (i, row) in state.iter_mut().enumerate() {
                    row.iter_mut().for_each(|h| *h = rounded(*h * decays[t][head][i]));
                }
                add_product(&mut state, &key[t][head], &value[t][head]);
                sum.iter_mut().zip(&key[t][head]).for_each(|(z, k)| *z += k);
                let scale = (features as f64).powf(-0.5);
                let normalizer = match self.flag("norm_feature_map", false) {
                    true => scale * dot(&query[t][head], &sum) + 1e-10,
                    false => 1.0,
                };
                out.extend(
                    read(&state, &query[t][head])
                        .iter()
                        .map(|y| y * scale / normalizer),
                );
            }
        }
        let norm = match kind {
            "linear_attn" => "norm",
            "simple_gla" => "g_norm_swish_gate",
            _ if self.flag("use_output_gate", true) && self.flag("fuse_norm", true) => "g_norm_swish_gate",
            _ => "g_norm",
        };
        self.output_projection(name, norm, &out, x, value_dim, self.number("norm_eps", 1e-6))
    }

    /// a, by token, head and feature.
    fn decays(&self, name: &str, x: &[Row], features: usize) -> Heads {
        let heads = self.heads();
        let log_sigmoid = |x: f64| sigmoid(x).ln() / self.number("gate_logit_normalizer", 16.0);
        match self.text("model_type") {
            "retnet" => {
                let gammas = (0..heads).map(|head| vec![1.0 - 2f64.powi(-5 - head as i32); features]);
                vec![gammas.collect(); x.len()]
            }
            "simple_gla" => {
                let token = |row: Row| {
                    row.iter()
                        .map(|x| vec![log_sigmoid(*x).exp(); features])
                        .collect()
                };
                self.linears(&format!("{name}.gk_proj"), x)
                    .into_iter()
                    .map(token)
                    .collect()
            }
            "gla" => {
                let down = self.linears(&format!("{name}.gk_proj.0"), x);
                let raw = self.linears(&format!("{name}.gk_proj.1"), &down);
                let least = self.number("clamp_min", f64::NEG_INFINITY);
                let act = |row: &[f64]| row.iter().map(|x| log_sigmoid(*x).max(least).exp()).collect();
                spread(map(split(raw, features), act), heads)
            }
            _ => vec![vec![vec![1.0; features]; heads]; x.len()],
        }
    }

    fn feature_map(&self, name: &str, side: &str, x: &[f64]) -> Row {
        let layer = |part: &str| self.linear(&format!("{name}.feature_map_{side}.{part}"), x);
        let each = |f: fn(f64) -> f64| x.iter().map(|x| f(*x)).collect();
        match (self.text("model_type"), self.text("feature_map")) {
            ("linear_attn", "" | "elementwise_product") => layer("layer1")
                .iter()
                .zip(layer("layer2"))
                .map(|(a, b)| a * b)
                .collect(),
            (_, "hedgehog") => {
                let twice: Row = layer("layer").iter().map(|x| 2.0 * x).collect();
                softmax(
                    &twice
                        .iter()
                        .copied()
                        .chain(twice.iter().map(|x| -x))
                        .collect::<Row>(),
                )
            }
            ("gsa", "t2r") => self
                .linear(&format!("{name}.feature_map.layer"), x)
                .iter()
                .map(|x| x.max(0.0))
                .collect(),
            (_, "t2r") => layer("layer").iter().map(|x| x.max(0.0)).collect(),
            (_, "elu") => each(|x| if x > 0.0 { x + 1.0 } else { x.exp() }),
            (_, "relu") => each(|x| x.max(0.0)),
            (_, "sigmoid") => each(sigmoid),
            (_, "swish" | "silu") => each(silu),
            (_, "dpfp") => {
                let both: Row = x
                    .iter()
                    .map(|x| x.max(0.0))
                    .chain(x.iter().map(|x| -x.max(0.0)))
                    .collect();
                let n = both.len();
                (1..=4)
                    .flat_map(|j| {
                        (0..n)
                            .map(|i| both[i] * both[(i + 4 * n - j) % n])
                            .collect::<Row>()
                    })
                    .collect()
            }
            ("gsa", "") => each(silu),
            _ => x.to_vec(),
        }
    }

    pub(super) fn delta_net(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let gated = self.text("model_type") == "gated_deltanet";
        let groups = self.heads();
        let (heads, key_dim, value_dim) = match gated {
            true => {
                let key_dim = self.number("head_dim", 256.0);
                let value_dim = key_dim * self.number("expand_v", 2.0);
                (
                    self.number("num_v_heads", groups as f64) as usize,
                    key_dim as usize,
                    value_dim as usize,
                )
            }
            false => (groups, self.width("expand_k", 1.0), self.width("expand_v", 1.0)),
        };
        let (activation, norm) = (self.text("qk_activation"), self.text("qk_norm"));
        let is_silu = matches!(activation, "" | "silu");
        let features = |part: &str| {
            let rows = self.branch(&format!("{name}.{part}"), x, is_silu, is_silu);
            let act = |x: f64| match activation {
                "relu" => x.max(0.0),
                "elu" => {
                    if x > 0.0 {
                        x + 1.0
                    } else {
                        x.exp()
                    }
                }
                _ => x,
            };
            let normed = map(split(rows, key_dim), |row| {
                let row: Row = row.iter().map(|x| act(*x)).collect();
                let length = match norm {
                    "sum" => row.iter().sum(),
                    _ => (dot(&row, &row) + 1e-6).sqrt(),
                };
                row.iter().map(|x| rounded(x / length)).collect()
            });
            spread(normed, heads)
        };
        let (query, key) = (features("q"), features("k"));
        let value = split(self.branch(&format!("{name}.v"), x, true, true), value_dim);
        let largest = if self.flag("allow_neg_eigval", false) {
            2.0
        } else {
            1.0
        };
        let mut out = vec![Row::new(); x.len()];
        for head in 0..heads {
            let mut state = empty(key_dim, value_dim);
            for (t, out) in out.iter_mut().enumerate() {
                if gated {
                    let raw = self.linear(&format!("{name}.a_proj"), &x[t])[head];
                    let bias = self.values(&format!("{name}.dt_bias"))[head];
                    let rate = self.values(&format!("{name}.A_log"))[head].exp();
                    let decay = (-rate * (raw + bias).exp().ln_1p()).exp();
                    state.iter_mut().flatten().for_each(|h| *h = rounded(*h * decay));
                }
                let beta = match self.flag("use_beta", true) {
                    true => sigmoid(self.linear(&format!("{name}.b_proj"), &x[t])[head]),
                    false => 1.0,
                };
                let held = read(&state, &key[t][head]);
                let change = value[t][head]
                    .iter()
                    .zip(held)
                    .map(|(v, h)| largest * beta * (v - h));
                add_product(&mut state, &key[t][head], &change.collect::<Row>());
                let scale = (key_dim as f64).powf(-0.5);
                out.extend(read(&state, &query[t][head]).iter().map(|y| y * scale));
            }
        }
        self.output_projection(name, "o_norm", &out, x, value_dim, self.number("norm_eps", 1e-6))
    }

    pub(super) fn hgrn(&self, layer: usize, name: &str, x: &[Row]) -> Vec<Row> {
        let new = self.branch(&format!("{name}.i"), x, false, false);
        let forget = self.branch(&format!("{name}.f"), x, false, false);
        let channels = new[0].len();
        let bound = |channel: usize| self.lower_bound(layer, channel, channels);
        let mut state = vec![0.0; channels];
        let mut out = Vec::new();
        for (new, forget) in new.iter().zip(&forget) {
            for (c, h) in state.iter_mut().enumerate() {
                let bound = bound(c);
                let a = bound + (1.0 - bound) * sigmoid(forget[c]);
                *h = rounded(a * *h) + rounded((1.0 - a) * silu(new[c]));
            }
            out.push(state.clone());
        }
        self.output_projection(name, "g_norm", &out, x, channels, self.number("norm_eps", 1e-6))
    }

    /// The least decay of a channel of HGRN and HGRN-2.
    fn lower_bound(&self, layer: usize, channel: usize, channels: usize) -> f64 {
        if layer == 0 || !self.flag("use_lower_bound", true) {
            return 0.0;
        }
        let raw = self.values("model.lower_bounds");
        let column: Row = raw.iter().skip(channel).step_by(channels).copied().collect();
        softmax(&column)[1..=layer].iter().sum()
    }

    pub(super) fn hgrn2(&self, layer: usize, name: &str, x: &[Row]) -> Vec<Row> {
        let branch = |part: &str| self.branch(&format!("{name}.{part}"), x, false, false);
        let (query, forget, value) = (branch("q"), branch("f"), branch("i"));
        let (keys, values) = (forget[0].len(), value[0].len());
        let (key_dim, value_dim) = (keys / self.heads(), values / self.heads());
        let bounds: Row = (0..keys).map(|c| self.lower_bound(layer, c, keys)).collect();
        let mut out = vec![Row::new(); x.len()];
        for head in 0..self.heads() {
            let mut state = empty(key_dim, value_dim);
            for (t, out) in out.iter_mut().enumerate() {
                let channels = head * key_dim..(head + 1) * key_dim;
                let decay = channels
                    .clone()
                    .map(|c| bounds[c] + (1.0 - bounds[c]) * sigmoid(forget[t][c]));
                let decay: Row = decay.collect();
                for (row, a) in state.iter_mut().zip(&decay) {
                    row.iter_mut().for_each(|h| *h = rounded(*h * a));
                }
                let key: Row = decay.iter().map(|a| 1.0 - a).collect();
                add_product(&mut state, &key, &value[t][head * value_dim..][..value_dim]);
                let query: Row = query[t][channels].iter().map(|q| silu(*q)).collect();
                let scale = (key_dim as f64).powf(-0.5);
                out.extend(read(&state, &query).iter().map(|y| y * scale));
            }
        }
        self.output_projection(name, "g_norm", &out, x, values, 1e-5)
    }

    pub(super) fn gsa(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let heads = self.heads();
        let (key_dim, value_dim) = (self.width("expand_k", 1.0), self.width("expand_v", 1.0));
        let slots = self.number("num_slots", key_dim as f64) as usize;
        let branch = |part: &str| self.branch(&format!("{name}.{part}"), x, true, false);
        let feature = |part| map(split(branch(part), key_dim), |x| self.feature_map(name, part, x));
        let (query, key) = (feature("q"), spread(feature("k"), heads));
        let silu_of = |x: &[f64]| x.iter().map(|x| silu(*x)).collect();
        let value = spread(map(split(branch("v"), value_dim), silu_of), heads);
        let divisor = self.number("gate_logit_normalizer", 8.0);
        let decay = |x: &[f64]| x.iter().map(|x| (sigmoid(*x).ln() / divisor).exp()).collect();
        let decay = map(split(self.linears(&format!("{name}.f_proj"), x), slots), decay);
        let decay = spread(decay, heads);
        let mut out = vec![Row::new(); x.len()];
        for head in 0..heads {
            // Both memories by slot.
            let (mut keys, mut values) = (empty(slots, key_dim), empty(slots, value_dim));
            for (t, out) in out.iter_mut().enumerate() {
                for (slot, a) in decay[t][head].iter().enumerate() {
                    let write = |memory: &mut Row, new: &Row| {
                        memory
                            .iter_mut()
                            .zip(new)
                            .for_each(|(h, x)| *h = rounded(a * *h) + rounded((1.0 - a) * x));
                    };
                    write(&mut keys[slot], &key[t][head]);
                    write(&mut values[slot], &value[t][head]);
                }
                let scores: Row = keys.iter().map(|row| dot(row, &query[t][head])).collect();
                out.extend(read(&values, &softmax(&scores)).iter().map(|y| silu(*y)));
            }
        }
        let width = out[0].len();
        self.output_projection(name, "g_norm", &out, x, width, 1e-5)
    }

    /// Slots as means of all tokens so far, weighted by e^s.
    pub(super) fn abc(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let heads = self.heads();
        let (key_dim, value_dim) = (self.width("expand_k", 0.5), self.width("expand_v", 1.0));
        let slots = self.number("num_slots", key_dim as f64) as usize;
        let branch = |part: &str, width| split(self.branch(&format!("{name}.{part}"), x, true, false), width);
        let (mut query, mut key) = (branch("q", key_dim), branch("k", key_dim));
        if self.flag("use_rope", true) {
            (query, key) = (turned(query, 10000.0), turned(key, 10000.0));
        }
        let value = branch("v", value_dim);
        let (least, most) = (self.number("clamp_min", -32.0), self.number("clamp_max", 32.0));
        let weight = |s: &[f64]| s.iter().map(|s| s.clamp(least, most).exp()).collect();
        let weights = map(split(self.linears(&format!("{name}.s_proj"), x), slots), weight);
        let mut out = vec![Row::new(); x.len()];
        for head in 0..heads {
            let (mut keys, mut values) = (empty(slots, key_dim), empty(slots, value_dim));
            let mut sums = vec![0.0; slots];
            for (t, out) in out.iter_mut().enumerate() {
                for (slot, weight) in weights[t][head].iter().enumerate() {
                    sums[slot] += weight;
                    let share = weight / sums[slot];
                    let write = |memory: &mut Row, new: &Row| {
                        memory
                            .iter_mut()
                            .zip(new)
                            .for_each(|(h, x)| *h = rounded((1.0 - share) * *h) + rounded(share * x));
                    };
                    write(&mut keys[slot], &key[t][head]);
                    write(&mut values[slot], &value[t][head]);
                }
                let scale = (key_dim as f64).powf(-0.5);
                let scores: Row = keys.iter().map(|row| scale * dot(row, &query[t][head])).collect();
                out.extend(read(&values, &softmax(&scores)));
            }
        }
        self.output_projection(name, "g_norm", &out, x, value_dim, self.number("norm_eps", 1e-6))
    }

    /// All pairs of tokens, by the square of their similarity.
    pub(super) fn rebased(&self, name: &str, x: &[Row]) -> Vec<Row> {
        let heads = self.heads();
        let (key_dim, value_dim) = (self.number("feature_dim", 16.0) as usize, self.dim() / heads);
        let rows = |part: &str| self.linears(&format!("{name}.{part}_proj"), x);
        let mapped = |part| map(split(rows(part), key_dim), |x| self.quadratic_map(name, x));
        let (query, key) = (mapped("q"), mapped("k"));
        let value = split(rows("v"), value_dim);
        let token = |t: usize| {
            let head = |head: usize| {
                let mut out = vec![0.0; value_dim];
                let mut sum = self.number("eps", 1e-5);
                for (key, value) in key.iter().zip(&value).take(t + 1) {
                    let similarity = dot(&query[t][head], &key[head]) / (key_dim as f64).sqrt();
                    let weight = rounded(similarity * similarity);
                    sum += weight;
                    out.iter_mut()
                        .zip(&value[head])
                        .for_each(|(o, v)| *o += rounded(weight * v));
                }
                out.into_iter().map(move |o| rounded(o / sum))
            };
            let read_out: Row = (0..heads).flat_map(head).collect();
            self.linear(&format!("{name}.o_proj"), &read_out)
        };
        (0..x.len()).map(token).collect()
    }

    /// γ ∘ LayerNorm(x) + β, as far as there are these.
    fn quadratic_map(&self, name: &str, x: &[f64]) -> Row {
        let count = x.len() as f64;
        let (mean, scale) = match self.flag("normalize", true) {
            true => {
                let mean = x.iter().sum::<f64>() / count;
                let variance = x.iter().map(|x| rounded((x - mean).powi(2))).sum::<f64>() / count;
                (mean, (variance + 1e-5).sqrt())
            }
            false => (0.0, 1.0),
        };
        let vector = |part: &str, default: f64| {
            let tensor = format!("{name}.feature_map.{part}");
            match self.has(&tensor) {
                true => self.values(&tensor).to_vec(),
                false => vec![default; x.len()],
            }
        };
        let weights = vector("gamma", 1.0).into_iter().zip(vector("beta", 0.0));
        x.iter()
            .zip(weights)
            .map(|(x, (gamma, beta))| rounded(rounded((x - mean) / scale) * gamma + beta))
            .collect()
    }
}

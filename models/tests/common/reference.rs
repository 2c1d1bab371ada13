//! Mamba-2 in f64, one plain loop after another: the equations and nothing else.

use std::collections::BTreeMap;

use spillway_models::checkpoint::Checkpoint;

use super::Case;

type Vector = Vec<f64>;

/// Logits after every token, over the vocabulary without its padding.
pub fn logits(case: &Case, checkpoint: &Checkpoint, ids: &[u32]) -> Vec<Vector> {
    let mut weights = BTreeMap::new();
    for (name, shape, _) in case.tensors() {
        let values = checkpoint.tensor(&name, &shape).unwrap().to_vec().unwrap();
        weights.insert(name, values.into_iter().map(f64::from).collect::<Vector>());
    }
    let embedding = weights
        .iter()
        .find(|(name, _)| name.starts_with("backbone.embed"))
        .unwrap()
        .1;
    let width = case.model_dim;
    let mut stream: Vec<Vector> = ids
        .iter()
        .map(|id| embedding[*id as usize * width..][..width].to_vec())
        .collect();
    for layer in 0..case.layers {
        let weight = |part: &str| weights.get(&format!("backbone.layers.{layer}.{part}"));
        let normed: Vec<Vector> = stream
            .iter()
            .map(|r| scale(&rms(r, width), weight("norm.weight").unwrap()))
            .collect();
        for (residual, update) in stream.iter_mut().zip(mixer(case, &weight, &normed)) {
            residual.iter_mut().zip(update).for_each(|(r, u)| *r += u);
        }
    }
    let head = weights.get("lm_head.weight").unwrap_or(embedding);
    let last = &weights["backbone.norm_f.weight"];
    stream
        .iter()
        .map(|r| {
            matvec(
                &head[..case.vocab_size * width],
                &scale(&rms(r, width), last),
                None,
            )
        })
        .collect()
}

fn mixer<'a>(case: &Case, weight: &impl Fn(&str) -> Option<&'a Vector>, input: &[Vector]) -> Vec<Vector> {
    let (inner, conv_dim, heads) = (case.inner(), case.conv_dim(), case.heads());
    let (n, p, taps) = (case.state_dim, case.head_dim, case.conv_width);
    let get = |name| weight(name).unwrap();
    let projected: Vec<Vector> = input
        .iter()
        .map(|u| matvec(get("mixer.in_proj.weight"), u, weight("mixer.in_proj.bias")))
        .collect();
    let (low, high) = case.dt_limit.unwrap_or((0.0, 1e30));
    let mut states = vec![vec![0.0; n * p]; heads];
    let mut out = Vec::new();
    for t in 0..input.len() {
        let mut convolved = vec![0.0; conv_dim];
        for (c, value) in convolved.iter_mut().enumerate() {
            *value = weight("mixer.conv1d.bias").map_or(0.0, |b| b[c]);
            // The last tap meets the current token.
            for tap in 0..taps.min(t + 1) {
                let w = get("mixer.conv1d.weight")[c * taps + taps - 1 - tap];
                *value += w * projected[t - tap][inner + c];
            }
            *value = silu(*value);
        }
        let mut y = vec![0.0; inner];
        for (h, state) in states.iter_mut().enumerate() {
            let raw = projected[t][inner + conv_dim + h] + get("mixer.dt_bias")[h];
            let step = raw.exp().ln_1p().clamp(f64::from(low), f64::from(high));
            let decay = (-step * get("mixer.A_log")[h].exp()).exp();
            let group = h / case.heads_per_group;
            let x = &convolved[h * p..][..p];
            let b = &convolved[inner + group * n..][..n];
            let c = &convolved[inner + (case.groups + group) * n..][..n];
            for j in 0..p {
                for i in 0..n {
                    state[i * p + j] = decay * state[i * p + j] + b[i] * step * x[j];
                    y[h * p + j] += c[i] * state[i * p + j];
                }
                let skip = get("mixer.D");
                y[h * p + j] += skip[if case.skip_per_channel { h * p + j } else { h }] * x[j];
            }
        }
        let gate: Vector = projected[t][..inner].iter().map(|z| silu(*z)).collect();
        let group_size = inner / case.groups;
        let gated = match (weight("mixer.norm.weight"), case.norm_before_gate) {
            (None, _) => scale(&y, &gate),
            (Some(w), false) => scale(&rms(&scale(&y, &gate), group_size), w),
            (Some(w), true) => scale(&scale(&rms(&y, group_size), w), &gate),
        };
        out.push(matvec(
            get("mixer.out_proj.weight"),
            &gated,
            weight("mixer.out_proj.bias"),
        ));
    }
    out
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn scale(x: &[f64], by: &[f64]) -> Vector {
    x.iter().zip(by).map(|(a, b)| a * b).collect()
}

fn rms(x: &[f64], group_size: usize) -> Vector {
    let norm = |group: &[f64]| (group.iter().map(|v| v * v).sum::<f64>() / group.len() as f64 + 1e-5).sqrt();
    x.chunks(group_size)
        .flat_map(|group| group.iter().map(|v| v / norm(group)).collect::<Vector>())
        .collect()
}

fn matvec(matrix: &[f64], x: &[f64], bias: Option<&Vector>) -> Vector {
    let rows = matrix
        .chunks(x.len())
        .map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum::<f64>());
    rows.enumerate()
        .map(|(i, v)| v + bias.map_or(0.0, |b| b[i]))
        .collect()
}

//! Taylor attention at the shape of Based.

use serde_json::{Value, json};
pub use spillway_kernel_dsl::taylor_attention::Problem;
use spillway_kernel_dsl::taylor_attention::{
    Cotangents, DEFAULT_CHUNK_SIZE, Expansion, Gradients, Inputs, backward, chunked, sequential, step,
};
use spillway_kernel_dsl::{Rows, Sequences};

use super::{Failure, Kernel, Work, values};

/// Based with 16 heads: q and k of 16 values, v of 64, and a denominator.
pub const fn based(batch: usize, time: usize) -> Problem {
    Problem {
        batch,
        time,
        prefix: 0,
        heads: 16,
        key_dim: 16,
        value_dim: 64,
        scale: 0.25,
        expansion: Expansion::Taylor,
        normalizer: Some(1e-6),
    }
}

/// Prefix linear attention of the same heads, whose prefix is the first half of the tokens.
pub const fn prefixed(batch: usize, time: usize) -> Problem {
    Problem {
        prefix: time / 2,
        ..based(batch, time)
    }
}

/// Kernels of Taylor attention: one token, and 2048 tokens by every form.
pub fn kernels() -> Vec<Kernel> {
    vec![
        kernel("step", "based_h16_16x64_b1", based(1, 1)),
        kernel("sequential", "based_h16_16x64_t2048", based(1, 2048)),
        kernel("chunked", "based_h16_16x64_t2048", based(1, 2048)),
        kernel("backward", "based_h16_16x64_t2048", based(1, 2048)),
    ]
}

/// Prefill and gradients behind a prefix, beside the same without one; up to lengths at which anything but growth in proportion would show.
pub fn prefix_kernels() -> Vec<Kernel> {
    let at = |time: usize| {
        [
            kernel("chunked", &format!("based_h16_16x64_t{time}"), based(1, time)),
            kernel("chunked", &format!("prefix_h16_16x64_t{time}"), prefixed(1, time)),
        ]
    };
    let mut kernels: Vec<Kernel> = [2048, 16_384, 262_144].into_iter().flat_map(at).collect();
    kernels.push(kernel("backward", "prefix_h16_16x64_t2048", prefixed(1, 2048)));
    kernels
}

/// The sizes by name.
pub fn sizes(problem: &Problem) -> Value {
    json!({
        "batch": problem.batch, "time": problem.time, "prefix": problem.prefix, "heads": problem.heads,
        "key_dim": problem.key_dim, "value_dim": problem.value_dim, "features": problem.features(),
    })
}

/// What a call does at least, through features in symmetric packing: a multiply-add of the update and one of the read-out
/// per value of the state and token, and an update per token of the prefix; backward, three more pairs of products.
pub fn work(problem: &Problem, form: &str) -> Work {
    let tokens = problem.batch * problem.time;
    let state = problem.state_len();
    let forward = (4 * problem.time + 2 * problem.prefix) * state;
    let token = problem.heads * (2 * problem.key_dim + 2 * problem.value_dim);
    if form == "backward" {
        Work::in_place(tokens, 3 * forward, 2 * tokens * token + 2 * state)
    } else {
        Work::in_place(tokens, forward, tokens * token + 2 * state)
    }
}

fn kernel(form: &'static str, name: &str, problem: Problem) -> Kernel {
    let (work, sizes) = (work(&problem, form), sizes(&problem));
    let rows = problem.batch * problem.time;
    let (on_keys, on_values) = (problem.heads * problem.key_dim, problem.heads * problem.value_dim);
    let is_backward = form == "backward";
    // What only gradients need is gigabytes at the largest lengths.
    let of_gradients = move |len: usize| if is_backward { len } else { 0 };
    Kernel::on_host(form, name, sizes, work, move || {
        let (query, key) = (values(rows * on_keys), values(rows * on_keys));
        let (value, cotangent) = (values(rows * on_values), values(of_gradients(rows * on_values)));
        let (mut state, mut out) = (vec![0.0; problem.state_len()], vec![0.0; rows * on_values]);
        let prefix = problem.batch * problem.prefix;
        let (prefix_key, prefix_value) = (values(prefix * on_keys), values(prefix * on_values));
        let mut gradients =
            [query.len(), key.len(), value.len(), state.len()].map(|len| vec![0.0; of_gradients(len)]);
        let mut of_prefix = [prefix_key.len(), prefix_value.len()].map(|len| vec![0.0; of_gradients(len)]);
        Ok(move || -> Result<(), Failure> {
            let inputs = Inputs {
                query: Rows::contiguous(&query, rows, on_keys)?,
                key: Rows::contiguous(&key, rows, on_keys)?,
                value: Rows::contiguous(&value, rows, on_values)?,
                prefix_key: (prefix > 0)
                    .then(|| Rows::contiguous(&prefix_key, prefix, on_keys))
                    .transpose()?,
                prefix_value: (prefix > 0)
                    .then(|| Rows::contiguous(&prefix_value, prefix, on_values))
                    .transpose()?,
                log_decay: None,
                sequences: Sequences::Equal,
                prefix_padding: None,
            };
            match form {
                "step" => step(&problem, &inputs, &mut state, &mut out)?,
                "sequential" => sequential(&problem, &inputs, &mut state, &mut out)?,
                "chunked" => chunked(&problem, &inputs, DEFAULT_CHUNK_SIZE, &mut state, &mut out)?,
                _ => {
                    let cotangents = Cotangents {
                        out: Rows::contiguous(&cotangent, rows, on_values)?,
                        state: None,
                    };
                    let [query, key, value, initial] = &mut gradients;
                    let [by_key, by_value] = &mut of_prefix;
                    let mut gradients = Gradients {
                        query,
                        key,
                        value,
                        prefix_key: (prefix > 0).then_some(by_key.as_mut_slice()),
                        prefix_value: (prefix > 0).then_some(by_value.as_mut_slice()),
                        log_decay: None,
                        state: initial,
                    };
                    backward(
                        &problem,
                        &inputs,
                        DEFAULT_CHUNK_SIZE,
                        &state,
                        &cotangents,
                        &mut gradients,
                    )?;
                }
            }
            Ok(())
        })
    })
}

//! WKV-4. The software that computed the cases has three states, and the decay before its exponential.

use spillway_kernel_dsl::cube::{Client, DType};
use spillway_kernel_dsl::wkv4::Problem;
use spillway_kernel_dsl::wkv4::cube::{DeviceCotangents, DeviceInputs, backward, chunked, sequential};
use spillway_kernel_dsl::{Rows, Sequences};

use crate::device::{clients, download, upload, upload_rows};
use crate::support::{Case, cases};

/// Tokens of a chunk, so that the longer cases have several.
const CHUNK_SIZE: usize = 48;

fn problem(case: &Case) -> Problem {
    Problem {
        batch: case.dim("B"),
        time: case.dim("T"),
        channels: case.dim("C"),
    }
}

fn rows(case: &Case, client: &Client, values: &[f32]) -> spillway_kernel_dsl::cube::DeviceRows {
    let Problem {
        batch,
        time,
        channels,
    } = problem(case);
    let view = Rows::contiguous(values, batch * time, channels).expect("the case has all tokens");
    upload_rows(client, &view, DType::F32)
}

fn inputs(case: &Case, client: &Client) -> DeviceInputs<'static> {
    let log_decay: Vec<f32> = case
        .input("time_decay")
        .iter()
        .map(|&x| -f64::from(x).exp() as f32)
        .collect();
    DeviceInputs {
        log_decay: upload(client, &log_decay),
        bonus: upload(client, case.input("time_first")),
        key: rows(case, client, case.input("k")),
        value: rows(case, client, case.input("v")),
        sequences: Sequences::Equal,
    }
}

/// `[batch, 3, channels]` from three of `[batch, channels]`.
fn state(case: &Case) -> Option<Vec<f32>> {
    let parts = [case.input_if_any("num0")?, case.input("den0"), case.input("max0")];
    let size = problem(case).channels;
    let rows =
        (0..problem(case).batch).flat_map(|b| parts.map(|part| part[b * size..(b + 1) * size].to_vec()));
    Some(rows.flatten().collect())
}

/// One of the three states of `[batch, 3, channels]`.
fn part(case: &Case, state: &[f32], index: usize) -> Vec<f32> {
    let size = problem(case).channels;
    state
        .chunks_exact(3 * size)
        .flat_map(|state| state[index * size..(index + 1) * size].to_vec())
        .collect()
}

#[test]
fn wkv4_agrees() {
    for (name, client) in clients() {
        for case in cases("rwkv4") {
            let (problem, inputs) = (problem(&case), inputs(&case, client));
            let start = state(&case).map(|state| upload(client, &state));
            let tokens = sequential(client, &problem, &inputs, start.as_ref()).expect("a valid case");
            let chunks =
                chunked(client, &problem, &inputs, CHUNK_SIZE, start.as_ref()).expect("a valid case");
            for (form, found) in [("tokens", tokens), ("chunks", chunks)] {
                let form = format!("{form} on {name}");
                case.check(&form, "o", &download(client, &found.out));
                let end = download(client, &found.state);
                for (index, output) in ["num", "den", "max"].into_iter().enumerate() {
                    case.check(&form, output, &part(&case, &end, index));
                }
            }
        }
    }
}

#[test]
fn gradients_of_wkv4_agree() {
    for (name, client) in clients() {
        for case in cases("rwkv4") {
            let inputs = inputs(&case, client);
            let start = state(&case).map(|state| upload(client, &state));
            let cotangents = DeviceCotangents {
                out: rows(&case, client, case.cotangent("o")),
                state: None,
            };
            let found = backward(client, &problem(&case), &inputs, start.as_ref(), &cotangents);
            let found = found.expect("a valid case");
            // w = −exp(time_decay), so that ∂time_decay = w ∂w.
            let by_decay = download(client, &found.log_decay);
            let log_decay = download(client, &inputs.log_decay);
            let by_raw: Vec<f32> = by_decay.iter().zip(&log_decay).map(|(g, w)| g * w).collect();
            // One token has no past: no decay, and no f32 error of it either.
            if case.gradient("time_decay").iter().all(|g| *g == 0.0) {
                assert!(
                    by_raw.iter().all(|g| *g == 0.0),
                    "{} on {name}: time_decay",
                    case.name
                );
            } else {
                case.check_gradient(name, "time_decay", &by_raw);
            }
            case.check_gradient(name, "time_first", &download(client, &found.bonus));
            case.check_gradient(name, "k", &download(client, &found.key));
            case.check_gradient(name, "v", &download(client, &found.value));
            let by_state = download(client, &found.state);
            for (index, gradient) in ["num0", "den0", "max0"].into_iter().enumerate() {
                if case.gradient_if_any(gradient).is_some() {
                    case.check_gradient(name, gradient, &part(&case, &by_state, index));
                }
            }
        }
    }
}

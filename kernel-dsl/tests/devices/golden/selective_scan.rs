//! The selective scan of Mamba-1. The software that computed the cases has time last and takes Δ before its softplus.

use spillway_kernel_dsl::cube::{Client, DType};
use spillway_kernel_dsl::selective_scan::Problem;
use spillway_kernel_dsl::selective_scan::cube::{
    DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, backward, chunked, sequential,
};
use spillway_kernel_dsl::{Rows, Sequences};

use crate::device::{clients, download, upload, upload_rows};
use crate::support::{Case, cases};

/// Tokens of a chunk, so that the longer cases have several.
const CHUNK_SIZE: usize = 48;

/// `[batch, columns, time]` to `[batch, time, columns]`, or back with the sizes exchanged.
fn transpose(values: &[f32], batch: usize, columns: usize, time: usize) -> Vec<f32> {
    let mut turned = Vec::with_capacity(values.len());
    for b in 0..batch {
        for t in 0..time {
            turned.extend((0..columns).map(|c| values[(b * columns + c) * time + t]));
        }
    }
    turned
}

/// One case with time before the columns, and Δ as the scan takes it.
struct Scan<'a> {
    case: &'a Case,
    problem: Problem,
    /// Δ, and its derivative by what the case has in its place.
    step_size: Vec<f32>,
    by_raw: Vec<f64>,
}

impl<'a> Scan<'a> {
    fn new(case: &'a Case) -> Self {
        let problem = Problem {
            batch: case.dim("B"),
            time: case.dim("L"),
            channels: case.dim("D"),
            state_dim: case.dim("N"),
            groups: case.dim("G").max(1),
        };
        let bias = case.input_if_any("delta_bias");
        let raw = transpose(case.input("delta"), problem.batch, problem.channels, problem.time);
        let with_bias = raw
            .iter()
            .enumerate()
            .map(|(i, x)| f64::from(*x) + bias.map_or(0.0, |bias| f64::from(bias[i % problem.channels])));
        let softplus = case.scalar("delta_softplus") != 0.0;
        let both = with_bias.map(|x| {
            if softplus {
                (x.exp().ln_1p(), 1.0 / (1.0 + (-x).exp()))
            } else {
                (x, 1.0)
            }
        });
        let (step_size, by_raw): (Vec<f64>, Vec<f64>) = both.unzip();
        Self {
            case,
            problem,
            step_size: step_size.iter().map(|&x| x as f32).collect(),
            by_raw,
        }
    }

    fn columns(&self, values: &[f32], columns: usize) -> Vec<f32> {
        transpose(values, self.problem.batch, columns, self.problem.time)
    }

    fn back(&self, values: &[f32], columns: usize) -> Vec<f32> {
        transpose(values, self.problem.batch, self.problem.time, columns)
    }

    fn inputs(&self, client: &Client) -> DeviceInputs<'static> {
        let Problem {
            batch,
            time,
            channels,
            state_dim,
            groups,
        } = self.problem;
        let rows = |values: &[f32], columns| {
            let view = Rows::contiguous(values, batch * time, columns).expect("the case has all tokens");
            upload_rows(client, &view, DType::F32)
        };
        let input = |name, columns| rows(&self.columns(self.case.input(name), columns), columns);
        DeviceInputs {
            input: input("u", channels),
            step_size: rows(&self.step_size, channels),
            a: upload(client, self.case.input("A")),
            b: input("B", groups * state_dim),
            c: input("C", groups * state_dim),
            skip: self.case.input_if_any("D").map(|skip| upload(client, skip)),
            gate: self.case.input_if_any("z").map(|_| input("z", channels)),
            sequences: Sequences::Equal,
        }
    }

    fn check_outputs(&self, client: &Client, form: &str, found: &DeviceOutputs) {
        let out = self.back(&download(client, &found.out), self.problem.channels);
        self.case.check(form, "out", &out);
        self.case
            .check(form, "last_state", &download(client, &found.state));
    }

    fn check_gradients(&self, client: &Client, form: &str, found: &DeviceGradients) {
        let Problem {
            channels,
            state_dim,
            groups,
            ..
        } = self.problem;
        let check = |name: &str, values: &[f32]| self.case.check_gradient(form, name, values);
        let check_token =
            |name: &str, buffer, columns| check(name, &self.back(&download(client, buffer), columns));
        check_token("u", &found.input, channels);
        check_token("B", &found.b, groups * state_dim);
        check_token("C", &found.c, groups * state_dim);
        check("A", &download(client, &found.a));
        if let Some(skip) = &found.skip {
            check("D", &download(client, skip));
        }
        if let Some(gate) = &found.gate {
            check_token("z", gate, channels);
        }
        let step_size = download(client, &found.step_size);
        let raw: Vec<f64> = step_size
            .iter()
            .zip(&self.by_raw)
            .map(|(g, by)| f64::from(*g) * by)
            .collect();
        let as_f32: Vec<f32> = raw.iter().map(|&x| x as f32).collect();
        check("delta", &self.back(&as_f32, channels));
        if self.case.gradient_if_any("delta_bias").is_some() {
            let mut bias = vec![0.0_f64; channels];
            raw.iter().enumerate().for_each(|(i, x)| bias[i % channels] += x);
            check("delta_bias", &bias.iter().map(|&x| x as f32).collect::<Vec<_>>());
        }
        if self.case.gradient_if_any("h0").is_some() {
            check("h0", &download(client, &found.state));
        }
    }
}

#[test]
fn mamba1_scans_agree() {
    for (name, client) in clients() {
        for case in cases("mamba1_selective_scan") {
            let scan = Scan::new(&case);
            let inputs = scan.inputs(client);
            let start = case.input_if_any("h0").map(|state| upload(client, state));
            let whole = sequential(client, &scan.problem, &inputs, start.as_ref()).expect("a valid case");
            scan.check_outputs(client, &format!("tokens on {name}"), &whole);
            let chunks =
                chunked(client, &scan.problem, &inputs, CHUNK_SIZE, start.as_ref()).expect("a valid case");
            scan.check_outputs(client, &format!("chunks on {name}"), &chunks);
        }
    }
}

#[test]
fn gradients_of_mamba1_scans_agree() {
    for (name, client) in clients() {
        for case in cases("mamba1_selective_scan") {
            let scan = Scan::new(&case);
            let channels = scan.problem.channels;
            let start = case.input_if_any("h0").map(|state| upload(client, state));
            let by_out = scan.columns(case.cotangent("out"), channels);
            let rows = Rows::contiguous(&by_out, scan.problem.batch * scan.problem.time, channels);
            let cotangents = DeviceCotangents {
                out: upload_rows(client, &rows.expect("the case has all tokens"), DType::F32),
                state: case
                    .cotangent_if_any("last_state")
                    .map(|state| upload(client, state)),
            };
            let found = backward(
                client,
                &scan.problem,
                &scan.inputs(client),
                start.as_ref(),
                &cotangents,
            );
            scan.check_gradients(client, name, &found.expect("a valid case"));
        }
    }
}

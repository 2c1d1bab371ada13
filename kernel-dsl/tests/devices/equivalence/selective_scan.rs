//! The selective scan.

use proptest::prelude::*;
use spillway_kernel_dsl::cube::{Client, DType, Error};
use spillway_kernel_dsl::selective_scan::cube::{
    DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, backward, chunked, forward, sequential,
    step,
};
use spillway_kernel_dsl::selective_scan::{Cotangents, Gradients, Inputs, Problem, reference};
use spillway_kernel_dsl::sequences::Sequences;

use super::common::{Layout, Matrix, Source, TOLERANCE, any_layout, close, config, half_types, to_f64};
use crate::device::{clients, download, upload, upload_rows};

#[derive(Clone, Debug)]
struct Spec {
    layout: Layout,
    groups: usize,
    channels_per_group: usize,
    state_dim: usize,
    /// A skip, a gate and an initial state, or none of them.
    all: bool,
    gap: usize,
    seed: u64,
}

fn any_spec(longest: usize) -> impl Strategy<Value = Spec> {
    // Each of the state sizes is another way through the kernels: less than a tile, exactly one, several with a tail.
    let state_dim = prop_oneof![Just(3_usize), Just(16), Just(20)];
    let sizes = (1..3_usize, 1..40_usize, state_dim);
    (
        any_layout(longest),
        sizes,
        any::<bool>(),
        0..3_usize,
        any::<u64>(),
    )
        .prop_map(
            |(layout, (groups, channels_per_group, state_dim), all, gap, seed)| Spec {
                layout,
                groups,
                channels_per_group,
                state_dim,
                all,
                gap,
                seed,
            },
        )
}

#[derive(Clone, Debug)]
struct Data {
    problem: Problem,
    layout: Layout,
    input: Matrix,
    step_size: Matrix,
    a: Vec<f32>,
    b: Matrix,
    c: Matrix,
    skip: Option<Vec<f32>>,
    gate: Option<Matrix>,
    state: Option<Vec<f32>>,
    by_out: Matrix,
    by_state: Option<Vec<f32>>,
}

impl Data {
    fn new(spec: &Spec) -> Self {
        let mut source = Source::new(spec.seed);
        let problem = Problem {
            batch: spec.layout.batch(),
            time: spec.layout.time(),
            channels: spec.groups * spec.channels_per_group,
            state_dim: spec.state_dim,
            groups: spec.groups,
        };
        let rows = spec.layout.rows();
        let (channels, on_state) = (problem.channels, problem.groups * problem.state_dim);
        let mut matrix = |cols, range| Matrix::new(&mut source, rows, cols, spec.gap, range);
        let (input, step_size) = (matrix(channels, -1.0..1.0), matrix(channels, 0.001..0.3));
        let (b, c) = (matrix(on_state, -1.0..1.0), matrix(on_state, -1.0..1.0));
        let (gate, by_out) = (matrix(channels, -2.0..2.0), matrix(channels, -1.0..1.0));
        let optional = |values: Vec<f32>| spec.all.then_some(values);
        Self {
            a: source.values(channels * problem.state_dim, -4.0..-0.01),
            skip: optional(source.values(channels, -1.0..1.0)),
            state: optional(source.values(problem.state_len(), -1.0..1.0)),
            by_state: optional(source.values(problem.state_len(), -1.0..1.0)),
            gate: spec.all.then_some(gate),
            layout: spec.layout.clone(),
            problem,
            input,
            step_size,
            b,
            c,
            by_out,
        }
    }

    fn round(mut self, dtype: DType) -> Self {
        let views = [
            &mut self.input,
            &mut self.step_size,
            &mut self.b,
            &mut self.c,
            &mut self.by_out,
        ];
        views
            .into_iter()
            .chain(self.gate.as_mut())
            .for_each(|view| view.round(dtype));
        self
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            input: self.input.view(),
            step_size: self.step_size.view(),
            a: &self.a,
            b: self.b.view(),
            c: self.c.view(),
            skip: self.skip.as_deref(),
            gate: self.gate.as_ref().map(Matrix::view),
            sequences: self.layout.sequences(),
        }
    }

    fn on_device(&self, client: &Client, dtype: DType) -> DeviceInputs<'_> {
        let rows = |matrix: &Matrix| upload_rows(client, &matrix.view(), dtype);
        DeviceInputs {
            input: rows(&self.input),
            step_size: rows(&self.step_size),
            a: upload(client, &self.a),
            b: rows(&self.b),
            c: rows(&self.c),
            skip: self.skip.as_ref().map(|skip| upload(client, skip)),
            gate: self.gate.as_ref().map(rows),
            sequences: self.layout.sequences(),
        }
    }

    fn start(&self) -> Vec<f32> {
        self.state
            .clone()
            .unwrap_or_else(|| vec![0.0; self.problem.state_len()])
    }

    fn by_reference(&self) -> (Vec<f64>, Vec<f64>) {
        let mut state = to_f64(&self.start());
        let mut out = vec![f64::NAN; self.problem.out_len(&self.layout.sequences())];
        reference::selective_scan(&self.problem, &self.inputs(), &mut state, &mut out).expect("valid");
        (out, state)
    }

    /// The rows of one sequence as a problem of its own.
    fn sequence(&self, index: usize) -> Self {
        let span = self.layout.sequences().span(index, self.problem.time);
        self.rows(span, index..index + 1)
    }

    fn rows(&self, rows: std::ops::Range<usize>, sequences: std::ops::Range<usize>) -> Self {
        let part = |matrix: &Matrix| matrix.part(rows.clone());
        let size = self.problem.channels * self.problem.state_dim;
        let states = |values: &Vec<f32>| values[sequences.start * size..sequences.end * size].to_vec();
        Self {
            problem: Problem {
                batch: 1,
                time: rows.len(),
                ..self.problem
            },
            layout: Layout::Equal {
                batch: 1,
                time: rows.len(),
            },
            input: part(&self.input),
            step_size: part(&self.step_size),
            b: part(&self.b),
            c: part(&self.c),
            gate: self.gate.as_ref().map(part),
            by_out: part(&self.by_out),
            state: self.state.as_ref().map(states),
            by_state: self.by_state.as_ref().map(states),
            ..self.clone()
        }
    }

    fn run(&self, client: &Client, dtype: DType, chunk_size: Option<usize>) -> (Vec<f32>, Vec<f32>) {
        let (problem, inputs) = (&self.problem, self.on_device(client, dtype));
        let start = self.state.as_ref().map(|state| upload(client, state));
        let found = match chunk_size {
            Some(size) => chunked(client, problem, &inputs, size, start.as_ref()),
            None => sequential(client, problem, &inputs, start.as_ref()),
        };
        let DeviceOutputs { out, state } = found.expect("valid");
        (download(client, &out), download(client, &state))
    }

    fn gradients(&self, client: &Client, dtype: DType) -> DeviceGradients {
        let start = self.state.as_ref().map(|state| upload(client, state));
        let cotangents = DeviceCotangents {
            out: upload_rows(client, &self.by_out.view(), dtype),
            state: self.by_state.as_ref().map(|state| upload(client, state)),
        };
        backward(
            client,
            &self.problem,
            &self.on_device(client, dtype),
            start.as_ref(),
            &cotangents,
        )
        .expect("valid")
    }
}

/// Gradients on the host, by name.
fn listed(client: &Client, found: &DeviceGradients) -> Vec<(&'static str, Vec<f32>)> {
    let named = [
        ("input", Some(&found.input)),
        ("step_size", Some(&found.step_size)),
        ("a", Some(&found.a)),
        ("b", Some(&found.b)),
        ("c", Some(&found.c)),
        ("skip", found.skip.as_ref()),
        ("gate", found.gate.as_ref()),
        ("state", Some(&found.state)),
    ];
    let present = named
        .into_iter()
        .filter_map(|(name, buffer)| Some((name, buffer?)));
    present
        .map(|(name, buffer)| (name, download(client, buffer)))
        .collect()
}

fn reference_gradients(data: &Data) -> Vec<(&'static str, Vec<f64>)> {
    let problem = &data.problem;
    let rows = data.layout.rows();
    let per_channel = || vec![f64::NAN; rows * problem.channels];
    let per_group = || vec![f64::NAN; rows * problem.groups * problem.state_dim];
    let (mut input, mut step_size, mut gate) = (per_channel(), per_channel(), per_channel());
    let (mut b, mut c) = (per_group(), per_group());
    let (mut a, mut skip) = (vec![f64::NAN; data.a.len()], vec![f64::NAN; problem.channels]);
    let mut state = vec![f64::NAN; problem.state_len()];
    let cotangents = Cotangents {
        out: data.by_out.view(),
        state: data.by_state.as_deref(),
    };
    let mut gradients = Gradients {
        input: &mut input,
        step_size: &mut step_size,
        a: &mut a,
        b: &mut b,
        c: &mut c,
        skip: data.skip.is_some().then_some(&mut skip[..]),
        gate: data.gate.is_some().then_some(&mut gate[..]),
        state: &mut state,
    };
    reference::backward(
        problem,
        &data.inputs(),
        &to_f64(&data.start()),
        &cotangents,
        &mut gradients,
    )
    .expect("valid");
    let mut all = vec![
        ("input", input),
        ("step_size", step_size),
        ("a", a),
        ("b", b),
        ("c", c),
    ];
    all.extend(data.skip.as_ref().map(|_| ("skip", skip)));
    all.extend(data.gate.as_ref().map(|_| ("gate", gate)));
    all.push(("state", state));
    all
}

fn bound(data: &Data) -> f64 {
    TOLERANCE * (data.problem.time as f64 + 1.0).sqrt()
}

proptest! {
    #![proptest_config(config(30))]

    #[test]
    fn a_scan_equals_the_reference(spec in any_spec(50), chunk_size in 1..30_usize) {
        let data = Data::new(&spec);
        let (out, state) = data.by_reference();
        for (name, client) in clients() {
            for chunk_size in [None, Some(chunk_size)] {
                let found = data.run(client, DType::F32, chunk_size);
                close(&format!("output on {name}, {chunk_size:?}"), &found.0, &out, bound(&data))?;
                close(&format!("state on {name}, {chunk_size:?}"), &found.1, &state, bound(&data))?;
            }
        }
    }

    #[test]
    fn gradients_of_a_scan_equal_the_reference(spec in any_spec(80)) {
        let data = Data::new(&spec);
        let expected = reference_gradients(&data);
        for (name, client) in clients() {
            let found = listed(client, &data.gradients(client, DType::F32));
            prop_assert_eq!(found.len(), expected.len());
            for ((of, found), (_, expected)) in found.iter().zip(&expected) {
                close(&format!("gradient of {of} on {name}"), found, expected, 2.0 * bound(&data))?;
            }
        }
    }

    #[test]
    fn splitting_a_scan_keeps_the_state(spec in any_spec(50), at in 0.0..1.0_f64) {
        let data = Data::new(&spec).sequence(0);
        let (out, state) = data.by_reference();
        let split = (at * (data.problem.time + 1) as f64) as usize;
        for (name, client) in clients() {
            let first = data.rows(0..split, 0..1).run(client, DType::F32, None);
            let mut second = data.rows(split..data.problem.time, 0..1);
            second.state = Some(first.1);
            let second = second.run(client, DType::F32, Some(7));
            let joined = [first.0, second.0].concat();
            close(&format!("output on {name}"), &joined, &out, bound(&data))?;
            close(&format!("state on {name}"), &second.1, &state, bound(&data))?;
        }
    }

    #[test]
    fn packed_sequences_of_a_scan_are_as_each_alone(spec in any_spec(40), chunk_size in 1..30_usize) {
        let data = Data::new(&spec);
        let sequences = data.layout.sequences();
        for (name, client) in clients() {
            let (out, state) = data.run(client, DType::F32, Some(chunk_size));
            for index in 0..data.problem.batch {
                let alone = data.sequence(index);
                let found = alone.run(client, DType::F32, Some(chunk_size));
                let span = sequences.span(index, data.problem.time);
                let channels = data.problem.channels;
                prop_assert_eq!(&out[span.start * channels..span.end * channels], &found.0[..], "output on {}", name);
                let size = alone.problem.state_len();
                prop_assert_eq!(&state[index * size..(index + 1) * size], &found.1[..], "state on {}", name);
            }
        }
    }
}

/// One sequence that is long enough for several chunks in every form.
fn example(state_dim: usize, all: bool) -> Data {
    Data::new(&Spec {
        layout: Layout::Packed {
            offsets: vec![0, 45, 45, 130],
        },
        groups: 2,
        channels_per_group: 35,
        state_dim,
        all,
        gap: 1,
        seed: 3,
    })
}

#[test]
fn steps_equal_a_scan() {
    let data = example(16, true).sequence(0).rows(0..6, 0..1);
    let (out, state) = data.by_reference();
    for (name, client) in clients() {
        let (mut found, mut carried) = (Vec::new(), data.start());
        for t in 0..data.problem.time {
            let token = data.rows(t..t + 1, 0..1);
            let inputs = token.on_device(client, DType::F32);
            let next = step(client, &token.problem, &inputs, Some(&upload(client, &carried))).expect("valid");
            found.extend(download(client, &next.out));
            carried = download(client, &next.state);
        }
        close(&format!("output on {name}"), &found, &out, bound(&data)).expect("equal");
        close(&format!("state on {name}"), &carried, &state, bound(&data)).expect("equal");
    }
}

#[test]
fn half_precision_inputs_of_a_scan_round_only_at_the_edge() {
    for (name, client) in clients() {
        for dtype in half_types(client) {
            let data = example(16, true).round(dtype);
            let (out, state) = data.by_reference();
            let found = data.run(client, dtype, None);
            // The output is rounded once, the state not at all.
            close(&format!("output on {name}"), &found.0, &out, 4e-3).expect("equal");
            close(&format!("state on {name}"), &found.1, &state, bound(&data)).expect("equal");
            let gradients = listed(client, &data.gradients(client, dtype));
            for ((of, found), (_, expected)) in gradients.iter().zip(&reference_gradients(&data)) {
                close(
                    &format!("gradient of {of} on {name}"),
                    found,
                    expected,
                    2.0 * bound(&data),
                )
                .expect("equal");
            }
        }
    }
}

#[test]
fn the_same_scan_gives_the_same_bits() {
    let data = example(20, true);
    for (name, client) in clients() {
        let runs = [(); 2].map(|()| {
            let gradients = listed(client, &data.gradients(client, DType::F32));
            (data.run(client, DType::F32, Some(16)), gradients)
        });
        assert!(runs[0] == runs[1], "two runs differ on {name}");
    }
}

#[test]
fn the_preferred_form_of_a_scan_equals_the_reference() {
    let data = Data::new(&Spec {
        layout: Layout::Equal { batch: 1, time: 300 },
        groups: 1,
        channels_per_group: 2,
        state_dim: 16,
        all: false,
        gap: 0,
        seed: 5,
    });
    let (out, state) = data.by_reference();
    for (name, client) in clients() {
        let found = forward(client, &data.problem, &data.on_device(client, DType::F32), None).expect("valid");
        close(
            &format!("output on {name}"),
            &download(client, &found.out),
            &out,
            bound(&data),
        )
        .expect("equal");
        close(
            &format!("state on {name}"),
            &download(client, &found.state),
            &state,
            bound(&data),
        )
        .expect("equal");
    }
}

#[test]
fn scans_that_do_not_fit_are_named() {
    let data = example(16, true);
    for (_, client) in clients() {
        let inputs = data.on_device(client, DType::F32);
        let text = |problem: &Problem, inputs: &DeviceInputs| {
            let error: Error = forward(client, problem, inputs, None).expect_err("it does not fit");
            error.to_string()
        };
        let wide = Problem {
            channels: 72,
            ..data.problem
        };
        assert_eq!(
            text(&wide, &inputs),
            "selective scan: input needs 130 rows of 72 values, found 130 rows of 70 values"
        );
        let equal = DeviceInputs {
            sequences: Sequences::Equal,
            ..inputs.clone()
        };
        assert_eq!(
            text(&data.problem, &equal),
            "selective scan: input needs 390 rows of 70 values, found 130 rows of 70 values"
        );
        let short = DeviceInputs {
            a: upload(client, &[0.0]),
            ..inputs.clone()
        };
        assert_eq!(
            text(&data.problem, &short),
            "selective scan: a needs 1120 values, found 1 values"
        );
        if let Some(dtype) = half_types(client).first() {
            let mixed = DeviceInputs {
                b: data.on_device(client, *dtype).b,
                ..inputs.clone()
            };
            let expected = format!("selective scan: b needs values of type f32, found {dtype}");
            assert_eq!(text(&data.problem, &mixed), expected);
        }
        let error = chunked(client, &data.problem, &inputs, 0, None).expect_err("no chunk");
        assert_eq!(
            error.to_string(),
            "a chunk needs at least one token, found chunk_size = 0"
        );
    }
}

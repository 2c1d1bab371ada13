//! WKV-4.

use proptest::prelude::*;
use spillway_kernel_dsl::cube::{Client, DType};
use spillway_kernel_dsl::wkv4::cube::{
    DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, backward, chunked, forward, sequential,
    step,
};
use spillway_kernel_dsl::wkv4::{Cotangents, Gradients, Inputs, Problem, reference};

use super::common::{Layout, Matrix, Source, TOLERANCE, any_layout, close, config, half_types, to_f64};
use crate::device::{clients, download, upload, upload_rows};

#[derive(Clone, Debug)]
struct Spec {
    layout: Layout,
    channels: usize,
    /// Largest absolute key: exponentials of large ones overflow without the running maximum.
    keys: f32,
    /// An initial state and a cotangent of the final one, or neither.
    states: bool,
    gap: usize,
    seed: u64,
}

fn any_spec(longest: usize) -> impl Strategy<Value = Spec> {
    let keys = prop_oneof![Just(1.0_f32), Just(200.0)];
    (
        any_layout(longest),
        1..70_usize,
        keys,
        any::<bool>(),
        0..3_usize,
        any::<u64>(),
    )
        .prop_map(|(layout, channels, keys, states, gap, seed)| Spec {
            layout,
            channels,
            keys,
            states,
            gap,
            seed,
        })
}

#[derive(Clone, Debug)]
struct Data {
    problem: Problem,
    layout: Layout,
    log_decay: Vec<f32>,
    bonus: Vec<f32>,
    key: Matrix,
    value: Matrix,
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
            channels: spec.channels,
        };
        let rows = spec.layout.rows();
        let mut matrix = |range| Matrix::new(&mut source, rows, spec.channels, spec.gap, range);
        let (key, value) = (matrix(-spec.keys..spec.keys), matrix(-1.0..1.0));
        let by_out = matrix(-1.0..1.0);
        let states = spec.states.then(|| {
            let parts = (0..problem.batch).flat_map(|_| {
                let denominators = source.values(spec.channels, 0.1..1.0);
                let maxima = source.values(spec.channels, -spec.keys..spec.keys);
                [source.values(spec.channels, -1.0..1.0), denominators, maxima].concat()
            });
            parts.collect()
        });
        Self {
            log_decay: source.values(spec.channels, -2.0..-0.001),
            bonus: source.values(spec.channels, -1.0..1.0),
            state: states,
            by_state: spec.states.then(|| source.values(problem.state_len(), -1.0..1.0)),
            layout: spec.layout.clone(),
            problem,
            key,
            value,
            by_out,
        }
    }

    fn round(mut self, dtype: DType) -> Self {
        [&mut self.key, &mut self.value, &mut self.by_out]
            .into_iter()
            .for_each(|view| view.round(dtype));
        self
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            log_decay: &self.log_decay,
            bonus: &self.bonus,
            key: self.key.view(),
            value: self.value.view(),
            sequences: self.layout.sequences(),
        }
    }

    fn on_device(&self, client: &Client, dtype: DType) -> DeviceInputs<'_> {
        DeviceInputs {
            log_decay: upload(client, &self.log_decay),
            bonus: upload(client, &self.bonus),
            key: upload_rows(client, &self.key.view(), dtype),
            value: upload_rows(client, &self.value.view(), dtype),
            sequences: self.layout.sequences(),
        }
    }

    fn start(&self) -> Vec<f32> {
        self.state.clone().unwrap_or_else(|| self.problem.empty_state())
    }

    fn by_reference(&self) -> (Vec<f64>, Vec<f64>) {
        let mut state = to_f64(&self.start());
        let mut out = vec![f64::NAN; self.problem.out_len(&self.layout.sequences())];
        reference::wkv4(&self.problem, &self.inputs(), &mut state, &mut out).expect("valid");
        (out, state)
    }

    /// Rows of one sequence as a problem of its own.
    fn rows(&self, rows: std::ops::Range<usize>, sequence: usize) -> Self {
        let size = 3 * self.problem.channels;
        let states = |values: &Vec<f32>| values[sequence * size..(sequence + 1) * size].to_vec();
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
            key: self.key.part(rows.clone()),
            value: self.value.part(rows.clone()),
            by_out: self.by_out.part(rows),
            state: self.state.as_ref().map(states),
            by_state: self.by_state.as_ref().map(states),
            ..self.clone()
        }
    }

    fn sequence(&self, index: usize) -> Self {
        self.rows(self.layout.sequences().span(index, self.problem.time), index)
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

    fn gradients(&self, client: &Client, dtype: DType) -> Vec<(&'static str, Vec<f32>)> {
        let start = self.state.as_ref().map(|state| upload(client, state));
        let cotangents = DeviceCotangents {
            out: upload_rows(client, &self.by_out.view(), dtype),
            state: self.by_state.as_ref().map(|state| upload(client, state)),
        };
        let inputs = self.on_device(client, dtype);
        let found = backward(client, &self.problem, &inputs, start.as_ref(), &cotangents);
        let DeviceGradients {
            log_decay,
            bonus,
            key,
            value,
            state,
        } = found.expect("valid");
        let named = [
            ("log_decay", log_decay),
            ("bonus", bonus),
            ("key", key),
            ("value", value),
            ("state", state),
        ];
        named
            .map(|(name, buffer)| (name, download(client, &buffer)))
            .to_vec()
    }

    fn reference_gradients(&self) -> Vec<(&'static str, Vec<f64>)> {
        let per_channel = || vec![f64::NAN; self.problem.channels];
        let per_token = || vec![f64::NAN; self.layout.rows() * self.problem.channels];
        let (mut log_decay, mut bonus) = (per_channel(), per_channel());
        let (mut key, mut value) = (per_token(), per_token());
        let mut state = vec![f64::NAN; self.problem.state_len()];
        let cotangents = Cotangents {
            out: self.by_out.view(),
            state: self.by_state.as_deref(),
        };
        let mut gradients = Gradients {
            log_decay: &mut log_decay,
            bonus: &mut bonus,
            key: &mut key,
            value: &mut value,
            state: &mut state,
        };
        let start = to_f64(&self.start());
        reference::backward(&self.problem, &self.inputs(), &start, &cotangents, &mut gradients)
            .expect("valid");
        vec![
            ("log_decay", log_decay),
            ("bonus", bonus),
            ("key", key),
            ("value", value),
            ("state", state),
        ]
    }

    /// Exponents of a few hundred have a rounding of their own: half a unit in the last place of 200 is 8e-6.
    fn bound(&self) -> f64 {
        let largest = self.key.data.iter().fold(1.0_f32, |m, x| m.max(x.abs()));
        TOLERANCE * (self.problem.time as f64 + 1.0).sqrt() * f64::from(largest).max(1.0)
    }
}

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn wkv4_equals_the_reference(spec in any_spec(60), chunk_size in 1..30_usize) {
        let data = Data::new(&spec);
        let (out, state) = data.by_reference();
        for (name, client) in clients() {
            for chunk_size in [None, Some(chunk_size)] {
                let found = data.run(client, DType::F32, chunk_size);
                close(&format!("output on {name}, {chunk_size:?}"), &found.0, &out, data.bound())?;
                close(&format!("state on {name}, {chunk_size:?}"), &found.1, &state, data.bound())?;
            }
        }
    }

    #[test]
    fn gradients_of_wkv4_equal_the_reference(spec in any_spec(80)) {
        let data = Data::new(&spec);
        let expected = data.reference_gradients();
        for (name, client) in clients() {
            let found = data.gradients(client, DType::F32);
            for ((of, found), (_, expected)) in found.iter().zip(&expected) {
                close(&format!("gradient of {of} on {name}"), found, expected, 4.0 * data.bound())?;
            }
        }
    }

    #[test]
    fn splitting_wkv4_keeps_the_state(spec in any_spec(60), at in 0.0..1.0_f64) {
        let data = Data::new(&spec).sequence(0);
        let (out, state) = data.by_reference();
        let split = (at * (data.problem.time + 1) as f64) as usize;
        for (name, client) in clients() {
            let first = data.rows(0..split, 0).run(client, DType::F32, None);
            let mut second = data.rows(split..data.problem.time, 0);
            second.state = Some(first.1);
            let second = second.run(client, DType::F32, Some(7));
            let joined = [first.0, second.0].concat();
            close(&format!("output on {name}"), &joined, &out, data.bound())?;
            close(&format!("state on {name}"), &second.1, &state, data.bound())?;
        }
    }

    #[test]
    fn packed_sequences_of_wkv4_are_as_each_alone(spec in any_spec(40), chunk_size in 1..30_usize) {
        let data = Data::new(&spec);
        let sequences = data.layout.sequences();
        let channels = data.problem.channels;
        for (name, client) in clients() {
            let (out, state) = data.run(client, DType::F32, Some(chunk_size));
            for index in 0..data.problem.batch {
                let found = data.sequence(index).run(client, DType::F32, Some(chunk_size));
                let span = sequences.span(index, data.problem.time);
                let rows = span.start * channels..span.end * channels;
                prop_assert_eq!(&out[rows], &found.0[..], "output on {}", name);
                let size = 3 * channels;
                prop_assert_eq!(&state[index * size..(index + 1) * size], &found.1[..], "state on {}", name);
            }
        }
    }
}

fn example() -> Data {
    Data::new(&Spec {
        layout: Layout::Packed {
            offsets: vec![0, 45, 45, 130],
        },
        channels: 70,
        keys: 3.0,
        states: true,
        gap: 1,
        seed: 3,
    })
}

#[test]
fn steps_equal_wkv4() {
    let data = example().rows(0..6, 0);
    let (out, state) = data.by_reference();
    for (name, client) in clients() {
        let (mut found, mut carried) = (Vec::new(), data.start());
        for t in 0..data.problem.time {
            let token = data.rows(t..t + 1, 0);
            let inputs = token.on_device(client, DType::F32);
            let next = step(client, &token.problem, &inputs, Some(&upload(client, &carried))).expect("valid");
            found.extend(download(client, &next.out));
            carried = download(client, &next.state);
        }
        close(&format!("output on {name}"), &found, &out, data.bound()).expect("equal");
        close(&format!("state on {name}"), &carried, &state, data.bound()).expect("equal");
    }
}

#[test]
fn half_precision_inputs_of_wkv4_round_only_at_the_edge() {
    for (name, client) in clients() {
        for dtype in half_types(client) {
            let data = example().round(dtype);
            let (out, state) = data.by_reference();
            let found = data.run(client, dtype, None);
            close(&format!("output on {name}"), &found.0, &out, 4e-3).expect("equal");
            close(&format!("state on {name}"), &found.1, &state, data.bound()).expect("equal");
            for ((of, found), (_, expected)) in data
                .gradients(client, dtype)
                .iter()
                .zip(&data.reference_gradients())
            {
                close(
                    &format!("gradient of {of} on {name}"),
                    found,
                    expected,
                    4.0 * data.bound(),
                )
                .expect("equal");
            }
        }
    }
}

#[test]
fn the_same_wkv4_gives_the_same_bits() {
    let data = example();
    for (name, client) in clients() {
        let runs = [(); 2].map(|()| {
            (
                data.run(client, DType::F32, Some(16)),
                data.gradients(client, DType::F32),
            )
        });
        assert!(runs[0] == runs[1], "two runs differ on {name}");
    }
}

#[test]
fn hidden_tokens_leave_no_trace() {
    let mut data = example().rows(0..9, 0);
    data.state = None;
    let kept = data.rows(2..9, 0);
    // The first two tokens are hidden: the others see what they would see without them.
    data.key.data[..2 * data.key.stride].fill(f32::NEG_INFINITY);
    let channels = data.problem.channels;
    for (name, client) in clients() {
        let (out, state) = data.run(client, DType::F32, None);
        let expected = kept.run(client, DType::F32, None);
        assert!(
            out[..2 * channels].iter().all(|y| *y == 0.0),
            "nothing is read on {name}"
        );
        assert_eq!(out[2 * channels..], expected.0[..], "output on {name}");
        assert_eq!(state, expected.1, "state on {name}");
    }
}

#[test]
fn the_preferred_form_of_wkv4_equals_the_reference() {
    let data = Data::new(&Spec {
        layout: Layout::Equal { batch: 1, time: 300 },
        channels: 2,
        keys: 2.0,
        states: false,
        gap: 0,
        seed: 5,
    });
    let (out, state) = data.by_reference();
    for (name, client) in clients() {
        let inputs = data.on_device(client, DType::F32);
        let found = forward(client, &data.problem, &inputs, None).expect("valid");
        close(
            &format!("output on {name}"),
            &download(client, &found.out),
            &out,
            data.bound(),
        )
        .expect("equal");
        close(
            &format!("state on {name}"),
            &download(client, &found.state),
            &state,
            data.bound(),
        )
        .expect("equal");
    }
}

#[test]
fn wkv4_that_does_not_fit_is_named() {
    let data = example();
    for (_, client) in clients() {
        let inputs = data.on_device(client, DType::F32);
        let text = |problem: &Problem, inputs: &DeviceInputs| {
            forward(client, problem, inputs, None)
                .expect_err("it does not fit")
                .to_string()
        };
        let wide = Problem {
            channels: 72,
            ..data.problem
        };
        assert_eq!(
            text(&wide, &inputs),
            "WKV-4: key needs 130 rows of 72 values, found 130 rows of 70 values"
        );
        let longer = Problem {
            time: 131,
            ..data.problem
        };
        assert_eq!(text(&longer, &inputs), "offset 3 needs to be 131, found 130");
        let error = chunked(client, &data.problem, &inputs, 0, None).expect_err("no chunk");
        assert_eq!(
            error.to_string(),
            "a chunk needs at least one token, found chunk_size = 0"
        );
        let error = step(client, &data.problem, &inputs, None).expect_err("several tokens");
        assert_eq!(error.to_string(), "a step takes time = 1 token, found 130");
    }
}

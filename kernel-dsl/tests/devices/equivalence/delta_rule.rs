//! The delta rule.

use proptest::prelude::*;
use spillway_kernel_dsl::cube::{Client, DType};
use spillway_kernel_dsl::delta_rule::cube::{
    DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs, DeviceTransition,
    DeviceTransitionGradients, backward, chunked, forward, sequential, step,
};
use spillway_kernel_dsl::delta_rule::{
    Cotangents, Gradients, Inputs, Problem, Transition, TransitionGradients, TransitionKind, reference,
};
use spillway_kernel_dsl::{DecayKind, LogDecay};

use super::common::{Layout, Matrix, Source, TOLERANCE, any_layout, close, config, half_types, to_f64};
use crate::device::{clients, download, upload, upload_rows};

#[derive(Clone, Debug)]
struct Spec {
    layout: Layout,
    groups: usize,
    heads_per_group: usize,
    key_dim: usize,
    value_dim: usize,
    transition: TransitionKind,
    decay: DecayKind,
    /// An initial state and a cotangent of the final one, or neither.
    states: bool,
    gap: usize,
    seed: u64,
}

fn any_spec(longest: usize) -> impl Strategy<Value = Spec> {
    let kinds = (
        prop_oneof![Just(TransitionKind::Delta), Just(TransitionKind::LowRank)],
        prop_oneof![
            Just(DecayKind::None),
            Just(DecayKind::PerHeadToken),
            Just(DecayKind::PerKeyToken)
        ],
    );
    let sizes = (1..3_usize, 1..3_usize);
    (
        any_layout(longest),
        sizes,
        kinds,
        any::<bool>(),
        0..3_usize,
        any::<u64>(),
    )
        // Processors take long to compile a kernel. One decay goes with one slice of rows and one tile of columns, the others
        // with several, and with tails.
        .prop_map(
            |(layout, (groups, heads_per_group), (transition, decay), states, gap, seed)| Spec {
                layout,
                groups,
                heads_per_group,
                key_dim: if decay == DecayKind::PerHeadToken { 5 } else { 20 },
                value_dim: if decay == DecayKind::PerHeadToken { 3 } else { 40 },
                transition,
                decay,
                states,
                gap,
                seed,
            },
        )
}

/// Which function computes.
#[derive(Clone, Copy, Debug)]
enum Run {
    Tokens,
    Chunks,
    Preferred,
}

/// β, or p and b.
#[derive(Clone, Debug)]
enum Reads {
    Delta(Matrix),
    LowRank(Matrix, Matrix),
}

#[derive(Clone, Debug)]
struct Data {
    problem: Problem,
    layout: Layout,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    transition: Reads,
    log_decay: Option<Matrix>,
    scale: f32,
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
            heads: spec.groups * spec.heads_per_group,
            groups: spec.groups,
            key_dim: spec.key_dim,
            value_dim: spec.value_dim,
            transition: spec.transition,
            decay: spec.decay,
        };
        let rows = spec.layout.rows();
        let (on_keys, on_values) = (spec.groups * spec.key_dim, problem.heads * spec.value_dim);
        // Vectors over keys of at most unit length, so that no state grows without bound.
        let side = 1.0 / (spec.key_dim as f32).sqrt();
        let mut matrix = |cols, range| Matrix::new(&mut source, rows, cols, spec.gap, range);
        let transition = match spec.transition {
            TransitionKind::Delta => Reads::Delta(matrix(problem.heads, 0.0..1.0)),
            TransitionKind::LowRank => {
                Reads::LowRank(matrix(on_keys, -side..side), matrix(on_keys, -side..side))
            }
        };
        let decay_columns = problem.decay_columns();
        let log_decay = (spec.decay != DecayKind::None).then(|| matrix(decay_columns, -1.0..-0.01));
        let (query, key) = (matrix(on_keys, -1.0..1.0), matrix(on_keys, -side..side));
        let (value, by_out) = (matrix(on_values, -1.0..1.0), matrix(on_values, -1.0..1.0));
        let mut states = || spec.states.then(|| source.values(problem.state_len(), -1.0..1.0));
        Self {
            state: states(),
            by_state: states(),
            scale: side,
            layout: spec.layout.clone(),
            problem,
            query,
            key,
            value,
            transition,
            log_decay,
            by_out,
        }
    }

    /// Rounds all but the gates.
    fn round(mut self, dtype: DType) -> Self {
        let views = [&mut self.query, &mut self.key, &mut self.value, &mut self.by_out];
        views.into_iter().for_each(|view| view.round(dtype));
        if let Reads::LowRank(p, b) = &mut self.transition {
            p.round(dtype);
            b.round(dtype);
        }
        self
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            query: self.query.view(),
            key: self.key.view(),
            value: self.value.view(),
            transition: match &self.transition {
                Reads::Delta(beta) => Transition::Delta { beta: beta.view() },
                Reads::LowRank(p, b) => Transition::LowRank {
                    p: p.view(),
                    b: b.view(),
                },
            },
            log_decay: self.log_decay.as_ref().map(Matrix::view).into(),
            scale: self.scale,
            sequences: self.layout.sequences(),
        }
    }

    fn on_device(&self, client: &Client, dtype: DType) -> DeviceInputs<'_> {
        let rows = |matrix: &Matrix| upload_rows(client, &matrix.view(), dtype);
        let gates = |matrix: &Matrix| upload_rows(client, &matrix.view(), DType::F32);
        DeviceInputs {
            query: rows(&self.query),
            key: rows(&self.key),
            value: rows(&self.value),
            transition: match &self.transition {
                Reads::Delta(beta) => DeviceTransition::Delta { beta: gates(beta) },
                Reads::LowRank(p, b) => DeviceTransition::LowRank {
                    p: rows(p),
                    b: rows(b),
                },
            },
            log_decay: self.log_decay.as_ref().map(gates).into(),
            scale: self.scale,
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
        reference::delta_rule(&self.problem, &self.inputs(), &mut state, &mut out).expect("valid");
        (out, state)
    }

    /// Rows of one sequence as a problem of its own.
    fn rows(&self, rows: std::ops::Range<usize>, sequence: usize) -> Self {
        let part = |matrix: &Matrix| matrix.part(rows.clone());
        let size = self.problem.heads * self.problem.head_state_len();
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
            query: part(&self.query),
            key: part(&self.key),
            value: part(&self.value),
            transition: match &self.transition {
                Reads::Delta(beta) => Reads::Delta(part(beta)),
                Reads::LowRank(p, b) => Reads::LowRank(part(p), part(b)),
            },
            log_decay: self.log_decay.as_ref().map(part),
            by_out: part(&self.by_out),
            state: self.state.as_ref().map(states),
            by_state: self.by_state.as_ref().map(states),
            scale: self.scale,
        }
    }

    fn sequence(&self, index: usize) -> Self {
        self.rows(self.layout.sequences().span(index, self.problem.time), index)
    }

    fn run(&self, client: &Client, dtype: DType, form: Run) -> (Vec<f32>, Vec<f32>) {
        let start = self.state.as_ref().map(|state| upload(client, state));
        let inputs = self.on_device(client, dtype);
        let found = match form {
            Run::Tokens => sequential(client, &self.problem, &inputs, start.as_ref()),
            Run::Chunks => chunked(client, &self.problem, &inputs, start.as_ref()),
            Run::Preferred => forward(client, &self.problem, &inputs, start.as_ref()),
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
        let found = backward(client, &self.problem, &inputs, start.as_ref(), &cotangents).expect("valid");
        let DeviceGradients {
            query,
            key,
            value,
            transition,
            log_decay,
            state,
        } = found;
        let mut named = vec![("query", query), ("key", key), ("value", value), ("state", state)];
        match transition {
            DeviceTransitionGradients::Delta { beta } => named.push(("beta", beta)),
            DeviceTransitionGradients::LowRank { p, b } => named.extend([("p", p), ("b", b)]),
        }
        named.extend(log_decay.either().map(|log_decay| ("log_decay", log_decay)));
        named
            .into_iter()
            .map(|(name, buffer)| (name, download(client, &buffer)))
            .collect()
    }

    fn reference_gradients(&self) -> Vec<(&'static str, Vec<f64>)> {
        let Problem {
            heads,
            groups,
            key_dim,
            value_dim,
            ..
        } = self.problem;
        let rows = self.layout.rows();
        let empty = |columns: usize| vec![f64::NAN; rows * columns];
        let (mut query, mut key) = (empty(groups * key_dim), empty(groups * key_dim));
        let (mut p, mut b) = (empty(groups * key_dim), empty(groups * key_dim));
        let (mut value, mut beta) = (empty(heads * value_dim), empty(heads));
        let mut log_decay = empty(self.problem.decay_columns());
        let mut state = vec![f64::NAN; self.problem.state_len()];
        let cotangents = Cotangents {
            out: self.by_out.view(),
            state: self.by_state.as_deref(),
        };
        let delta = self.problem.transition == TransitionKind::Delta;
        let mut gradients = Gradients {
            query: &mut query,
            key: &mut key,
            value: &mut value,
            transition: match delta {
                true => TransitionGradients::Delta { beta: &mut beta },
                false => TransitionGradients::LowRank { p: &mut p, b: &mut b },
            },
            log_decay: self.log_decay.is_some().then_some(&mut log_decay[..]).into(),
            state: &mut state,
        };
        let start = to_f64(&self.start());
        reference::backward(&self.problem, &self.inputs(), &start, &cotangents, &mut gradients)
            .expect("valid");
        let mut named = vec![("query", query), ("key", key), ("value", value), ("state", state)];
        match delta {
            true => named.push(("beta", beta)),
            false => named.extend([("p", p), ("b", b)]),
        }
        named.extend(self.log_decay.as_ref().map(|_| ("log_decay", log_decay)));
        named
    }

    fn bound(&self) -> f64 {
        TOLERANCE * (self.problem.time as f64 + 1.0).sqrt()
    }

    fn check(&self, client: &Client, name: &str, dtype: DType, of_out: f64) -> Result<(), TestCaseError> {
        let (out, state) = self.by_reference();
        for form in [Run::Tokens, Run::Chunks, Run::Preferred] {
            let found = self.run(client, dtype, form);
            close(&format!("output by {form:?} on {name}"), &found.0, &out, of_out)?;
            close(
                &format!("state by {form:?} on {name}"),
                &found.1,
                &state,
                self.bound(),
            )?;
        }
        Ok(())
    }

    fn check_gradients(&self, client: &Client, name: &str, dtype: DType) -> Result<(), TestCaseError> {
        let (found, expected) = (self.gradients(client, dtype), self.reference_gradients());
        prop_assert_eq!(found.len(), expected.len());
        for ((of, found), (expected_of, expected)) in found.iter().zip(&expected) {
            prop_assert_eq!(of, expected_of);
            close(
                &format!("gradient of {of} on {name}"),
                found,
                expected,
                2.0 * self.bound(),
            )?;
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn a_delta_rule_equals_the_reference(spec in any_spec(30)) {
        let data = Data::new(&spec);
        for (name, client) in clients() {
            data.check(client, name, DType::F32, data.bound())?;
        }
    }

    #[test]
    fn gradients_of_a_delta_rule_equal_the_reference(spec in any_spec(30)) {
        let data = Data::new(&spec);
        for (name, client) in clients() {
            data.check_gradients(client, name, DType::F32)?;
        }
    }

    #[test]
    fn splitting_a_delta_rule_keeps_the_state(spec in any_spec(30), at in 0.0..1.0_f64) {
        let data = Data::new(&spec).sequence(0);
        let (out, state) = data.by_reference();
        let split = (at * (data.problem.time + 1) as f64) as usize;
        for (name, client) in clients() {
            let first = data.rows(0..split, 0).run(client, DType::F32, Run::Tokens);
            let mut second = data.rows(split..data.problem.time, 0);
            second.state = Some(first.1);
            let second = second.run(client, DType::F32, Run::Chunks);
            close(&format!("output on {name}"), &[first.0, second.0].concat(), &out, data.bound())?;
            close(&format!("state on {name}"), &second.1, &state, data.bound())?;
        }
    }

    #[test]
    fn packed_sequences_of_a_delta_rule_are_as_each_alone(spec in any_spec(30)) {
        let data = Data::new(&spec);
        let sequences = data.layout.sequences();
        let columns = data.problem.heads * data.problem.value_dim;
        let size = data.problem.heads * data.problem.head_state_len();
        for (name, client) in clients() {
            let (out, state) = data.run(client, DType::F32, Run::Chunks);
            for index in 0..data.problem.batch {
                let found = data.sequence(index).run(client, DType::F32, Run::Chunks);
                let span = sequences.span(index, data.problem.time);
                let rows = span.start * columns..span.end * columns;
                prop_assert_eq!(&out[rows], &found.0[..], "output on {}", name);
                prop_assert_eq!(&state[index * size..(index + 1) * size], &found.1[..], "state on {}", name);
            }
        }
    }
}

fn example(transition: TransitionKind, decay: DecayKind) -> Data {
    Data::new(&Spec {
        layout: Layout::Packed {
            offsets: vec![0, 30, 30, 100],
        },
        groups: 1,
        heads_per_group: 2,
        key_dim: 20,
        value_dim: 40,
        transition,
        decay,
        states: true,
        gap: 1,
        seed: 3,
    })
}

#[test]
fn steps_equal_a_delta_rule() {
    let data = example(TransitionKind::Delta, DecayKind::PerHeadToken).rows(0..6, 0);
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
fn half_precision_inputs_of_a_delta_rule_round_only_at_the_edge() {
    for (name, client) in clients() {
        for dtype in half_types(client) {
            let data = example(TransitionKind::LowRank, DecayKind::PerKeyToken).round(dtype);
            data.check(client, name, dtype, 4e-3).expect("equal");
            data.check_gradients(client, name, dtype).expect("equal");
        }
    }
}

#[test]
fn a_decay_of_zero_forgets_everything_and_is_no_nan() {
    let mut data = example(TransitionKind::LowRank, DecayKind::PerKeyToken);
    let columns = data.problem.decay_columns();
    if let Some(log_decay) = &mut data.log_decay {
        let row = 7 * log_decay.stride;
        // Far below the logarithm of the least f32, so that the decay is 0 on every device.
        log_decay.data[row..row + columns].fill(-1e4);
    }
    for (name, client) in clients() {
        data.check(client, name, DType::F32, data.bound()).expect("equal");
        data.check_gradients(client, name, DType::F32).expect("equal");
    }
}

#[test]
fn the_same_delta_rule_gives_the_same_bits() {
    let data = example(TransitionKind::Delta, DecayKind::PerKeyToken);
    for (name, client) in clients() {
        let runs = [(); 2].map(|()| {
            (
                data.run(client, DType::F32, Run::Chunks),
                data.gradients(client, DType::F32),
            )
        });
        assert!(runs[0] == runs[1], "two runs differ on {name}");
    }
}

#[test]
fn delta_rules_that_do_not_fit_are_named() {
    let data = example(TransitionKind::Delta, DecayKind::PerHeadToken);
    for (_, client) in clients() {
        let inputs = data.on_device(client, DType::F32);
        let text = |problem: &Problem, inputs: &DeviceInputs| {
            forward(client, problem, inputs, None)
                .expect_err("it does not fit")
                .to_string()
        };
        let wide = Problem {
            key_dim: 21,
            ..data.problem
        };
        assert_eq!(
            text(&wide, &inputs),
            "delta rule: query needs 100 rows of 21 values, found 100 rows of 20 values"
        );
        let without = DeviceInputs {
            log_decay: LogDecay::None,
            ..inputs.clone()
        };
        let expected =
            "delta rule: decay kind PerHeadToken needs log decays as LogDecay::Token, found LogDecay::None";
        assert_eq!(text(&data.problem, &without), expected);
        let other = Problem {
            transition: TransitionKind::LowRank,
            ..data.problem
        };
        let expected = "the problem says TransitionKind::LowRank, found what TransitionKind::Delta takes";
        assert_eq!(text(&other, &inputs), expected);
        let error = step(client, &data.problem, &inputs, None).expect_err("several tokens");
        assert_eq!(error.to_string(), "a step takes 1 token of sequence 0, found 30");
        let huge = Problem {
            key_dim: 1 << 20,
            ..data.problem
        };
        assert_eq!(
            text(&huge, &inputs),
            "delta rule: query needs 100 rows of 1048576 values, found 100 rows of 20 values"
        );
    }
}

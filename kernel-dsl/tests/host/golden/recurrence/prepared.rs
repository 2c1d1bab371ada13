//! A recurrence of a case in every form, and its gradients.

use spillway_kernel_dsl::recurrence::{
    Cotangents, Element, GradientBuffers, Inputs, Problem, ReadOut, apply, backward, chunked, element,
    sequential,
};
use spillway_kernel_dsl::{DecayKind, LogDecay};
use spillway_kernel_dsl::{Rows, Sequences};

use crate::support::Case;

pub(super) const CHUNK_SIZES: [usize; 4] = [1, 16, 50, 64];

/// Owned inputs of a recurrence, in its own layout.
pub(super) struct Prepared {
    pub(super) problem: Problem,
    pub(super) query: Vec<f32>,
    pub(super) key: Vec<f32>,
    pub(super) value: Vec<f32>,
    pub(super) log_decay: Vec<f32>,
    pub(super) step_size: Option<Vec<f32>>,
    pub(super) bonus: Option<Vec<f32>>,
    pub(super) skip: Option<Vec<f32>>,
    pub(super) scale: f32,
    pub(super) state: Vec<f32>,
}

impl Prepared {
    pub(super) fn new(case: &Case, decay: DecayKind, read_out: ReadOut, query: &str) -> Self {
        let (batch, time, heads) = (case.dim("B"), case.dim("T"), case.dim("H"));
        let (key_dim, value_dim) = (case.dim("K"), case.dim("V"));
        let problem = Problem {
            batch,
            time,
            heads,
            groups: heads,
            key_dim,
            value_dim,
            decay,
            read_out,
        };
        let state = case
            .input_if_any("h0")
            .map_or(vec![0.0; problem.state_len()], <[f32]>::to_vec);
        Self {
            problem,
            query: case.input(query).to_vec(),
            key: case.input("k").to_vec(),
            value: case.input("v").to_vec(),
            log_decay: Vec::new(),
            step_size: None,
            bonus: None,
            skip: None,
            scale: 1.0,
            state,
        }
    }

    pub(super) fn inputs(&self) -> Inputs<'_> {
        let Problem {
            batch,
            time,
            heads,
            groups,
            key_dim,
            value_dim,
            decay,
            ..
        } = self.problem;
        let rows =
            |values, cols| Rows::contiguous(values, batch * time, cols).expect("as long as the case says");
        Inputs {
            query: rows(&self.query, groups * key_dim),
            key: rows(&self.key, groups * key_dim),
            value: rows(&self.value, heads * value_dim),
            log_decay: match decay {
                DecayKind::None => LogDecay::None,
                DecayKind::PerHead | DecayKind::PerKey => LogDecay::Constant(&self.log_decay),
                DecayKind::PerHeadToken => LogDecay::Token(rows(&self.log_decay, heads)),
                DecayKind::PerKeyToken => LogDecay::Token(rows(&self.log_decay, heads * key_dim)),
            },
            step_size: self.step_size.as_ref().map(|steps| rows(steps, heads)),
            bonus: self.bonus.as_deref(),
            skip: self.skip.as_deref(),
            scale: self.scale,
            sequences: Sequences::Equal,
        }
    }

    /// Output and final state by every form, each named.
    pub(super) fn run(&self) -> Vec<(String, Vec<f32>, Vec<f32>)> {
        let (problem, inputs) = (&self.problem, &self.inputs());
        let mut results = Vec::new();
        let mut run = |name: String, form: &dyn Fn(&mut [f32], &mut [f32])| {
            let (mut state, mut out) = (self.state.clone(), self.out_buffer());
            form(&mut state, &mut out);
            results.push((name, out, state));
        };
        run("sequential".into(), &|state, out| {
            sequential(problem, inputs, state, out).expect("valid");
        });
        for chunk_size in CHUNK_SIZES {
            run(format!("chunks of {chunk_size}"), &|state, out| {
                chunked(problem, inputs, chunk_size, state, out).expect("valid");
            });
        }
        run("the monoid element".into(), &|state, out| {
            let sums = problem.batch * problem.heads * problem.decay_sums_per_head();
            let (mut sums, mut update) = (vec![f32::NAN; sums], vec![f32::NAN; problem.state_len()]);
            element(problem, inputs, 64, &mut sums, &mut update).expect("valid");
            sequential(problem, inputs, &mut state.to_vec(), out).expect("valid");
            let element = Element {
                log_decay_sum: &sums,
                update: &update,
            };
            apply(problem, element, state).expect("valid");
        });
        results
    }

    pub(super) fn out_buffer(&self) -> Vec<f32> {
        vec![f32::NAN; self.problem.out_len(Sequences::Equal)]
    }

    /// Gradients by chunks of several sizes, each named.
    pub(super) fn gradients(&self, out: &[f32], state: Option<&[f32]>) -> Vec<(String, GradientBuffers)> {
        let (problem, inputs) = (&self.problem, &self.inputs());
        let cotangents = Cotangents {
            out: self.out_rows(out),
            state,
        };
        let by_chunks = |chunk_size| {
            let mut found: GradientBuffers = GradientBuffers::zeros(problem, inputs).expect("valid");
            let mut gradients = found.as_written();
            backward(
                problem,
                inputs,
                chunk_size,
                &self.state,
                &cotangents,
                &mut gradients,
            )
            .expect("valid");
            (format!("chunks of {chunk_size}"), found)
        };
        CHUNK_SIZES.into_iter().map(by_chunks).collect()
    }

    pub(super) fn out_rows<'a>(&self, values: &'a [f32]) -> Rows<'a> {
        let Problem {
            batch,
            time,
            heads,
            value_dim,
            ..
        } = self.problem;
        Rows::contiguous(values, batch * time, heads * value_dim).expect("as long as the output")
    }

    /// Compares `out.o` and `out.ht`, and the gradients that the case has under these names of query, key, value, log
    /// decay, bonus and initial state.
    pub(super) fn check(&self, case: &Case, names: [&str; 6]) {
        for (form, out, state) in self.run() {
            case.check(&form, "o", &out);
            case.check(&form, "ht", &state);
        }
        for (form, gradients) in self.gradients(case.cotangent("o"), case.cotangent_if_any("ht")) {
            check_gradients(case, &form, names, &gradients);
        }
    }
}

/// Compares the gradients that the case has under these names; the query's it has to have.
pub(super) fn check_gradients(case: &Case, form: &str, names: [&str; 6], gradients: &GradientBuffers) {
    assert!(
        case.gradient_if_any(names[0]).is_some(),
        "{} has no gradient",
        case.name
    );
    let found = [
        Some(&gradients.query),
        Some(&gradients.key),
        Some(&gradients.value),
        gradients.log_decay.as_ref().either(),
        gradients.bonus.as_ref(),
        Some(&gradients.state),
    ];
    for (name, found) in names.into_iter().zip(found) {
        if let (Some(found), true) = (found, case.gradient_if_any(name).is_some()) {
            case.check_gradient(form, name, found);
        }
    }
}

/// Exchanges the two last dimensions, `[.., rows, cols]` to `[.., cols, rows]`.
pub(super) fn transpose(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let matrices = values.chunks_exact(rows * cols);
    matrices
        .flat_map(|m| (0..cols).flat_map(move |c| (0..rows).map(move |r| m[r * cols + c])))
        .collect()
}

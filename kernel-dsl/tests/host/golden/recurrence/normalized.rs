//! Recurrences that are divided by the sum of their weights: linear attention and Based.

use spillway_kernel_dsl::DecayKind;
use spillway_kernel_dsl::recurrence::normalized::{
    self, InitialState, NormalizedCotangents, NormalizedGradients, NormalizedState,
};
use spillway_kernel_dsl::recurrence::{GradientBuffers, ReadOut};

use super::prepared::{CHUNK_SIZES, Prepared, check_gradients, transpose};
use crate::support::cases;

/// Output, final state and final key sum with a normaliser, by every form.
fn normalized_results(prepared: &Prepared, eps: f32, key_sum: &[f32]) -> Vec<(String, [Vec<f32>; 3])> {
    let (problem, inputs) = (&prepared.problem, &prepared.inputs());
    let forms = [None].into_iter().chain(CHUNK_SIZES.map(Some));
    let run = |chunk_size: Option<usize>| {
        let (mut state, mut out) = (prepared.state.clone(), prepared.out_buffer());
        let mut key_sum = key_sum.to_vec();
        let both = NormalizedState {
            state: &mut state,
            key_sum: &mut key_sum,
        };
        match chunk_size {
            None => normalized::sequential(problem, inputs, eps, both, &mut out),
            Some(size) => normalized::chunked(problem, inputs, eps, size, both, &mut out),
        }
        .expect("valid");
        (format!("{chunk_size:?}"), [out, state, key_sum])
    };
    forms.map(run).collect()
}

/// Gradients with a normaliser, those of the key sum last.
fn normalized_gradients(
    prepared: &Prepared,
    eps: f32,
    key_sum: &[f32],
    (out, state, key_sum_cotangent): (&[f32], Option<&[f32]>, Option<&[f32]>),
) -> Vec<(String, GradientBuffers, Vec<f32>)> {
    let (problem, inputs) = (&prepared.problem, &prepared.inputs());
    let cotangents = NormalizedCotangents {
        out: prepared.out_rows(out),
        state,
        key_sum: key_sum_cotangent,
    };
    let by_chunks = |chunk_size| {
        let mut found: GradientBuffers = GradientBuffers::zeros(problem, inputs).expect("valid");
        let mut key_sum_gradient = vec![f32::NAN; key_sum.len()];
        let initial = InitialState {
            state: &prepared.state,
            key_sum,
        };
        let mut gradients = NormalizedGradients {
            inputs: found.as_written(),
            key_sum: &mut key_sum_gradient,
        };
        normalized::backward(
            problem,
            inputs,
            eps,
            chunk_size,
            initial,
            &cotangents,
            &mut gradients,
        )
        .expect("valid");
        (format!("chunks of {chunk_size}"), found, key_sum_gradient)
    };
    CHUNK_SIZES.into_iter().map(by_chunks).collect()
}

#[test]
fn linear_attention_agrees() {
    let names = ["q", "k", "v", "g", "u", "h0"];
    for case in cases("linear_attn") {
        let mut prepared = Prepared::new(&case, DecayKind::None, ReadOut::Inclusive, "q");
        prepared.scale = case.scalar("scale") as f32;
        if case.scalar("normalize") == 0.0 {
            prepared.check(&case, names);
            continue;
        }
        let zeros = vec![0.0; prepared.problem.batch * prepared.problem.heads * prepared.problem.key_dim];
        let z0 = case.input_if_any("z0").map_or(zeros, <[f32]>::to_vec);
        for (form, [out, state, key_sum]) in normalized_results(&prepared, 1e-10, &z0) {
            case.check(&form, "o", &out);
            case.check(&form, "ht", &state);
            case.check(&form, "zt", &key_sum);
        }
        let cotangents = (
            case.cotangent("o"),
            case.cotangent_if_any("ht"),
            case.cotangent_if_any("zt"),
        );
        for (form, gradients, key_sum) in normalized_gradients(&prepared, 1e-10, &z0, cotangents) {
            check_gradients(&case, &form, names, &gradients);
            if case.gradient_if_any("z0").is_some() {
                case.check_gradient(&form, "z0", &key_sum);
            }
        }
    }
}

/// Based's feature map, [1, x / K^¼, x xᵀ / √(2K)], is done here in f64: it is not the recurrence's.
#[test]
fn based_agrees() {
    for case in cases("based") {
        let mut prepared = Prepared::new(&case, DecayKind::None, ReadOut::Inclusive, "q");
        let raw_dim = prepared.problem.key_dim;
        let features = 1 + raw_dim + raw_dim * raw_dim;
        prepared.problem.key_dim = features;
        prepared.query = taylor(&prepared.query, raw_dim);
        prepared.key = taylor(&prepared.key, raw_dim);
        prepared.state = vec![0.0; prepared.problem.state_len()];
        let z0 = vec![0.0; prepared.problem.batch * prepared.problem.heads * features];
        let cotangent = case.cotangent("o");
        let raw = |name: &str, gradient: &[f32]| taylor_backward(case.input(name), gradient, raw_dim);
        if case.scalar("use_norm") == 0.0 {
            for (form, out, _) in prepared.run() {
                case.check(&form, "o", &out);
            }
            for (form, gradients) in prepared.gradients(cotangent, None) {
                case.check_gradient(&form, "q", &raw("q", &gradients.query));
                case.check_gradient(&form, "k", &raw("k", &gradients.key));
                case.check_gradient(&form, "v", &gradients.value);
            }
            continue;
        }
        let eps = case.scalar("eps") as f32;
        for (form, [out, state, key_sum]) in normalized_results(&prepared, eps, &z0) {
            case.check(&form, "o", &out);
            case.check(
                &form,
                "kv_T",
                &transpose(&state, features, prepared.problem.value_dim),
            );
            case.check(&form, "k_T", &key_sum);
        }
        for (form, gradients, _) in normalized_gradients(&prepared, eps, &z0, (cotangent, None, None)) {
            case.check_gradient(&form, "q", &raw("q", &gradients.query));
            case.check_gradient(&form, "k", &raw("k", &gradients.key));
            case.check_gradient(&form, "v", &gradients.value);
        }
    }
}

fn taylor(values: &[f32], dim: usize) -> Vec<f32> {
    let (first, second) = ((dim as f64).powf(-0.25), (2.0 * dim as f64).sqrt().recip());
    let map = |x: &[f32]| {
        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let products = x.iter().flat_map(|a| x.iter().map(move |b| a * b * second));
        let features = [1.0]
            .into_iter()
            .chain(x.iter().map(|x| x * first))
            .chain(products);
        features.map(|x| x as f32).collect::<Vec<_>>()
    };
    values.chunks_exact(dim).flat_map(map).collect()
}

fn taylor_backward(values: &[f32], gradients: &[f32], dim: usize) -> Vec<f32> {
    let (first, second) = ((dim as f64).powf(-0.25), (2.0 * dim as f64).sqrt().recip());
    let back = |(x, gradient): (&[f32], &[f32])| {
        let (linear, products) = gradient[1..].split_at(dim);
        let of_value = |i: usize| {
            let pairs = (0..dim).map(|j| {
                (f64::from(products[i * dim + j]) + f64::from(products[j * dim + i])) * f64::from(x[j])
            });
            (first * f64::from(linear[i]) + second * pairs.sum::<f64>()) as f32
        };
        (0..dim).map(of_value).collect::<Vec<_>>()
    };
    let rows = values
        .chunks_exact(dim)
        .zip(gradients.chunks_exact(1 + dim + dim * dim));
    rows.flat_map(back).collect()
}

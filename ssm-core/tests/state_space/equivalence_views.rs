//! The three views of a system agree, for every parameterisation.

use crate::differences::assert_near;
use crate::systems;
use proptest::prelude::*;
use spillway_ssm_core::state_space::init::real_normal;
use spillway_ssm_core::state_space::{
    Complex64, Dense, Diagonal, DiscreteStateSpace, Discretisation, Gap, Modes, StateSpace,
};

/// What the views may differ by.
const BOUND: f64 = 1e-12;

const EVERY_RULE: [Discretisation; 6] = [
    Discretisation::BILINEAR,
    Discretisation::BACKWARD_EULER,
    Discretisation::GeneralisedBilinear { alpha: 0.7 },
    Discretisation::ZeroOrderHold,
    Discretisation::Mixed,
    Discretisation::ExponentialTrapezoidal { lambda: 0.3 },
];

/// Recurrent = convolutional, from any state; a cut anywhere changes nothing; steps of their own that are all equal are none.
fn recurrent_is_convolutional<S: StateSpace>(
    system: &S,
    rule: Discretisation,
    step: f64,
    input: &[f64],
    cut: usize,
    start: &[S::Scalar],
) {
    let discrete = system.discretise(rule, step).expect("a recurrence");
    let mut state = start.to_vec();
    let whole = discrete.respond(&mut state, input).expect("outputs");
    let convolved = discrete.convolve(start, input).expect("outputs");
    assert_near(&convolved, &whole, BOUND, "the convolution");

    let mut split = start.to_vec();
    let mut pieces = discrete.respond(&mut split, &input[..cut]).expect("outputs");
    pieces.extend(discrete.respond(&mut split, &input[cut..]).expect("outputs"));
    assert_eq!(pieces, whole, "a cut after {cut}");
    assert_eq!(split, state, "the state after a cut");

    // At irregular samples the state is x itself, so that only the state 0 is the same for every rule.
    let samples: Vec<Option<f64>> = input.iter().copied().map(Some).collect();
    let regular = discrete
        .respond(&mut discrete.zero_state(), input)
        .expect("outputs");
    let mut carried = system.sampled_zero();
    let steps = vec![step; input.len()];
    let mut sampled = system
        .respond_sampled(rule, &steps[..cut], &samples[..cut], Gap::Silence, &mut carried)
        .expect("outputs");
    sampled.extend(
        system
            .respond_sampled(rule, &steps[cut..], &samples[cut..], Gap::Silence, &mut carried)
            .expect("outputs"),
    );
    assert_near(&sampled, &regular, BOUND, "steps of their own");
}

/// A signal that is held between irregular samples: the convolution integral = the recurrence with a step for each.
fn continuous_is_recurrent<S: StateSpace>(system: &S, steps: &[f64], input: &[f64]) {
    let mut end = 0.0;
    let ends: Vec<f64> = steps
        .iter()
        .map(|step| {
            end += step;
            end
        })
        .collect();
    let samples: Vec<Option<f64>> = input.iter().copied().map(Some).collect();
    let held = system.respond_held(&ends, input, &ends).expect("outputs");
    let hold = Discretisation::ZeroOrderHold;
    let mut carried = system.sampled_zero();
    let recurrent = system
        .respond_sampled(hold, steps, &samples, Gap::Silence, &mut carried)
        .expect("outputs");
    assert_near(&recurrent, &held, BOUND, "the convolution integral");
}

fn complex_state(n: usize, rng: &mut rand::rngs::StdRng) -> Vec<Complex64> {
    spillway_ssm_core::state_space::init::complex_normal(n, rng)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_dense_systems(seed in 0_u64..1 << 40, n in 1_usize..9, length in 0_usize..40, rule in 0_usize..6, step in 0.01_f64..0.3) {
        let mut rng = systems::rng(seed);
        let system = systems::dense(n, &mut rng);
        let input = real_normal(length, &mut rng);
        let start = real_normal(n, &mut rng);
        recurrent_is_convolutional(&system, EVERY_RULE[rule], step, &input, length / 3, &start);
        let few = &input[..length.min(10)];
        let steps: Vec<f64> = (0..few.len()).map(|k| step * (1.0 + (k % 3) as f64)).collect();
        continuous_is_recurrent(&system, &steps, few);
    }

    #[test]
    fn of_diagonal_systems(seed in 0_u64..1 << 40, n in 1_usize..9, length in 0_usize..60, rule in 0_usize..6, step in 0.001_f64..0.3, pairs: bool) {
        let mut rng = systems::rng(seed);
        let modes = if pairs { Modes::ConjugatePairs } else { Modes::All };
        let system = systems::diagonal(n, modes, &mut rng);
        let input = real_normal(length, &mut rng);
        let start = complex_state(n, &mut rng);
        recurrent_is_convolutional(&system, EVERY_RULE[rule], step, &input, length / 2, &start);
        let steps: Vec<f64> = (0..length).map(|k| step * (1.0 + (k % 5) as f64)).collect();
        continuous_is_recurrent(&system, &steps, &input);
    }

    #[test]
    fn of_diagonal_plus_low_rank_systems(seed in 0_u64..1 << 40, n in 1_usize..7, rank in 0_usize..4, length in 0_usize..40, rule in 0_usize..3, step in 0.001_f64..0.3) {
        let mut rng = systems::rng(seed);
        let system = systems::dplr(n, rank, &mut rng);
        let input = real_normal(length, &mut rng);
        let start = complex_state(n, &mut rng);
        recurrent_is_convolutional(&system, EVERY_RULE[rule], step, &input, length / 4, &start);
    }

    #[test]
    fn of_the_same_system_in_two_parameterisations(seed in 0_u64..1 << 40, n in 1_usize..7, rank in 0_usize..4, length in 0_usize..30, rule in 0_usize..3, step in 0.001_f64..0.3) {
        let mut rng = systems::rng(seed);
        let system = systems::dplr(n, rank, &mut rng);
        let dense = system.to_dense().expect("a dense form");
        let input = real_normal(length, &mut rng);
        let rule = EVERY_RULE[rule];
        let structured = system.discretise(rule, step).expect("a recurrence");
        let plain = dense.discretise(rule, step).expect("a recurrence");
        let of_plain = plain.respond(&mut plain.zero_state(), &input).expect("outputs");
        let of_structured = structured.respond(&mut structured.zero_state(), &input).expect("outputs");
        assert_near(&of_structured, &of_plain, BOUND, "the dense form");
        let times: Vec<f64> = (0..8).map(|k| f64::from(k) * step).collect();
        if rank == 0 {
            let diagonal = system.without_low_rank().expect("a system");
            assert_near(&diagonal.impulse_response(&times).expect("a response"), &dense.impulse_response(&times).expect("a response"), BOUND, "impulse responses");
            assert_near(&diagonal.step_response(&times).expect("a response"), &dense.step_response(&times).expect("a response"), BOUND, "step responses");
        }
    }

    #[test]
    fn of_pairs_and_of_all_modes(seed in 0_u64..1 << 40, n in 1_usize..9, length in 0_usize..50, rule in 0_usize..6, step in 0.001_f64..0.3) {
        let half = systems::diagonal(n, Modes::ConjugatePairs, &mut systems::rng(seed));
        let both = |z: &[Complex64]| z.iter().copied().chain(z.iter().map(Complex64::conj)).collect::<Vec<_>>();
        let full = Diagonal::new(both(half.eigenvalues()), both(half.input()), both(half.output()), half.skip(), Modes::All).expect("a system");
        let kernel = |system: &Diagonal| system.discretise(EVERY_RULE[rule], step).and_then(|d| d.kernel(length)).expect("a kernel");
        assert_near(&kernel(&full), &kernel(&half), 1e-14, "all modes");
        // The imaginary part of the sum over all modes, which outputs leave out.
        let turned = both(half.output()).iter().map(|c| c * -Complex64::I).collect();
        let imaginary = Diagonal::new(both(half.eigenvalues()), both(half.input()), turned, 0.0, Modes::All).expect("a system");
        assert_near(&kernel(&imaginary), &vec![0.0; length], 1e-14, "the imaginary part");
    }
}

#[test]
fn the_exponential_trapezoid_is_the_recurrence_that_it_stands_for() {
    let mut rng = systems::rng(3);
    let system = systems::diagonal(5, Modes::ConjugatePairs, &mut rng);
    let input = real_normal(30, &mut rng);
    let (step, lambda) = (0.1, 0.4);
    let rule = Discretisation::ExponentialTrapezoidal { lambda };
    let discrete = system.discretise(rule, step).expect("a recurrence");
    let found = discrete
        .respond(&mut discrete.zero_state(), &input)
        .expect("outputs");
    // h_t = α h_{t−1} + (1 − λ)Δ α B u_{t−1} + λΔ B u_t, written down as it is.
    let (mut h, mut last) = (vec![Complex64::ZERO; 5], 0.0);
    let expected: Vec<f64> = input
        .iter()
        .map(|&u| {
            let mut sum = Complex64::ZERO;
            for (n, h) in h.iter_mut().enumerate() {
                let alpha = (system.eigenvalues()[n] * step).exp();
                let b = system.input()[n] * step;
                *h = alpha * *h + (1.0 - lambda) * alpha * b * last + lambda * b * u;
                sum += system.output()[n] * *h;
            }
            last = u;
            2.0 * sum.re + system.skip() * u
        })
        .collect();
    assert_near(&found, &expected, BOUND, "Mamba-3's recurrence");
}

#[test]
fn a_gap_is_silence_or_the_last_sample() {
    let system = Dense::from_rows(&[-1.0], &[1.0], &[1.0], 0.0).expect("a system");
    let run = |samples: &[Option<f64>], gap| {
        let steps = vec![0.1; samples.len()];
        let rule = Discretisation::ZeroOrderHold;
        system
            .respond_sampled(rule, &steps, samples, gap, &mut system.sampled_zero())
            .expect("outputs")
    };
    let with_gap = [Some(1.0), None, None, Some(2.0)];
    let silent = [Some(1.0), Some(0.0), Some(0.0), Some(2.0)];
    let held = [Some(1.0), Some(1.0), Some(1.0), Some(2.0)];
    assert_eq!(run(&with_gap, Gap::Silence), run(&silent, Gap::Silence));
    assert_eq!(run(&with_gap, Gap::HoldLast), run(&held, Gap::Silence));
}

#[test]
fn a_bridged_gap_is_one_long_step() {
    let steps = [0.1, 0.2, 0.3, 0.4, 0.5];
    let samples = [Some(1.0), None, Some(2.0), None, None];
    let bridged = spillway_ssm_core::state_space::bridge_gaps(&steps, &samples).expect("samples");
    assert_eq!(bridged, (vec![0.1, 0.5], vec![1.0, 2.0], 0.9));
}

/// K̄_l/Δ of the bilinear rule is K at the middle of step l up to Δ², so that half a step leaves a quarter of the error.
fn bilinear_kernel_is_the_impulse_response<S: StateSpace>(system: &S) {
    let error = |step: f64| {
        let length = (1.0 / step).round() as usize;
        let middles: Vec<f64> = (0..length).map(|l| (l as f64 + 0.5) * step).collect();
        let expected = system.impulse_response(&middles).expect("a response");
        let discrete = system
            .discretise(Discretisation::BILINEAR, step)
            .expect("a recurrence");
        let kernel = discrete.kernel(length).expect("a kernel");
        let differences = kernel.iter().zip(&expected).map(|(k, e)| (k / step - e).abs());
        differences.fold(0.0, f64::max)
    };
    let ratio = error(2e-3) / error(1e-3);
    assert!((3.6..4.4).contains(&ratio), "{ratio}");
}

#[test]
fn the_bilinear_rule_converges_to_the_continuous_view() {
    let mut rng = systems::rng(11);
    bilinear_kernel_is_the_impulse_response(&systems::dense(6, &mut rng));
    bilinear_kernel_is_the_impulse_response(&systems::diagonal(6, Modes::ConjugatePairs, &mut rng));
    bilinear_kernel_is_the_impulse_response(&systems::diagonal(6, Modes::All, &mut rng));
    bilinear_kernel_is_the_impulse_response(&systems::dplr(4, 2, &mut rng));
}

/// A segment of steps as the pair (product of ā, state that it leaves): joined in any grouping, they are the recurrence.
#[test]
fn a_scan_over_segments_is_the_recurrence() {
    type Segment = Vec<(Complex64, Complex64)>;
    fn scan(segments: &[Segment]) -> Segment {
        if let [one] = segments {
            return one.clone();
        }
        let (first, second) = segments.split_at(segments.len() / 3 + 1);
        let pairs = scan(first).into_iter().zip(scan(second));
        pairs
            .map(|((a1, g1), (a2, g2))| (a2 * a1, a2 * g1 + g2))
            .collect()
    }
    let mut rng = systems::rng(8);
    let system = systems::diagonal(5, Modes::ConjugatePairs, &mut rng);
    let discrete = system
        .discretise(Discretisation::ZeroOrderHold, 0.05)
        .expect("a recurrence");
    let input = real_normal(40, &mut rng);
    let mut state = complex_state(5, &mut rng);
    let modes = || discrete.transition().iter().zip(discrete.input());
    let segments: Vec<Segment> = input
        .iter()
        .map(|u| modes().map(|(a, b)| (*a, b * u)).collect())
        .collect();
    let whole = scan(&segments);
    let expected: Vec<Complex64> = state.iter().zip(&whole).map(|(x, (a, g))| a * x + g).collect();
    discrete.respond(&mut state, &input).expect("outputs");
    for (a, b) in state.iter().zip(&expected) {
        assert!((a - b).norm() < BOUND);
    }
}

//! What HiPPO matrices are, and what their states remember.

use crate::differences::{assert_close, assert_near, relative};
use crate::systems;
use spillway_ssm_core::state_space::hippo::basis::{kernel_functions, reconstruct_scaled};
use spillway_ssm_core::state_space::hippo::normal_plus_low_rank::eigenvalues;
use spillway_ssm_core::state_space::hippo::{
    LegsScan, Measure, NormalPlusLowRank, OrthonormalPolynomials, rank_correction, reconstruct, window,
};
use spillway_ssm_core::state_space::init::{
    SpectrumOptions, dss_eigenvalues, gss_eigenvalues, initialise, real_normal,
};
use spillway_ssm_core::state_space::{DMatrix, DiscreteStateSpace, Discretisation, StateSpace};
use std::f64::consts::PI;

fn root_mean_square(differences: impl Iterator<Item = f64>) -> f64 {
    let squares: Vec<f64> = differences.map(|d| d * d).collect();
    (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
}

/// e^{aA} B, coefficient by coefficient.
fn state_after_impulse(measure: Measure, n: usize, age: f64) -> Vec<f64> {
    let system = measure.transition(n).and_then(|s| s.states_only());
    system.and_then(|s| s.state_after_impulse(age)).expect("a state")
}

#[test]
fn legs_has_its_published_matrix_and_eigenvalues() {
    let legs = Measure::Legs.transition(4).expect("a system");
    #[rustfmt::skip]
    let expected = [
        -1.0, 0.0, 0.0, 0.0,
        -1.73205, -2.0, 0.0, 0.0,
        -2.23607, -3.87298, -3.0, 0.0,
        -2.64575, -4.58258, -5.91608, -4.0,
    ];
    let found: Vec<f64> = legs.a.transpose().iter().copied().collect();
    assert_near(&found, &expected, 1e-6, "A");
    assert_near(legs.b.as_slice(), &[1.0, 1.73205, 2.23607, 2.64575], 1e-5, "B");
    let eigenvalues = eigenvalues(Measure::Legs, 8).expect("eigenvalues");
    let real: Vec<f64> = eigenvalues.iter().map(|z| z.re).collect();
    assert_eq!(real, [-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0]);
}

#[test]
fn normal_forms_are_normal_and_add_up_to_the_matrix() {
    for measure in Measure::ALL {
        for n in [2, 8, 64] {
            let Ok(vectors) = rank_correction(measure, n, 2) else {
                assert_eq!(measure, Measure::Lmu);
                continue;
            };
            let system = measure.transition(n).expect("a system");
            let mut normal = system.a.clone();
            for p in &vectors {
                normal += p * p.transpose();
            }
            let real = normal.trace() / n as f64;
            let rest = &normal + normal.transpose() - DMatrix::identity(n, n) * (2.0 * real);
            assert!(
                rest.norm() <= 1e-13 * normal.norm().max(1.0),
                "{}",
                measure.name()
            );

            let form = NormalPlusLowRank::of_measure(measure, n, 2).expect("a form");
            // A = 2 Re V Λ V* − Σ P Pᵀ.
            let mut scaled = form.vectors.clone();
            for (mut column, z) in scaled.column_iter_mut().zip(&form.eigenvalues) {
                column *= *z;
            }
            let mut again = (scaled * form.vectors.adjoint()).map(|z| 2.0 * z.re);
            for p in &vectors {
                again -= p * p.transpose();
            }
            assert_close(again.as_slice(), system.a.as_slice(), 1e-13, measure.name());
            assert!(
                form.input
                    .iter()
                    .all(|b| b.re > 0.0 && b.im.abs() < 1e-9 * b.re.max(1.0))
            );
        }
    }
}

#[test]
fn the_canonical_gauge_of_legs_has_its_published_numbers() {
    let form = NormalPlusLowRank::of_measure(Measure::Legs, 8, 1).expect("a form");
    let frequencies: Vec<f64> = form.eigenvalues.iter().rev().map(|z| -z.im).collect();
    assert_near(&frequencies, &[0.42749, 1.95779, 5.35421, 19.85741], 1e-6, "Im λ");
    let input: Vec<f64> = form.input.iter().rev().map(|b| b.re).collect();
    assert_near(&input, &[0.79946, 1.17496, 1.84387, 5.15563], 2e-6, "B");
    for (p, b) in form.low_rank[0].iter().zip(&form.input) {
        assert!((p - b / 2.0_f64.sqrt()).norm() < 1e-12);
    }

    let form = NormalPlusLowRank::of_measure(Measure::Legs, 64, 1).expect("a form");
    let frequencies: Vec<f64> = form.eigenvalues.iter().rev().map(|z| -z.im).collect();
    assert_near(
        &frequencies[..4],
        &[0.26386, 0.90586, 1.70297, 2.62565],
        1e-5,
        "Im λ",
    );
    assert!((frequencies[31] - 1303.27).abs() < 0.01);
    let input: Vec<f64> = form.input.iter().rev().map(|b| b.re).collect();
    assert_near(&input[..3], &[0.5945, 0.6802, 0.7410], 1e-4, "B");
    assert!((input[31] - 40.752).abs() < 1e-3);
    let power: f64 = input.iter().map(|b| 2.0 * b * b).sum();
    assert!((power - 4096.0).abs() < 1e-8);
}

#[test]
fn a_normal_form_is_the_same_system() {
    for measure in [
        Measure::Legs,
        Measure::Legt,
        Measure::Fourier,
        Measure::Fourier2,
        Measure::FourierDecay,
        Measure::FourierDiagonal,
    ] {
        let n = 16;
        let form = NormalPlusLowRank::of_measure(measure, n, 2).expect("a form");
        let c = real_normal(n, &mut systems::rng(4));
        let plain = measure
            .transition(n)
            .and_then(|s| s.with_output(&c, 0.5))
            .expect("a system");
        let modal = form.system(form.output(&c).expect("C"), 0.5).expect("a system");
        let rule = Discretisation::BILINEAR;
        let (plain, modal) = (
            plain.discretise(rule, 0.02).expect("a recurrence"),
            modal.discretise(rule, 0.02).expect("a recurrence"),
        );
        let input = real_normal(60, &mut systems::rng(5));
        let (mut x, mut z) = (plain.zero_state(), modal.zero_state());
        let expected = plain.respond(&mut x, &input).expect("outputs");
        let found = modal.respond(&mut z, &input).expect("outputs");
        assert_near(&found, &expected, 1e-12, measure.name());
        assert_near(
            &form.coefficients(&z).expect("coefficients"),
            &x,
            1e-12,
            measure.name(),
        );
    }
}

#[test]
fn closed_measures_have_their_functions_as_responses() {
    for measure in [
        Measure::Legs,
        Measure::Lagt { beta: 1.0 },
        Measure::Lagt { beta: 0.5 },
        Measure::TiltedLagt { beta: 0.4 },
        Measure::GeneralisedLagt {
            alpha: 0.3,
            beta: 0.2,
        },
        Measure::FourierDiagonal,
    ] {
        for age in [0.0, 0.1, 0.7, 2.0] {
            let found = state_after_impulse(measure, 10, age);
            let expected = kernel_functions(measure, 10, age).expect("functions");
            assert_near(&found, &expected, 1e-12, &format!("{measure:?} at {age}"));
        }
    }
    // The functions of the others are had at age 0, where nothing has been approximated yet.
    for measure in [
        Measure::Legt,
        Measure::Lmu,
        Measure::Fourier2,
        Measure::Fourier,
        Measure::FourierDecay,
    ] {
        let found = state_after_impulse(measure, 10, 0.0);
        let expected = kernel_functions(measure, 10, 0.0).expect("functions");
        // The Fourier systems meet the jump between the ends of the window by twice the input.
        let times = match measure {
            Measure::Fourier | Measure::Fourier2 => 2.0,
            _ => 1.0,
        };
        let expected: Vec<f64> = expected.iter().map(|k| times * k).collect();
        assert_near(&found, &expected, 1e-13, measure.name());
    }
}

#[test]
fn functions_and_weights_are_dual() {
    // ∫ K_n(a) p_m(a) da = δ_nm over the window, or to where the weight is gone.
    for measure in Measure::ALL {
        if measure == Measure::LegsDiagonal {
            continue;
        }
        let measure = match measure {
            Measure::GeneralisedLagt { .. } => Measure::GeneralisedLagt {
                alpha: 0.0,
                beta: 0.2,
            },
            other => other,
        };
        let n = 6;
        let end = window(measure).unwrap_or(80.0);
        let nodes = OrthonormalPolynomials::legendre(150, end)
            .expect("polynomials")
            .quadrature();
        let mut products = DMatrix::<f64>::zeros(n, n);
        for (age, share) in nodes {
            let k = kernel_functions(measure, n, age).expect("functions");
            let p = spillway_ssm_core::state_space::hippo::basis(measure, n, age).expect("functions");
            for i in 0..n {
                for j in 0..n {
                    products[(i, j)] += share * end * k[i] * p[j];
                }
            }
        }
        for i in 0..n {
            for j in 0..n {
                let dead = i == 1 && measure.name().starts_with("fourier");
                let expected = f64::from(u8::from(i == j && !dead));
                assert!(
                    (products[(i, j)] - expected).abs() < 1e-9,
                    "{} {i} {j}: {}",
                    measure.name(),
                    products[(i, j)]
                );
            }
        }
    }
}

#[test]
fn any_measure_gives_legendre_and_laguerre_systems_again() {
    let n = 12;
    // Polynomials of a growing age have the sign (−1)^n of those of a falling one.
    let flip = |i: usize| if i.is_multiple_of(2) { 1.0 } else { -1.0 };
    let check = |polynomials: OrthonormalPolynomials, measure: Measure, bound: f64| {
        let found = polynomials.transition();
        let expected = measure.transition(n).expect("a system");
        let a = DMatrix::from_fn(n, n, |i, k| flip(i) * flip(k) * expected.a[(i, k)]);
        let b: Vec<f64> = (0..n).map(|i| flip(i) * expected.b[i]).collect();
        assert_close(found.a.as_slice(), a.as_slice(), bound, measure.name());
        assert_close(found.b.as_slice(), &b, bound, measure.name());
    };
    let tilted = Measure::TiltedLagt { beta: 1.0 };
    check(
        OrthonormalPolynomials::legendre(n, 2.0).expect("polynomials"),
        Measure::Legt,
        1e-12,
    );
    check(
        OrthonormalPolynomials::laguerre(n, 0.0).expect("polynomials"),
        tilted,
        1e-10,
    );
    let uniform = OrthonormalPolynomials::of_weight(n, 2.0, |_| 0.5);
    check(uniform.expect("polynomials"), Measure::Legt, 1e-10);
}

#[test]
fn a_measure_of_ones_own_remembers_what_it_weighs() {
    // A weight that falls over a window of length 1.
    let polynomials = OrthonormalPolynomials::of_weight(24, 1.0, |a| 2.0 - a).expect("polynomials");
    let memory = polynomials.transition().states_only().expect("a system");
    let discrete = memory
        .discretise(Discretisation::BILINEAR, 1e-3)
        .expect("a recurrence");
    let signal = |t: f64| (2.0 * PI * 1.5 * t).sin() + 0.3 * t;
    let heard: Vec<f64> = (1..=2000).map(|k| signal(f64::from(k) * 1e-3)).collect();
    let mut state = discrete.zero_state();
    discrete.respond(&mut state, &heard).expect("outputs");
    let ages: Vec<f64> = (1..10).map(|k| f64::from(k) / 10.0).collect();
    let found = polynomials.reconstruct(&state, &ages).expect("a signal");
    let error = root_mean_square(ages.iter().zip(found).map(|(a, s)| s - signal(2.0 - a)));
    assert!(error < 0.02, "{error}");
}

/// Noise with this many cycles a unit of time, as a sum of sines with fixed phases.
fn noise(t: f64, cycles: u32) -> f64 {
    let sine = |k: u32| (2.0 * PI * f64::from(k) * t / 2.0 + f64::from(k * k)).sin();
    (1..=2 * cycles).map(sine).sum::<f64>() / f64::from(2 * cycles).sqrt()
}

fn window_error(measure: Measure, n: usize, step: f64, until: f64) -> f64 {
    let memory = measure
        .transition(n)
        .and_then(|s| s.states_only())
        .expect("a system");
    let discrete = memory
        .discretise(Discretisation::BILINEAR, step)
        .expect("a recurrence");
    let heard: Vec<f64> = (1..=4000).map(|k| noise(f64::from(k) * 1e-3, 5)).collect();
    let mut state = discrete.zero_state();
    discrete.respond(&mut state, &heard).expect("outputs");
    // `step` of the system is 1e-3 of the signal.
    let ages: Vec<f64> = (2..=98).map(|k| f64::from(k) / 100.0 * until).collect();
    let found = reconstruct(measure, &state, &ages).expect("a signal");
    root_mean_square(
        ages.iter()
            .zip(found)
            .map(|(age, s)| s - noise(4.0 - age * 1e-3 / step, 5)),
    )
}

#[test]
fn windows_are_remembered() {
    // A window of length 2 of these systems is one unit of the signal.
    assert!(window_error(Measure::Legt, 64, 2e-3, 2.0) < 0.01);
    assert!(window_error(Measure::Fourier, 64, 2e-3, 2.0) < 0.1);
    assert!(window_error(Measure::Fourier2, 64, 1e-3, 1.0) < 0.1);
    let (few, many) = (
        window_error(Measure::Legs, 64, 1e-3, 1.0),
        window_error(Measure::Legs, 128, 1e-3, 1.0),
    );
    assert!(few < 0.1 && many < 0.05 && many < few, "{few} {many}");
}

#[test]
fn the_scaled_legendre_memory_holds_polynomials() {
    let cubic = |s: f64| 0.3 + s - 2.0 * s * s + 1.5 * s * s * s;
    for n in [8, 32] {
        let scan = LegsScan::new(n, Discretisation::ZeroOrderHold).expect("a scan");
        let mut memory = scan.begin();
        let heard: Vec<f64> = (0..1000).map(|k| cubic((f64::from(k) + 0.5) / 1000.0)).collect();
        scan.read(&mut memory, &heard).expect("coefficients");
        let shares: Vec<f64> = (0..1000).map(|k| (f64::from(k) + 0.5) / 1000.0).collect();
        let found = reconstruct_scaled(&memory.coefficients, &shares).expect("a signal");
        let error = root_mean_square(found.iter().zip(&heard).map(|(a, b)| a - b));
        assert!(error < 1e-5, "N {n}: {error}");
    }
}

#[test]
fn forward_euler_diverges_where_the_memory_is_wide() {
    let signal = real_normal(1000, &mut systems::rng(0));
    let error = |n: usize, rule| {
        let scan = LegsScan::new(n, rule).expect("a scan");
        let states = scan.read(&mut scan.begin(), &signal);
        states.map_or(f64::INFINITY, |states| {
            states.concat().iter().fold(0.0_f64, |m, c| m.max(c.abs()))
        })
    };
    assert!(error(32, Discretisation::FORWARD_EULER) > 1e6);
    for rule in [
        Discretisation::BACKWARD_EULER,
        Discretisation::BILINEAR,
        Discretisation::ZeroOrderHold,
    ] {
        assert!(error(32, rule) < 10.0, "{rule:?}");
    }
}

/// Errors of a memory of 1000 samples of a cubic polynomial: forward, backward, bilinear, hold.
#[test]
fn rules_of_the_scaled_legendre_memory_have_their_measured_errors() {
    let cubic = |s: f64| 0.3 + s - 2.0 * s * s + 1.5 * s * s * s;
    let error = |n: usize, rule| {
        let scan = LegsScan::new(n, rule).expect("a scan");
        let mut memory = scan.begin();
        let shares: Vec<f64> = (1..=1000).map(|k| f64::from(k) / 1000.0).collect();
        let heard: Vec<f64> = shares.iter().map(|&s| cubic(s)).collect();
        scan.read(&mut memory, &heard).expect("coefficients");
        let found = reconstruct_scaled(&memory.coefficients, &shares).expect("a signal");
        root_mean_square(found.iter().zip(&heard).map(|(a, b)| a - b))
    };
    let errors = [
        Discretisation::FORWARD_EULER,
        Discretisation::BACKWARD_EULER,
        Discretisation::BILINEAR,
        Discretisation::ZeroOrderHold,
    ]
    .map(|rule| error(8, rule));
    assert!(errors.iter().all(|&error| error < 1e-2), "{errors:?}");
    assert!(error(32, Discretisation::BACKWARD_EULER) < 2e-2);
    assert!(error(32, Discretisation::BILINEAR) < 1.5e-2);
}

#[test]
fn the_scaled_legendre_memory_knows_no_rate() {
    let signal = |s: f64| (9.0 * s).sin() + s;
    let memory = |count: u32| {
        let scan = LegsScan::new(16, Discretisation::ZeroOrderHold).expect("a scan");
        let mut memory = scan.begin();
        let heard: Vec<f64> = (0..count)
            .map(|k| signal((f64::from(k) + 0.5) / f64::from(count)))
            .collect();
        scan.read(&mut memory, &heard).expect("coefficients");
        memory.coefficients
    };
    assert_close(&memory(1000), &memory(4000), 2e-3, "a quarter of the samples");
}

#[test]
fn inverse_frequencies_follow_those_of_legs() {
    let start = |name: &str| {
        let options = SpectrumOptions::default();
        let mut imag = initialise(name, 64, 0, &options, &mut systems::rng(0))
            .expect("parameters")
            .imag;
        imag.sort_by(f64::total_cmp);
        imag
    };
    let (inv, legs) = (start("diag-inv"), start("diag-legs"));
    assert_near(&inv[..4], &[0.3234, 1.0019, 1.7264, 2.5018], 1e-4, "Inv");
    assert!((inv[31] - 1283.0).abs() < 1.0 && (legs[31] - 1303.0).abs() < 1.0);
    for (a, b) in inv.iter().zip(&legs) {
        assert!((a / b - 1.0).abs() < 0.25, "{a} {b}");
    }
}

#[test]
fn dss_has_the_modes_of_legs_of_twice_the_size() {
    let modes = dss_eigenvalues(4).expect("eigenvalues");
    let frequencies: Vec<f64> = modes.iter().rev().map(|z| z.im).collect();
    assert_near(&frequencies, &[0.42749, 1.95779, 5.35421, 19.85741], 1e-6, "Im λ");
    assert!(modes.iter().all(|z| (z.re + 0.5).abs() < 1e-14));
    let modes = gss_eigenvalues(50, &mut systems::rng(0));
    assert!(modes.iter().all(|z| z.re < 0.0 && z.im > 0.0));
}

#[test]
fn slow_modes_make_a_truncated_output_hard_to_undo() {
    let closest = |step: f64| {
        let form = NormalPlusLowRank::of_measure(Measure::Legs, 64, 1).expect("a form");
        let modes = form
            .eigenvalues
            .iter()
            .map(|&z| Discretisation::BILINEAR.mode(z, step).expect("a mode"));
        modes
            .map(|mode| (1.0 - mode.transition.powu(64)).norm())
            .fold(f64::INFINITY, f64::min)
    };
    assert!((closest(1e-3) - 0.036).abs() < 1e-3);
    assert!((closest(1e-2) - 0.309).abs() < 1e-3);
}

#[test]
fn a_memory_goes_on_where_it_was_left() {
    let signal = real_normal(50, &mut systems::rng(0));
    let scan = LegsScan::new(8, Discretisation::BILINEAR).expect("a scan");
    let (mut whole, mut split) = (scan.begin(), scan.begin());
    scan.read(&mut whole, &signal).expect("coefficients");
    scan.read(&mut split, &signal[..17]).expect("coefficients");
    scan.read(&mut split, &signal[17..]).expect("coefficients");
    assert_eq!(whole, split);
}

#[test]
fn diagonal_legs_answers_a_smooth_signal_as_legs_does() {
    // Kernels do not come near each other; responses to smooth signals do, with half of B.
    let n = 64;
    let form = NormalPlusLowRank::of_measure(Measure::Legs, n, 1).expect("a form");
    let heard: Vec<f64> = (1..=3000).map(|k| noise(f64::from(k) * 1e-3, 1)).collect();
    let output = form.output(&{
        let mut c = vec![0.0; n];
        c[..4].copy_from_slice(&[1.0, -0.5, 0.3, 0.2]);
        c
    });
    let output = output.expect("C");
    let full = form.system(output.clone(), 0.0).expect("a system");
    let half: Vec<_> = output.iter().map(|c| c / 2.0).collect();
    let diagonal = form.diagonal(half, 0.0).expect("a system");
    let rule = Discretisation::BILINEAR;
    let (full, diagonal) = (
        full.discretise(rule, 1e-3).expect("a recurrence"),
        diagonal.discretise(rule, 1e-3).expect("a recurrence"),
    );
    let expected = full.respond(&mut full.zero_state(), &heard).expect("outputs");
    let found = diagonal
        .respond(&mut diagonal.zero_state(), &heard)
        .expect("outputs");
    assert_close(&found, &expected, 0.02, "the response");
    let kernels = [diagonal.kernel(1000), full.kernel(1000)].map(|k| k.expect("a kernel"));
    let far = relative(&kernels[0], &kernels[1]);
    assert!(far > 0.1, "{far}");
}

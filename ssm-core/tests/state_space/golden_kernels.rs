//! Kernels of diagonal and of diagonal plus low-rank systems, against state-spaces/s4.

use crate::differences::assert_close;
use crate::support::{Case, STORED_IN_F32, cases};
use spillway_ssm_core::state_space::{
    Complex64, Diagonal, DiscreteDplr, DiscreteStateSpace, Discretisation, Modes, StateSpace,
    TruncatedOutput, length_at_rate, step_at_rate,
};

/// Every output of every channel.
fn all(case: &Case) -> impl Iterator<Item = (usize, usize)> {
    let channels = case.channels();
    (0..case.outputs()).flat_map(move |output| (0..channels).map(move |channel| (output, channel)))
}

fn bilinear(case: &Case, output: usize, channel: usize, rate: f64) -> DiscreteDplr {
    let step = step_at_rate(case.steps(channel)[0], rate).expect("a step");
    case.dplr(output, channel)
        .discretise(Discretisation::BILINEAR, step)
        .expect("a recurrence")
}

#[test]
fn of_the_minimal_s4d() {
    for case in cases("s4d_kernel") {
        if case.if_any("in.log_dt").is_none() {
            for (output, channel) in all(&case) {
                let system = case.diagonal(output, channel);
                let discrete = system.discretise_untied(case.rule(), &case.steps(channel));
                let expected = case.series("out.K", output, channel);
                let found = discrete.and_then(|d| d.kernel(expected.len())).expect("a kernel");
                assert_close(&found, expected, STORED_IN_F32, &case.name);
            }
            continue;
        }
        let half = case.shape("in.C")[1];
        for channel in 0..case.shape("in.C")[0] {
            let row = channel * half..(channel + 1) * half;
            let rates = &case.tensor("in.log_A_real")[row.clone()];
            let turns = &case.tensor("in.A_imag")[row.clone()];
            let pairs = rates.iter().zip(turns);
            let eigenvalues = pairs.map(|(r, &i)| Complex64::new(-r.exp(), i)).collect();
            let output = case.complex("in.C")[row].to_vec();
            let ones = vec![Complex64::ONE; half];
            let system =
                Diagonal::new(eigenvalues, ones, output, 0.0, Modes::ConjugatePairs).expect("a system");
            let step = case.tensor("in.log_dt")[channel].exp();
            let expected = case.series("out.K", 0, channel);
            let discrete = system.discretise(Discretisation::ZeroOrderHold, step);
            let found = discrete.and_then(|d| d.kernel(expected.len())).expect("a kernel");
            assert_close(&found, expected, STORED_IN_F32, &case.name);
        }
    }
}

#[test]
fn of_every_diagonal_variant() {
    for case in cases("s4d_variants") {
        for (output, channel) in all(&case) {
            let system = case.diagonal(output, channel);
            let discrete = system.discretise_untied(case.rule(), &case.steps(channel));
            let expected = case.series("out.K", output, channel);
            let found = discrete.and_then(|d| d.kernel(expected.len())).expect("a kernel");
            assert_close(&found, expected, STORED_IN_F32, &case.name);
        }
    }
}

/// [`spillway_ssm_core::state_space::Dplr::to_dense`] has ξ = √2 [Re x, Im x]; the file has [x, x̄].
fn in_pairs(case: &Case, discrete: &DiscreteDplr, channel: usize) {
    let dense = discrete.to_dense().expect("a dense form");
    let half = discrete.state_len();
    let n = 2 * half;
    let (scale, i) = (0.5_f64.sqrt(), Complex64::I);
    // Row m of the change of basis from ξ: x_m = (ξ_m + i ξ_{m + N/2})/√2.
    let basis = |m: usize, k: usize| match (m < half, k) {
        (true, k) if k == m => Complex64::from(scale),
        (true, k) if k == m + half => i * scale,
        (false, k) if k + half == m => Complex64::from(scale),
        (false, k) if k == m => -i * scale,
        _ => Complex64::ZERO,
    };
    let mut a = Vec::new();
    let mut b = Vec::new();
    for row in 0..n {
        for column in 0..n {
            let products = (0..n).flat_map(|j| (0..n).map(move |k| (j, k)));
            let sum: Complex64 = products
                .map(|(j, k)| basis(row, j) * dense.a()[(j, k)] * basis(column, k).conj())
                .sum();
            a.extend([sum.re, sum.im]);
        }
        let sum: Complex64 = (0..n).map(|k| basis(row, k) * dense.b()[k]).sum();
        b.extend([sum.re, sum.im]);
    }
    let rows = |name: &str, size: usize| &case.tensor(name)[channel * size..(channel + 1) * size];
    assert_close(&a, rows("out.dA", 2 * n * n), STORED_IN_F32, &case.name);
    assert_close(&b, rows("out.dB", 2 * n), STORED_IN_F32, &case.name);
}

#[test]
fn of_s4_and_its_truncated_output() {
    for case in cases("s4_dplr_kernel") {
        let truncated = case.scalar("C_is").as_str() == Some("C_tilde");
        for (output, channel) in all(&case) {
            let discrete = bilinear(&case, output, channel, 1.0);
            let expected = case.series("out.K", output, channel);
            let length = expected.len();
            if truncated {
                let stored = TruncatedOutput {
                    output: case.modes("in.C", output, channel),
                    length,
                };
                let found = discrete
                    .kernel_of_truncated(&stored.output, length)
                    .expect("a kernel");
                assert_close(&found, expected, STORED_IN_F32, &case.name);
                let plain = discrete.untruncate(&stored).expect("an output");
                let system = case.dplr(output, channel).with_output(plain).expect("a system");
                let recurrent = system.discretise(Discretisation::BILINEAR, discrete.step());
                let found = recurrent.and_then(|d| d.kernel(length)).expect("a kernel");
                assert_close(&found, expected, STORED_IN_F32, &case.name);
                continue;
            }
            for found in [
                discrete.kernel(length),
                discrete.kernel_by_generating_function(length),
            ] {
                assert_close(&found.expect("a kernel"), expected, STORED_IN_F32, &case.name);
            }
            let parts = |z: &[Complex64]| z.iter().flat_map(|z| [z.re, z.im]).collect::<Vec<_>>();
            let found = discrete.truncate(length).expect("an output").output;
            let expected = case.modes("out.C_tilde", output, channel);
            assert_close(&parts(&found), &parts(&expected), STORED_IN_F32, &case.name);
            let input = case.series("in.u", 0, channel);
            let y = discrete
                .respond(&mut discrete.zero_state(), input)
                .expect("outputs");
            assert_close(
                &y,
                case.series("out.y", output, channel),
                STORED_IN_F32,
                &case.name,
            );
            if output == 0 {
                in_pairs(&case, &discrete, channel);
            }
        }
    }
}

#[test]
fn at_another_sampling_rate() {
    for case in cases("s4_rate") {
        let rate = case.number("rate", 1.0);
        for (output, channel) in all(&case) {
            let expected = case.series("out.K", output, channel);
            let step = case.steps(channel)[0];
            if !case.is_dplr() {
                let mut system = case.diagonal(output, channel);
                if let Some(limit) = case.scalar("bandlimit").as_f64() {
                    system = system.band_limited(step, limit).expect("a system");
                }
                let steps = case.steps(channel).into_iter();
                let steps: Vec<f64> = steps
                    .map(|step| step_at_rate(step, rate).expect("a step"))
                    .collect();
                let discrete = system.discretise_untied(case.rule(), &steps);
                let found = discrete.and_then(|d| d.kernel(expected.len())).expect("a kernel");
                assert_close(&found, expected, STORED_IN_F32, &case.name);
                continue;
            }
            let stored = TruncatedOutput {
                output: case.modes("in.C", output, channel),
                length: case.truncated_at(),
            };
            let discrete = bilinear(&case, output, channel, rate);
            let nodes = length_at_rate(stored.length, rate).expect("a length");
            let mut found = discrete
                .kernel_of_truncated(&stored.output, nodes)
                .expect("a kernel");
            found.truncate(expected.len());
            assert_close(&found, expected, STORED_IN_F32, &case.name);
            let plain = bilinear(&case, output, channel, 1.0).untruncate(&stored);
            let exact = case.dplr(output, channel).with_output(plain.expect("an output"));
            let exact = exact.and_then(|s| s.discretise(Discretisation::BILINEAR, step * rate));
            let found = exact.and_then(|d| d.kernel(expected.len())).expect("a kernel");
            let expected = case.series("out.K_exact", output, channel);
            assert_close(&found, expected, STORED_IN_F32, &case.name);
        }
    }
}

#[test]
fn longer_than_the_output_was_truncated_for() {
    for case in cases("s4_length") {
        for (output, channel) in all(&case) {
            let expected = case.series("out.K", output, channel);
            let discrete = bilinear(&case, output, channel, 1.0);
            let stored = TruncatedOutput {
                output: case.modes("in.C", output, channel),
                length: case.truncated_at(),
            };
            let extended = discrete.extend(&stored, expected.len()).expect("an output");
            assert_eq!(extended.length as f64, case.tensor("out.l_kernel_after")[0]);
            let parts = |z: &[Complex64]| z.iter().flat_map(|z| [z.re, z.im]).collect::<Vec<_>>();
            let after = case.modes("out.C_after", output, channel);
            assert_close(
                &parts(&extended.output),
                &parts(&after),
                STORED_IN_F32,
                &case.name,
            );
            let mut found = discrete
                .kernel_of_truncated(&extended.output, extended.length)
                .expect("a kernel");
            found.truncate(expected.len());
            assert_close(&found, expected, STORED_IN_F32, &case.name);
        }
    }
}

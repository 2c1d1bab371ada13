//! Initialisations by name, against state-spaces/s4.

use crate::differences::assert_close;
use crate::support::{Case, cases};
use rand::{SeedableRng, rngs::StdRng};
use spillway_ssm_core::state_space::init::{InputInit, SpectrumOptions, initialise};

fn options(case: &Case) -> SpectrumOptions {
    SpectrumOptions {
        real_scale: case.number("real_scale", 1.0),
        imag_scale: case.number("imag_scale", 1.0),
        input: InputInit::from_name(case.text("B_init", "constant")).expect("a known B"),
        input_scale: case.number("B_scale", 1.0),
        normalise: case.scalar("normalize").as_bool().unwrap_or(false),
        ..SpectrumOptions::default()
    }
}

#[test]
fn spectra_and_inputs() {
    for case in cases("s4_init") {
        let n = case.tensor("in.N")[0] as usize;
        let mut rng = StdRng::seed_from_u64(0);
        let initial = initialise(case.text("init", ""), n, 0, &options(&case), &mut rng).expect("parameters");
        assert_close(&initial.real, case.tensor("out.Re"), 1e-12, &case.name);
        assert_close(&initial.imag, case.tensor("out.Im"), 1e-12, &case.name);
        if case.if_any("out.B").is_some() {
            let b: Vec<f64> = initial.input.iter().flat_map(|b| [b.re, b.im]).collect();
            assert_close(&b, case.tensor("out.B"), 1e-12, &case.name);
        }
    }
}

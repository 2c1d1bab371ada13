//! Every level of vector instructions that this processor has, in one process: operators keep their bounds at each, and what was
//! detected is what runs.

#[path = "host/delta/data.rs"]
#[allow(dead_code, reason = "each test binary uses its own part")]
mod delta;
#[path = "support/layouts.rs"]
#[allow(dead_code, reason = "each test binary uses its own part")]
mod layouts;
#[path = "support/linear_state_space.rs"]
mod linear_state_space;
#[path = "support/long_convolution.rs"]
mod long_convolution;
#[path = "support/long_convolution_nd.rs"]
mod long_convolution_nd;
#[path = "levels/operators.rs"]
mod operators;
#[path = "host/equivalence/data.rs"]
#[allow(dead_code, reason = "each test binary uses its own part")]
mod recurrence;
#[path = "support/shift_state_space.rs"]
mod shift_state_space;
#[path = "support/ssm_kernel.rs"]
mod ssm_kernel;
mod support;
#[path = "support/taylor.rs"]
mod taylor;
#[path = "support/tokenwise.rs"]
mod tokenwise;

mod equivalence {
    use std::sync::{Mutex, MutexGuard};

    use pulp::{Simd, WithSimd};
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::linear::{PackedMatrix, WeightType, linear, linear_with};
    use spillway_kernel_dsl::simd::{
        Isa, IsaError, active, components, dispatch, from_environment, set_active,
    };

    use super::{operators, tokenwise};

    /// The level belongs to the process: one test at a time.
    fn alone() -> MutexGuard<'static, ()> {
        static ONE: Mutex<()> = Mutex::new(());
        ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs `work` at every level that this processor has, and goes back to the one before.
    fn at_every_level(mut work: impl FnMut(Isa)) {
        let _alone = alone();
        let before = active();
        for isa in Isa::available() {
            set_active(isa).expect("available");
            work(isa);
        }
        set_active(before).expect("it was in use");
    }

    #[test]
    fn operators_agree_with_their_definitions_at_every_level() {
        let checks = operators::all();
        at_every_level(|isa| {
            for (operator, run) in &checks {
                if let Err(message) = run() {
                    panic!("{operator} at {isa}: {message}");
                }
            }
        });
    }

    /// What a kernel sees of its vectors.
    struct Look;

    impl WithSimd for Look {
        type Output = (usize, &'static str);

        fn with_simd<S: Simd>(self, _simd: S) -> Self::Output {
            (S::F32_LANES, std::any::type_name::<S>())
        }
    }

    #[test]
    fn kernels_run_with_the_vectors_of_the_level() {
        at_every_level(|isa| {
            assert_eq!(active(), isa);
            let (lanes, vectors) = dispatch(Look);
            let expected = match isa.base() {
                Isa::Avx512 => (16, "V4"),
                Isa::Avx2 => (8, "V3"),
                Isa::Sse42 => (4, "V2"),
                Isa::Neon => (4, "Neon"),
                _ => (4, "Scalar128b"),
            };
            let name = vectors.rsplit("::").next().unwrap_or_default();
            assert_eq!((lanes, name), expected, "{isa}");
        });
    }

    #[test]
    fn without_a_cap_the_best_level_is_used_and_with_one_the_cap() {
        let _alone = alone();
        // What the environment asks for, if anything, can be used: tests are not run with a value that cannot.
        let asked = from_environment().expect("SPILLWAY_ISA is unset or a level of this processor");
        assert_eq!(active(), asked);
        if std::env::var_os("SPILLWAY_ISA").is_none() {
            assert_eq!(active(), Isa::detect());
        }
    }

    #[test]
    fn a_level_that_the_processor_lacks_is_refused_and_changes_nothing() {
        let _alone = alone();
        let before = active();
        let mut lacking = 0;
        for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
            assert_eq!(set_active(isa), Err(IsaError::Unavailable { isa }));
            assert_eq!(active(), before);
            lacking += 1;
        }
        // No processor has both NEON and AVX2.
        assert!(lacking > 0);
    }

    #[test]
    fn linear_runs_the_tiles_of_the_level() {
        let (rows, cols, outs) = (5, 96, 40);
        let x = tokenwise::random(1, rows * cols, 1.0);
        let weight = tokenwise::random(2, outs * cols, 1.0);
        let x = Rows::contiguous(&x, rows, cols).expect("whole rows");
        let mut by_level: Vec<(Isa, Vec<Vec<f32>>)> = Vec::new();
        at_every_level(|isa| {
            let of = |weight_type| {
                let packed = PackedMatrix::pack(&weight, outs, cols, weight_type).expect("valid");
                let (mut taken, mut named) = (vec![f32::NAN; rows * outs], vec![f32::NAN; rows * outs]);
                linear(x, &packed, None, &mut taken).expect("valid");
                linear_with(isa, x, &packed, None, &mut named).expect("valid");
                assert_eq!(taken, named, "{weight_type:?} at {isa}");
                taken
            };
            let results = [
                WeightType::F32,
                WeightType::Bf16,
                WeightType::Int8,
                WeightType::Q8_0,
                WeightType::Int4,
            ]
            .map(of);
            by_level.push((isa, results.to_vec()));
        });
        // Tiles that round differently, so that taking the wrong ones would have been seen above.
        let of = |isa| by_level.iter().find(|(level, _)| *level == isa).map(|(_, y)| y);
        if let (Some(portable), Some(fused)) = (of(Isa::Portable), of(Isa::Avx2)) {
            assert_ne!(portable[0], fused[0], "f32: two roundings against one");
        }
    }

    #[test]
    fn every_part_is_reported_at_the_level_in_use_or_below() {
        at_every_level(|isa| {
            let parts = components();
            assert!(parts.iter().any(|part| part.follows) && parts.iter().any(|part| !part.follows));
            for part in parts {
                let most = if part.follows { isa } else { Isa::detect() };
                assert!(
                    part.isa <= most && part.isa.is_available(),
                    "{} at {isa}",
                    part.name
                );
            }
        });
    }
}

//! Products with dense weights and their gradients against their definitions in f64.

mod equivalence {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::linear::dense::{Dense, Gradients, backward, linear};
    use spillway_kernel_dsl::linear::{LinearError, reference};

    fn random(rng: &mut StdRng, len: usize) -> Vec<f32> {
        (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// ‖found − expected‖ / ‖expected‖; NaN does not compare as small.
    fn error(found: &[f32], expected: &[f64]) -> f64 {
        assert_eq!(found.len(), expected.len());
        let pairs = || found.iter().zip(expected);
        let difference: f64 = pairs().map(|(f, e)| (f64::from(*f) - e).powi(2)).sum();
        let size: f64 = pairs().map(|(_, e)| e * e).sum();
        if size == 0.0 {
            difference.sqrt()
        } else {
            (difference / size).sqrt()
        }
    }

    /// Every product and every gradient of one shape; the largest error.
    fn errors(rows: usize, in_features: usize, out_features: usize, gaps: [usize; 2], seed: u64) -> f64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let [x_stride, g_stride] = [in_features + gaps[0], out_features + gaps[1]];
        let (x, g) = (
            random(&mut rng, rows * x_stride),
            random(&mut rng, rows * g_stride),
        );
        let weight = random(&mut rng, out_features * in_features);
        let bias = random(&mut rng, out_features);
        let x = Rows::new(&x, rows, in_features, x_stride).unwrap();
        let g = Rows::new(&g, rows, out_features, g_stride).unwrap();
        let dense = Dense::new(&weight, out_features, in_features).unwrap();
        let mut largest: f64 = 0.0;
        for bias in [None, Some(bias.as_slice())] {
            let mut out = vec![f32::NAN; rows * out_features];
            linear(x, dense, bias, &mut out).unwrap();
            let expected = reference::linear(x, &weight, out_features, bias);
            largest = largest.max(error(&out, &expected));
        }
        let nan = |len: usize| vec![f32::NAN; len];
        let (mut of_x, mut of_weight, mut of_bias) = (
            nan(rows * in_features),
            nan(out_features * in_features),
            nan(out_features),
        );
        let mut gradients = Gradients {
            input: Some(&mut of_x),
            weight: Some(&mut of_weight),
            bias: Some(&mut of_bias),
        };
        backward(x, dense, g, &mut gradients).unwrap();
        let expected = reference::backward(x, &weight, g);
        for (found, expected) in [of_x, of_weight, of_bias].iter().zip(expected) {
            let error = error(found, &expected);
            assert!(!error.is_nan());
            largest = largest.max(error);
        }
        largest
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(77), ..ProptestConfig::with_cases(crate::support::property_cases(60)) })]

        #[test]
        fn dense_products_and_gradients_are_their_definitions(
            rows in 0usize..40,
            in_features in 1usize..80,
            out_features in 1usize..80,
            gaps in [0usize..5, 0usize..5],
            seed in any::<u64>(),
        ) {
            let error = errors(rows, in_features, out_features, gaps, seed);
            prop_assert!(error < 2e-6, "{error:e}");
        }
    }

    /// Large enough for several threads, and not a multiple of any block.
    #[test]
    fn products_that_are_divided_among_threads_are_their_definitions() {
        for (rows, in_features, out_features) in [(1000, 64, 77), (7, 400, 900), (300, 130, 131)] {
            let error = errors(rows, in_features, out_features, [3, 1], 5);
            assert!(error < 5e-6, "{error:e}");
        }
    }

    #[test]
    fn shapes_that_disagree_are_refused() {
        let values = [0.0f32; 24];
        let text = |error: LinearError| error.to_string();
        assert_eq!(
            text(Dense::new(&values[..5], 2, 3).unwrap_err()),
            "linear: weight needs 6 values, found 5 values"
        );
        let dense = Dense::new(&values[..6], 2, 3).unwrap();
        let rows = |cols: usize| Rows::contiguous(&values, 4, cols).unwrap();
        let mut out = [0.0; 8];
        let call = |x, bias: Option<&[f32]>, out: &mut [f32]| text(linear(x, dense, bias, out).unwrap_err());
        assert_eq!(
            call(rows(2), None, &mut out),
            "linear: input needs 4 rows of 3 values, found 4 rows of 2 values"
        );
        assert_eq!(
            call(rows(3), Some(&values[..3]), &mut out),
            "linear: bias needs 2 values, found 3 values"
        );
        assert_eq!(
            call(rows(3), None, &mut out[..7]),
            "linear: out needs 8 values, found 7 values"
        );
        let refused = |cotangent, gradients: &mut Gradients<'_>| {
            text(backward(rows(3), dense, cotangent, gradients).unwrap_err())
        };
        let three = Rows::contiguous(&values, 3, 2).unwrap();
        assert_eq!(
            refused(three, &mut Gradients::default()),
            "linear: the cotangent of out needs 4 rows of 2 values, found 3 rows of 2 values"
        );
        assert_eq!(
            refused(rows(3), &mut Gradients::default()),
            "linear: the cotangent of out needs 4 rows of 2 values, found 4 rows of 3 values"
        );
        let mut gradients = Gradients {
            weight: Some(&mut out[..5]),
            ..Gradients::default()
        };
        assert_eq!(
            refused(rows(2), &mut gradients),
            "linear: the gradient of weight needs 6 values, found 5 values"
        );
    }
}

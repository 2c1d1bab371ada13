//! Weights of 4 bits: how they are rounded, that blocks of the format q4_0 come back, and products at the ends of all ranges.

mod equivalence {
    use half::f16;
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::linear::{
        LinearError, PackedMatrix, WeightType, linear, linear_with, reference,
    };
    use spillway_kernel_dsl::simd::Isa;

    fn pack(weight: &[f32], out_features: usize, in_features: usize) -> PackedMatrix {
        PackedMatrix::pack(weight, out_features, in_features, WeightType::Int4).unwrap()
    }

    /// The weights as they are stored.
    fn stored(packed: &PackedMatrix) -> Vec<f32> {
        let mut stored = vec![f32::NAN; packed.out_features() * packed.in_features()];
        for (n, row) in stored.chunks_exact_mut(packed.in_features()).enumerate() {
            packed.row(n, row).unwrap();
        }
        stored
    }

    /// Standard normal values.
    fn normal(rng: &mut StdRng, len: usize) -> Vec<f32> {
        let one = |_| {
            let (radius, angle): (f64, f64) = (rng.random_range(0.0..1.0), rng.random_range(0.0..1.0));
            ((-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
        };
        (0..len).map(one).collect()
    }

    /// Σ (a − b)²
    fn square_error(a: &[f32], b: &[f32]) -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
    }

    /// ‖a − b‖ / ‖b‖
    fn relative(a: &[f32], b: &[f64]) -> f64 {
        let pairs = a.iter().zip(b);
        let error: f64 = pairs.map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
        (error / b.iter().map(|b| b * b).sum::<f64>()).sqrt()
    }

    /// A block as q4_0 rounds it: d = −w* / 8 with w* the first weight of the largest magnitude, and ⌊w / d + 8.5⌋.
    fn by_q4_0(block: &[f32]) -> Vec<f32> {
        let larger = |a: f32, &b: &f32| if b.abs() > a.abs() { b } else { a };
        let scale = block.iter().fold(0.0, larger) / -8.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let kept = f16::from_f32(scale).to_f32();
        let value = |w: &f32| ((w * inverse + 8.5).floor().min(15.0) - 8.0) * kept;
        block.iter().map(value).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::support::property_cases(200)))]

        #[test]
        fn no_block_is_farther_off_than_q4_0_has_it(
            in_features in 1usize..=130, out_features in 1usize..=70, seed: u64,
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let weight = normal(&mut rng, in_features * out_features);
            let found = stored(&pack(&weight, out_features, in_features));
            for (found, weight) in found.chunks(in_features).zip(weight.chunks(in_features)) {
                for (found, weight) in found.chunks(32).zip(weight.chunks(32)) {
                    let (ours, theirs) = (square_error(found, weight), square_error(&by_q4_0(weight), weight));
                    // Of the same scale ours are the nearest integers; what is allowed is the rounding of the comparison.
                    let norm = square_error(weight, &vec![0.0; weight.len()]);
                    prop_assert!(ours <= theirs + 1e-6 * norm, "{} and not {}", ours, theirs);
                }
            }
        }

        #[test]
        fn blocks_of_q4_0_come_back_to_the_bit(
            blocks in prop::collection::vec((prop::collection::vec(-8i8..=7, 32), any::<bool>(), 0usize..32, 1u16..0x7c00, any::<bool>()), 1..9),
        ) {
            let mut weight = Vec::new();
            for (mut integers, lowest, place, scale, negative) in blocks {
                integers[place] = if lowest { -8 } else { 7 };
                let scale = f16::from_bits(scale | if negative { 0x8000 } else { 0 }).to_f32();
                weight.extend(integers.iter().map(|&q| f32::from(q) * scale));
            }
            prop_assert_eq!(stored(&pack(&weight, 1, weight.len())), weight);
        }
    }

    #[test]
    fn normal_weights_are_off_by_eight_percent_and_products_by_no_more() {
        let (rows, in_features, out_features) = (40, 768, 300);
        let mut rng = StdRng::seed_from_u64(7);
        let weight = normal(&mut rng, in_features * out_features);
        let x = normal(&mut rng, rows * in_features);
        let packed = pack(&weight, out_features, in_features);
        let kept = stored(&packed);
        let exact: Vec<f64> = weight.iter().map(|&w| f64::from(w)).collect();
        let error = relative(&kept, &exact);
        assert!((0.080..0.084).contains(&error), "weights: {error:.4}");
        let theirs: Vec<f32> = weight.chunks(32).flat_map(by_q4_0).collect();
        let theirs = relative(&theirs, &exact);
        assert!(error < 0.97 * theirs, "{error:.4} and q4_0's {theirs:.4}");

        let view = Rows::contiguous(&x, rows, in_features).unwrap();
        let mut out = vec![f32::NAN; rows * out_features];
        linear(view, &packed, None, &mut out).unwrap();
        let rounded_inputs = relative(&out, &reference::linear(view, &kept, out_features, None));
        let both = relative(&out, &reference::linear(view, &weight, out_features, None));
        assert!(
            rounded_inputs < 7e-3,
            "inputs rounded to 8 bits: {rounded_inputs:e}"
        );
        assert!(both < 0.09, "inputs and weights rounded: {both:.4}");
    }

    /// All integers at the ends of their ranges, where sums in 16 bits are largest: weights and inputs whose blocks are stored without
    /// rounding, so that every output is a whole number.
    #[test]
    fn products_of_extremes_are_exact_on_every_instruction_set() {
        let (in_features, out_features) = (96, 40);
        // Row `i` is lowest everywhere, or highest, or changes every 2^i, or is of one kind but for a single place.
        let high = |i: usize, k: usize| match i {
            0 => false,
            1 => true,
            2..8 => (k >> (i - 2)) & 1 == 1,
            _ => (k % 32 == i - 8) != i.is_multiple_of(2),
        };
        let integers =
            |n: usize, ends: [i32; 2]| (0..in_features).map(move |k| ends[usize::from(high(n, k))]);
        let weights = |n| integers(n, [-8, 7]);
        let inputs = |r| integers(r, [-127, 127]);
        let weight: Vec<f32> = (0..out_features).flat_map(weights).map(|q| q as f32).collect();
        let packed = pack(&weight, out_features, in_features);
        assert_eq!(stored(&packed), weight);
        for rows in [1, 2, 3, 5, 8, 40] {
            let x: Vec<f32> = (0..rows).flat_map(inputs).map(|q| q as f32 / 8.0).collect();
            let x = Rows::contiguous(&x, rows, in_features).unwrap();
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; rows * out_features];
                linear_with(isa, x, &packed, None, &mut out).unwrap();
                for (i, &out) in out.iter().enumerate() {
                    let (r, n) = (i / out_features, i % out_features);
                    let expected: i32 = inputs(r).zip(weights(n)).map(|(x, w)| x * w).sum();
                    let expected = expected as f32 / 8.0;
                    assert_eq!(out, expected, "{isa}, {rows} rows: row {r}, output {n}");
                }
            }
        }
    }

    #[test]
    fn scales_of_every_f16_are_widened_right_on_every_instruction_set() {
        // One feature of a block is set, so that an output is the scale times −8 or 7 times the input.
        let scales: Vec<f32> = (0..0x7c00u16)
            .step_by(17)
            .map(|bits| f16::from_bits(bits).to_f32())
            .collect();
        let (in_features, out_features) = (32, 2 * scales.len());
        let mut weight = vec![0.0; in_features * out_features];
        for (row, scale) in weight.chunks_exact_mut(2 * in_features).zip(&scales) {
            (row[3], row[in_features + 3]) = (-8.0 * scale, 8.0 * scale);
        }
        let packed = pack(&weight, out_features, in_features);
        let mut x = vec![0.0; in_features];
        x[3] = 127.0;
        let x = Rows::contiguous(&x, 1, in_features).unwrap();
        let expected: Vec<f32> = weight.chunks(in_features).map(|row| row[3] * 127.0).collect();
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; out_features];
            linear_with(isa, x, &packed, None, &mut out).unwrap();
            assert_eq!(out, expected, "{isa}");
        }
    }

    #[test]
    fn weights_that_no_scale_holds_are_named() {
        let of = |value: f32| {
            let mut weight = vec![0.0; 2 * 70];
            weight[70 + 65] = value;
            PackedMatrix::pack(&weight, 2, 70, WeightType::Int4).map(|packed| stored(&packed)[70 + 65])
        };
        assert_eq!(of(524_032.0), Ok(524_032.0));
        let (row, col) = (1, 65);
        for value in [524_033.0, -1e30] {
            let named = LinearError::TooLargeForScale {
                weight_type: WeightType::Int4,
                row,
                col,
                value,
            };
            assert_eq!(of(value), Err(named));
        }
        let value = f32::INFINITY;
        assert_eq!(of(value), Err(LinearError::NonFinite { row, col, value }));
        // The smallest scale is 2⁻²⁴; half of that is nothing.
        assert_eq!(of(1e-30), Ok(0.0));
    }
}

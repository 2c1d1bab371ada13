//! Every path of `linear` against its definition in f64.

mod equivalence {
    use half::{bf16, f16};
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::linear::{
        LinearError, PackedMatrix, WeightType, linear, linear_with, reference,
    };
    use spillway_kernel_dsl::shape::{Extent, Role, ShapeError};
    use spillway_kernel_dsl::simd::Isa;

    const TYPES: [WeightType; 5] = [
        WeightType::F32,
        WeightType::Bf16,
        WeightType::Int8,
        WeightType::Q8_0,
        WeightType::Int4,
    ];

    /// Random inputs of one product.
    #[derive(Debug)]
    struct Case {
        rows: usize,
        in_features: usize,
        out_features: usize,
        stride: usize,
        x: Vec<f32>,
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
    }

    impl Case {
        fn new(shape: (usize, usize, usize), gap: usize, bias: bool, seed: u64) -> Self {
            let (rows, in_features, out_features) = shape;
            let mut rng = StdRng::seed_from_u64(seed);
            let mut random =
                |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
            let stride = in_features + gap;
            let x = random(rows * stride);
            let weight = random(out_features * in_features);
            let bias = bias.then(|| random(out_features));
            Self {
                rows,
                in_features,
                out_features,
                stride,
                x,
                weight,
                bias,
            }
        }

        fn x(&self) -> Rows<'_> {
            Rows::new(&self.x, self.rows, self.in_features, self.stride).unwrap()
        }

        fn pack(&self, weight_type: WeightType) -> PackedMatrix {
            PackedMatrix::pack(&self.weight, self.out_features, self.in_features, weight_type).unwrap()
        }

        fn out(&self) -> Vec<f32> {
            vec![f32::NAN; self.rows * self.out_features]
        }

        /// The weights as they are stored.
        fn stored(&self, packed: &PackedMatrix) -> Vec<f32> {
            let mut stored = vec![f32::NAN; self.weight.len()];
            for (n, row) in stored.chunks_exact_mut(self.in_features).enumerate() {
                packed.row(n, row).unwrap();
            }
            stored
        }

        /// The inputs as weights of this type are multiplied with them: beside bf16 they are bf16 too.
        fn inputs(&self, weight_type: WeightType) -> Vec<f32> {
            let rounded = |x: &f32| bf16::from_f32(*x).to_f32();
            match weight_type {
                WeightType::Bf16 => self.x.iter().map(rounded).collect(),
                WeightType::F32 | WeightType::Int8 | WeightType::Q8_0 | WeightType::Int4 => self.x.clone(),
            }
        }

        /// How far rounding each block of inputs to 8 bits may move each output: half a step for every weight.
        fn rounding_bound(&self, stored: &[f32]) -> Vec<f64> {
            let mut bound = Vec::new();
            for r in 0..self.rows {
                for w in stored.chunks_exact(self.in_features) {
                    let blocks = self.x().row(r).chunks(32).zip(w.chunks(32));
                    bound.push(
                        blocks
                            .map(|(x, w)| largest(x) / 254.0 * magnitude(w))
                            .sum::<f64>(),
                    );
                }
            }
            bound
        }
    }

    fn largest(x: &[f32]) -> f64 {
        x.iter().fold(0.0, |m, v| f64::max(m, f64::from(v.abs())))
    }

    fn magnitude(w: &[f32]) -> f64 {
        w.iter().map(|v| f64::from(v.abs())).sum()
    }

    /// ‖out − ref‖ / ‖ref‖, and 0 for two empty or zero results.
    fn rel_l2(out: &[f32], reference: &[f64]) -> f64 {
        assert_eq!(out.len(), reference.len());
        let square = |v: f64| v * v;
        let error: f64 = out
            .iter()
            .zip(reference)
            .map(|(&o, &r)| square(f64::from(o) - r))
            .sum();
        let norm: f64 = reference.iter().map(|&r| square(r)).sum();
        if error == 0.0 { 0.0 } else { (error / norm).sqrt() }
    }

    fn assert_matches(case: &Case, packed: &PackedMatrix, out: &[f32], what: &str) {
        let stored = case.stored(packed);
        let inputs = case.inputs(packed.weight_type());
        let inputs = Rows::new(&inputs, case.rows, case.in_features, case.stride).unwrap();
        let expected = reference::linear(inputs, &stored, case.out_features, case.bias.as_deref());
        if matches!(packed.weight_type(), WeightType::F32 | WeightType::Bf16) {
            // An output that cancels to nearly zero is measured beside what was summed.
            let summed: f64 = stored.chunks_exact(case.in_features).map(magnitude).sum();
            let error = rel_l2(out, &expected);
            let tiny = expected
                .iter()
                .all(|v| v.abs() < 1e-3 * summed / case.out_features as f64);
            assert!(
                error <= if tiny { 1e-3 } else { 2e-6 },
                "{what}: relative error {error:e}"
            );
            return;
        }
        for ((&o, &e), &bound) in out.iter().zip(&expected).zip(&case.rounding_bound(&stored)) {
            let error = (f64::from(o) - e).abs();
            assert!(
                error <= bound * 1.001 + 1e-5,
                "{what}: {o} for {e}, which rounding moves by at most {bound}"
            );
        }
    }

    fn shapes() -> impl Strategy<Value = (usize, usize, usize)> {
        (0usize..=70, 1usize..=130, 1usize..=130)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::support::property_cases(200)))]

        #[test]
        fn every_instruction_set_computes_the_product(
            shape in shapes(), gap in 0usize..5, bias: bool, seed: u64,
        ) {
            let case = Case::new(shape, gap, bias, seed);
            for weight_type in TYPES {
                let packed = case.pack(weight_type);
                for isa in Isa::available() {
                    let mut out = case.out();
                    linear_with(isa, case.x(), &packed, case.bias.as_deref(), &mut out).unwrap();
                    assert_matches(&case, &packed, &out, &format!("{isa} {weight_type} {shape:?}"));
                }
            }
        }

        #[test]
        fn a_row_comes_back_as_it_was_packed(
            (_, in_features, out_features) in shapes(), seed: u64,
        ) {
            let case = Case::new((0, in_features, out_features), 0, false, seed);
            prop_assert_eq!(&case.stored(&case.pack(WeightType::F32)), &case.weight);
            let rounded: Vec<f32> = case.weight.iter().map(|&w| bf16::from_f32(w).to_f32()).collect();
            prop_assert_eq!(case.stored(&case.pack(WeightType::Bf16)), rounded);
            // A bf16 scale makes the step at most 1/128 wider than the largest weight asks for, an f16 one 1/2048 or, among subnormal
            // ones, 2⁻²⁴.
            for (weight_type, wider, least) in [(WeightType::Int8, 128.0, 0.0), (WeightType::Q8_0, 2048.0, 2_f64.powi(-24))] {
                let stored = case.stored(&case.pack(weight_type));
                for (stored, original) in stored.chunks(in_features).zip(case.weight.chunks(in_features)) {
                    for (stored, original) in stored.chunks(32).zip(original.chunks(32)) {
                        // Half a step.
                        let step = largest(original) / 127.0 * (1.0 + 1.0 / wider) + least;
                        for (s, o) in stored.iter().zip(original) {
                            prop_assert!(f64::from((s - o).abs()) <= step * 0.5001, "{weight_type}: {} for {}", s, o);
                        }
                    }
                }
            }
        }

        #[test]
        fn building_in_pieces_packs_the_same_matrix(
            (_, in_features, out_features) in shapes(), cuts in prop::collection::vec(0usize..=130, 0..5), seed: u64,
        ) {
            let case = Case::new((0, in_features, out_features), 0, false, seed);
            for weight_type in TYPES {
                let mut builder = PackedMatrix::builder(out_features, in_features, weight_type).unwrap();
                let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (out_features + 1)).collect();
                cuts.sort_unstable();
                cuts.push(out_features);
                let mut from = 0;
                for to in cuts {
                    builder.push_rows(&case.weight[from * in_features..to * in_features]).unwrap();
                    from = to;
                }
                let pieces = builder.finish().unwrap();
                prop_assert_eq!(case.stored(&pieces), case.stored(&case.pack(weight_type)));
            }
        }

        #[test]
        fn half_precision_rows_pack_as_their_widened_values(
            (_, in_features, out_features) in shapes(), seed: u64,
        ) {
            let case = Case::new((0, in_features, out_features), 0, false, seed);
            for weight_type in TYPES {
                let brain: Vec<bf16> = case.weight.iter().map(|&w| bf16::from_f32(w)).collect();
                let half: Vec<f16> = case.weight.iter().map(|&w| f16::from_f32(w)).collect();
                let mut from_brain = PackedMatrix::builder(out_features, in_features, weight_type).unwrap();
                from_brain.push_rows_bf16(&brain).unwrap();
                let mut from_half = PackedMatrix::builder(out_features, in_features, weight_type).unwrap();
                from_half.push_rows_f16(&half).unwrap();
                let widened: Vec<f32> = brain.iter().map(|w| w.to_f32()).collect();
                let packed = PackedMatrix::pack(&widened, out_features, in_features, weight_type).unwrap();
                prop_assert_eq!(case.stored(&from_brain.finish().unwrap()), case.stored(&packed));
                let widened: Vec<f32> = half.iter().map(|w| w.to_f32()).collect();
                let packed = PackedMatrix::pack(&widened, out_features, in_features, weight_type).unwrap();
                prop_assert_eq!(case.stored(&from_half.finish().unwrap()), case.stored(&packed));
            }
        }
    }

    /// Shapes with several spans of rows, several segments of features, and enough work for threads.
    const LARGE: [(usize, usize, usize); 6] = [
        (1, 1100, 1301),
        (2, 1025, 700),
        (15, 1030, 333),
        (61, 769, 97),
        (340, 515, 65),
        (700, 1537, 40),
    ];

    #[test]
    fn large_products_are_right_on_every_instruction_set() {
        for (i, shape) in LARGE.into_iter().enumerate() {
            let case = Case::new(shape, 3, true, i as u64);
            for weight_type in TYPES {
                let packed = case.pack(weight_type);
                for isa in Isa::available() {
                    let mut out = case.out();
                    linear_with(isa, case.x(), &packed, case.bias.as_deref(), &mut out).unwrap();
                    assert_matches(&case, &packed, &out, &format!("{isa} {weight_type} {shape:?}"));
                }
            }
        }
    }

    /// All bytes at the ends of their range, where sums of products in 16 bits would saturate: weights and inputs whose blocks
    /// quantise without rounding, so that every output is a whole number.
    #[test]
    fn int8_products_of_extremes_are_exact_on_every_instruction_set() {
        let (in_features, out_features) = (96, 40);
        // Row `i` is largest everywhere, or smallest, or changes its sign every 2^i, or is of one sign but for a single place.
        let sign = |i: usize, k: usize| match i {
            0 => 1,
            1 => -1,
            2..8 => 1 - 2 * ((k >> (i - 2)) & 1) as i32,
            _ => 1 - 2 * i32::from(k % 32 == i - 8),
        };
        let weights = |n: usize| (0..in_features).map(move |k| 127 * sign(n, k));
        let weight: Vec<f32> = (0..out_features).flat_map(weights).map(|q| q as f32).collect();
        let packed = PackedMatrix::pack(&weight, out_features, in_features, WeightType::Int8).unwrap();
        // Few rows multiply the bytes as they lie; many may take another way.
        for rows in [1, 2, 3, 5, 8, 40] {
            let x: Vec<f32> = (0..rows).flat_map(weights).map(|q| q as f32 / 8.0).collect();
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; rows * out_features];
                let x = Rows::contiguous(&x, rows, in_features).unwrap();
                linear_with(isa, x, &packed, None, &mut out).unwrap();
                for (i, &out) in out.iter().enumerate() {
                    let (r, n) = (i / out_features, i % out_features);
                    let expected: i32 = weights(r).zip(weights(n)).map(|(x, w)| x * w).sum();
                    assert_eq!(
                        out,
                        expected as f32 / 8.0,
                        "{isa}, {rows} rows: row {r}, output {n}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        for (i, shape) in LARGE.into_iter().enumerate() {
            let case = Case::new(shape, 0, true, i as u64);
            for weight_type in TYPES {
                let packed = case.pack(weight_type);
                let with_threads = |threads: usize| -> Vec<u32> {
                    let pool = rayon::ThreadPoolBuilder::new()
                        .num_threads(threads)
                        .build()
                        .unwrap();
                    let mut out = case.out();
                    pool.install(|| linear(case.x(), &packed, case.bias.as_deref(), &mut out))
                        .unwrap();
                    out.iter().map(|v| v.to_bits()).collect()
                };
                let one = with_threads(1);
                assert_eq!(one, with_threads(2), "{weight_type} {shape:?} on two threads");
                assert_eq!(one, with_threads(7), "{weight_type} {shape:?} on seven threads");
            }
        }
    }

    #[test]
    fn rounding_inputs_to_bf16_costs_less_than_three_in_a_thousand() {
        let case = Case::new((40, 768, 300), 0, false, 7);
        let packed = case.pack(WeightType::Bf16);
        let mut out = case.out();
        linear(case.x(), &packed, None, &mut out).unwrap();
        let exact = reference::linear(case.x(), &case.stored(&packed), 300, None);
        let error = rel_l2(&out, &exact);
        assert!((1e-4..3e-3).contains(&error), "inputs rounded to bf16: {error:e}");
    }

    #[test]
    fn int8_costs_less_than_one_percent() {
        let case = Case::new((40, 768, 300), 0, false, 7);
        let packed = case.pack(WeightType::Int8);
        let mut out = case.out();
        linear(case.x(), &packed, None, &mut out).unwrap();
        let stored = reference::linear(case.x(), &case.stored(&packed), 300, None);
        let original = reference::linear(case.x(), &case.weight, 300, None);
        let (rounded_inputs, both) = (rel_l2(&out, &stored), rel_l2(&out, &original));
        assert!(
            rounded_inputs < 5e-3,
            "inputs rounded to 8 bits: {rounded_inputs:e}"
        );
        assert!(both < 1e-2, "inputs and weights rounded to 8 bits: {both:e}");
    }

    #[test]
    fn non_finite_values_pass_through() {
        let (x, in_features) = (vec![1.0f32; 3 * 40], 40);
        for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            for weight_type in [WeightType::F32, WeightType::Bf16] {
                let mut weight = vec![0.5f32; 5 * in_features];
                weight[2 * in_features + 33] = value;
                let packed = PackedMatrix::pack(&weight, 5, in_features, weight_type).unwrap();
                for isa in Isa::available() {
                    let mut out = [0.0; 15];
                    let x = Rows::contiguous(&x, 3, in_features).unwrap();
                    linear_with(isa, x, &packed, None, &mut out).unwrap();
                    for (i, out) in out.iter().enumerate() {
                        let expected = if i % 5 == 2 { value } else { 20.0 };
                        assert!(out.to_bits() == expected.to_bits() || (out.is_nan() && expected.is_nan()));
                    }
                }
            }
            let mut x = x.clone();
            x[in_features + 7] = value;
            let packed = PackedMatrix::pack(&[0.5; 5 * 40], 5, in_features, WeightType::Bf16).unwrap();
            for isa in Isa::available() {
                let mut out = [0.0; 15];
                let x = Rows::contiguous(&x, 3, in_features).unwrap();
                linear_with(isa, x, &packed, None, &mut out).unwrap();
                for (i, out) in out.iter().enumerate() {
                    let expected = if i / 5 == 1 { value } else { 20.0 };
                    assert!(out.to_bits() == expected.to_bits() || (out.is_nan() && expected.is_nan()));
                }
            }
            for weight_type in [WeightType::Int8, WeightType::Q8_0, WeightType::Int4] {
                let packed = PackedMatrix::pack(&[0.5; 5 * 40], 5, in_features, weight_type).unwrap();
                let mut stored = [0.0; 40];
                packed.row(0, &mut stored).unwrap();
                let sum: f32 = stored.iter().sum();
                for isa in Isa::available() {
                    let mut out = [0.0; 15];
                    let x = Rows::contiguous(&x, 3, in_features).unwrap();
                    linear_with(isa, x, &packed, None, &mut out).unwrap();
                    assert!(
                        out[5..10].iter().all(|v| v.is_nan()),
                        "{isa}: a row with {value} gives {:?}",
                        &out[5..10]
                    );
                    assert!(
                        out[..5]
                            .iter()
                            .chain(&out[10..])
                            .all(|v| (v - sum).abs() < 1e-4 * sum)
                    );
                }
            }
        }
    }

    #[test]
    fn int8_keeps_tiny_and_huge_blocks() {
        for magnitude in [1e-44f32, 1e-38, 1e-30, 1e30, 3.4e38] {
            let packed = PackedMatrix::pack(&[magnitude; 32], 1, 32, WeightType::Int8).unwrap();
            let mut row = [0.0; 32];
            packed.row(0, &mut row).unwrap();
            // The smallest bf16 scale is 2^-133, about 1e-40.
            let error = f64::from(row[0] - magnitude).abs();
            assert!(
                error <= (5e-3 * f64::from(magnitude)).max(1e-40),
                "{magnitude:e} came back as {:e}",
                row[0]
            );
        }
    }

    #[test]
    fn wrong_shapes_are_named() {
        let pack =
            |len: usize, out, inf| PackedMatrix::pack(&vec![0.0; len], out, inf, WeightType::F32).map(|_| ());
        assert_eq!(
            pack(0, 0, 3),
            Err(LinearError::EmptyMatrix {
                out_features: 0,
                in_features: 3
            })
        );
        assert_eq!(
            pack(7, 2, 3),
            Err(LinearError::PartialRow {
                in_features: 3,
                found: 7
            })
        );
        assert_eq!(
            pack(3, 2, 3),
            Err(LinearError::RowCount {
                expected: 2,
                found: 1
            })
        );
        assert_eq!(
            pack(9, 2, 3),
            Err(LinearError::RowCount {
                expected: 2,
                found: 3
            })
        );
        let too_large = PackedMatrix::builder(usize::MAX / 2, 1000, WeightType::F32).map(|_| ());
        assert!(matches!(too_large, Err(LinearError::TooLarge { .. })));
        let mut weight = vec![0.0; 2 * 70];
        weight[70 + 65] = f32::INFINITY;
        let packed = PackedMatrix::pack(&weight, 2, 70, WeightType::Int8).map(|_| ());
        assert_eq!(
            packed,
            Err(LinearError::NonFinite {
                row: 1,
                col: 65,
                value: f32::INFINITY
            })
        );

        let wrong = |operand, expected, found| {
            LinearError::Shape(ShapeError {
                operator: "linear",
                operand,
                role: Role::Value,
                expected,
                found,
            })
        };
        let packed = PackedMatrix::pack(&[1.0; 6], 2, 3, WeightType::F32).unwrap();
        assert_eq!(
            packed.row(2, &mut [0.0; 3]),
            Err(LinearError::RowIndex {
                out_features: 2,
                found: 2
            })
        );
        assert_eq!(
            packed.row(1, &mut [0.0; 4]),
            Err(wrong("row", Extent::Values(3), Extent::Values(4)))
        );
        let data = [1.0; 8];
        let x = Rows::contiguous(&data, 2, 3).unwrap();
        let wide = Rows::contiguous(&data, 2, 4).unwrap();
        let mut out = [0.0; 4];
        let error = linear(wide, &packed, None, &mut out);
        assert_eq!(
            error,
            Err(wrong(
                "input",
                Extent::Rows { rows: 2, cols: 3 },
                Extent::Rows { rows: 2, cols: 4 }
            ))
        );
        let error = linear(x, &packed, Some(&[0.0]), &mut out);
        assert_eq!(error, Err(wrong("bias", Extent::Values(2), Extent::Values(1))));
        let error = linear(x, &packed, None, &mut out[..3]);
        assert_eq!(error, Err(wrong("out", Extent::Values(4), Extent::Values(3))));
        for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
            assert_eq!(
                linear_with(isa, x, &packed, None, &mut out),
                Err(LinearError::Unavailable { isa })
            );
        }
    }
}

//! Blocks of ggml's q8_0 and q4_0: kept to the bit, multiplied exactly in integers at every level of instructions, and refused by name.

mod equivalence {
    use half::f16;
    use proptest::prelude::*;
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::linear::{LinearError, PackedMatrix, WeightType, linear_with};
    use spillway_kernel_dsl::simd::Isa;

    /// A block's scale, and 32 integers.
    type Block = (f16, Vec<i8>);

    fn q8_0((scale, integers): &Block) -> Vec<u8> {
        let bytes = integers.iter().map(|q| q.cast_unsigned());
        scale.to_le_bytes().into_iter().chain(bytes).collect()
    }

    /// Integers of −8 to 7.
    fn q4_0((scale, integers): &Block) -> Vec<u8> {
        let four = |q: i8| (q + 8).cast_unsigned();
        let bytes = (0..16).map(|i| four(integers[i]) | (four(integers[i + 16]) << 4));
        scale.to_le_bytes().into_iter().chain(bytes).collect()
    }

    fn values(blocks: &[Block]) -> Vec<f32> {
        let block = |(scale, integers): &Block| {
            let scale = scale.to_f32();
            integers
                .iter()
                .map(|&q| f32::from(q) * scale)
                .collect::<Vec<f32>>()
        };
        blocks.iter().flat_map(block).collect()
    }

    /// A matrix of rows of `columns` blocks, pushed in two pieces.
    fn packed(
        blocks: &[Block],
        columns: usize,
        (weight_type, four_bits): (WeightType, bool),
    ) -> PackedMatrix {
        let rows = blocks.len() / columns;
        let mut builder = PackedMatrix::builder(rows, 32 * columns, weight_type).unwrap();
        let (first, second) = blocks.split_at(rows / 3 * columns);
        for blocks in [first, second] {
            match four_bits {
                true => builder.push_q4_0(&blocks.iter().flat_map(q4_0).collect::<Vec<u8>>()),
                false => builder.push_q8_0(&blocks.iter().flat_map(q8_0).collect::<Vec<u8>>()),
            }
            .unwrap();
        }
        assert_eq!(builder.missing(), 0);
        builder.finish().unwrap()
    }

    /// The weights as they are stored.
    fn stored(packed: &PackedMatrix) -> Vec<f32> {
        let mut stored = vec![f32::NAN; packed.out_features() * packed.in_features()];
        for (n, row) in stored.chunks_exact_mut(packed.in_features()).enumerate() {
            packed.row(n, row).unwrap();
        }
        stored
    }

    /// Finite scales of either sign, subnormal ones and zero too.
    fn blocks(integers: std::ops::RangeInclusive<i8>) -> impl Strategy<Value = (usize, Vec<Block>)> {
        let scale = (0u16..0x7c00, any::<bool>())
            .prop_map(|(bits, negative)| f16::from_bits(bits | if negative { 0x8000 } else { 0 }));
        let block = (scale, prop::collection::vec(integers, 32));
        (1usize..4, 1usize..70).prop_flat_map(move |(columns, rows)| {
            (
                Just(columns),
                prop::collection::vec(block.clone(), columns * rows),
            )
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::support::property_cases(100)))]

        #[test]
        fn blocks_of_q8_0_are_kept_to_the_bit((columns, blocks) in blocks(-128..=127)) {
            let packed = packed(&blocks, columns, (WeightType::Q8_0, false));
            prop_assert_eq!(stored(&packed), values(&blocks));
        }

        #[test]
        fn blocks_of_q4_0_are_kept_to_the_bit_in_four_bits_and_in_eight((columns, blocks) in blocks(-8..=7)) {
            for weight_type in [WeightType::Int4, WeightType::Q8_0] {
                let packed = packed(&blocks, columns, (weight_type, true));
                prop_assert_eq!(stored(&packed), values(&blocks), "{}", weight_type);
            }
        }

        #[test]
        fn values_of_q8_0_come_back_to_the_bit((columns, mut blocks) in blocks(-127..=127), place in 0usize..32) {
            blocks.iter_mut().for_each(|(_, integers)| integers[place] = 127);
            let (values, width) = (values(&blocks), 32 * columns);
            let packed = PackedMatrix::pack(&values, values.len() / width, width, WeightType::Q8_0).unwrap();
            prop_assert_eq!(stored(&packed), values);
        }
    }

    /// Integers and inputs at the ends of their ranges, −128 included, and scales that are powers of two: every output is exact.
    #[test]
    fn products_of_extremes_are_exact_on_every_instruction_set() {
        let (columns, out_features) = (3, 40);
        let high = |i: usize, k: usize| match i {
            0 => false,
            1 => true,
            2..8 => (k >> (i - 2)) & 1 == 1,
            _ => (k % 32 == i - 8) != i.is_multiple_of(2),
        };
        let integers =
            |n: usize, ends: [i32; 2]| (0..32 * columns).map(move |k| ends[usize::from(high(n, k))]);
        let scale = |n: usize| 2.0_f32.powi(n as i32 % 5 - 2) * if n.is_multiple_of(3) { -1.0 } else { 1.0 };
        for (weight_type, four_bits, ends) in [
            (WeightType::Q8_0, false, [-128, 127]),
            (WeightType::Q8_0, true, [-8, 7]),
            (WeightType::Int4, true, [-8, 7]),
        ] {
            let mut blocks = Vec::new();
            for n in 0..out_features {
                let row: Vec<i8> = integers(n, ends).map(|q| q as i8).collect();
                blocks.extend(
                    row.chunks(32)
                        .map(|block| (f16::from_f32(scale(n)), block.to_vec())),
                );
            }
            let packed = packed(&blocks, columns, (weight_type, four_bits));
            // Few rows multiply the integers as they lie; many may take another way.
            for rows in [1, 2, 3, 5, 8, 40] {
                let inputs = |r| integers(r, [-127, 127]);
                let x: Vec<f32> = (0..rows).flat_map(inputs).map(|q| q as f32 / 8.0).collect();
                let x = Rows::contiguous(&x, rows, 32 * columns).unwrap();
                for isa in Isa::available() {
                    let mut out = vec![f32::NAN; rows * out_features];
                    linear_with(isa, x, &packed, None, &mut out).unwrap();
                    for (i, &out) in out.iter().enumerate() {
                        let (r, n) = (i / out_features, i % out_features);
                        let sum: i32 = inputs(r).zip(integers(n, ends)).map(|(x, w)| x * w).sum();
                        let expected = sum as f32 / 8.0 * scale(n);
                        assert_eq!(
                            out, expected,
                            "{isa}, {weight_type}, {rows} rows: row {r}, output {n}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn q8_0_scales_of_every_f16_are_widened_right_on_every_instruction_set() {
        let scales: Vec<f16> = (0..0x7c00u16).step_by(17).map(f16::from_bits).collect();
        let mut integers = vec![0; 32];
        integers[3] = -127;
        let blocks: Vec<Block> = scales.iter().map(|scale| (*scale, integers.clone())).collect();
        let packed = packed(&blocks, 1, (WeightType::Q8_0, false));
        for rows in [1, 24] {
            let mut x = vec![0.0; 32 * rows];
            x.chunks_exact_mut(32).for_each(|row| row[3] = 1.0);
            let x = Rows::contiguous(&x, rows, 32).unwrap();
            let expected: Vec<f32> = scales.iter().map(|scale| -127.0 * scale.to_f32()).collect();
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; rows * scales.len()];
                linear_with(isa, x, &packed, None, &mut out).unwrap();
                for (found, expected) in out
                    .chunks_exact(scales.len())
                    .flatten()
                    .zip(expected.iter().cycle())
                {
                    // 1 is 127 times a 127th, rounded.
                    let off = (found - expected).abs();
                    assert!(
                        off <= 1e-6 * expected.abs(),
                        "{isa}, {rows} rows: {found} for {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_no_row_of_blocks_is_named() {
        let builder = |weight_type| PackedMatrix::builder(2, 64, weight_type).unwrap();
        for weight_type in [WeightType::F32, WeightType::Bf16, WeightType::Int8] {
            assert!(matches!(
                builder(weight_type).push_q4_0(&[0; 36]),
                Err(LinearError::BlockFormat { format: "q4_0", .. })
            ));
        }
        assert_eq!(
            builder(WeightType::Int4).push_q8_0(&[0; 68]),
            Err(LinearError::BlockFormat {
                weight_type: WeightType::Int4,
                format: "q8_0",
                expected: "q8_0",
            })
        );
        // Half a row, a row and a byte, three rows of two.
        for found in [34, 69] {
            assert_eq!(
                builder(WeightType::Q8_0).push_q8_0(&vec![0; found]),
                Err(LinearError::PartialBlocks {
                    in_features: 64,
                    block_bytes: 34,
                    found,
                })
            );
        }
        assert_eq!(
            builder(WeightType::Q8_0).push_q8_0(&[0; 3 * 68]),
            Err(LinearError::RowCount {
                expected: 2,
                found: 3,
            })
        );
        let narrow = PackedMatrix::builder(1, 16, WeightType::Q8_0)
            .unwrap()
            .push_q8_0(&[]);
        assert!(matches!(
            narrow,
            Err(LinearError::PartialBlocks { in_features: 16, .. })
        ));
        let mut infinite = vec![0; 2 * 68];
        infinite[68 + 34..][..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
        assert_eq!(
            builder(WeightType::Q8_0).push_q8_0(&infinite),
            Err(LinearError::NonFinite {
                row: 1,
                col: 32,
                value: f32::INFINITY,
            })
        );
    }

    #[test]
    fn magnitudes_at_both_ends_of_q8_0_are_kept_or_named() {
        let of = |value: f32| {
            PackedMatrix::pack(&[value; 32], 1, 32, WeightType::Q8_0).map(|packed| stored(&packed)[0])
        };
        assert_eq!(of(8_319_008.0), Ok(8_319_008.0));
        let value = -8_319_009.0;
        assert_eq!(
            of(value),
            Err(LinearError::TooLargeForScale {
                weight_type: WeightType::Q8_0,
                row: 0,
                col: 0,
                value,
            })
        );
        // The smallest scale is 2⁻²⁴, 6e-8.
        for value in [1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-30] {
            let found = of(value).unwrap();
            assert!(
                (found - value).abs() <= (0.004 * value).max(2.98e-8),
                "{value}: {found}"
            );
        }
    }
}

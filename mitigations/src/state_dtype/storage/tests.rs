//! Rounding against every number that a type has.

use super::*;

/// Every finite number of a float with these bits, from the bits' meaning, the least first.
fn numbers(exponent_bits: u32, fraction_bits: u32, largest: f64) -> Vec<f64> {
    let bias = (1i32 << (exponent_bits - 1)) - 1;
    let all = (0u32..1 << (exponent_bits + fraction_bits)).map(|code| {
        let (exponent, fraction) = (code >> fraction_bits, code & ((1 << fraction_bits) - 1));
        let fraction = f64::from(fraction) / f64::from(1u32 << fraction_bits);
        match exponent {
            0 => fraction * 2f64.powi(1 - bias),
            _ => (1.0 + fraction) * 2f64.powi(exponent as i32 - bias),
        }
    });
    all.take_while(|number| *number <= largest).collect()
}

fn floats() -> [(ElementType, Vec<f64>); 4] {
    [
        (ElementType::Bf16, numbers(8, 7, BF16.largest)),
        (ElementType::F16, numbers(5, 10, F16.largest)),
        (ElementType::Fp8E4m3, numbers(4, 3, FP8_E4M3.largest)),
        (ElementType::Fp8E5m2, numbers(5, 2, FP8_E5M2.largest)),
    ]
}

fn nearest(element: ElementType, x: f32) -> f32 {
    let mut state = [x];
    Storage::new(element).store(&mut state, 1, &mut Rounding::Nearest);
    state[0]
}

#[test]
fn there_are_as_many_numbers_as_the_formats_have() {
    // Codes without those of infinities and NaN: 255 · 128, 31 · 1024, 127, 31 · 4.
    let counts = floats().map(|(_, numbers)| numbers.len());
    assert_eq!(counts, [32640, 31744, 127, 124]);
}

#[test]
fn every_number_stays_what_it_is_and_between_two_the_nearer_is_taken_or_the_even() {
    for (element, numbers) in floats() {
        for (place, pair) in numbers.windows(2).enumerate() {
            let (below, above) = (pair[0] as f32, pair[1] as f32);
            // Two neighbours differ in their last bit, and the even one has an even place.
            let even = if place % 2 == 0 { below } else { above };
            let middle = ((pair[0] + pair[1]) / 2.0) as f32;
            for sign in [1.0f32, -1.0] {
                let rounds = |x: f32, expected: f32| {
                    let found = nearest(element, sign * x);
                    assert_eq!(found, sign * expected, "{element}: {x:e}");
                };
                rounds(below, below);
                rounds(above, above);
                if f64::from(middle) == (pair[0] + pair[1]) / 2.0 {
                    rounds(middle, even);
                    rounds(middle.next_down(), below);
                    rounds(middle.next_up(), above);
                }
                rounds(below.next_up(), below);
                rounds(above.next_down(), above);
            }
        }
    }
}

#[test]
fn what_is_beyond_the_largest_becomes_infinite_or_the_largest() {
    // Half a quantum beyond the largest is a tie, whose even neighbour is beyond.
    assert_eq!(nearest(ElementType::F16, 65519.996), 65504.0);
    assert_eq!(nearest(ElementType::F16, 65520.0), f32::INFINITY);
    assert_eq!(nearest(ElementType::F16, -1e6), f32::NEG_INFINITY);
    assert_eq!(nearest(ElementType::Bf16, f32::MAX), f32::INFINITY);
    assert_eq!(nearest(ElementType::Bf16, 3.389_5e38), BF16.largest as f32);
    for (element, largest) in [(ElementType::Fp8E4m3, 448.0), (ElementType::Fp8E5m2, 57344.0)] {
        assert_eq!(nearest(element, 1e9), largest);
        assert_eq!(nearest(element, f32::NEG_INFINITY), -largest);
    }
    for (element, _) in floats() {
        assert!(nearest(element, f32::NAN).is_nan());
        assert_eq!(nearest(element, -0.0).to_bits(), (-0.0f32).to_bits());
    }
}

#[test]
fn f32_changes_no_bit() {
    for x in [0.1f32, f32::MIN_POSITIVE / 3.0, -f32::MAX, f32::INFINITY] {
        assert_eq!(nearest(ElementType::F32, x).to_bits(), x.to_bits());
    }
}

/// A state of 20 × 18 numbers whose rows differ in size.
fn state() -> Vec<f32> {
    let mut bits = Bits::new(&[3]);
    (0..20 * 18)
        .map(|place| (bits.uniform() as f32 - 0.5) * 4f32.powi((place / 18) % 5))
        .collect()
}

/// Index of the block in which the number at `place` shares a scale.
fn block(scale: Scale, place: usize) -> usize {
    match scale {
        Scale::None | Scale::Head => 0,
        Scale::Row => place / 18,
        Scale::Tile => place / 18 / TILE * 2 + place % 18 / TILE,
    }
}

#[test]
fn whole_numbers_are_the_nearest_multiples_of_their_blocks_scale() {
    for scale in [Scale::Head, Scale::Row, Scale::Tile] {
        let storage = Storage {
            element: ElementType::Int8,
            scale,
        };
        let (before, mut after) = (state(), state());
        storage.store(&mut after, 18, &mut Rounding::Nearest);
        for (place, (x, found)) in before.iter().zip(&after).enumerate() {
            let own = before.iter().enumerate();
            let own = own.filter(|(other, _)| block(scale, *other) == block(scale, place));
            let largest = own.map(|(_, x)| x.abs()).fold(0.0, f32::max);
            let s = f64::from((f64::from(largest) / 127.0) as f32);
            let expected = ((f64::from(*x) / s).round_ties_even() * s) as f32;
            assert_eq!(*found, expected, "{scale}: {place}");
        }
    }
}

#[test]
fn a_scale_makes_the_largest_number_of_a_block_the_largest_of_the_type() {
    for (element, largest) in [(ElementType::Fp8E4m3, 448.0), (ElementType::Fp8E5m2, 57344.0)] {
        let storage = Storage {
            element,
            scale: Scale::Head,
        };
        let mut state = [largest * 8.0, largest, 8.0];
        storage.store(&mut state, 3, &mut Rounding::Nearest);
        assert_eq!(state, [largest * 8.0, largest, 8.0]);
    }
}

#[test]
fn blocks_of_zeros_stay_zeros_and_what_is_not_finite_is_seen() {
    let storage = Storage::new(ElementType::Int8);
    let stored = |mut state: [f32; 2]| {
        storage.store(&mut state, 2, &mut Rounding::Nearest);
        state
    };
    assert_eq!(stored([0.0, 0.0]), [0.0, 0.0]);
    assert_eq!(stored([1e-45, 0.0]), [0.0, 0.0]);
    for wrong in [f32::NAN, f32::INFINITY] {
        assert!(stored([1.0, wrong]).iter().all(|x| x.is_nan()));
    }
}

#[test]
fn stochastic_rounding_is_unbiased_and_takes_the_two_neighbours_only() {
    let storages = [
        (
            Storage::new(ElementType::Bf16),
            1.0 + 0.3 / 128.0,
            1.0,
            1.0 / 128.0,
        ),
        (
            Storage::new(ElementType::F16),
            -(2.0 + 0.7 / 512.0),
            -2.0 - 1.0 / 512.0,
            1.0 / 512.0,
        ),
        (Storage::new(ElementType::Fp8E4m3), 1.1, 1.0, 0.125),
        // Below the least number that it has.
        (
            Storage::new(ElementType::Fp8E5m2),
            2f64.powi(-18),
            0.0,
            2f64.powi(-16),
        ),
    ];
    let count = 40_000;
    for (storage, x, below, quantum) in storages {
        let mut rounding = Rounding::Stochastic(Draws::new(5, 1, 2, 3));
        let mut state = vec![x as f32; count];
        storage.store(&mut state, count, &mut rounding);
        let above = state.iter().filter(|found| f64::from(**found) != below).count();
        for found in &state {
            let found = f64::from(*found);
            assert!(
                found == below || found == below + quantum,
                "{storage:?}: {found:e}"
            );
        }
        let share = (f64::from(x as f32) - below) / quantum;
        // Four deviations of the mean of so many draws.
        let bound = 4.0 * (share * (1.0 - share) / count as f64).sqrt();
        let error = (above as f64 / count as f64 - share).abs();
        assert!(error < bound, "{storage:?}: {error:e} beside {bound:e}");
    }
}

#[test]
fn draws_depend_on_seed_layer_head_and_position_and_on_nothing_else() {
    let stored = |draws: Draws| {
        let mut state = state();
        Storage::new(ElementType::Bf16).store(&mut state, 18, &mut Rounding::Stochastic(draws));
        state
    };
    let one = stored(Draws::new(1, 2, 3, 4));
    assert_eq!(one, stored(Draws::new(1, 2, 3, 4)));
    for other in [[0, 2, 3, 4], [1, 0, 3, 4], [1, 2, 0, 4], [1, 2, 3, 5]] {
        let [seed, layer, head, position] = other;
        assert_ne!(one, stored(Draws::new(seed, layer, head, position)));
    }
}

#[test]
fn bits_are_those_of_numbers_and_scales() {
    let bits = |element, scale| Storage { element, scale }.bits(20, 18);
    assert_eq!(bits(ElementType::Bf16, Scale::None), 16 * 360);
    assert_eq!(bits(ElementType::Int8, Scale::Head), 8 * 360 + 32);
    assert_eq!(bits(ElementType::Int8, Scale::Row), 8 * 360 + 32 * 20);
    assert_eq!(bits(ElementType::Fp8E4m3, Scale::Tile), 8 * 360 + 32 * 4);
}

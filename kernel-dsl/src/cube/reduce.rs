//! Sums and maxima over the units of a cube, in an order that is always the same.
//!
//! Shared memory only: plane operations are not to be had on every device.

use cubecl::prelude::*;

/// Σ of one value per unit, for all units. `units`, the size of the cube and of `scratch`, is a power of two.
#[cube]
pub(crate) fn sum_over_cube(value: f32, scratch: &mut Shared<[f32]>, #[comptime] units: usize) -> f32 {
    let unit = UNIT_POS as usize;
    // Whatever was reduced before has been read by all.
    sync_cube();
    scratch[unit] = value;
    sync_cube();
    #[unroll]
    for level in 0..comptime!(units.ilog2()) {
        let half = comptime!(units >> (level as usize + 1));
        if unit < half {
            let other = scratch[unit + half];
            scratch[unit] += other;
        }
        sync_cube();
    }
    scratch[0]
}

/// The largest of one value per unit, for all units; as [`sum_over_cube`].
#[cube]
pub(crate) fn max_over_cube(value: f32, scratch: &mut Shared<[f32]>, #[comptime] units: usize) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    scratch[unit] = value;
    sync_cube();
    #[unroll]
    for level in 0..comptime!(units.ilog2()) {
        let half = comptime!(units >> (level as usize + 1));
        if unit < half {
            let (own, other) = (scratch[unit], scratch[unit + half]);
            scratch[unit] = max(own, other);
        }
        sync_cube();
    }
    scratch[0]
}

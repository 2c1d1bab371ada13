//! What every pass over chunks does first: find its tokens, and stage tiles of them in shared memory.
//!
//! Decays enter as factors that are at most 1: a row's factor is the exponential of the sum of the log decays between the
//! row and a boundary of a span of tokens, added up from the boundary outwards. No sum is the difference of two others, so
//! that a log decay of −∞ makes a 0 and never a NaN, and rounding errors are those of the sum itself.

use cubecl::prelude::*;

use super::operands::{Gates, Sizes, Variant};
pub(super) use crate::cube::place::Place;
use crate::cube::product::Tiling;
use crate::cube::view::{RowsView, RowsViewLaunch};

/// Columns of a head inside token rows. `sharing` heads read the same ones.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Panel<F: Float> {
    rows: RowsView<F>,
    sharing: usize,
    pub cols: usize,
}

/// The arguments of a [`Panel`].
pub(super) fn panel<F: Float>(rows: RowsViewLaunch<F>, sharing: usize, cols: usize) -> PanelLaunch<F> {
    PanelLaunch::new(rows, sharing, cols)
}

#[cube]
impl<F: Float> Panel<F> {
    /// The value in column `col` of a head.
    pub fn at(&self, row: usize, head: usize, col: usize) -> f32 {
        self.rows.at(row, head / self.sharing * self.cols + col)
    }
}

/// On which side of a row its span's boundary lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// The span's begin: what a query sees of the state there. The token's own decay counts unless the read-out has a
    /// bonus.
    Begin,
    /// The span's end: what is left there of a key.
    End,
}

impl Side {
    /// The side of the span's other boundary.
    pub(super) fn opposite(self) -> Self {
        match self {
            Self::Begin => Self::End,
            Self::End => Self::Begin,
        }
    }
}

/// Which blocks of tokens get a factor; the others get 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Blocks {
    /// Every block.
    All,
    /// Every second one, beginning with the first.
    Even,
    /// Every second one, beginning with the second.
    Odd,
}

/// Factors of one tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Factors {
    pub side: Side,
    /// Tokens of a span.
    pub span: usize,
    /// Tokens of a block; a unit takes one column through one block.
    pub block: usize,
    pub blocks: Blocks,
}

impl Factors {
    /// Factors towards a boundary of the whole chunk.
    pub(super) fn whole(side: Side, variant: Variant, tiling: Tiling) -> Self {
        Self {
            side,
            span: tiling.size,
            block: variant.block,
            blocks: Blocks::All,
        }
    }

    /// Factors towards the boundaries between blocks that neighbour: rows of odd blocks look back at the even ones.
    pub(super) fn level(side: Side, block: usize) -> Self {
        Self {
            side,
            span: block,
            block,
            blocks: match side {
                Side::Begin => Blocks::Odd,
                Side::End => Blocks::Even,
            },
        }
    }
}

/// ln a of token `i` of the chunk and key `key`; 0 beyond the chunk or the head.
#[cube]
pub(super) fn log_decay<G: Float>(
    gates: &Gates<G>,
    sizes: &Sizes,
    place: &Place,
    i: usize,
    key: usize,
    #[comptime] variant: Variant,
) -> f32 {
    let mut value = 0.0f32;
    if i < place.len && key < sizes.key_dim {
        value = gates.log_decay(sizes, place.start + i, place.head, key, variant);
    }
    value
}

/// Fills `out` with the factors of keys `first..first + size` for every token of the chunk.
#[cube]
pub(super) fn fill_factors<G: Float>(
    out: &mut Shared<[f32]>,
    gates: &Gates<G>,
    sizes: &Sizes,
    place: &Place,
    first: usize,
    #[comptime] factors: Factors,
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let block = comptime!(factors.block);
    let span = comptime!(factors.span);
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * (tiling.size / factors.block)) {
        let c = n % size;
        let low = n / size * block;
        let key = first + c;
        let covered = match comptime!(factors.blocks) {
            Blocks::All => true.runtime(),
            Blocks::Even => (n / size).is_multiple_of(2),
            Blocks::Odd => n / size % 2 == 1,
        };
        if covered {
            let mut sum = 0.0f32;
            match comptime!(factors.side) {
                Side::Begin => {
                    for i in low / span * span..low {
                        sum += log_decay::<G>(gates, sizes, place, i, key, variant);
                    }
                    for i in low..low + block {
                        let own = log_decay::<G>(gates, sizes, place, i, key, variant);
                        if comptime!(variant.bonus) {
                            out[i * size + c] = sum.exp();
                            sum += own;
                        } else {
                            sum += own;
                            out[i * size + c] = sum.exp();
                        }
                    }
                }
                Side::End => {
                    for i in low + block..(low / span + 1) * span {
                        sum += log_decay::<G>(gates, sizes, place, i, key, variant);
                    }
                    for back in 0..block {
                        let i = low + block - 1 - back;
                        out[i * size + c] = sum.exp();
                        sum += log_decay::<G>(gates, sizes, place, i, key, variant);
                    }
                }
            }
        } else {
            for i in low..low + block {
                out[i * size + c] = 0.0f32;
            }
        }
        n += comptime!(tiling.units());
    }
}

/// Stages columns `first..first + size` of a panel for the tokens of the chunk, with zeros beyond its rows and columns.
#[cube]
pub(super) fn stage_panel<F: Float, E: Float>(
    out: &mut Shared<[E]>,
    panel: &Panel<F>,
    place: &Place,
    first: usize,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let pitch = comptime!(tiling.pitch());
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let i = n / size;
        let c = n % size;
        let mut value = 0.0f32;
        if i < place.len && first + c < panel.cols {
            value = panel.at(place.start + i, place.head, first + c);
        }
        out[i * pitch + c] = E::cast_from(value);
        n += comptime!(tiling.units());
    }
}

/// As [`stage_panel`], each value times its factor times `scale`.
#[cube]
pub(super) fn stage_decayed<F: Float, E: Float>(
    out: &mut Shared<[E]>,
    panel: &Panel<F>,
    factors: &Shared<[f32]>,
    place: &Place,
    first: usize,
    scale: f32,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let pitch = comptime!(tiling.pitch());
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let i = n / size;
        let c = n % size;
        let mut value = 0.0f32;
        if i < place.len && first + c < panel.cols {
            value = scale * factors[n] * panel.at(place.start + i, place.head, first + c);
        }
        out[i * pitch + c] = E::cast_from(value);
        n += comptime!(tiling.units());
    }
}

/// As [`stage_panel`], each row times its token's step size.
#[cube]
pub(super) fn stage_stepped<F: Float, G: Float, E: Float>(
    out: &mut Shared<[E]>,
    panel: &Panel<F>,
    gates: &Gates<G>,
    place: &Place,
    first: usize,
    #[comptime] variant: Variant,
    #[comptime] tiling: Tiling,
) {
    let size = comptime!(tiling.size);
    let pitch = comptime!(tiling.pitch());
    let mut n = UNIT_POS as usize;
    while n < comptime!(tiling.size * tiling.size) {
        let i = n / size;
        let c = n % size;
        let mut value = 0.0f32;
        if i < place.len && first + c < panel.cols {
            let row = place.start + i;
            value = panel.at(row, place.head, first + c) * gates.step_size(row, place.head, variant);
        }
        out[i * pitch + c] = E::cast_from(value);
        n += comptime!(tiling.units());
    }
}

//! Where a cube works that takes a head of a chunk, or a tile of one.

use cubecl::prelude::*;

/// The tokens and the head of a cube.
#[derive(CubeType)]
pub(crate) struct Place {
    /// First row of the chunk.
    pub start: usize,
    /// Number of rows in the chunk.
    pub len: usize,
    /// Index of the head.
    pub head: usize,
    /// `chunk · heads + head`.
    pub index: usize,
}

#[cube]
impl Place {
    /// The place of a cube, when each (chunk, head) has `tiles` of them; `chunks` is a [`ChunkTable`](super::ChunkTable)'s.
    pub fn of_cube(chunks: &[u32], heads: usize, tiles: usize) -> Place {
        let index = CUBE_POS / tiles;
        let chunk = index / heads;
        let start = chunks[3 * chunk] as usize;
        Place {
            start,
            len: chunks[3 * chunk + 1] as usize - start,
            head: index % heads,
            index,
        }
    }
}

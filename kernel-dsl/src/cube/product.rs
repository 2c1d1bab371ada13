//! Products of square tiles in shared memory, by register tiles or by tensor cores.
//!
//! A kernel stages two tiles in shared memory, adds their product to an [`Accumulator`], and stores that back to shared
//! memory as f32. Which hardware multiplies is one comptime choice, [`Engine`]; nothing else in the kernel changes.

use cubecl::ir::features::MmaConfig;
use cubecl::ir::{DeviceProperties, FloatKind};
use cubecl::prelude::*;

use super::DType;

/// What multiplies two tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Engine {
    /// Each unit holds 4×4 sums in registers.
    Registers,
    /// Each plane of that many units holds 16×16 sums in the fragments of its tensor cores.
    TensorCores(usize),
}

impl Engine {
    /// The device's tensor cores, where they multiply tiles of `dtype` into f32.
    pub fn tensor_cores(properties: &DeviceProperties, dtype: DType) -> Option<Self> {
        let operand = match dtype {
            DType::F32 => return None,
            DType::F16 => ElemType::Float(FloatKind::F16),
            DType::BF16 => ElemType::Float(FloatKind::BF16),
        };
        let config = MmaConfig {
            a_type: operand,
            b_type: operand,
            cd_type: ElemType::Float(FloatKind::F32),
            m: 16,
            n: 16,
            k: 16,
        };
        let hardware = &properties.hardware;
        let fixed = hardware.plane_size_min == hardware.plane_size_max;
        let offered = properties.features.matmul.cmma.contains(&config);
        (offered && fixed).then_some(Self::TensorCores(hardware.plane_size_max as usize))
    }
}

/// Sums that one unit holds along each side of its register tile.
const REGISTER_SIDE: usize = 4;
/// Side of a tensor core's fragment.
const FRAGMENT: usize = 16;

/// Square tiles and the units that share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tiling {
    /// Rows and columns of a tile; a multiple of 16.
    pub size: usize,
    /// Hardware that multiplies the tiles.
    pub engine: Engine,
}

impl Tiling {
    /// Units of a cube.
    pub fn units(self) -> usize {
        match self.engine {
            Engine::Registers => (self.size / REGISTER_SIDE).pow(2),
            // Two fragments each, so that a plane loads an operand once for both.
            Engine::TensorCores(plane) => plane * ((self.size / FRAGMENT).pow(2) / 2).max(1),
        }
    }

    /// Distance between the rows of a tile in shared memory. The padding keeps columns out of one bank; tensor cores ask
    /// for rows that begin at multiples of 16 bytes.
    pub fn pitch(self) -> usize {
        match self.engine {
            Engine::Registers => self.size + 1,
            Engine::TensorCores(_) => self.size + 8,
        }
    }

    /// Values of a tile in shared memory, padding included.
    pub fn len(self) -> usize {
        self.size * self.pitch()
    }

    /// Register tiles along a side.
    fn side(self) -> usize {
        self.size / REGISTER_SIDE
    }

    /// Fragments along a side.
    fn fragments(self) -> usize {
        self.size / FRAGMENT
    }

    /// Fragments of one plane.
    fn fragments_of_plane(self) -> usize {
        match self.engine {
            Engine::Registers => 0,
            Engine::TensorCores(plane) => self.fragments().pow(2) * plane / self.units(),
        }
    }
}

/// How an operand of a product lies in its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Layout {
    /// As it is multiplied.
    Plain,
    /// Transposed: the tile's rows are the operand's columns.
    Transposed,
}

/// The sums of a tile, spread over the units of a cube.
#[derive(CubeType)]
pub(crate) struct Accumulator {
    registers: Array<f32>,
    fragments: Sequence<cmma::Matrix<f32>>,
}

#[cube]
impl Accumulator {
    /// An accumulator whose sums are all 0.
    pub fn zero(#[comptime] tiling: Tiling) -> Accumulator {
        let mut registers = Array::<f32>::new(comptime!(REGISTER_SIDE * REGISTER_SIDE));
        let mut fragments = Sequence::<cmma::Matrix<f32>>::new();
        match comptime!(tiling.engine) {
            Engine::Registers =>
            {
                #[unroll]
                for i in 0..comptime!(REGISTER_SIDE * REGISTER_SIDE) {
                    registers[i] = 0.0f32;
                }
            }
            Engine::TensorCores(_) =>
            {
                #[unroll]
                for _ in 0..comptime!(tiling.fragments_of_plane()) {
                    fragments.push(cmma::Matrix::<f32>::from_value(
                        cmma::MatrixIdent::Accumulator,
                        16usize,
                        16usize,
                        16usize,
                        cmma::MatrixLayout::Undefined,
                        0.0f32,
                    ));
                }
            }
        }
        Accumulator { registers, fragments }
    }

    /// Adds A·B. Both tiles must have been staged before the last `sync_cube`.
    pub fn add_product<E: Float>(
        &mut self,
        a: &Shared<[E]>,
        b: &Shared<[E]>,
        #[comptime] a_layout: Layout,
        #[comptime] b_layout: Layout,
        #[comptime] tiling: Tiling,
    ) {
        match comptime!(tiling.engine) {
            Engine::Registers => self.add_by_registers::<E>(a, b, a_layout, b_layout, tiling),
            Engine::TensorCores(_) => self.add_by_fragments::<E>(a, b, a_layout, b_layout, tiling),
        }
    }

    fn add_by_registers<E: Float>(
        &mut self,
        a: &Shared<[E]>,
        b: &Shared<[E]>,
        #[comptime] a_layout: Layout,
        #[comptime] b_layout: Layout,
        #[comptime] tiling: Tiling,
    ) {
        let side = comptime!(tiling.side());
        let pitch = comptime!(tiling.pitch());
        let row = UNIT_POS as usize / side;
        let col = UNIT_POS as usize % side;
        for k in 0..comptime!(tiling.size) {
            let mut left = Array::<f32>::new(comptime!(REGISTER_SIDE));
            let mut right = Array::<f32>::new(comptime!(REGISTER_SIDE));
            #[unroll]
            for i in 0..comptime!(REGISTER_SIDE) {
                let m = row + i * side;
                match comptime!(a_layout) {
                    Layout::Plain => left[i] = f32::cast_from(a[m * pitch + k]),
                    Layout::Transposed => left[i] = f32::cast_from(a[k * pitch + m]),
                }
                let n = col + i * side;
                match comptime!(b_layout) {
                    Layout::Plain => right[i] = f32::cast_from(b[k * pitch + n]),
                    Layout::Transposed => right[i] = f32::cast_from(b[n * pitch + k]),
                }
            }
            #[unroll]
            for i in 0..comptime!(REGISTER_SIDE) {
                #[unroll]
                for j in 0..comptime!(REGISTER_SIDE) {
                    self.registers[i * REGISTER_SIDE + j] += left[i] * right[j];
                }
            }
        }
    }

    fn add_by_fragments<E: Float>(
        &mut self,
        a: &Shared<[E]>,
        b: &Shared<[E]>,
        #[comptime] a_layout: Layout,
        #[comptime] b_layout: Layout,
        #[comptime] tiling: Tiling,
    ) {
        let pitch = comptime!(tiling.pitch());
        let mine = comptime!(tiling.fragments_of_plane());
        let first = (UNIT_POS / PLANE_DIM) as usize * mine;
        #[unroll]
        for f in 0..mine {
            let row = (first + f) / comptime!(tiling.fragments()) * FRAGMENT;
            let col = (first + f) % comptime!(tiling.fragments()) * FRAGMENT;
            for block in 0..comptime!(tiling.fragments()) {
                let k = block * FRAGMENT;
                let a_start = match comptime!(a_layout) {
                    Layout::Plain => row * pitch + k,
                    Layout::Transposed => k * pitch + row,
                };
                let b_start = match comptime!(b_layout) {
                    Layout::Plain => k * pitch + col,
                    Layout::Transposed => col * pitch + k,
                };
                let left = cmma::Matrix::<E>::from_slice(
                    cmma::MatrixIdent::A,
                    16usize,
                    16usize,
                    16usize,
                    comptime!(matrix_layout(a_layout)),
                    &a[a_start..comptime!(tiling.len())],
                    comptime!(tiling.pitch() as u32),
                );
                let right = cmma::Matrix::<E>::from_slice(
                    cmma::MatrixIdent::B,
                    16usize,
                    16usize,
                    16usize,
                    comptime!(matrix_layout(b_layout)),
                    &b[b_start..comptime!(tiling.len())],
                    comptime!(tiling.pitch() as u32),
                );
                let sums = self.fragments.index(f);
                cmma::execute(&left, &right, sums, sums);
            }
        }
    }

    /// Writes the sums to a tile in shared memory. They can be read after the next `sync_cube`.
    pub fn store(&self, out: &mut Shared<[f32]>, #[comptime] tiling: Tiling) {
        let pitch = comptime!(tiling.pitch());
        match comptime!(tiling.engine) {
            Engine::Registers => {
                let side = comptime!(tiling.side());
                let row = UNIT_POS as usize / side;
                let col = UNIT_POS as usize % side;
                #[unroll]
                for i in 0..comptime!(REGISTER_SIDE) {
                    #[unroll]
                    for j in 0..comptime!(REGISTER_SIDE) {
                        out[(row + i * side) * pitch + col + j * side] =
                            self.registers[i * REGISTER_SIDE + j];
                    }
                }
            }
            Engine::TensorCores(_) => {
                let mine = comptime!(tiling.fragments_of_plane());
                let first = (UNIT_POS / PLANE_DIM) as usize * mine;
                #[unroll]
                for f in 0..mine {
                    let row = (first + f) / comptime!(tiling.fragments()) * FRAGMENT;
                    let col = (first + f) % comptime!(tiling.fragments()) * FRAGMENT;
                    let start = row * pitch + col;
                    cmma::store(
                        &mut out[start..comptime!(tiling.len())],
                        self.fragments.index(f),
                        comptime!(tiling.pitch() as u32),
                        cmma::MatrixLayout::RowMajor,
                    );
                }
            }
        }
    }
}

fn matrix_layout(layout: Layout) -> cmma::MatrixLayout {
    match layout {
        Layout::Plain => cmma::MatrixLayout::RowMajor,
        Layout::Transposed => cmma::MatrixLayout::ColMajor,
    }
}

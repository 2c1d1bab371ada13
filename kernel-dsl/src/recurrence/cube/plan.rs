//! How a problem is cut up for a device.

use cubecl::ir::DeviceProperties;

use crate::cube::product::{Engine, Tiling};
use crate::cube::{DType, Error, Limits};
use crate::recurrence::problem::Problem;

/// How the chunked form cuts up a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    tiling: Tiling,
    operands: DType,
    block: usize,
}

/// Longest span of tokens inside of which decays per key are taken pair by pair.
const BLOCK: usize = 16;

/// Chunk sizes that a plan may have: tiles are as long as chunks.
const CHUNK_SIZES: [usize; 3] = [64, 32, 16];

impl Plan {
    /// The plan that usually is the fastest one on a device for tokens of type `dtype`.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when not even the smallest tiles fit into the device's shared memory.
    pub fn new(properties: &DeviceProperties, problem: &Problem, dtype: DType) -> Result<Self, Error> {
        let candidates = Self::candidates(properties, problem, dtype);
        candidates.first().copied().ok_or(Error::TooLarge {
            what: "the shared memory of the smallest tiles in bytes",
            limit: Limits::of_properties(properties).shared_memory as u64,
            found: Self::with(16, Engine::Registers, DType::F32).shared_memory() as u64,
        })
    }

    /// All plans that a device can run, the likely best one first.
    pub fn candidates(properties: &DeviceProperties, problem: &Problem, dtype: DType) -> Vec<Self> {
        let limits = Limits::of_properties(properties);
        let engine = Engine::tensor_cores(properties, dtype);
        let with_tensor_cores = CHUNK_SIZES
            .iter()
            .filter_map(|&size| Some(Self::with(size, engine?, dtype)));
        let with_registers = CHUNK_SIZES
            .iter()
            .map(|&size| Self::with(size, Engine::Registers, DType::F32));
        let mut plans: Vec<Self> = with_tensor_cores.chain(with_registers).collect();
        plans.retain(|plan| {
            plan.tiling.units() <= limits.units && plan.shared_memory() <= limits.shared_memory
        });
        // Short heads and short calls leave large tiles half empty; a processor compiles and runs small cubes faster.
        let longest = problem.time.max(problem.key_dim).max(problem.value_dim);
        let enough = if limits.software { 32 } else { 64 };
        let best = longest.next_power_of_two().clamp(16, enough);
        plans.sort_by_key(|plan| plan.tiling.size.abs_diff(best));
        plans
    }

    /// A plan with chunks of `chunk_size` tokens and exact f32 products in registers.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when it does not fit on a device with these limits, or `chunk_size` is none of 16, 32 and 64.
    pub fn exact(limits: &Limits, chunk_size: usize) -> Result<Self, Error> {
        let plan = Self::with(chunk_size, Engine::Registers, DType::F32);
        let known = CHUNK_SIZES.contains(&chunk_size);
        if known && plan.shared_memory() <= limits.shared_memory && plan.tiling.units() <= limits.units {
            return Ok(plan);
        }
        Err(Error::TooLarge {
            what: "the chunk size, one of 16, 32 and 64,",
            limit: CHUNK_SIZES
                .into_iter()
                .find(|&size| {
                    Self::with(size, Engine::Registers, DType::F32).shared_memory() <= limits.shared_memory
                })
                .unwrap_or(0) as u64,
            found: chunk_size as u64,
        })
    }

    /// Rounds the operands of products to `dtype`, as tensor cores do; sums stay f32.
    pub fn with_operands(self, dtype: DType) -> Self {
        Self {
            operands: dtype,
            ..self
        }
    }

    /// Takes decays per key pair by pair inside of blocks of `block` tokens, 16 otherwise; does nothing when that is no power
    /// of two up to 16.
    pub fn with_block(self, block: usize) -> Self {
        match block {
            1 | 2 | 4 | 8 | 16 => Self { block, ..self },
            _ => self,
        }
    }

    /// Tokens of a chunk.
    pub fn chunk_size(&self) -> usize {
        self.tiling.size
    }

    /// Whether tensor cores multiply.
    pub fn uses_tensor_cores(&self) -> bool {
        self.tiling.engine != Engine::Registers
    }

    pub(super) fn tiling(&self) -> Tiling {
        self.tiling
    }

    /// Type of the operands of products.
    pub(super) fn operands(&self) -> DType {
        self.operands
    }

    /// Tokens of a block.
    pub(super) fn block(&self) -> usize {
        self.block
    }

    fn with(size: usize, engine: Engine, operands: DType) -> Self {
        Self {
            tiling: Tiling { size, engine },
            operands,
            block: BLOCK,
        }
    }

    /// Bytes of shared memory of the kernel that takes most.
    fn shared_memory(&self) -> usize {
        let square = 4 * self.tiling.size * self.tiling.size;
        let operands = 2 * self.operands.size() * self.tiling.len();
        let result = 4 * self.tiling.len();
        // The gradients of keys hold factors and two sums; the scores hold factors and the sums of pairs inside of blocks.
        operands + result + square + (2 * square).max(64 * self.tiling.units())
    }
}

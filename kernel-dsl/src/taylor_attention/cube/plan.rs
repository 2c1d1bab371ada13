//! How Taylor attention is cut up for a device.

use cubecl::ir::{DeviceProperties, ElemType};

use super::DeviceInputs;
use crate::cube::product::{Engine, Tiling};
use crate::cube::{DType, Error, Limits};
use crate::taylor_attention::Problem;

/// Sides of tiles, and what multiplies them.
///
/// Tensor cores multiply bf16 alone. In f16 a state would overflow: its first row counts tokens, and squares of keys grow as fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    tiling: Tiling,
    operands: DType,
}

/// Sides that tiles, and so chunks, may have.
const SIZES: [usize; 3] = [64, 32, 16];

impl Plan {
    /// The largest tiles that the device has shared memory and units for, on its tensor cores where it has them and all tokens are bf16;
    /// processors compile and run small cubes faster.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when not even the smallest tiles fit into the device's shared memory.
    pub fn new(
        properties: &DeviceProperties,
        problem: &Problem,
        inputs: &DeviceInputs,
    ) -> Result<Self, Error> {
        let limits = Limits::of_properties(properties);
        let enough = if limits.software { 32 } else { 64 };
        let longest = problem.time.max(problem.prefix);
        let best = longest.next_power_of_two().clamp(16, enough);
        let sizes = SIZES.into_iter().filter(|&size| size <= best);
        let plans = sizes.flat_map(|size| {
            let tensor_cores = Self::tensor_cores(properties, inputs);
            let engines = tensor_cores.into_iter().chain([(Engine::Registers, DType::F32)]);
            engines.map(move |(engine, operands)| Self {
                tiling: Tiling { size, engine },
                operands,
            })
        });
        let fits =
            |plan: &Self| plan.shared_memory() <= limits.shared_memory && plan.tiling.units() <= limits.units;
        let smallest = Self {
            tiling: Tiling {
                size: 16,
                engine: Engine::Registers,
            },
            operands: DType::F32,
        };
        plans.into_iter().find(fits).ok_or(Error::TooLarge {
            what: "the shared memory of the smallest tiles in bytes",
            limit: limits.shared_memory as u64,
            found: smallest.shared_memory() as u64,
        })
    }

    /// Rounds the operands of products to `dtype`, as tensor cores do; sums stay f32.
    pub fn with_operands(self, dtype: DType) -> Self {
        Self {
            operands: dtype,
            ..self
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
    pub(super) fn operands(&self) -> ElemType {
        self.operands.elem()
    }

    fn tensor_cores(properties: &DeviceProperties, inputs: &DeviceInputs) -> Option<(Engine, DType)> {
        let prefix = [&inputs.prefix_key, &inputs.prefix_value];
        let mut tokens = [&inputs.query, &inputs.key, &inputs.value]
            .into_iter()
            .chain(prefix.into_iter().flatten());
        let all = tokens.all(|rows| rows.dtype() == DType::BF16);
        let engine = all.then(|| Engine::tensor_cores(properties, DType::BF16))??;
        Some((engine, DType::BF16))
    }

    /// Bytes of shared memory of the kernel that takes most: two operands, slopes, and a result.
    fn shared_memory(&self) -> usize {
        (2 * self.operands.size() + 8) * self.tiling.len()
    }
}

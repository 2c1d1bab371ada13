//! What one call of a kernel does at least.

/// Floating-point operations that an exponential counts as: what its range reduction and polynomial take.
pub const EXPONENTIAL: usize = 20;

/// Whether a tensor core may do the multiply-adds, which moves the ceiling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// Multiply-adds of f32 values.
    #[default]
    F32,
    /// Matrix products of bf16 values with f32 sums.
    #[cfg_attr(
        not(any(feature = "wgpu", feature = "cuda")),
        expect(dead_code, reason = "only devices have it")
    )]
    Bf16Products,
}

/// What one call of a kernel does at least.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Tokens that it takes.
    pub tokens: usize,
    /// Floating-point operations of the definition; a multiply-add is two.
    pub flops: usize,
    /// Bytes that are read or written, each once.
    pub bytes: usize,
    /// Bytes that come round before a call meets the same ones again: says from which memory they come.
    pub working_set: usize,
    /// What bounds its multiply-adds.
    pub arithmetic: Arithmetic,
}

impl Work {
    /// Work whose calls all read and write the same `floats` f32 values.
    pub fn in_place(tokens: usize, flops: usize, floats: usize) -> Self {
        Self {
            tokens,
            flops,
            bytes: 4 * floats,
            working_set: 4 * floats,
            arithmetic: Arithmetic::F32,
        }
    }
}

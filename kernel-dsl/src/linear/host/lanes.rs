//! What a vector register can do, for each instruction set.

/// What the bits of an f16, moved to the places of an f32's, are multiplied with for its value: the difference of the exponents' offsets.
pub(super) const F16_FACTOR: f32 = f32::from_bits((127 + 112) << 23);

/// A vector register of f32, and the register of i32 of the same width.
///
/// # Safety
/// All functions require the processor to have the implementor's instructions; pointers must be valid for the bytes of
/// one register, without any alignment.
pub(super) trait Lanes: Copy {
    /// f32 values in a register.
    const LANES: usize;
    /// The register of i32, or of four times as many bytes.
    type Int: Copy;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self + a · b`
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
    /// The first and the second of each pair of bf16, widened.
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self);
    /// Loads [`Lanes::LANES`] bf16 values, widened to f32.
    unsafe fn load_bf16(from: *const u8) -> Self;
    /// [`Lanes::LANES`] f16 that are finite, widened.
    unsafe fn load_f16(from: *const u8) -> Self;
    unsafe fn int_splat(value: i32) -> Self::Int;
    unsafe fn int_load(from: *const u8) -> Self::Int;
    /// The lower and the upper four bits of every byte, in a byte each.
    unsafe fn halves(bytes: Self::Int) -> (Self::Int, Self::Int);
    unsafe fn int_to_float(value: Self::Int) -> Self;
    /// Asks for the cache line at `from`, which need not be valid.
    #[inline(always)]
    unsafe fn prefetch(_from: *const u8) {}
}

/// A register whose pairs of bf16 can be multiplied at once.
///
/// # Safety
/// As [`Lanes`].
#[cfg(target_arch = "x86_64")]
pub(super) trait PairDot: Lanes {
    /// `self + a[0] · b[0] + a[1] · b[1]` for every lane's pairs of bf16.
    unsafe fn pair_dot(self, a: Self::Int, b: Self::Int) -> Self;
}

/// A register whose pairs of 16-bit integers can be multiplied at once.
///
/// # Safety
/// As [`Lanes`].
#[cfg(target_arch = "x86_64")]
pub(super) trait WordDot: Lanes {
    /// `sum + a[0] · b[0] + a[1] · b[1]` for every lane's pairs of i16.
    unsafe fn word_dot(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int;
}

/// How four unsigned bytes, weights plus 128, are multiplied with four signed bytes and summed into an i32.
///
/// # Safety
/// The processor must have the implementor's instructions.
pub(super) trait ByteDot<V: Lanes> {
    /// Whether sums contain the offset, and begin with its opposite therefore.
    const OFFSET: bool = true;

    unsafe fn dot(sum: V::Int, unsigned: V::Int, signed: V::Int) -> V::Int;
}

/// How four unsigned bytes of at most 15, weights plus 8, are multiplied with four signed bytes, summed over a block, and totalled
/// in an i32.
///
/// # Safety
/// The processor must have the implementor's instructions.
pub(super) trait HalfDot<V: Lanes> {
    /// Sums of a block, which may be kept in 16 bits: `15 · 127 · 16` fits.
    unsafe fn dot(sum: V::Int, unsigned: V::Int, signed: V::Int) -> V::Int;
    /// `offset` plus the four sums of each lane.
    unsafe fn total(sum: V::Int, offset: i32) -> V::Int;
}

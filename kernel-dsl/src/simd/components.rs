//! What each part of this crate runs at, for reports.

use super::{Isa, active};

/// A part of the computation and the level that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// What computes: `"linear, int8 weights"`.
    pub name: &'static str,
    /// The instructions that it uses.
    pub isa: Isa,
    /// Whether it follows the level in use; else it asks the processor by itself.
    pub follows: bool,
    /// What the part is used for, or why it does not follow.
    pub about: &'static str,
}

/// Every part that computes on the CPU, with the level that it uses now.
///
/// The last ones are other crates that ask the processor by themselves, and cannot be told otherwise.
pub fn components() -> Vec<Component> {
    let isa = active();
    let ours = |name, isa, about| Component {
        name,
        isa,
        follows: true,
        about,
    };
    let others = |name, isa, about| Component {
        name,
        isa,
        follows: false,
        about,
    };
    vec![
        ours(
            "kernels",
            isa.base(),
            "every operator but linear: recurrences, scans, convolutions, norms",
        ),
        ours(
            "linear, f32 weights",
            or_portable(isa.base()),
            "projections, embeddings, the head",
        ),
        ours(
            "linear, bf16 weights",
            of_bf16(isa),
            "the same; at avx512+bf16 by the dot product of bf16 pairs, on Intel for up to 4 rows, more after widening to f32",
        ),
        ours(
            "linear, int8 weights",
            of_bytes(isa),
            "the same, by the dot product of bytes where there is one",
        ),
        ours(
            "linear, int4 weights",
            of_bytes(isa),
            "the same, by products of bytes summed in 16 bits where there is none",
        ),
        ours(
            "packed products",
            isa.base(),
            "matrix products that read across rows, by the crate gemm from AVX2 on",
        ),
        others(
            "half",
            Isa::detect().base(),
            "the crate half converts f16, exactly at any level, and asks the processor by itself",
        ),
        others(
            "gemm, for others",
            or_portable(Isa::detect().base()),
            "Burn's flex backend multiplies with the crate gemm, which asks the processor by itself",
        ),
        others(
            "flex",
            Isa::detect().base(),
            "Burn's flex backend takes its vectors from the crate macerator, which asks the processor by itself",
        ),
    ]
}

fn of_bf16(isa: Isa) -> Isa {
    match isa {
        Isa::Avx512Bf16 => isa,
        _ => or_portable(isa.base()),
    }
}

fn of_bytes(isa: Isa) -> Isa {
    match isa {
        Isa::Avx512Bf16 => Isa::Avx512Vnni,
        _ => or_portable(isa),
    }
}

/// The level, or the portable one in place of SSE 4.2: for code that has nothing of its own for SSE 4.2.
fn or_portable(isa: Isa) -> Isa {
    match isa {
        Isa::Sse42 => Isa::Portable,
        isa => isa,
    }
}

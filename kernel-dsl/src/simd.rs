//! Which vector instructions this processor has, found at run time.

use std::fmt;
use std::sync::OnceLock;

/// A family of vector instructions that kernels are compiled for.
///
/// Ordered from the least to the most capable within one processor architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Whatever the compilation target guarantees; the compiler vectorises.
    Portable,
    /// 128-bit Arm vectors.
    Neon,
    /// 256-bit x86 vectors with fused multiply-add.
    Avx2,
    /// [`Isa::Avx2`] and the 256-bit dot product of bytes.
    AvxVnni,
    /// 512-bit x86 vectors (F, BW, DQ, VL).
    Avx512,
    /// [`Isa::Avx512`] and the 512-bit dot product of bytes.
    Avx512Vnni,
    /// [`Isa::Avx512Vnni`] and the 512-bit dot product of pairs of bf16.
    Avx512Bf16,
}

impl Isa {
    /// Every member, least capable first.
    pub const ALL: [Isa; 7] = [
        Isa::Portable,
        Isa::Neon,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Avx512Bf16,
    ];

    /// The most capable member that this processor can run; looked up once.
    pub fn detect() -> Isa {
        static FOUND: OnceLock<Isa> = OnceLock::new();
        *FOUND.get_or_init(|| {
            Isa::ALL
                .into_iter()
                .rev()
                .find(|isa| isa.is_available())
                .unwrap_or(Isa::Portable)
        })
    }

    /// Every member that this processor can run, least capable first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// Whether this processor (and its operating system) can run code compiled for this member.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            _ => x86::has(self),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Neon => "NEON",
            Isa::Avx2 => "AVX2",
            Isa::AvxVnni => "AVX2+VNNI",
            Isa::Avx512 => "AVX-512",
            Isa::Avx512Vnni => "AVX-512+VNNI",
            Isa::Avx512Bf16 => "AVX-512+VNNI+BF16",
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Isa;

    pub(super) fn has(isa: Isa) -> bool {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match isa {
            Isa::Portable => true,
            Isa::Neon => false,
            Isa::Avx2 => avx2,
            Isa::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
            Isa::Avx512 => avx512,
            Isa::Avx512Vnni => avx512 && is_x86_feature_detected!("avx512vnni"),
            Isa::Avx512Bf16 => has(Isa::Avx512Vnni) && is_x86_feature_detected!("avx512bf16"),
        }
    }
}

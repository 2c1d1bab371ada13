//! The families of vector instructions, their names, and which of them this processor has.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use thiserror::Error;

/// A family of vector instructions that kernels are compiled for.
///
/// Ordered from the least to the most capable within one processor architecture. [`Display`](fmt::Display) writes the
/// name that [`FromStr`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Isa {
    /// `portable`: what the compilation target guarantees; the compiler vectorises.
    Portable,
    /// `neon`: 128-bit Arm vectors.
    Neon,
    /// `sse4.2`: 128-bit x86 vectors, without a fused multiply-add.
    Sse42,
    /// `avx2`: 256-bit x86 vectors with a fused multiply-add (x86-64-v3).
    Avx2,
    /// `avx2+vnni`: [`Isa::Avx2`] and the 256-bit dot product of bytes.
    AvxVnni,
    /// `avx512`: 512-bit x86 vectors (x86-64-v4: F, BW, CD, DQ, VL).
    Avx512,
    /// `avx512+vnni`: [`Isa::Avx512`] and the 512-bit dot product of bytes.
    Avx512Vnni,
    /// `avx512+bf16`: [`Isa::Avx512Vnni`] and the 512-bit dot product of pairs of bf16.
    Avx512Bf16,
}

impl Isa {
    /// Every member, least capable first.
    pub const ALL: [Isa; 8] = [
        Isa::Portable,
        Isa::Neon,
        Isa::Sse42,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Avx512Bf16,
    ];

    /// The most capable member that this processor can run; looked up once.
    pub fn detect() -> Isa {
        static FOUND: OnceLock<Isa> = OnceLock::new();
        *FOUND.get_or_init(|| Isa::available().last().unwrap_or(Isa::Portable))
    }

    /// Every member that this processor can run, least capable first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// Whether this processor (and its operating system) can run code compiled for this member.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => pulp::aarch64::Neon::is_available(),
            #[cfg(target_arch = "x86_64")]
            Isa::Sse42 => pulp::x86::V2::is_available(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => pulp::x86::V3::is_available(),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => pulp::x86::V4::is_available(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512bf16"),
            _ => false,
        }
    }

    /// The name as it is typed: `"avx2+vnni"`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
            Isa::Sse42 => "sse4.2",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx2+vnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512+vnni",
            Isa::Avx512Bf16 => "avx512+bf16",
        }
    }

    /// The member without what only some products of [`linear`](crate::linear) use: the dot products of bytes and of bf16.
    pub fn base(self) -> Isa {
        match self {
            Isa::AvxVnni => Isa::Avx2,
            Isa::Avx512Vnni | Isa::Avx512Bf16 => Isa::Avx512,
            isa => isa,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Reads a name as [`Isa::name`] gives it; capitals, hyphens, dots and spaces do not matter (`AVX-512+BF16`, `sse42`).
///
/// Whether this processor has the instructions is not asked.
impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(text: &str) -> Result<Isa, IsaError> {
        let plain = |text: &str| -> String {
            text.chars()
                .filter(|c| !matches!(c, '-' | '_' | '.' | ' '))
                .map(|c| c.to_ascii_lowercase())
                .collect()
        };
        let wanted = plain(text);
        // What the last member also has may be named.
        let wanted = wanted.replace("+vnni+bf16", "+bf16");
        Isa::ALL
            .into_iter()
            .find(|isa| plain(isa.name()) == wanted)
            .ok_or_else(|| IsaError::Unknown {
                value: text.chars().take(MOST_SHOWN).collect(),
            })
    }
}

/// Characters of an unknown name that an error repeats.
const MOST_SHOWN: usize = 40;

/// An instruction set that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IsaError {
    /// There is no instruction set of this name.
    #[error(
        "there is no instruction set {value:?}; use one of those that this processor can run: {}",
        available_names()
    )]
    Unknown {
        /// What was given; its first 40 characters.
        value: String,
    },
    /// The processor does not have these instructions.
    #[error(
        "this processor cannot run {isa} code; use one of those that it can run: {}",
        available_names()
    )]
    Unavailable {
        /// What was asked for.
        isa: Isa,
    },
}

/// Names of the instruction sets that this processor can run, such as `"portable, sse4.2, avx2"`.
fn available_names() -> String {
    let names: Vec<&str> = Isa::available().map(Isa::name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_as_its_member_however_it_is_spelled() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
            assert_eq!(isa.name().to_uppercase().parse(), Ok(isa));
        }
        for (text, isa) in [
            ("AVX-512+VNNI+BF16", Isa::Avx512Bf16),
            ("avx-512", Isa::Avx512),
            ("SSE42", Isa::Sse42),
            (" avx2 ", Isa::Avx2),
        ] {
            assert_eq!(text.parse(), Ok(isa), "{text}");
        }
    }

    #[test]
    fn unknown_names_are_refused_with_what_there_is_instead() {
        for text in ["", "avx", "avx3", "best", "avx2+bf16"] {
            let error = text.parse::<Isa>().unwrap_err();
            let message = error.to_string();
            assert!(
                message.contains(&format!("{text:?}")) && message.contains("portable"),
                "{message}"
            );
        }
        let long = "\u{1b}[31m".repeat(1000).parse::<Isa>().unwrap_err().to_string();
        assert!(long.len() < 500 && !long.contains('\u{1b}'), "{long}");
    }

    #[test]
    fn the_best_that_is_available_is_detected() {
        assert!(Isa::Portable.is_available() && Isa::detect().is_available());
        assert_eq!(Isa::available().max(), Some(Isa::detect()));
        assert!(Isa::available().all(|isa| isa.base().is_available()));
    }
}

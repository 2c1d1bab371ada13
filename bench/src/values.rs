//! Values as they are typed on the command line, and words as a shell takes them.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use spillway_models::WeightType;
use std::fmt;

/// Type in which the weights of the matrix products are kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floats: exact for every published checkpoint
    F32,
    /// bfloat16: half the memory, about twice the decode speed
    Bf16,
    /// 8-bit integers with a scale per block: a quarter of the memory
    Int8,
    /// 4-bit integers with a scale per block: a seventh of the memory, and weights that are off by 8 %
    Int4,
}

impl From<Dtype> for WeightType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
            Dtype::Int8 => Self::Int8,
            Dtype::Int4 => Self::Int4,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

/// More tokens than anybody reads, and so few that no product with a count of them overflows.
const MOST_TOKENS: u64 = 1 << 48;
/// More places of a text to start reading at than anybody averages over: each has a state and sums of its own.
pub const MOST_STREAMS: u64 = 1 << 16;

/// Reads a number of tokens: `65536`, `64k` (64 · 1024) or `1m` (1024 · 1024).
///
/// # Errors
/// One sentence that says what would have been accepted.
pub fn parse_tokens(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let (digits, unit) = match lower.strip_suffix(['k', 'm']) {
        Some(digits) if lower.ends_with('k') => (digits, 1 << 10),
        Some(digits) => (digits, 1 << 20),
        None => (lower.as_str(), 1),
    };
    let count = digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(unit))
        .filter(|count| *count <= MOST_TOKENS);
    count.ok_or_else(|| {
        format!("expected a number of tokens such as 65536, 64k or 1m, at most 2^48, found '{text}'")
    })
}

/// A word as a shell takes it: between quotes where something in it means something else.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_a_quoted_word_as_it_was() {
        for word in [
            "@a/b-c_1.json",
            "rri:0.99,0.75",
            "",
            "a b",
            "it's",
            "state-norm:auto*2",
            "$HOME",
            "a\nb",
        ] {
            let command = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("sh").args(["-c", &command]).output();
            assert_eq!(output.expect("a shell").stdout, word.as_bytes());
        }
    }

    #[test]
    fn numbers_of_tokens_take_k_and_m() {
        assert_eq!(parse_tokens("5000"), Ok(5000));
        assert_eq!(parse_tokens("64k"), Ok(65536));
        assert_eq!(parse_tokens("1M"), Ok(1 << 20));
        for bad in [
            "",
            "k",
            "-1",
            "1.5k",
            "64kb",
            "99999999999999999999",
            "18446744073709551615",
            "18446744073709551615k",
        ] {
            assert!(parse_tokens(bad).is_err(), "{bad}");
        }
    }
}

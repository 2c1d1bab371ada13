//! The command line: every option and its help text.

use crate::context::Context;
use crate::error::ProgramError;
use clap::{Parser, Subcommand, ValueEnum};

/// Where does a recurrent language model collapse on long inputs, in which heads, why, what cures it, at what cost?
#[derive(Debug, Parser)]
#[command(
    name = "spillway",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "\
A CHECKPOINT is a folder with config.json and model.safetensors in a published layout. Without one, the small model that \
comes with Spillway is used.

Start with:  spillway diagnose")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Threads to compute with [default: every available core]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Leave out progress bars and remarks
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {}

impl Cli {
    /// Runs the chosen subcommand.
    ///
    /// # Errors
    /// Whatever stops it.
    pub fn run(self) -> Result<(), ProgramError> {
        let _context = Context::new(self.threads, self.quiet)?;
        match self.command {}
    }
}

/// Type in which the weights of the matrix products are kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32-bit floats: exact for every published checkpoint
    F32,
    /// bfloat16: half the memory, about twice the decode speed
    Bf16,
    /// 8-bit integers with a scale per block: a quarter of the memory
    Int8,
}

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
        .and_then(|count| count.checked_mul(unit));
    count.ok_or_else(|| format!("expected a number of tokens such as 65536, 64k or 1m, found '{text}'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
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
            "18446744073709551615k",
        ] {
            assert!(parse_tokens(bad).is_err(), "{bad}");
        }
    }
}

//! Several initialisations side by side, for the copies of (A, B, P) that a layer's channels share.
//!
//! | name | what it mixes |
//! |---|---|
//! | `hippo` | `legs`, `fourier` |
//! | `diag` | `diag-inv`, `diag-lin` |
//! | `all` | `legs`, `fourier`, `diag-inv`, `diag-lin` |
//!
//! Each part has equally many copies, one part after the other. Channel h of a layer uses copy h mod `copies`.

use super::super::error::{Result, StateSpaceError};
use super::spectrum::{Initial, SpectrumOptions, initialise};
use rand::Rng;

/// The names that a mixture is made of; any other name stands for itself.
pub fn mixture_parts(name: &str) -> Vec<&str> {
    match name {
        "hippo" => vec!["legs", "fourier"],
        "diag" => vec!["diag-inv", "diag-lin"],
        "all" => vec!["legs", "fourier", "diag-inv", "diag-lin"],
        other => vec![other],
    }
}

/// `copies` systems of a name or a mixture. Copies of a name without randomness are equal.
///
/// # Errors
/// A number of copies that the parts do not divide; as [`initialise`].
pub fn copies(
    name: &str,
    copies: usize,
    state_size: usize,
    rank: usize,
    options: &SpectrumOptions,
    rng: &mut impl Rng,
) -> Result<Vec<Initial>> {
    let parts = mixture_parts(name);
    if !copies.is_multiple_of(parts.len()) {
        return Err(StateSpaceError::Copies {
            mixture: name.to_owned(),
            parts: parts.len(),
            copies,
        });
    }
    let each = copies / parts.len();
    let mut all = Vec::with_capacity(copies);
    for part in parts {
        for _ in 0..each {
            all.push(initialise(part, state_size, rank, options, rng)?);
        }
    }
    Ok(all)
}

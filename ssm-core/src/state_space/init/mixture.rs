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
use super::spectrum::{Initial, InputInit, SpectrumOptions, initialise};
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

/// Whether a name draws random numbers.
fn draws(name: &str, options: &SpectrumOptions) -> bool {
    let random = options.real_random || options.imag_random || options.input == InputInit::Random;
    random || name == "diag-rand" || name.starts_with("dplr-")
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
    let mut all: Vec<Initial> = Vec::with_capacity(copies);
    for part in parts {
        for copy in 0..each {
            // A measure's normal form takes long to find, and is the same each time.
            let again = match copy > 0 && !draws(part, options) {
                true => all.last().cloned(),
                false => None,
            };
            all.push(match again {
                Some(initial) => initial,
                None => initialise(part, state_size, rank, options, rng)?,
            });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn every_copy_is_what_it_would_be_alone() {
        let random = SpectrumOptions {
            imag_random: true,
            ..SpectrumOptions::default()
        };
        for (name, rank) in [
            ("legs", 1),
            ("diag-legs", 0),
            ("diag-rand", 0),
            ("dplr-lin", 2),
            ("diag-inv", 0),
        ] {
            for options in [SpectrumOptions::default(), random] {
                let mut rngs = [(); 2].map(|()| StdRng::seed_from_u64(3));
                let all = copies(name, 4, 16, rank, &options, &mut rngs[0]).expect("copies");
                let each = (0..4).map(|_| initialise(name, 16, rank, &options, &mut rngs[1]));
                assert_eq!(all, each.collect::<Result<Vec<_>>>().expect("each"), "{name}");
            }
        }
    }
}

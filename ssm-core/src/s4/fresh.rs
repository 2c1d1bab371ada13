//! Where the system of a fresh block comes from.

use std::sync::{Arc, OnceLock};

use crate::state_space::Result;
use crate::state_space::init::{Initial, SpectrumOptions, copies};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// A published name of (Λ, B, P), `legs` or `diag-lin`, and the systems that it stands for. They are found when they are first asked for and
/// kept, since the normal form of a measure takes an eigendecomposition, and a network in training is read anew at every step.
#[derive(Clone, Debug)]
pub struct FreshSystem {
    name: String,
    found: Arc<OnceLock<(Size, Arc<[Initial]>)>>,
}

/// What the systems of a name depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// How many systems there are.
    pub(super) copies: usize,
    /// N, the state size of each system.
    pub(super) state_dim: usize,
    /// The rank of P.
    pub(super) rank: usize,
}

impl FreshSystem {
    /// The published name of the systems, such as `legs` or `diag-lin`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Copies of (Λ, B, P) of a size; random ones are the same in every block.
    pub(super) fn copies(&self, size: Size) -> Result<Arc<[Initial]>> {
        if let Some((_, found)) = self.found.get().filter(|(of, _)| *of == size) {
            return Ok(found.clone());
        }
        let mut rng = StdRng::seed_from_u64(0);
        let options = SpectrumOptions::default();
        let Size {
            copies: count,
            state_dim,
            rank,
        } = size;
        let found: Arc<[Initial]> = copies(&self.name, count, state_dim, rank, &options, &mut rng)?.into();
        // A configuration whose size was changed is found anew each time.
        let _ = self.found.set((size, found.clone()));
        Ok(found)
    }
}

impl From<&str> for FreshSystem {
    fn from(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            found: Arc::default(),
        }
    }
}

impl PartialEq for FreshSystem {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

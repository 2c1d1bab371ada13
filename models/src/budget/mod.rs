//! Memory that is asked for before it is taken.
//!
//! Counts come from files and from command lines: layers, heads, sequences, tokens. An allocation that cannot be had ends the
//! process without a word, and one that is had and then touched may end another process instead. So whatever grows with such
//! a count is first asked for here.
//!
//! ```
//! use spillway_models::budget::{Budget, BudgetError, product};
//!
//! let budget = Budget::of(24 << 30);
//! assert!(budget.ask("the states of 8 sequences", product([8, 4 << 20]), "take fewer").is_ok());
//! let error = budget.ask("the states of 4096 sequences", product([4096, 16 << 20]), "take fewer").unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "the states of 4096 sequences need 64.0 GiB of memory, have 24.0 GiB (the limit given): take fewer"
//! );
//! assert!(matches!(budget.ask("it", product([u64::MAX, 2]), "take fewer"), Err(BudgetError::Overflow { .. })));
//! ```
//!
//! What there is is the least of what these leave, see [`available`]:
//!
//! | limit | read from |
//! |---|---|
//! | the machine | `MemAvailable` and `SwapFree` of `/proc/meminfo`, which no longer count what this process holds |
//! | the control group and every one above it | `memory.max` − `memory.current` (version 2), `memory.limit_in_bytes` − `memory.usage_in_bytes` (version 1), plus the page cache that would be given back |
//! | the address space (`ulimit -v`) | `Max address space` of `/proc/self/limits` − `VmSize` |
//!
//! Where none of them can be read, as on systems other than Linux, nothing is refused but what no machine has.

mod system;

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// More than this no machine has: 2^56 bytes, 64 PiB.
const ANY_MACHINE: u64 = 1 << 56;

/// What bounds the memory that may still be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The machine's free memory.
    Machine,
    /// A control group; its folder.
    Cgroup(PathBuf),
    /// The limit of this process's address space, `ulimit -v`.
    AddressSpace,
    /// A number that was given, see [`Budget::of`].
    Given,
    /// The system does not say.
    Unknown,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine => f.write_str("the machine's free memory"),
            Self::Cgroup(path) => write!(f, "the limit of the control group {}", path.display()),
            Self::AddressSpace => f.write_str("the limit of the address space, ulimit -v"),
            Self::Given => f.write_str("the limit given"),
            Self::Unknown => f.write_str("no limit known"),
        }
    }
}

/// Memory that may still be taken, and what bounds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes; [`u64::MAX`] where the system does not say.
    pub bytes: u64,
    /// What limits the memory to so many bytes.
    pub limit: Limit,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            Limit::Unknown => write!(f, "{}", self.limit),
            _ => write!(f, "{} ({})", size(self.bytes), self.limit),
        }
    }
}

/// Why memory is not taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BudgetError {
    /// There is not as much.
    #[error("{what} need {} of memory, have {available}: {advice}", size(*needed))]
    TooMuch {
        /// What the memory is for, in the plural.
        what: String,
        /// Bytes that it needs.
        needed: u64,
        /// Memory that may still be taken, and what bounds it.
        available: Budget,
        /// What the user can do about it, as a phrase: "take fewer".
        advice: String,
    },
    /// The count of bytes leaves 56 bits.
    #[error("{what} need more memory than any machine has: {advice}")]
    Overflow {
        /// What the memory is for, in the plural.
        what: String,
        /// What the user can do about it, as a phrase: "take fewer".
        advice: String,
    },
}

impl Budget {
    /// A budget of so many bytes.
    pub fn of(bytes: u64) -> Self {
        Self {
            bytes,
            limit: Limit::Given,
        }
    }

    /// Whether `bytes` may be taken for `what`, which stands in the plural: "the states of 8 sequences". `None` is a count
    /// that overflowed, as [`product`] and [`sum`] give it. `advice` says what to do where they may not.
    ///
    /// # Errors
    /// [`BudgetError::TooMuch`] or [`BudgetError::Overflow`].
    pub fn ask(&self, what: &str, bytes: Option<u64>, advice: &str) -> Result<(), BudgetError> {
        match bytes.filter(|bytes| *bytes <= ANY_MACHINE) {
            Some(needed) if needed <= self.bytes => Ok(()),
            Some(needed) => Err(BudgetError::TooMuch {
                what: what.to_string(),
                needed,
                available: self.clone(),
                advice: advice.to_string(),
            }),
            None => Err(BudgetError::Overflow {
                what: what.to_string(),
                advice: advice.to_string(),
            }),
        }
    }
}

/// What this process may still take now: the least that the machine, its control groups and the limit of its address space
/// leave. Takes some 50 µs.
pub fn available() -> Budget {
    available_under(Path::new("/"))
}

/// As [`available`], of a system whose files lie under `root`.
pub fn available_under(root: &Path) -> Budget {
    system::limits(root)
        .into_iter()
        .min_by_key(|budget| budget.bytes)
        .unwrap_or(Budget {
            bytes: u64::MAX,
            limit: Limit::Unknown,
        })
}

/// Asks [`available`] memory for `bytes`, see [`Budget::ask`]. So little that every machine has it is granted unseen.
///
/// # Errors
/// [`BudgetError::TooMuch`] or [`BudgetError::Overflow`].
pub fn ask(what: &str, bytes: Option<u64>, advice: &str) -> Result<(), BudgetError> {
    match bytes {
        Some(bytes) if bytes <= UNSEEN => Ok(()),
        _ => available().ask(what, bytes, advice),
    }
}

/// Memory that is taken piece by piece, against what there was when the first large piece was asked for: what has been
/// reserved but not touched yet is still free as the system counts.
#[derive(Clone, Debug, Default)]
pub struct Account {
    taken: u64,
    available: Option<Budget>,
}

impl Account {
    /// Asks for `bytes` more, see [`Budget::ask`]; the message says what all pieces together need.
    ///
    /// # Errors
    /// [`BudgetError::TooMuch`] or [`BudgetError::Overflow`].
    pub fn ask(&mut self, what: &str, bytes: Option<u64>, advice: &str) -> Result<(), BudgetError> {
        let together = sum([Some(self.taken), bytes]);
        if together.is_none_or(|bytes| bytes > UNSEEN) {
            let budget = self.available.get_or_insert_with(available);
            budget.ask(what, together, advice)?;
        }
        self.taken = together.unwrap_or(u64::MAX);
        Ok(())
    }
}

/// Bytes that are granted without a look at the system: reading its files costs more than taking so little.
const UNSEEN: u64 = 1 << 20;

/// The product of counts, `None` if it overflows.
pub fn product(factors: impl IntoIterator<Item = u64>) -> Option<u64> {
    factors
        .into_iter()
        .try_fold(1, |product: u64, factor| product.checked_mul(factor))
}

/// The sum of counts, `None` if it overflows or one of them did.
pub fn sum(terms: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    terms
        .into_iter()
        .try_fold(0, |sum: u64, term| sum.checked_add(term?))
}

/// Bytes as people read them: `512 B`, `1.5 KiB`, `24.0 GiB`.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut shown = None;
    for unit in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        shown = Some(unit);
    }
    match shown {
        None => format!("{bytes} B"),
        Some(unit) => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_overflows_is_more_than_any_machine_has() {
        let budget = Budget::of(u64::MAX);
        let message = |bytes| {
            budget
                .ask("the states", bytes, "take fewer")
                .unwrap_err()
                .to_string()
        };
        for bytes in [
            product([1 << 40, 1 << 40]),
            sum([Some(u64::MAX), Some(1)]),
            Some(u64::MAX),
        ] {
            assert_eq!(
                message(bytes),
                "the states need more memory than any machine has: take fewer"
            );
        }
        assert_eq!(sum([Some(1), None]), None);
    }

    #[test]
    fn what_is_there_is_granted_and_one_byte_more_is_not() {
        let budget = Budget::of(1000);
        assert_eq!(budget.ask("the states", Some(1000), ""), Ok(()));
        assert!(matches!(
            budget.ask("the states", Some(1001), ""),
            Err(BudgetError::TooMuch { needed: 1001, .. })
        ));
    }

    #[test]
    fn sizes_have_the_unit_that_suits_them() {
        let sizes = [0, 1023, 1024, 24 << 30, u64::MAX].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "24.0 GiB", "16.0 EiB"]);
    }
}

//! Experiments of many trainings or runs, apart from the everyday commands.
//!
//! | module | what is in it |
//! |---|---|
//! | [`capacity`] | `spillway capacity`: state sizes against training lengths |
//! | [`train_compare`] | `spillway train-compare`: trainings that differ in a few settings |
//! | [`train_table`] | `spillway train-table`: a task under several models or initialisations, seed by seed |
//! | [`frontier`] | `spillway frontier`: recall against bytes of state and speed, seed by seed, alone and under mitigations |
//! | [`state_precision`] | `spillway state-precision`: states of fewer bits, law by law, against their f64 truth |
//! | [`trainings`] | arms that change one training, seed by seed, in folders that are gone on with |
//! | [`estimate`] | means over seeds with intervals; many trainings at once are [`crate::ranks::share_out`] |
//! | [`results`], [`about`] | what all leave: pages, pictures, `RESULTS.md`; what stands at their head |

pub mod about;
pub mod capacity;
pub mod estimate;
pub mod frontier;
pub mod results;
pub mod state_precision;
pub mod train_compare;
pub mod train_table;
pub mod trainings;

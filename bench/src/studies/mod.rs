//! Experiments of many trainings, apart from the everyday commands.
//!
//! | module | what is in it |
//! |---|---|
//! | [`capacity`] | `spillway capacity`: state sizes against training lengths |
//! | [`train_compare`] | `spillway train-compare`: trainings that differ in a few settings |
//! | [`results`] | what both leave: pictures, `RESULTS.md` |

pub mod capacity;
pub mod results;
pub mod train_compare;

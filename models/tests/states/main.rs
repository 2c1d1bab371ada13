//! States forked, saved, rolled back, found again on disk and put into batches, for every layout, with and without
//! interventions: whatever is done with a state, what comes after it is the same.

#[path = "../common/allocator.rs"]
mod allocator;
mod equivalence;
#[path = "../common/moved.rs"]
mod moved;

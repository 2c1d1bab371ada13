//! States carried through training, and what is measured along the way.

#[path = "../common/allocator.rs"]
mod allocator;
mod carry;
mod evaluation;
mod gradients;
mod initial;
mod memory;
mod support;

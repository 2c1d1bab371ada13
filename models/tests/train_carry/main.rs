//! States carried through training, and what is measured along the way.

mod carry;
mod evaluation;
mod gradients;
mod initial;
mod support;

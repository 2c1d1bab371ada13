//! The operands of an operator, declared once.
//!
//! ```text
//! operator! {
//!     "step sizes", Problem as problem;
//!     /// What step sizes are made of.
//!     inputs<R, V> {
//!         /// Raw step sizes.
//!         raw: Rows[problem.tokens, problem.heads],
//!         /// What is added to them.
//!         bias: Values[problem.heads],
//!     }
//!     /// What comes out.
//!     outputs<R> {
//!         /// Δ.
//!         step: Rows[problem.tokens, problem.heads],
//!     }
//! }
//! ```
//!
//! makes `struct Operands<R, V> { raw: R, bias: V }` and `struct Results<R> { step: R }`: `R` holds what has a row per token, `V` what
//! has none, if anything has none. Whatever there is one of per operand is one of the two, held in another way:
//!
//! | name | is | held as |
//! |---|---|---|
//! | `Inputs<'a>` | `Operands<Rows<'a>, &'a [f32]>` | what is read |
//! | `Gradients<'a, T>` | `Operands<&'a mut [T], &'a mut [T]>` | what is overwritten |
//! | `GradientBuffers<T>` | `Operands<Vec<T>, Vec<T>>` | memory of its own |
//! | `Outputs<'a>` | `Results<&'a mut [f32]>` | what is overwritten |
//! | `Cotangents<'a>` | `Results<Option<Rows<'a>>>` | nothing where the loss does not see it |
//! | `Operands<(usize, usize), usize>` | | the shapes that a problem asks for |
//! | `DeviceInputs`, `DeviceGradients`, `DeviceOutputs`, `DeviceCotangents` | | views and buffers on a device |
//!
//! `map` goes from one way of holding to another, and `expect` compares any of them with the shapes of a problem. An operand is `Rows`,
//! a view with a row per token; `Gates`, the same in an element type of its own on devices; `Values`, a buffer of f32; an `Option`
//! of one of these; or a `LogDecay`, whose shape is that of its rows, of which a constant one is the first.

#[cfg(feature = "cube")]
mod device;
mod macros;
mod measured;

#[cfg(feature = "cube")]
pub use device::ElementTypes;
pub(crate) use macros::{held, operand, operands, operator};
pub use measured::{Kind, Operand};
pub(crate) use measured::{Measured, Subject, area};

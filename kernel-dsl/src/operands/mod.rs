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
//! of one of these; a `LogDecay`, whose shape is that of its rows, of which a constant one is the first; or a `Choice` of an enum of the
//! operator's own, each of whose variants has other rows.
//!
//! `output`, in the singular, is for an operator with one of them, whose cotangent is always given: `Cotangents<'a>` is
//! `Results<Rows<'a>>` then.
//!
//! An operator over sequences has a state, and settings beside its operands. Its shapes know how many rows the sequences have:
//!
//! ```text
//! operator! {
//!     "WKV-4", Problem as problem, rows;
//!     /// What is read.
//!     inputs<R, V> {
//!         /// k.
//!         key: Rows[rows, problem.channels],
//!         /// u.
//!         bonus: Values[problem.channels],
//!     }
//!     settings<'a> {
//!         /// Which rows belong to which sequence.
//!         sequences: Sequences<'a>,
//!     }
//!     /// What comes out.
//!     output<R> {
//!         /// o.
//!         out: Rows[rows, problem.channels],
//!     }
//!     /// The state, `[batch, 3, channels]`.
//!     state[problem.state_len()]
//! }
//! ```
//!
//! `Operands<'a, R, V>` carries the settings along. Beside it there is `OperandsAndState<R, V> { key: R, bonus: V, state: V }`, of which
//! the gradients are made, and `Results<R, V>` has the state too: the one before the first token there, the one after the last here.
//! Forward passes in memory overwrite the one by the other.

mod declaration;
#[cfg(feature = "cube")]
mod device;
mod fields;
mod list;
mod measured;
#[cfg(test)]
mod tests;

pub(crate) use declaration::{cotangents, held, inputs, operator, with_state};
#[cfg(feature = "cube")]
pub use device::ElementTypes;
pub(crate) use fields::{each, list, operand, operands};
pub use list::{Declared, List, Named};
pub use measured::{Kind, Operand};
pub(crate) use measured::{Measured, Subject, area};

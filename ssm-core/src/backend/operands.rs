//! The operands of an operator by name. Those of an operator that `spillway-kernel-dsl` declares are its own; of others they are declared
//! here.
//!
//! ```text
//! operands! {
//!     /// What the scan reads.
//!     pub(crate) Inputs { input, step_size, state; optional skip, gate }
//! }
//! ```
//!
//! makes `struct Inputs<T> { input: T, step_size: T, state: T, skip: Option<T>, gate: Option<T> }`. Tensors of every backend,
//! their shapes, buffers for their gradients and the gradients themselves are all an `Inputs`, of another `T` each. Burn's
//! dispatch knows no names: on the way through it the operands are a list, in the order of the declaration.

use spillway_kernel_dsl::operands::{Declared, List, Named};

/// An input that the operator cannot do without.
pub(crate) fn required<T>(input: Option<T>) -> T {
    match input {
        Some(tensor) => tensor,
        None => unreachable!("required inputs are given by every caller of this crate"),
    }
}

/// Operands from a list that whoever made it has filled.
pub(crate) fn named<N: Named<T>, T>(list: List<T>) -> N {
    required(N::from_list(list))
}

/// What each of the operands becomes, by name.
pub(crate) fn each<D: Declared, T, U>(operands: D::As<T>, mut f: impl FnMut(T) -> U) -> D::As<U> {
    let list = operands.into_list().into_iter();
    named(list.map(|operand| operand.map(&mut f)).collect::<List<U>>())
}

/// What each of the operands becomes together with its namesake, where both are given.
pub(crate) fn each_of_both<D: Declared, T, U, V>(
    one: D::As<T>,
    other: D::As<U>,
    mut f: impl FnMut(T, U) -> V,
) -> D::As<V> {
    let both = one.into_list().into_iter().zip(other.into_list());
    named(
        both.map(|(one, other)| Some(f(one?, other?)))
            .collect::<List<V>>(),
    )
}

macro_rules! operands {
    ($(#[$meta:meta])* $visibility:vis $name:ident { $($field:ident),* $(,)? $(; optional $($option:ident),* $(,)?)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $visibility struct $name<T> {
            $($visibility $field: T,)*
            $($($visibility $option: Option<T>,)*)?
        }

        impl<T> spillway_kernel_dsl::operands::Named<T> for $name<T> {
            fn names() -> Vec<&'static str> {
                vec![$(stringify!($field),)* $($(stringify!($option),)*)?]
            }

            fn from_list(list: spillway_kernel_dsl::operands::List<T>) -> Option<Self> {
                let mut list = list.into_iter();
                let mut next = || list.next().flatten();
                Some(Self {
                    $($field: next()?,)*
                    $($($option: next(),)*)?
                })
            }

            fn into_list(self) -> spillway_kernel_dsl::operands::List<T> {
                vec![$(Some(self.$field),)* $($(self.$option,)*)?]
            }
        }

        impl spillway_kernel_dsl::operands::Declared for $name<()> {
            type As<T> = $name<T>;
        }
    };
}
pub(crate) use operands;

operands! {
    /// The output of an operator that has only one.
    pub(crate) Output { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    operands! {
        /// The operands of the tests, of which the third may be missing.
        Three { first, second; optional third }
    }

    #[test]
    fn a_list_and_names_are_one_order() {
        let three: Three<_> = named(vec![Some(1), Some(2), None, Some(4)]);
        assert_eq!((three.first, three.second, three.third), (1, 2, None));
        assert_eq!(Three::<i32>::names(), ["first", "second", "third"]);
        assert_eq!(three.into_list(), [Some(1), Some(2), None]);
    }

    #[test]
    fn what_is_missing_stays_missing() {
        let some = |third| Three {
            first: 1,
            second: 2,
            third,
        };
        let doubled = each::<Three<()>, _, _>(some(Some(3)), |x| 2 * x);
        assert_eq!(doubled.into_list(), [Some(2), Some(4), Some(6)]);
        let sums = each_of_both::<Three<()>, _, _, _>(some(Some(3)), some(None), |a, b| a + b);
        assert_eq!(sums.into_list(), [Some(2), Some(4), None]);
    }
}

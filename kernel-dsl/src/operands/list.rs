//! Operands as a list, for frameworks whose dispatch knows no names.

/// Operands in the order of their declaration; optional ones may be missing. A log decay has two places: the first where it is
/// constant in time, the second where there is one per token.
pub type List<T> = Vec<Option<T>>;

/// Operands by name, each held as a `T`.
pub trait Named<T>: Sized {
    /// The name of every place in a list.
    fn names() -> Vec<&'static str>;

    /// Operands from a list in the order of the names; what follows them is left. `None` where one that is not optional is missing.
    fn from_list(list: List<T>) -> Option<Self>;

    /// Operands as a list in the order of the names.
    fn into_list(self) -> List<T>;
}

/// A declaration of operands.
pub trait Declared: 'static {
    /// The operands, each held as a `T`.
    type As<T>: Named<T>;
}

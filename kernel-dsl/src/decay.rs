//! Decays: what a token multiplies a state by before it writes.

use thiserror::Error;

/// What the decay a_t depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecayKind {
    /// a = 1: linear attention, Based, DeltaNet.
    None,
    /// One constant per head: RetNet, lightning attention.
    PerHead,
    /// One constant per head and key: RWKV-5.
    PerKey,
    /// One scalar per token and head: Mamba-2, simple GLA, Gated DeltaNet.
    PerHeadToken,
    /// One value per token, head and key: GLA, HGRN-2, RWKV-6, RWKV-7, KDA.
    PerKeyToken,
}

/// What one decay value acts on, whether it is constant in time or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DecayScope {
    /// Nothing: a = 1.
    None,
    /// The whole state of a head.
    Head,
    /// One row of a head's state, which belongs to one key.
    Key,
}

/// Logarithms of decays, base e, at most 0; `-inf` forgets everything.
///
/// Constants are held in `C` and what there is per token in `T`: slices and [`Rows`](crate::Rows) on the host, buffers and views of
/// buffers on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LogDecay<C, T> {
    /// No decay: states are kept as they are.
    #[default]
    None,
    /// Constant in time: `[heads]` for [`DecayKind::PerHead`], `[heads, key_dim]` for [`DecayKind::PerKey`].
    Constant(C),
    /// Per token: `heads` columns for [`DecayKind::PerHeadToken`], `heads·key_dim` for [`DecayKind::PerKeyToken`].
    Token(T),
}

/// Log decays in a form that the problem's decay kind does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{operator}: decay kind {decay:?} needs log decays as LogDecay::{expected}, found LogDecay::{found}")]
pub struct DecayFormError {
    /// Name of the operator that was called.
    pub operator: &'static str,
    /// What the problem says.
    pub decay: DecayKind,
    /// The variant that it needs.
    pub expected: &'static str,
    /// The variant that came.
    pub found: &'static str,
}

impl DecayKind {
    /// Decay values that one head has at one token: 0, 1 or `key_dim`.
    pub fn values_per_head(self, key_dim: usize) -> usize {
        match self {
            Self::None => 0,
            Self::PerHead | Self::PerHeadToken => 1,
            Self::PerKey | Self::PerKeyToken => key_dim,
        }
    }

    /// What one decay value acts on.
    pub(crate) fn scope(self) -> DecayScope {
        match self {
            Self::None => DecayScope::None,
            Self::PerHead | Self::PerHeadToken => DecayScope::Head,
            Self::PerKey | Self::PerKeyToken => DecayScope::Key,
        }
    }

    /// Whether the decay is the same at every token.
    pub fn is_constant(self) -> bool {
        matches!(self, Self::PerHead | Self::PerKey)
    }

    /// `value` in the form that this kind has, by what holds constants and by what holds values per token.
    pub fn log_decay<V, C, T>(
        self,
        value: Option<V>,
        constant: impl FnOnce(V) -> C,
        token: impl FnOnce(V) -> T,
    ) -> LogDecay<C, T> {
        match (self, value) {
            (Self::None, _) | (_, None) => LogDecay::None,
            (Self::PerHead | Self::PerKey, Some(value)) => LogDecay::Constant(constant(value)),
            (Self::PerHeadToken | Self::PerKeyToken, Some(value)) => LogDecay::Token(token(value)),
        }
    }
}

/// What there is per token, or no decay.
impl<C, T> From<Option<T>> for LogDecay<C, T> {
    fn from(values: Option<T>) -> Self {
        values.map_or(Self::None, Self::Token)
    }
}

impl<T> LogDecay<T, T> {
    /// What is held, constant or per token.
    pub fn either(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::Constant(values) | Self::Token(values) => Some(values),
        }
    }
}

impl<C, T> LogDecay<C, T> {
    /// Whether there is no decay.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// What there is per token.
    pub fn token(&self) -> Option<&T> {
        match self {
            Self::None | Self::Constant(_) => None,
            Self::Token(values) => Some(values),
        }
    }

    /// As [`LogDecay::token`], taken out.
    pub fn into_token(self) -> Option<T> {
        match self {
            Self::None | Self::Constant(_) => None,
            Self::Token(values) => Some(values),
        }
    }

    /// Log decays that are constant in time, if these are.
    pub fn constant(&self) -> Option<&C> {
        match self {
            Self::None | Self::Token(_) => None,
            Self::Constant(values) => Some(values),
        }
    }

    /// These decays, borrowed to be changed.
    pub fn as_mut(&mut self) -> LogDecay<&mut C, &mut T> {
        match self {
            Self::None => LogDecay::None,
            Self::Constant(values) => LogDecay::Constant(values),
            Self::Token(values) => LogDecay::Token(values),
        }
    }

    /// These decays, borrowed.
    pub fn as_ref(&self) -> LogDecay<&C, &T> {
        match self {
            Self::None => LogDecay::None,
            Self::Constant(values) => LogDecay::Constant(values),
            Self::Token(values) => LogDecay::Token(values),
        }
    }

    /// These decays, with constants converted by `constant` and decays per token by `token`.
    pub fn map<D, U>(self, constant: impl FnOnce(C) -> D, token: impl FnOnce(T) -> U) -> LogDecay<D, U> {
        match self {
            Self::None => LogDecay::None,
            Self::Constant(values) => LogDecay::Constant(constant(values)),
            Self::Token(values) => LogDecay::Token(token(values)),
        }
    }

    /// Checks that the form is the one that `decay` has.
    pub(crate) fn expect_form(&self, operator: &'static str, decay: DecayKind) -> Result<(), DecayFormError> {
        let expected = match decay {
            DecayKind::None => "None",
            DecayKind::PerHead | DecayKind::PerKey => "Constant",
            DecayKind::PerHeadToken | DecayKind::PerKeyToken => "Token",
        };
        let found = match self {
            Self::None => "None",
            Self::Constant(_) => "Constant",
            Self::Token(_) => "Token",
        };
        match expected == found {
            true => Ok(()),
            false => Err(DecayFormError {
                operator,
                decay,
                expected,
                found,
            }),
        }
    }
}

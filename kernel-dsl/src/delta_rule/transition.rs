//! The matrix by which a token multiplies the state, and what the token reads for it.

use crate::operands::{Kind, Measured, Operand, Subject};

/// Kind of matrix by which a token multiplies the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransitionKind {
    /// (I − β k kᵀ) diag(a): DeltaNet, Gated DeltaNet, KDA.
    Delta,
    /// diag(a) + b pᵀ: RWKV-7, DPLR.
    LowRank,
}

/// What a transition reads beside decay and key, each held as an `R`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transition<R> {
    /// (I − β k kᵀ) diag(a), and the update β k vᵀ.
    Delta {
        /// β, `[rows, heads]`; on devices in the type of the log decays.
        beta: R,
    },
    /// diag(a) + b pᵀ, and the update k vᵀ.
    LowRank {
        /// p, which reads the state before it decays, `[rows, groups·key_dim]`.
        p: R,
        /// b, which writes what p read, `[rows, groups·key_dim]`.
        b: R,
    },
}

const BETA: Operand = Operand::new("beta", Kind::Gates);
const P: Operand = Operand::new("p", Kind::Rows);
const B: Operand = Operand::new("b", Kind::Rows);

impl<R> Transition<R> {
    /// Kind of the transition that these operands belong to.
    pub fn kind(&self) -> TransitionKind {
        match self {
            Self::Delta { .. } => TransitionKind::Delta,
            Self::LowRank { .. } => TransitionKind::LowRank,
        }
    }

    /// These operands, borrowed.
    pub fn as_ref(&self) -> Transition<&R> {
        match self {
            Self::Delta { beta } => Transition::Delta { beta },
            Self::LowRank { p, b } => Transition::LowRank { p, b },
        }
    }

    /// These operands, borrowed to be changed.
    pub fn as_mut(&mut self) -> Transition<&mut R> {
        match self {
            Self::Delta { beta } => Transition::Delta { beta },
            Self::LowRank { p, b } => Transition::LowRank { p, b },
        }
    }

    /// These operands, each converted by `f`.
    ///
    /// # Errors
    /// The first that the function gives.
    pub fn try_map<S, E>(self, mut f: impl FnMut(Operand, R) -> Result<S, E>) -> Result<Transition<S>, E> {
        Ok(match self {
            Self::Delta { beta } => Transition::Delta { beta: f(BETA, beta)? },
            Self::LowRank { p, b } => Transition::LowRank {
                p: f(P, p)?,
                b: f(B, b)?,
            },
        })
    }

    /// The shapes of operands like these.
    pub(crate) fn extents(&self, rows: usize, heads: usize, on_keys: usize) -> Transition<(usize, usize)> {
        match self {
            Self::Delta { .. } => Transition::Delta { beta: (rows, heads) },
            Self::LowRank { .. } => Transition::LowRank {
                p: (rows, on_keys),
                b: (rows, on_keys),
            },
        }
    }

    /// Compares with shapes; what the other transition reads is not to be there.
    pub(crate) fn expect<T, E>(
        &self,
        subject: &Subject<T>,
        extents: &Transition<(usize, usize)>,
    ) -> Result<(), E>
    where
        R: Measured<(usize, usize), Types = T, Error = E>,
    {
        let (beta_shape, p_shape, b_shape) = match *extents {
            Transition::Delta { beta } => (Some(beta), None, None),
            Transition::LowRank { p, b } => (None, Some(p), Some(b)),
        };
        match self {
            Self::Delta { beta } => beta.expect(subject, BETA, beta_shape),
            Self::LowRank { p, b } => {
                p.expect(subject, P, p_shape)?;
                b.expect(subject, B, b_shape)
            }
        }
    }

    /// The names of the places in a list, which has all three.
    pub(crate) const NAMES: [&str; 3] = [BETA.name, P.name, B.name];

    /// As these places of a list.
    pub(crate) fn into_places(self) -> [Option<R>; 3] {
        match self {
            Self::Delta { beta } => [Some(beta), None, None],
            Self::LowRank { p, b } => [None, Some(p), Some(b)],
        }
    }

    /// Takes the operands from the next three places of a list; `None` where those of neither transition are there.
    pub(crate) fn from_places(mut next: impl FnMut() -> Option<R>) -> Option<Self> {
        match (next(), next(), next()) {
            (Some(beta), _, _) => Some(Self::Delta { beta }),
            (None, Some(p), Some(b)) => Some(Self::LowRank { p, b }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{Operator, Role};

    const RULE: Subject = Subject {
        operator: Operator("delta rule"),
        role: Role::Gradient,
        types: (),
    };

    #[test]
    fn each_form_has_places_of_its_own_in_a_list() {
        let delta = Transition::Delta { beta: 1 };
        let low_rank = Transition::LowRank { p: 2, b: 3 };
        assert_eq!(delta.into_places(), [Some(1), None, None]);
        assert_eq!(low_rank.into_places(), [None, Some(2), Some(3)]);
        for transition in [delta, low_rank] {
            let mut places = transition.into_places().into_iter();
            let again = Transition::from_places(|| places.next().flatten());
            assert_eq!(again, Some(transition));
        }
        assert_eq!(Transition::<u8>::from_places(|| None), None);
    }

    #[test]
    fn what_the_other_form_reads_is_refused() {
        let (mut p, mut b) = ([0.0_f32; 6], [0.0_f32; 6]);
        let low_rank = Transition::LowRank {
            p: &mut p[..],
            b: &mut b[..],
        };
        let shapes = Transition::LowRank { p: (), b: () }.extents(2, 4, 3);
        assert_eq!(low_rank.expect(&RULE, &shapes), Ok(()));
        let other = Transition::Delta { beta: () }.extents(2, 4, 3);
        let error = low_rank.expect(&RULE, &other).expect_err("there is no p");
        assert_eq!(
            error.to_string(),
            "delta rule: the gradient of p needs none, found 6 values"
        );
    }
}

//! Which tokens of a sequence each rank has.

use std::ops::Range;

use crate::parallel::collectives::share;

/// Stretches of a sequence, dealt out to the ranks in turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    time: usize,
    turns: usize,
    ranks: usize,
}

impl Plan {
    /// Stretches of lengths that differ by no more than one token, as many for each rank, none longer than `longest`. A sequence of
    /// fewer tokens has one for each token.
    pub(super) fn new(time: usize, ranks: usize, longest: Option<usize>) -> Self {
        let ranks = ranks.max(1);
        let rounds = match longest {
            None => 1,
            Some(longest) => time.div_ceil(ranks.saturating_mul(longest.max(1))).max(1),
        };
        Self {
            time,
            turns: (ranks * rounds).min(time),
            ranks,
        }
    }

    /// Number of the stretches.
    #[cfg(test)]
    fn turns(&self) -> usize {
        self.turns
    }

    /// Stretches of rank `rank`, first to last.
    pub(super) fn of_rank(&self, rank: usize) -> impl Iterator<Item = usize> {
        (rank..self.turns).step_by(self.ranks)
    }

    /// Tokens of a stretch.
    pub(super) fn tokens(&self, turn: usize) -> Range<usize> {
        share(self.time, turn, self.turns)
    }

    /// The rank of the stretch before; `None` for the first one.
    pub(super) fn before(&self, turn: usize) -> Option<usize> {
        turn.checked_sub(1).map(|before| before % self.ranks)
    }

    /// The rank of the stretch behind; `None` for the last one.
    pub(super) fn behind(&self, turn: usize) -> Option<usize> {
        (turn + 1 < self.turns).then(|| (turn + 1) % self.ranks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_cover_a_sequence_in_order_and_none_is_too_long() {
        for time in [1, 2, 5, 17, 100] {
            for ranks in [1, 2, 3, 5] {
                for longest in [None, Some(1), Some(4), Some(1000)] {
                    let plan = Plan::new(time, ranks, longest);
                    let mut end = 0;
                    for turn in 0..plan.turns() {
                        let tokens = plan.tokens(turn);
                        assert_eq!(tokens.start, end);
                        assert!(!tokens.is_empty());
                        assert!(longest.is_none_or(|longest| tokens.len() <= longest));
                        end = tokens.end;
                        assert_eq!(plan.before(turn), (turn > 0).then(|| (turn + ranks - 1) % ranks));
                    }
                    assert_eq!(end, time);
                    let dealt: usize = (0..ranks).map(|rank| plan.of_rank(rank).count()).sum();
                    assert_eq!(dealt, plan.turns());
                    assert_eq!(plan.behind(plan.turns() - 1), None);
                }
            }
        }
    }
}

//! Which piece of work is next.
//!
//! Pieces lie in lanes. Those of one lane have something in common that a rank keeps from one to the next: a model that it has loaded, a
//! state that goes along a text. So a rank stays in its lane until nothing is left there, and then goes where the fewest others are.

use std::collections::{BTreeMap, VecDeque};

/// Pieces that wait, and those that are being worked on, by their places in a list that every rank has.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    lanes: Vec<VecDeque<usize>>,
    /// The lane that each rank is in, once it has worked.
    of_rank: BTreeMap<usize, usize>,
    /// What is being worked on: place, lane, rank.
    begun: BTreeMap<usize, (usize, usize)>,
    is_given_up: bool,
}

impl Queue {
    /// One lane: the places in their order, whoever asks.
    pub fn new(places: &[usize]) -> Self {
        Self::of_lanes([places.to_vec()])
    }

    /// Lanes, each worked on in its order. Ranks begin in the first ones.
    pub fn of_lanes(lanes: impl IntoIterator<Item = Vec<usize>>) -> Self {
        Self {
            lanes: lanes.into_iter().map(VecDeque::from).collect(),
            ..Self::default()
        }
    }

    /// Number of pieces that wait.
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    /// Whether nothing waits and nothing is worked on, so that nothing more can come.
    pub fn is_over(&self) -> bool {
        self.begun.is_empty() && self.waiting() == 0
    }

    /// Whether all pieces are done.
    pub fn is_complete(&self) -> bool {
        self.is_over() && !self.is_given_up
    }

    /// The place of a piece for `rank` to work on.
    pub fn take(&mut self, rank: usize) -> Option<usize> {
        let lane = self.lane_for(rank)?;
        let place = self.lanes[lane].pop_front()?;
        self.of_rank.insert(rank, lane);
        self.begun.insert(place, (lane, rank));
        Some(place)
    }

    fn lane_for(&self, rank: usize) -> Option<usize> {
        let own = self.of_rank.get(&rank).copied();
        if let Some(own) = own.filter(|lane| !self.lanes[*lane].is_empty()) {
            return Some(own);
        }
        let others = |lane: usize| {
            let ranks = self.of_rank.iter().filter(|(other, _)| **other != rank);
            ranks.filter(|(_, at)| **at == lane).count()
        };
        let open = (0..self.lanes.len()).filter(|lane| !self.lanes[*lane].is_empty());
        // The first of several that are as good.
        open.min_by_key(|lane| others(*lane))
    }

    /// A piece is done, and `more` of its lane can be begun because of it. Whether the piece was being worked on at all.
    pub fn finish(&mut self, place: usize, more: Vec<usize>) -> bool {
        match self.begun.remove(&place) {
            Some((lane, _)) => {
                self.lanes[lane].extend(more);
                true
            }
            None => false,
        }
    }

    /// Nothing more comes from `rank`: what it had begun stays undone.
    pub fn give_up(&mut self, rank: usize) {
        let before = self.begun.len();
        self.begun.retain(|_, (_, of)| *of != rank);
        self.is_given_up |= self.begun.len() < before;
        self.of_rank.remove(&rank);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lane_is_taken_in_its_order_by_whoever_asks() {
        let mut queue = Queue::new(&[4, 2, 9]);
        let taken: Vec<Option<usize>> = [0, 1, 0, 1].map(|rank| queue.take(rank)).into();
        assert_eq!(taken, [Some(4), Some(2), Some(9), None]);
        assert!(!queue.is_over());
        assert!([4, 9, 2].iter().all(|place| queue.finish(*place, Vec::new())));
        assert!(queue.is_complete());
        assert!(!queue.finish(9, Vec::new()), "it was done twice");
    }

    #[test]
    fn a_rank_stays_in_its_lane_and_then_goes_where_the_fewest_are() {
        let mut queue = Queue::of_lanes([vec![0, 1, 2, 3], vec![10, 11, 12], vec![20]]);
        assert_eq!(
            [0, 1, 2].map(|rank| queue.take(rank)),
            [Some(0), Some(10), Some(20)]
        );
        assert_eq!([0, 1].map(|rank| queue.take(rank)), [Some(1), Some(11)]);
        // Nothing is left in its own; both others have one rank.
        assert_eq!(queue.take(2), Some(2));
        // A fourth goes where there is one rank, and not two.
        assert_eq!(queue.take(3), Some(12));
        assert_eq!(queue.take(1), Some(3));
    }

    #[test]
    fn what_follows_from_a_piece_is_of_its_lane() {
        let mut queue = Queue::of_lanes([vec![0], vec![10, 11]]);
        assert_eq!([0, 1].map(|rank| queue.take(rank)), [Some(0), Some(10)]);
        assert!(queue.finish(0, vec![1, 2]));
        assert_eq!([0, 1].map(|rank| queue.take(rank)), [Some(1), Some(11)]);
    }

    #[test]
    fn what_a_rank_has_begun_and_not_done_stays_undone() {
        let mut queue = Queue::new(&[0, 1]);
        assert_eq!([0, 1].map(|rank| queue.take(rank)), [Some(0), Some(1)]);
        queue.give_up(1);
        assert!(queue.finish(0, Vec::new()));
        assert!(queue.is_over() && !queue.is_complete());
        queue.give_up(1);
        assert!(queue.is_over() && !queue.is_complete());
    }
}

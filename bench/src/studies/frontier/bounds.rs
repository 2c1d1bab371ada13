//! What is known of a synthetic task before anything is trained: what guessing gets, and how many bytes no memory can do without.

use spillway_models::train::data::DataConfig;

/// The share that is right by guessing among what was told, without knowing what belongs to what; nothing for data that are no such task.
///
/// | task | guess |
/// |---|---|
/// | associative recall of K pairs | any of K values: 1/K |
/// | pairs in filler, whose V values may repeat | 1/K + (1 − 1/K)/V, the mean over the numbers K |
/// | the same by two keys of g each | 1/g² |
/// | set disjointness | any member of the shorter list: the mean of 1/min(\|A\|, \|B\|) over the sizes |
pub fn guess(data: &DataConfig) -> Option<f64> {
    match data {
        DataConfig::Mqar(task) => Some(1.0 / task.pairs as f64),
        DataConfig::ForgettingMqar(task) => Some(1.0 / task.pairs as f64),
        DataConfig::PairsInFiller(task) => {
            let chances = task.pairs.iter().map(|pairs| task.chance(*pairs));
            Some(chances.sum::<f64>() / task.pairs.len() as f64)
        }
        DataConfig::CompositionalMqar(task) => Some((task.side as f64).powi(-2)),
        DataConfig::SetDisjointness(task) => {
            let shorter = task.sizes.iter().map(|(a, b)| 1.0 / (*a).min(*b) as f64);
            Some(shorter.sum::<f64>() / task.sizes.len() as f64)
        }
        DataConfig::Mix(mix) => {
            let total: f64 = mix.parts.iter().map(|part| part.weight).sum();
            let shares = mix
                .parts
                .iter()
                .map(|part| Some(part.weight / total * guess(&part.source)?));
            shares.sum()
        }
        _ => None,
    }
}

/// Two lists, of which one element is in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lists {
    /// |A|, the list that is read first.
    pub first: usize,
    /// |B|, the list that is read second.
    pub second: usize,
    /// n, the ids that lists are made of.
    pub ids: usize,
}

impl Lists {
    /// The lists of a task of one pair of sizes. Any id but the four marks may be in either list.
    pub fn of(data: &DataConfig) -> Option<Self> {
        match data {
            DataConfig::SetDisjointness(task) => match task.sizes.as_slice() {
                [(first, second)] => Some(Self {
                    first: *first,
                    second: *second,
                    ids: task.vocab_size.saturating_sub(4),
                }),
                _ => None,
            },
            _ => None,
        }
    }

    /// Bytes below which no memory that reads A, and then B, names the shared element for all of them: log₂ C(n, |A|) / 8 for |B| ≥ 2. Of a
    /// B of one element that element is the answer, and nothing has to be kept.
    ///
    /// Two lists A and A′ that leave the same memory are answered alike whatever follows. If they differ, there are x in A alone and y in A′
    /// alone, and a list B of x, y and what is in neither: with A the answer is x, with A′ it is y. So every list leaves a memory of its own, and
    /// there are C(n, |A|). This is the counting bound of one-way communication, on which Arora et al., *Just read twice* (2407.05483),
    /// section 3.1, build theirs: a model that reads once needs Ω(|A|) bits, whichever list is shorter.
    pub fn causal_bytes(self) -> f64 {
        match self.second {
            0 | 1 => 0.0,
            _ => log2_choose(self.ids, self.first) / 8.0,
        }
    }

    /// [`Self::causal_bytes`] of the lists in the order that needs fewer. A model that reads twice or both ways is not held to either
    /// order; theirs is the bound Ω(min(|A|, |B|)/p) for p readings.
    pub fn better_order_bytes(self) -> f64 {
        let turned = Self {
            first: self.second,
            second: self.first,
            ..self
        };
        self.causal_bytes().min(turned.causal_bytes())
    }
}

/// log₂ of the number of ways to choose `k` of `n`.
pub fn log2_choose(n: usize, k: usize) -> f64 {
    let k = k.min(n - k.min(n));
    (1..=k).map(|i| ((n - k + i) as f64 / i as f64).log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_models::train::data::{ForgettingMqar, Mqar, SetDisjointness};

    #[test]
    fn ways_to_choose_are_those_of_pascals_triangle() {
        for (n, k, ways) in [
            (4, 0, 1.0),
            (4, 2, 6.0),
            (10, 3, 120.0),
            (10, 7, 120.0),
            (52, 5, 2_598_960.0),
        ] {
            assert!((log2_choose(n, k) - f64::log2(ways)).abs() < 1e-9, "{n}, {k}");
        }
    }

    #[test]
    fn memories_that_are_fewer_than_the_lists_mix_two_of_them_up() {
        // Every map from the lists of 2 of 5 ids to fewer memories sends two lists to one, and a second list tells those two apart: the bound is
        // a matter of counting, here counted out. 10 lists take log₂ 10 bits.
        let lists: Vec<[u32; 2]> = (0..5).flat_map(|a| (a + 1..5).map(move |b| [a, b])).collect();
        for (index, one) in lists.iter().enumerate() {
            for other in &lists[..index] {
                let only_here = one.iter().find(|x| !other.contains(x)).expect("different lists");
                let only_there = other.iter().find(|x| !one.contains(x)).expect("different lists");
                let second = [*only_here, *only_there];
                let answer = |first: &[u32; 2]| {
                    let shared: Vec<u32> = second.iter().copied().filter(|x| first.contains(x)).collect();
                    assert_eq!(shared.len(), 1);
                    shared[0]
                };
                assert_ne!(answer(one), answer(other));
            }
        }
        let bound = Lists {
            first: 2,
            second: 2,
            ids: 5,
        };
        assert!((bound.causal_bytes() - f64::log2(lists.len() as f64) / 8.0).abs() < 1e-12);
    }

    #[test]
    fn the_list_that_comes_first_decides_where_order_matters() {
        let lists = |sizes| Lists::of(&DataConfig::SetDisjointness(SetDisjointness::new(sizes)));
        let (short, long) = (
            lists(vec![(4, 64)]).expect("one pair"),
            lists(vec![(64, 4)]).expect("one pair"),
        );
        assert_eq!(lists(vec![(4, 64), (64, 4)]), None);
        assert!(long.causal_bytes() > 5.0 * short.causal_bytes());
        assert_eq!(long.better_order_bytes(), short.causal_bytes());
        // 2,044 · 2,043 · 2,042 · 2,041 / 24.
        let ways = [2044.0, 2043.0, 2042.0, 2041.0].iter().product::<f64>() / 24.0;
        assert!((short.causal_bytes() - ways.log2() / 8.0).abs() < 1e-9);
        let one = lists(vec![(64, 1)]).expect("one pair");
        assert_eq!(one.causal_bytes(), 0.0);
    }

    #[test]
    fn guessing_is_among_what_was_told() {
        assert_eq!(guess(&DataConfig::Mqar(Mqar::new(8))), Some(0.125));
        assert_eq!(
            guess(&DataConfig::ForgettingMqar(ForgettingMqar::new(4))),
            Some(0.25)
        );
        let lists = DataConfig::SetDisjointness(SetDisjointness::new(vec![(4, 16), (2, 2)]));
        assert_eq!(guess(&lists), Some(0.375));
    }
}

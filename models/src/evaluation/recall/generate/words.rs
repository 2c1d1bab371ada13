//! Invented words and values, and sentences without a fact in them.
//!
//! Every value is made of a number by a rule that no two numbers share a value under, so that splits of the numbers are splits of
//! the values.

use rand::Rng;
use rand::rngs::StdRng;

use super::Split;

/// Numbers that words are made of.
const WORDS: u64 = 40_000;
/// How a word begins, goes on and ends.
const BEGINNINGS: [&str; 20] = [
    "Ba", "Ce", "Do", "Fa", "Ge", "Hi", "Jo", "Ka", "Lu", "Me", "Ni", "Or", "Pa", "Qui", "Ro", "Sa", "Ti",
    "Ul", "Ve", "Zo",
];
const MIDDLES: [&str; 20] = [
    "ba", "cri", "den", "fo", "gri", "ha", "jen", "kol", "lan", "mi", "nor", "pel", "ra", "sti", "tor",
    "van", "wen", "xi", "yan", "zu",
];
const ENDS: [&str; 10] = [
    "dor", "mir", "vale", "ston", "lin", "rak", "bek", "tha", "nos", "gard",
];
/// Between two parts, so that there are enough words.
const LINKS: [&str; 10] = ["", "l", "m", "n", "r", "s", "th", "sh", "k", "v"];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Numbers that are counted, as words.
pub(super) const COUNTS: [&str; 13] = [
    "none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
];

impl Split {
    /// Whether a number is of this half: by the sum of its digits, so that every digit occurs in every place of both.
    pub(super) fn has(self, number: u64) -> bool {
        let digits = std::iter::successors(Some(number), |rest| (*rest > 9).then_some(rest / 10));
        let odd = digits.map(|rest| rest % 10).sum::<u64>() % 2 == 1;
        odd == (self == Self::Test)
    }

    /// A number of this half below `end`, from `begin` on; both are even.
    pub(super) fn number(self, begin: u64, end: u64, random: &mut StdRng) -> u64 {
        let drawn = random.random_range(begin..end);
        // The other of its pair differs in the last digit, by one.
        if self.has(drawn) { drawn } else { drawn ^ 1 }
    }

    /// A word of this half.
    pub(super) fn word(self, random: &mut StdRng) -> String {
        word(self.number(0, WORDS, random))
    }

    /// So many different words of this half.
    pub(super) fn words(self, count: usize, random: &mut StdRng) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        while words.len() < count {
            let word = self.word(random);
            if seen.insert(word.clone()) {
                words.push(word);
            }
        }
        words
    }
}

/// The word of a number below 40,000: another for each.
pub(super) fn word(number: u64) -> String {
    let (number, end) = (number / 10, number % 10);
    let (number, link) = (number / 10, number % 10);
    let (number, middle) = (number / 20, number % 20);
    let part = |list: &[&'static str], index: u64| list[(index as usize) % list.len()];
    [
        part(&BEGINNINGS, number),
        part(&LINKS, link),
        part(&MIDDLES, middle),
        part(&ENDS, end),
    ]
    .concat()
}

/// A value of one of six kinds: a code, a date, a name, a dose, a number with its unit, an address.
pub(super) fn value(kind: usize, split: Split, random: &mut StdRng) -> String {
    let number = |begin, end, random: &mut StdRng| split.number(begin, end, random);
    match kind % 6 {
        0 => format!("K{:06}", number(0, 1_000_000, random)),
        1 => {
            let day = number(0, 36_000, random);
            let (year, rest) = (1900 + day / 300, day % 300);
            format!("{} {} {year}", rest % 25 + 1, MONTHS[(rest / 25) as usize])
        }
        2 => format!("{} {}", split.word(random), split.word(random)),
        3 => format!("{} mg daily", number(10, 10_000, random)),
        4 => format!(
            "{}.{} mm",
            random.random_range(10..100),
            number(100, 1000, random)
        ),
        _ => format!("{} {} Road", number(10, 10_000, random), split.word(random)),
    }
}

/// How a sentence goes on, word class by word class: a chain of Markov's of the first order with probabilities in tenths.
#[derive(Clone, Copy)]
enum Class {
    Start,
    Adjective,
    Noun,
    Verb,
    Adverb,
    Preposition,
    End,
}

const ADJECTIVES: [&str; 10] = [
    "quiet", "old", "narrow", "careful", "distant", "plain", "early", "broad", "usual", "clear",
];
const NOUNS: [&str; 12] = [
    "committee",
    "harbour",
    "reader",
    "letter",
    "garden",
    "engineer",
    "window",
    "season",
    "village",
    "record",
    "machine",
    "visitor",
];
const VERBS: [&str; 8] = [
    "waited", "returned", "changed", "stood", "moved", "remained", "worked", "rested",
];
const ADVERBS: [&str; 6] = ["slowly", "again", "together", "quietly", "often", "there"];
const PREPOSITIONS: [&str; 6] = ["near", "behind", "beside", "above", "before", "after"];

/// A sentence that answers no question.
pub(crate) fn sentence(random: &mut StdRng) -> String {
    let mut words: Vec<&str> = Vec::new();
    let mut class = Class::Start;
    loop {
        let chance = random.random_range(0..10);
        class = match class {
            Class::Start | Class::Preposition => {
                words.push("the");
                match chance {
                    0..5 => Class::Adjective,
                    _ => Class::Noun,
                }
            }
            Class::Adjective => Class::Noun,
            Class::Noun if words.iter().any(|word| VERBS.contains(word)) => Class::End,
            Class::Noun => Class::Verb,
            Class::Verb => match chance {
                0..4 => Class::Adverb,
                4..8 => Class::Preposition,
                _ => Class::End,
            },
            Class::Adverb => match chance {
                0..4 => Class::Preposition,
                _ => Class::End,
            },
            Class::End => break,
        };
        let list: &[&'static str] = match class {
            Class::Start | Class::End => continue,
            Class::Adjective => &ADJECTIVES,
            Class::Noun => &NOUNS,
            Class::Verb => &VERBS,
            Class::Adverb => &ADVERBS,
            Class::Preposition => &PREPOSITIONS,
        };
        words.push(list[random.random_range(0..list.len())]);
    }
    let text = words.join(" ");
    format!("T{}.", text.strip_prefix('t').unwrap_or(&text))
}

/// `1st`, `2nd`, `3rd`, `11th`.
pub(super) fn ordinal(number: usize) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_number_is_of_one_half_and_every_end_of_a_word_of_both() {
        for number in 0..2000 {
            assert_ne!(Split::Train.has(number), Split::Test.has(number));
            assert_ne!(Split::Train.has(number), Split::Train.has(number ^ 1));
        }
        let mut random = StdRng::seed_from_u64(0);
        for split in [Split::Train, Split::Test] {
            let words = split.words(400, &mut random);
            for end in ENDS {
                assert!(words.iter().any(|word| word.ends_with(end)), "{split:?}: {end}");
            }
        }
    }

    #[test]
    fn every_number_has_a_word_of_its_own() {
        let words: BTreeSet<String> = (0..WORDS).map(word).collect();
        assert_eq!(words.len() as u64, WORDS);
    }

    #[test]
    fn sentences_end_and_begin_as_sentences_do() {
        let mut random = StdRng::seed_from_u64(0);
        for _ in 0..200 {
            let sentence = sentence(&mut random);
            assert!(
                sentence.starts_with("The ") && sentence.ends_with('.'),
                "{sentence}"
            );
            assert!((3..=12).contains(&sentence.split(' ').count()), "{sentence}");
        }
    }

    #[test]
    fn numbers_of_a_list_are_written_as_they_are_spoken() {
        let found = [1, 2, 3, 4, 11, 12, 13, 21, 50, 112].map(ordinal);
        assert_eq!(
            found,
            [
                "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "50th", "112th"
            ]
        );
    }
}

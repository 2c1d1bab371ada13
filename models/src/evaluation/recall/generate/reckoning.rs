//! Documents of numbers, whose answers are the most, the least, a difference, or a count.
//!
//! Answers that are numbers are of the document's split, differences as well; counts are words, and of both.

use rand::Rng;
use rand::rngs::StdRng;

use super::{Drawn, Question, Split, words};

/// A document about so many players, and a question.
pub(super) fn drawn(split: Split, count: usize, random: &mut StdRng) -> Drawn {
    let players = split.words(count, random);
    let mut points: Vec<u64> = Vec::new();
    while points.len() < count {
        let drawn = split.number(10, 10 + 32 * count.max(32) as u64, random);
        if !points.contains(&drawn) {
            points.push(drawn);
        }
    }
    let mut sentences = Vec::new();
    for (player, points) in players.iter().zip(&points) {
        sentences.push(format!("{player} scored {points} points."));
        if random.random_bool(0.3) {
            sentences.push(words::sentence(random));
        }
    }
    let most = points.iter().copied().max().unwrap_or(0);
    let least = points.iter().copied().min().unwrap_or(0);
    let kind = random.random_range(0..4);
    let (words, cue, answer) = match (kind, pair(split, &points, random)) {
        (0, _) => (
            "What is the largest number of points that a player scored?".into(),
            "The largest number of points that a player scored is".into(),
            most.to_string(),
        ),
        (1, _) => (
            "What is the smallest number of points that a player scored?".into(),
            "The smallest number of points that a player scored is".into(),
            least.to_string(),
        ),
        (2, Some((more, less))) => {
            let (better, worse) = (&players[more], &players[less]);
            (
                format!("By how many points did {better} beat {worse}?"),
                format!("The number of points by which {better} beat {worse} is"),
                (points[more] - points[less]).to_string(),
            )
        }
        _ => {
            let mut descending = points.clone();
            descending.sort_unstable_by(|a, b| b.cmp(a));
            let count = random.random_range(1..count.min(words::COUNTS.len()));
            let bound = descending[count];
            (
                format!("How many players scored more than {bound} points?"),
                format!("In words, the number of players who scored more than {bound} points is"),
                words::COUNTS[count].to_string(),
            )
        }
    };
    Drawn {
        context: sentences.join(" "),
        questions: vec![Question { cue, words, answer }],
        asked: 0,
    }
}

/// Two players whose difference is of this split, and has two digits at least.
fn pair(split: Split, points: &[u64], random: &mut StdRng) -> Option<(usize, usize)> {
    let fits = |more: u64, less: u64| more > less && more - less >= 10 && split.has(more - less);
    let pairs = (0..points.len()).flat_map(|more| (0..points.len()).map(move |less| (more, less)));
    let fitting: Vec<(usize, usize)> = pairs
        .filter(|(more, less)| fits(points[*more], points[*less]))
        .collect();
    let drawn = random.random_range(0..fitting.len().max(1));
    fitting.get(drawn).copied()
}

/// The answer, reckoned from the sentences.
#[cfg(test)]
pub(super) fn look_up(document: &super::super::document::Document) -> Option<String> {
    let scored: Vec<(&str, u64)> = document
        .context()
        .split(". ")
        .filter_map(|sentence| sentence.split_once(" scored "))
        .filter_map(|(player, rest)| Some((player, rest.split(' ').next()?.parse().ok()?)))
        .collect();
    let question = document.question();
    let points = scored.iter().map(|player| player.1);
    if question.contains("largest") {
        return points.max().map(|points| points.to_string());
    }
    if question.contains("smallest") {
        return points.min().map(|points| points.to_string());
    }
    if let Some(rest) = question.strip_prefix("By how many points did ") {
        let (better, worse) = rest.strip_suffix('?')?.split_once(" beat ")?;
        let of = |name: &str| {
            scored
                .iter()
                .find(|player| player.0 == name)
                .map(|player| player.1)
        };
        return Some((of(better)? - of(worse)?).to_string());
    }
    let bound: u64 = question.split(' ').find_map(|word| word.parse().ok())?;
    let count = points.filter(|points| *points > bound).count();
    words::COUNTS.get(count).map(|word| word.to_string())
}

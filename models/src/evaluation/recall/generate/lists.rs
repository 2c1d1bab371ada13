//! Lists of names: one is asked for by its number, or by its neighbours.
//!
//! Source: Leviathan, Kalman and Matias, *Prompt repetition improves non-reasoning LLMs* (2512.14982): NameIndex and MiddleMatch.

use rand::Rng;
use rand::rngs::StdRng;

use super::{Drawn, Question, Split, words};

const BEGINNING: &str = "This is a list of names: ";

/// The i-th of so many names.
pub(super) fn by_number(split: Split, count: usize, random: &mut StdRng) -> Drawn {
    let names = names(split, count, random);
    let asked = random.random_range(0..count);
    let place = words::ordinal(asked + 1);
    cloze(
        &names,
        format!("The {place} name in the list is"),
        format!("What is the {place} name in the list?"),
        asked,
    )
}

/// The name that has two others beside it.
pub(super) fn by_neighbours(split: Split, count: usize, random: &mut StdRng) -> Drawn {
    let names = names(split, count, random);
    let asked = random.random_range(1..count - 1);
    let (before, after) = (&names[asked - 1], &names[asked + 1]);
    cloze(
        &names,
        format!("The name between {before} and {after} in the list is"),
        format!("Which name stands between {before} and {after} in the list?"),
        asked,
    )
}

/// Different names, none of them part of another.
fn names(split: Split, count: usize, random: &mut StdRng) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    while names.len() < count {
        let name = split.word(random);
        if names
            .iter()
            .all(|other| !other.contains(&name) && !name.contains(other.as_str()))
        {
            names.push(name);
        }
    }
    names
}

fn cloze(names: &[String], cue: String, words: String, asked: usize) -> Drawn {
    let answer = names[asked].clone();
    Drawn {
        context: format!("{BEGINNING}{}.", names.join(", ")),
        questions: vec![Question { cue, words, answer }],
        asked: 0,
    }
}

/// The name that is asked for.
#[cfg(test)]
pub(super) fn look_up(document: &super::super::document::Document) -> Option<String> {
    let names = document.context().strip_prefix(BEGINNING)?.strip_suffix('.')?;
    let names: Vec<&str> = names.split(", ").collect();
    let question = document.question().strip_suffix(" in the list?")?;
    let index = match question.strip_prefix("Which name stands between ") {
        Some(pair) => {
            let (before, after) = pair.split_once(" and ")?;
            let found = names
                .windows(3)
                .position(|window| [window[0], window[2]] == [before, after]);
            found? + 1
        }
        None => {
            let place: String = question.chars().filter(char::is_ascii_digit).collect();
            place.parse::<usize>().ok()?.checked_sub(1)?
        }
    };
    names.get(index).map(|name| name.to_string())
}

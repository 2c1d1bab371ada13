//! Documents of facts about invented places, each said in one of five ways.

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::super::document::RecallTask;
use super::{Drawn, Question, Split, words};

/// What a place has.
const RELATIONS: [&str; 12] = [
    "capital",
    "founder",
    "oldest bridge",
    "river",
    "highest mountain",
    "patron",
    "largest market",
    "anthem",
    "first mayor",
    "national flower",
    "port",
    "language",
];
/// Facts that never change.
const TABLE: u64 = 256;

/// A place, what it has, and the name of that.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Fact {
    place: String,
    relation: usize,
    value: String,
}

impl Fact {
    fn drawn(split: Split, random: &mut StdRng) -> Self {
        Self {
            place: split.word(random),
            relation: random.random_range(0..RELATIONS.len()),
            value: split.word(random),
        }
    }

    /// The fact of this number in the table that is the same for all.
    fn known(number: u64) -> Self {
        let mut random = StdRng::seed_from_u64(number);
        Self::drawn(Split::Train, &mut random)
    }

    fn said(&self, way: usize) -> String {
        let (place, relation, value) = (&self.place, RELATIONS[self.relation], &self.value);
        match way % 5 {
            0 => format!("The {relation} of {place} is {value}."),
            1 => format!("{value} is the {relation} of {place}."),
            2 => format!("{place} has {value} as its {relation}."),
            3 => format!("As for {place}, its {relation} is {value}."),
            _ => format!("Everybody in {place} knows the {relation}, {value}."),
        }
    }

    fn question(self) -> Question {
        let (place, relation) = (&self.place, RELATIONS[self.relation]);
        Question {
            cue: format!("The {relation} of {place} is"),
            words: format!("What is the {relation} of {place}?"),
            answer: self.value,
        }
    }

    /// Whether both can stand in one document without a question of two answers, or a value in two places.
    fn goes_with(&self, other: &Self) -> bool {
        let names = [&self.place, &self.value, &other.place, &other.value];
        let about_another = self.place != other.place || self.relation != other.relation;
        let apart = |a: &str, b: &str| !a.contains(b) && !b.contains(a);
        about_another && apart(names[1], names[3]) && apart(names[1], names[2]) && apart(names[3], names[0])
    }
}

/// A document of so many facts, each of which may be asked for.
pub(super) fn drawn(task: RecallTask, split: Split, count: usize, random: &mut StdRng) -> Drawn {
    let mut facts: Vec<Fact> = Vec::new();
    while facts.len() < count {
        let fact = match (task, facts.is_empty()) {
            (RecallTask::TriviaQa, true) => Fact::known(random.random_range(0..TABLE)),
            _ => Fact::drawn(split, random),
        };
        let is_clear = fact.place != fact.value && facts.iter().all(|other| fact.goes_with(other));
        if is_clear {
            facts.push(fact);
        }
    }
    let own = match task {
        RecallTask::TriviaQa => facts[0].clone(),
        _ => facts[random.random_range(0..count)].clone(),
    };
    facts.shuffle(random);
    let mut sentences: Vec<String> = Vec::new();
    for fact in &facts {
        sentences.push(fact.said(random.random_range(0..5)));
        if task == RecallTask::NaturalQuestions {
            sentences.push(words::sentence(random));
        }
    }
    Drawn {
        context: match task {
            RecallTask::TriviaQa => marked(&sentences),
            _ => sentences.join(" "),
        },
        asked: facts.iter().position(|fact| *fact == own).unwrap_or(0),
        questions: facts.into_iter().map(Fact::question).collect(),
    }
}

/// Paragraphs of four sentences with the marks of the data set.
fn marked(sentences: &[String]) -> String {
    let paragraphs = sentences.chunks(4).map(|sentences| sentences.join(" "));
    format!(
        "[DOC] [TLE] Places [PAR] {}",
        paragraphs.collect::<Vec<_>>().join(" [PAR] ")
    )
}

/// The value in the sentence that names both place and relation.
#[cfg(test)]
pub(super) fn look_up(document: &super::super::document::Document) -> Option<String> {
    let question = document
        .question()
        .strip_prefix("What is the ")?
        .strip_suffix('?')?;
    let (relation, place) = question.split_once(" of ")?;
    let fact = |value: &str| Fact {
        place: place.into(),
        relation: RELATIONS.iter().position(|known| *known == relation).unwrap_or(0),
        value: value.into(),
    };
    // Each way of saying it, with the value cut out.
    let ways = (0..5).map(|way| fact("\0").said(way));
    let mut found = ways.filter_map(|said| {
        let (before, after) = said.split_once('\0')?;
        let mut candidates = document.context().match_indices(after).filter_map(|(at, _)| {
            let start = document.context()[..at].rfind(|c: char| !c.is_alphanumeric());
            let value = &document.context()[start.map_or(0, |start| start + 1)..at];
            let is_said = document.context()[..at - value.len()].ends_with(before);
            (is_said && !value.is_empty()).then(|| value.to_string())
        });
        candidates.next()
    });
    let value = found.next();
    value.filter(|_| found.next().is_none())
}

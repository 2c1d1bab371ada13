//! Documents of attributes with values: letters about devices, and pages of the web.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::super::document::RecallTask;
use super::{Drawn, Question, Split, words};

/// Names of attributes, some of them near namesakes of others.
const NAMES: [&str; 40] = [
    "device name",
    "device class name",
    "applicant",
    "name of the applicant's agent",
    "product code",
    "product class code",
    "regulation number",
    "number of the regulation's part",
    "review panel",
    "date received",
    "date of the decision",
    "decision",
    "predicate device",
    "predicate device's maker",
    "intended use",
    "contact person",
    "contact person's deputy",
    "street address",
    "address of the plant",
    "sterilisation",
    "material",
    "material of the cover",
    "shelf life",
    "storage temperature",
    "weight",
    "weight of the case",
    "length of the cable",
    "battery life",
    "sample",
    "sample volume",
    "analyte",
    "detection limit",
    "limit of the blank",
    "test site",
    "number of subjects",
    "software version",
    "version of the manual",
    "warranty",
    "power supply",
    "operating voltage",
];
/// What stands between an attribute and its value on pages of the web, beside the colon.
const SIGNS: [&str; 5] = ["", " |", " »", " · ·", " - - -"];
/// What else is on them.
const MENUS: [&str; 6] = [
    "Home | Search | Sign in",
    "Back to the list",
    "Share: mail, print",
    "See also [1] [2] [3]",
    "Cookies and terms",
    "Page 1 of 7 > Next",
];

/// A document of so many attributes, each of which may be asked for.
pub(super) fn drawn(task: RecallTask, split: Split, count: usize, random: &mut StdRng) -> Drawn {
    let mut attributes: Vec<usize> = (0..count.max(NAMES.len())).collect();
    attributes.shuffle(random);
    attributes.truncate(count);
    let asked = random.random_range(0..count);
    let mut lines: Vec<String> = Vec::new();
    let mut values: Vec<String> = Vec::new();
    for attribute in &attributes {
        let value = loop {
            let value = words::value(*attribute, split, random);
            // An answer stands once in its document.
            let is_new = |other: &String| !other.contains(&value) && !value.contains(other.as_str());
            if values.iter().all(is_new) {
                break value;
            }
        };
        let name = capital(&name(*attribute));
        lines.push(match task {
            RecallTask::Swde => {
                format!("{name}{}: {value}", SIGNS[random.random_range(0..SIGNS.len())])
            }
            _ => format!("{name}: {value}."),
        });
        if random.random_bool(0.5) {
            lines.push(match task {
                RecallTask::Swde if random.random_bool(0.5) => {
                    MENUS[random.random_range(0..MENUS.len())].into()
                }
                _ => words::sentence(random),
            });
        }
        values.push(value);
    }
    let question = |(attribute, answer): (&usize, String)| Question {
        cue: name(*attribute),
        words: name(*attribute),
        answer,
    };
    Drawn {
        context: lines.join("\n"),
        questions: attributes.iter().zip(values).map(question).collect(),
        asked,
    }
}

/// Beyond the list, names have a number.
fn name(attribute: usize) -> String {
    let name = NAMES[attribute % NAMES.len()];
    match attribute / NAMES.len() {
        0 => name.into(),
        round => format!("{} {name}", words::ordinal(round + 1)),
    }
}

fn capital(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect()
}

/// The value on the line that begins with the attribute.
#[cfg(test)]
pub(super) fn look_up(document: &super::super::document::Document) -> Option<String> {
    let super::Content::Attribute { text, key, .. } = document.content() else {
        return None;
    };
    let signs = |rest: &str| -> Option<String> {
        let (before, value) = rest.split_once(": ")?;
        let no_letter = !before.chars().any(char::is_alphanumeric);
        no_letter.then(|| value.trim_end_matches('.').to_string())
    };
    let mut found = text
        .lines()
        .filter_map(|line| signs(line.strip_prefix(&capital(key))?));
    let value = found.next();
    // Another line would make the question one of two answers.
    value.filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_attributes_in_ten_have_a_near_namesake() {
        let words = |name: &'static str| {
            let words = name.split([' ', '\'']).filter(|word| word.len() > 3);
            words.collect::<Vec<_>>()
        };
        let alike = |name: &'static str, other: &'static str| {
            name != other && words(name).iter().any(|word| words(other).contains(word))
        };
        let names = NAMES
            .iter()
            .filter(|name| NAMES.iter().any(|other| alike(name, other)));
        assert!(names.count() >= 12);
    }
}

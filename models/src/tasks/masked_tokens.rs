//! Bytes of a text that are hidden.

use std::fmt;
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::digits::held_out;
use super::{Answer, Answers, Example, Input, Item, Sequence, Shape, Split, Task, TaskError, When};
use crate::input;

/// What stands for a hidden byte: one that UTF-8 does not have.
const HIDDEN: u32 = 0xff;
const BYTES: usize = 256;

/// A stretch of a text in which each byte is hidden with probability `masked`, and asked for where it stood.
///
/// The first byte of a stretch is never hidden. A model that reads forwards has only what came before; with the `delay` of d steps, a byte
/// is asked for d steps later, when d further ones have been read; one that reads both ways has no need of it. Source: Devlin et al., *BERT* (1810.04805), with bytes for tokens and
/// all chosen ones hidden.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MaskedTokens {
    /// A text in UTF-8.
    pub path: PathBuf,
    /// The probability that a byte is hidden.
    #[serde(default = "masked")]
    pub masked: f64,
    /// Steps from a byte to its answer.
    #[serde(default)]
    pub delay: usize,
    /// Share of the text, at its end, that is held out.
    #[serde(default = "held_out")]
    pub held_out: f64,
}

fn masked() -> f64 {
    0.15
}

/// The text of a [`MaskedTokens`], read into memory.
#[derive(Clone)]
pub struct MaskedBytes {
    text: Vec<u8>,
    /// Where the part begins that is held out.
    held_out: usize,
    masked: f64,
    delay: usize,
}

impl fmt::Debug for MaskedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, held out from {}", self.text.len(), self.held_out)
    }
}

impl MaskedTokens {
    /// Reads the text; a relative path starts from `base`.
    ///
    /// # Errors
    /// [`TaskError::File`]; [`TaskError::Option`] for a number that is out of range.
    pub fn open(&self, base: &Path) -> Result<MaskedBytes, TaskError> {
        for (option, share) in [("masked", self.masked), ("held_out", self.held_out)] {
            if !(share > 0.0 && share < 1.0) {
                return Err(TaskError::option(option, "a number between 0 and 1", share));
            }
        }
        let path = base.join(&self.path);
        let text = input::read_text(&path, input::MAX_TEXT).map_err(TaskError::file(&path))?;
        let text = text.into_bytes();
        Ok(MaskedBytes {
            held_out: text.len() - (text.len() as f64 * self.held_out) as usize,
            text,
            masked: self.masked,
            delay: self.delay,
        })
    }
}

impl MaskedBytes {
    fn part(&self, part: Split) -> &[u8] {
        let (training, held_out) = self.text.split_at(self.held_out);
        match part {
            Split::Training => training,
            Split::HeldOut => held_out,
        }
    }
}

impl Task for MaskedBytes {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        let shorter = self.held_out.min(self.text.len() - self.held_out);
        if length > shorter {
            let expected = format!("at most {shorter}, the bytes of the shorter part of the text");
            return Err(TaskError::option("length", expected, length));
        }
        if self.delay + 2 > length {
            let expected = format!("below the length {length} - 1");
            return Err(TaskError::option("delay", expected, self.delay));
        }
        Ok(())
    }

    fn shape(&self) -> Shape {
        Shape {
            input: Input::Tokens(BYTES),
            answer: Answer::Class(BYTES),
            when: When::AtEveryStep,
        }
    }

    fn example(&self, length: usize, item: Item, rng: &mut StdRng) -> Example {
        let text = self.part(item.part);
        let start = rng.random_range(0..=text.len() - length);
        let bytes = text[start..start + length].iter().map(|byte| u32::from(*byte));
        let mut tokens: Vec<u32> = bytes.collect();
        let (mut answers, mut weights) = (vec![0; length], vec![0.0; length]);
        for place in 1..length - self.delay {
            if rng.random_bool(self.masked) {
                answers[place + self.delay] = std::mem::replace(&mut tokens[place], HIDDEN);
                weights[place + self.delay] = 1.0;
            }
        }
        Example {
            inputs: Sequence::Tokens(tokens),
            answers: Answers::Classes(answers),
            weights,
            steps: length,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn hidden_bytes_are_asked_for_and_filling_them_in_gives_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let text: String = (0..300).map(|number| format!("{number} ")).collect();
        fs::write(folder.path().join("text"), &text).unwrap();
        for delay in [0, 3] {
            let task = MaskedTokens {
                path: "text".into(),
                masked: 0.3,
                delay,
                held_out: 0.2,
            };
            let open = task.open(folder.path()).unwrap();
            open.check(50).unwrap();
            assert!(open.check(500).is_err() && open.check(delay + 1).is_err());
            for (item, part) in [
                (Item::training(0), &text[..text.len() * 4 / 5 + 1]),
                (Item::held_out(0), &text[text.len() * 4 / 5..]),
            ] {
                let example = open.example(50, item, &mut StdRng::seed_from_u64(7));
                let (Sequence::Tokens(tokens), Answers::Classes(answers)) =
                    (&example.inputs, &example.answers)
                else {
                    panic!("tokens");
                };
                let mut bytes = Vec::new();
                for (place, token) in tokens.iter().enumerate() {
                    let weight = example.weights.get(place + delay);
                    assert_eq!(*token == HIDDEN, weight == Some(&1.0));
                    let hidden = *token == HIDDEN;
                    bytes.push(if hidden { answers[place + delay] } else { *token } as u8);
                }
                let found = String::from_utf8(bytes).unwrap();
                assert!(part.contains(&found), "{found:?} is not in the part");
                assert!((3.0..30.0).contains(&example.weights.iter().sum::<f32>()));
            }
        }
    }
}

//! Documents and questions about them, as `spillway recall` asks: never the same one twice, and none that is ever asked there.
//!
//! ```text
//! sentences that answer nothing · prompt of the first question | its answer. ⏎ what the next answer follows upon · that answer. ⏎ …
//!                                                              M                                                                 T
//! ```
//!
//! The prompt ends with token M, so that a model with an encoder of M tokens reads all of it both ways and is asked behind it. Without M it
//! begins with the sequence, as a prompt does that a model is asked: a causal model that has always seen M tokens before an answer does
//! not know what to do with fewer. Every further question is about the same document; when all have been asked, another document follows. A
//! document is written in one of `forms`, which may read it several times; one that has no room has fewer facts.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::error::DataError;
use super::seed::generator;
use super::stream::{Row, SequenceNumber, Sequences};
use crate::evaluation::passkey_text::prompt::{Case, SUFFIX, Template};
use crate::evaluation::recall::document::RecallTask;
use crate::evaluation::recall::generate::{Generator, Split, sentence};
use crate::evaluation::recall::prompt::{self, PromptForm};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Generated documents, and questions about their facts. Answers weigh 1.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionsConfig {
    /// What is asked, one of them drawn for every document.
    #[serde(default = "tasks")]
    pub tasks: Vec<RecallTask>,
    /// The fewest and the most facts of a document.
    #[serde(default = "facts")]
    pub facts: [usize; 2],
    /// How the first question is asked, one of them drawn for every document.
    #[serde(default = "forms")]
    pub forms: Vec<PromptForm>,
    /// Share of the documents that are repeated sentences with a passkey among them, as `spillway passkey` asks for.
    #[serde(default)]
    pub passkeys: f64,
    /// M, the tokens up to the end of the first prompt; `None` for a prompt that begins with the sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<usize>,
    /// Weight of all targets that are not of an answer.
    #[serde(default = "other_weight")]
    pub other_weight: f32,
}

fn tasks() -> Vec<RecallTask> {
    vec![RecallTask::Fda]
}

fn facts() -> [usize; 2] {
    [Generator::FEWEST, 16]
}

fn forms() -> Vec<PromptForm> {
    vec![PromptForm::ONCE]
}

fn other_weight() -> f32 {
    0.1
}

/// Sequences of documents with questions about them, and their answers.
pub(super) struct Questions {
    config: QuestionsConfig,
    tokenizer: Tokenizer,
    /// The most tokens of the first prompt.
    room: usize,
    /// The most blocks of a prompt with a passkey.
    blocks: usize,
    seed: u64,
}

/// A prompt, and what it asks.
struct Asked {
    /// Up to the end of the first question.
    prompt: String,
    /// What each answer follows upon, and the answer.
    questions: Vec<(String, String)>,
}

impl Asked {
    /// A passkey in one of so many blocks.
    fn passkey(blocks: usize, random: &mut StdRng) -> Self {
        let case = Case {
            length: 0,
            row: 0,
            depth: 0.0,
            blocks,
            block: random.random_range(0..blocks),
            key: format!("{:05}", random.random_range(0..100_000u32)),
        };
        Self {
            prompt: case.text(),
            questions: vec![(SUFFIX.trim_start().to_string(), case.key)],
        }
    }
}

/// Tokens with the weights that they have as targets.
#[derive(Default)]
struct Written {
    ids: Vec<u32>,
    weights: Vec<f32>,
}

impl Written {
    fn add(&mut self, ids: &[u32], weight: f32) {
        self.ids.extend(ids);
        self.weights.resize(self.ids.len(), weight);
    }
}

impl Questions {
    /// Sequences of `time` tokens in the tokens of `tokenizer`.
    ///
    /// # Errors
    /// [`DataError::Option`] for no task or form, numbers of facts that no document has, padded forms or forms in pieces, a prompt that
    /// leaves no room for an answer, a share or a weight out of range, and a tokenizer that there is none of.
    pub(super) fn new(
        config: &QuestionsConfig,
        tokenizer: &Tokenizer,
        time: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let [fewest, most] = config.facts;
        let allowed = Generator::FEWEST..=Generator::MOST;
        if !allowed.contains(&fewest) || !allowed.contains(&most) || fewest > most {
            let expected = format!(
                "the fewest and the most, from {} to {}",
                Generator::FEWEST,
                Generator::MOST
            );
            return Err(DataError::option(
                "facts",
                expected,
                format!("{:?}", config.facts),
            ));
        }
        for (option, count) in [("tasks", config.tasks.len()), ("forms", config.forms.len())] {
            if count == 0 {
                return Err(DataError::option(option, "at least one", "none"));
            }
        }
        let is_other = |form: &&PromptForm| form.is_padded || form.pieces.is_some();
        if let Some(form) = config.forms.iter().find(is_other) {
            let expected = "readings of the whole document without padding, such as \"d-q\" or \"q-d:2\"";
            return Err(DataError::option("forms", expected, form));
        }
        let room = config.prompt.unwrap_or(time - 1);
        if room == 0 || room >= time {
            let expected = format!("from 1 to below {time}, the length of a sequence");
            return Err(DataError::option("prompt", expected, room));
        }
        if !(config.other_weight >= 0.0 && config.other_weight.is_finite()) {
            let expected = "a finite number from 0 on";
            return Err(DataError::option("other_weight", expected, config.other_weight));
        }
        if !(0.0..=1.0).contains(&config.passkeys) {
            let expected = "a share from 0 to 1";
            return Err(DataError::option("passkeys", expected, config.passkeys));
        }
        let blocks = match config.passkeys > 0.0 {
            false => 0,
            true => Template::new(tokenizer)
                .map_err(|error| unreadable(tokenizer, error))?
                .blocks(room as u64),
        };
        Ok(Self {
            config: config.clone(),
            tokenizer: tokenizer.clone(),
            room,
            blocks,
            seed,
        })
    }

    /// A sequence of at least `least` tokens.
    fn sequence(&self, index: u64, least: usize) -> Result<Written, DataError> {
        let mut random = generator(self.seed, index, 0);
        let mut written = Written::default();
        let (asked, prompt) = self.first(&mut random)?;
        let missing = self.config.prompt.map_or(0, |end| end - prompt.len());
        written.add(&self.filler(missing, &mut random)?, self.config.other_weight);
        written.add(&prompt, self.config.other_weight);
        self.answer(&asked, &mut written)?;
        while written.ids.len() < least {
            let asked = self.asked(0, &mut random);
            written.add(&self.encode(&asked.prompt)?, self.config.other_weight);
            self.answer(&asked, &mut written)?;
        }
        Ok(written)
    }

    /// What is asked first, and its prompt, for which there is room.
    fn first(&self, random: &mut StdRng) -> Result<(Asked, Vec<u32>), DataError> {
        let mut shorter = 0;
        loop {
            let asked = self.asked(shorter, random);
            let prompt = self.encode(&asked.prompt)?;
            if prompt.len() <= self.room {
                return Ok((asked, prompt));
            }
            // Whatever is drawn is as short as it can be by then.
            if shorter > self.config.facts[1].max(self.blocks) {
                let expected = format!("room for the shortest prompt, {} tokens", prompt.len());
                return Err(DataError::option("prompt", expected, self.room));
            }
            shorter += 1;
        }
    }

    /// A document and its questions, of so many facts fewer than the most.
    fn asked(&self, shorter: usize, random: &mut StdRng) -> Asked {
        if self.config.passkeys > 0.0 && random.random_bool(self.config.passkeys) {
            let blocks = random.random_range(1..=self.blocks.saturating_sub(shorter).max(1));
            return Asked::passkey(blocks, random);
        }
        let (tasks, forms) = (&self.config.tasks, &self.config.forms);
        let task = tasks[random.random_range(0..tasks.len())];
        let form = forms[random.random_range(0..forms.len())];
        let [fewest, most] = self.config.facts;
        let most = most.saturating_sub(shorter).max(fewest);
        let generator = Generator {
            facts: Some(random.random_range(fewest..=most)),
            ..Generator::new(Split::Train, self.seed)
        };
        let mut questions = generator.questions(task, random.random());
        questions.shuffle(random);
        // Every document has a question, its own.
        Asked {
            prompt: prompt::text(&questions[0], form),
            questions: questions
                .iter()
                .map(|asked| (prompt::cue(asked), asked.answers()[0].clone()))
                .collect(),
        }
    }

    /// The answer of the first question, and the others with theirs, in the order in which they come.
    fn answer(&self, asked: &Asked, written: &mut Written) -> Result<(), DataError> {
        for (number, (cue, answer)) in asked.questions.iter().enumerate() {
            if number > 0 {
                written.add(&self.encode(cue)?, self.config.other_weight);
            }
            written.add(&self.encode(&format!(" {answer}."))?, 1.0);
            written.add(&self.encode("\n")?, self.config.other_weight);
        }
        Ok(())
    }

    /// The last `count` tokens of lines that answer nothing.
    fn filler(&self, count: usize, random: &mut StdRng) -> Result<Vec<u32>, DataError> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.extend(self.encode(&format!("{}\n", sentence(random)))?);
        }
        Ok(ids.split_off(ids.len() - count))
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let failed = |error| unreadable(&self.tokenizer, error);
        self.tokenizer.encode(text).map_err(failed)
    }
}

fn unreadable(tokenizer: &Tokenizer, error: TokenizerError) -> DataError {
    let expected = format!("one for the texts that are generated, found {}", tokenizer.name());
    DataError::option("model.tokenizer", expected, error)
}

impl Sequences for Questions {
    fn fill(&self, sequence: SequenceNumber, row: &mut Row<'_>) -> Result<bool, DataError> {
        let time = row.ids.len();
        let written = self.sequence(sequence.index(), time + 1)?;
        row.ids.copy_from_slice(&written.ids[..time]);
        row.targets.copy_from_slice(&written.ids[1..=time]);
        row.weights.copy_from_slice(&written.weights[1..=time]);
        Ok(false)
    }

    fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    fn is_weighted(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: usize = 900;

    fn config() -> QuestionsConfig {
        let text = r#"
            tasks = ["fda", "squad", "name-index"]
            facts = [3, 5]
            forms = ["d-q", "q-d-d-q"]
            prompt = 700
        "#;
        toml::from_str(text).expect("a configuration")
    }

    fn refused(config: &QuestionsConfig, time: usize) -> String {
        let questions = Questions::new(config, &Tokenizer::bytes(), time, 1);
        questions.err().expect("a refusal").to_string()
    }

    #[test]
    fn the_first_prompt_ends_with_its_last_token_and_all_answers_are_in_the_document() {
        let questions = Questions::new(&config(), &Tokenizer::bytes(), TIME, 1).expect("questions");
        for index in 0..60 {
            let written = questions.sequence(index, TIME + 1).expect("a sequence");
            assert!(written.ids.len() > TIME);
            assert_eq!(written.ids.len(), written.weights.len());
            let text = |ids: &[u32]| Tokenizer::bytes().decode(ids);
            let (prompt, rest) = written.ids.split_at(700);
            let (prompt, rest) = (text(prompt), text(rest));
            assert!(prompt.ends_with(':') || prompt.ends_with(" is"), "{prompt}");
            let (answer, _) = rest.split_once(".\n").expect("an answer and its end");
            assert!(prompt.contains(answer.trim_start()), "{prompt}{rest}");
            // What weighs 1 is the answers and the dots behind them.
            let answered = written
                .ids
                .iter()
                .zip(&written.weights)
                .filter(|(_, weight)| **weight == 1.0);
            let ids: Vec<u32> = answered.map(|(id, _)| *id).collect();
            assert!(text(&ids).starts_with(&format!("{answer}.")), "{rest}");
            assert!(written.weights[..700].iter().all(|weight| *weight == 0.1));
        }
    }

    #[test]
    fn a_share_of_the_documents_hides_a_passkey() {
        let config = QuestionsConfig {
            passkeys: 0.5,
            ..config()
        };
        let questions = Questions::new(&config, &Tokenizer::bytes(), TIME, 1).expect("questions");
        let mut found = 0;
        for index in 0..100 {
            let written = questions.sequence(index, TIME).expect("a sequence");
            let text = Tokenizer::bytes().decode(&written.ids[..706]);
            let Some((before, key)) = text.split_once(SUFFIX) else {
                continue;
            };
            found += 1;
            assert!(
                before.contains(&format!("The passkey is{key}. Remember it.")),
                "{text}"
            );
        }
        assert!((30..70).contains(&found), "{found}");
    }

    #[test]
    fn without_a_place_a_prompt_begins_with_the_sequence() {
        let config = QuestionsConfig {
            tasks: vec![RecallTask::Squad],
            forms: vec!["q-d".parse().expect("a form")],
            prompt: None,
            ..config()
        };
        let questions = Questions::new(&config, &Tokenizer::bytes(), TIME, 1).expect("questions");
        for index in 0..20 {
            let written = questions.sequence(index, TIME).expect("a sequence");
            let text = Tokenizer::bytes().decode(&written.ids);
            assert!(text.starts_with("What is the "), "{text}");
            let weighed = written
                .weights
                .iter()
                .position(|weight| *weight == 1.0)
                .expect("an answer");
            assert!(weighed < TIME);
        }
    }

    #[test]
    fn a_place_gives_one_sequence_and_another_seed_another() {
        let of_seed = |seed| {
            let questions = Questions::new(&config(), &Tokenizer::bytes(), TIME, seed).expect("questions");
            questions.sequence(5, TIME).expect("a sequence").ids
        };
        assert_eq!(of_seed(1), of_seed(1));
        assert_ne!(of_seed(1), of_seed(2));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_by_option() {
        let tried = |change: &dyn Fn(&mut QuestionsConfig)| {
            let mut config = config();
            change(&mut config);
            refused(&config, TIME)
        };
        assert!(tried(&|config| config.facts = [5, 3]).contains("facts"));
        assert!(tried(&|config| config.facts = [1, 3]).contains("facts"));
        assert!(tried(&|config| config.tasks.clear()).contains("tasks"));
        assert!(tried(&|config| config.forms.clear()).contains("forms"));
        let padded: PromptForm = "q-d:2:padded".parse().expect("a form");
        assert!(tried(&|config| config.forms = vec![padded]).contains("forms"));
        assert!(tried(&|config| config.passkeys = 1.5).contains("passkeys"));
        assert!(tried(&|config| config.prompt = Some(TIME)).contains("prompt"));
        assert!(tried(&|config| config.other_weight = f32::NAN).contains("other_weight"));
        let narrow = QuestionsConfig {
            prompt: Some(20),
            ..config()
        };
        let questions = Questions::new(&narrow, &Tokenizer::bytes(), TIME, 1).expect("told when it is drawn");
        let error = questions.sequence(0, TIME).err().expect("no room").to_string();
        assert!(error.contains("prompt") && error.contains("shortest"), "{error}");
    }
}

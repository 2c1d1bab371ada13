//! Documents of the six data sets' shapes, and two lists, without a download.
//!
//! | task | document | asked |
//! |---|---|---|
//! | `fda` | lines `Attribute: value.`, sentences between them | one attribute; three in ten have a near namesake |
//! | `swde` | the same as a page of the web: menus, signs between attribute and value | the same |
//! | `squad` | facts about invented places in five ways of saying | the end of `The capital of X is` |
//! | `nq` | the same with as many other sentences between | the same |
//! | `triviaqa` | the same in marked paragraphs, the fact asked for from a table of 256 that never changes | the same; who has learned the table needs no document, and should gain nothing from reading it twice |
//! | `drop` | players and points, treaties and years | the most, the least, a difference, or how many |
//! | `name-index` | fifty names | the i-th |
//! | `middle-match` | forty names | the one between two others |
//!
//! A document is a function of the task, the number of its facts, the split, the seed and its index. The two splits share no
//! value, so that nothing can be answered by heart: values are made of numbers, and the sum of a number's digits is even in training and
//! odd in testing. What is shared on purpose: names of attributes and relations, the table of `triviaqa`, and the counts of
//! `drop`, which are words. In every document the answer follows from what stands there once.

mod attributes;
mod facts;
mod lists;
mod reckoning;
mod words;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::document::{Content, Document, RecallTask};

pub(crate) use words::sentence;

/// The two sets of generated documents, which share no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Documents to learn from.
    Train,
    /// Documents to be asked about.
    Test,
}

/// What documents are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generator {
    /// Set that the documents belong to, which decides the half of all values that theirs are drawn from.
    pub split: Split,
    /// Decides everything that is drawn.
    pub seed: u64,
    /// Facts in a document: attributes, statements, names. `None` for 16, and in lists 50 and 40. At least
    /// [`Generator::FEWEST`] and at most [`Generator::MOST`].
    pub facts: Option<usize>,
}

impl Generator {
    /// The fewest facts in a document.
    pub const FEWEST: usize = 3;
    /// The most facts in a document.
    pub const MOST: usize = 1024;

    /// Documents of the usual numbers of facts.
    pub fn new(split: Split, seed: u64) -> Self {
        Self {
            split,
            seed,
            facts: None,
        }
    }

    /// The first `count` documents of `task`.
    pub fn documents(&self, task: RecallTask, count: usize) -> Vec<Document> {
        (0..count as u64)
            .filter_map(|index| self.document(task, index))
            .collect()
    }

    /// The document of this index, once for each question that there is about it. Of `drop` and the lists there is one, of the others one
    /// about each fact.
    pub fn questions(&self, task: RecallTask, index: u64) -> Vec<Document> {
        let drawn = self.drawn(task, index);
        let questions = drawn.questions.iter();
        questions
            .filter_map(|question| Document::new(task, question.content(task, &drawn.context)).ok())
            .collect()
    }

    /// The document of this index. `None` never comes: nothing in a generated document is empty.
    fn document(&self, task: RecallTask, index: u64) -> Option<Document> {
        let drawn = self.drawn(task, index);
        let question = drawn.questions.get(drawn.asked)?;
        Document::new(task, question.content(task, &drawn.context)).ok()
    }

    fn drawn(&self, task: RecallTask, index: u64) -> Drawn {
        let usual = match task {
            RecallTask::NameIndex => 50,
            RecallTask::MiddleMatch => 40,
            _ => 16,
        };
        let count = self.facts.unwrap_or(usual).clamp(Self::FEWEST, Self::MOST);
        // Splits, tasks and seeds have generators of their own.
        let place = 2 * task as u64 + u64::from(self.split == Split::Test);
        let mixed = [self.seed, place, index].iter().fold(0u64, |hash, part| {
            (hash ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        });
        let mut random = StdRng::seed_from_u64(mixed);
        match task {
            RecallTask::Fda | RecallTask::Swde => attributes::drawn(task, self.split, count, &mut random),
            RecallTask::Squad | RecallTask::NaturalQuestions | RecallTask::TriviaQa => {
                facts::drawn(task, self.split, count, &mut random)
            }
            RecallTask::Drop => reckoning::drawn(self.split, count, &mut random),
            RecallTask::NameIndex => lists::by_number(self.split, count, &mut random),
            RecallTask::MiddleMatch => lists::by_neighbours(self.split, count, &mut random),
        }
    }
}

/// A text, and what may be asked about it.
struct Drawn {
    context: String,
    questions: Vec<Question>,
    /// Index in `questions` of the one that is the document's own.
    asked: usize,
}

/// Something that follows from a text.
struct Question {
    /// The attribute's name, or the sentence that is cut before the answer.
    cue: String,
    /// In natural words; of an attribute, its name.
    words: String,
    answer: String,
}

impl Question {
    /// The fields of the task's data set.
    fn content(&self, task: RecallTask, context: &str) -> Content {
        let Self { cue, words, answer } = self;
        match task {
            RecallTask::Fda | RecallTask::Swde => Content::Attribute {
                text: context.into(),
                key: cue.clone(),
                value: answer.clone(),
            },
            RecallTask::Squad => Content::Completion {
                text: format!("{context} {cue}"),
                context: context.into(),
                question: words.clone(),
                value: answer.clone(),
            },
            _ => Content::Cloze {
                context: context.into(),
                cloze: cue.clone(),
                question: words.clone(),
                answers: vec![answer.clone()],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all(split: Split, facts: Option<usize>) -> impl Iterator<Item = Document> {
        let generator = Generator {
            facts,
            ..Generator::new(split, 7)
        };
        RecallTask::ALL
            .into_iter()
            .flat_map(move |task| generator.documents(task, 60))
    }

    #[test]
    fn a_seed_gives_one_set_of_documents_and_another_seed_or_split_another() {
        for task in RecallTask::ALL {
            let documents = |split, seed| Generator::new(split, seed).documents(task, 5);
            assert_eq!(documents(Split::Test, 1), documents(Split::Test, 1));
            assert_ne!(documents(Split::Test, 1), documents(Split::Test, 2));
            assert_ne!(documents(Split::Test, 1), documents(Split::Train, 1));
            let longer = Generator::new(Split::Test, 1).documents(task, 8);
            assert_eq!(longer[..5], documents(Split::Test, 1));
        }
    }

    #[test]
    fn splits_share_no_answer_but_those_that_are_meant_to_be_known() {
        let answers = |split| -> BTreeSet<String> {
            let asked = all(split, None).filter(|document| document.task() != RecallTask::TriviaQa);
            let answers = asked.map(|document| document.answers()[0].clone());
            // Counts are words for small numbers.
            answers
                .filter(|answer| !words::COUNTS.contains(&answer.as_str()))
                .collect()
        };
        let (train, test) = (answers(Split::Train), answers(Split::Test));
        assert!(train.len() > 200 && test.len() > 200);
        assert_eq!(
            train.intersection(&test).collect::<Vec<_>>(),
            Vec::<&String>::new()
        );
    }

    #[test]
    fn every_answer_can_be_scored_and_stands_once_in_its_document() {
        for (split, facts) in [
            (Split::Train, None),
            (Split::Test, None),
            (Split::Test, Some(3)),
            (Split::Test, Some(200)),
        ] {
            for document in all(split, facts) {
                assert!(document.is_scored(), "{document:?}");
                let times = document.context().matches(&document.answers()[0]).count();
                match document.task() {
                    RecallTask::Drop => {}
                    _ => assert_eq!(times, 1, "{document:?}"),
                }
            }
        }
    }

    #[test]
    fn a_lookup_answers_every_question() {
        for facts in [None, Some(3), Some(120)] {
            for document in all(Split::Test, facts).chain(all(Split::Train, facts)) {
                let found = match document.task() {
                    RecallTask::Fda | RecallTask::Swde => attributes::look_up(&document),
                    RecallTask::Drop => reckoning::look_up(&document),
                    RecallTask::NameIndex | RecallTask::MiddleMatch => lists::look_up(&document),
                    _ => facts::look_up(&document),
                };
                assert_eq!(found.as_ref(), document.answers().first(), "{document:?}");
            }
        }
    }

    #[test]
    fn every_fact_of_a_document_can_be_asked_for() {
        let generator = Generator {
            facts: Some(9),
            ..Generator::new(Split::Train, 3)
        };
        for task in RecallTask::ALL {
            let own = generator.documents(task, 2).remove(1);
            let questions = generator.questions(task, 1);
            assert!(questions.contains(&own));
            assert!(questions.iter().all(|asked| asked.context() == own.context()));
            let distinct: BTreeSet<&str> = questions.iter().map(Document::question).collect();
            let expected = match task {
                RecallTask::Drop | RecallTask::NameIndex | RecallTask::MiddleMatch => 1,
                _ => 9,
            };
            assert_eq!((distinct.len(), questions.len()), (expected, expected), "{task}");
            for asked in &questions {
                let found = match task {
                    RecallTask::Fda | RecallTask::Swde => attributes::look_up(asked),
                    RecallTask::Drop | RecallTask::NameIndex | RecallTask::MiddleMatch => continue,
                    _ => facts::look_up(asked),
                };
                assert_eq!(found.as_ref(), asked.answers().first(), "{asked:?}");
            }
        }
    }

    #[test]
    fn numbers_of_facts_are_kept_between_the_fewest_and_the_most() {
        let words = |facts| {
            let generator = Generator {
                facts: Some(facts),
                ..Generator::new(Split::Test, 0)
            };
            generator.documents(RecallTask::NameIndex, 1)[0]
                .context()
                .matches(',')
                .count()
        };
        assert_eq!([0, 3, 10].map(words), [2, 2, 9]);
    }
}

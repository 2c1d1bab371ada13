//! The table: of every arm, task and form how much was found, what was gained over one reading, and what attention does not gain.
//!
//! With y(m, f, i) the score "contains" of arm m by form f on document i:
//!
//! | column | mean over documents of |
//! |---|---|
//! | contains | y(m, f), with Wilson's interval |
//! | gain | y(m, f) − y(m, `d-q:1`) |
//! | over padding | y(m, f) − y(m, the control of f) |
//! | beyond attention | [y(m, f) − y(m, `d-q:1`)] − [y(a, f) − y(a, `d-q:1`)], with a the arm that has attention alone |
//! | over no mitigation | y(m, f) − y(n, f), with n the same model under no mitigation |
//!
//! The intervals of the last four are bootstrapped, document by document. Reading twice helps models with attention too, which
//! forget nothing; of the gains only that beyond attention speaks of memory.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::bootstrap::{Interval, interval};
use super::document::{Document, RecallTask};
use super::evaluate::{Evaluation, Outcome};
use super::prompt::PromptForm;
use super::score::Kind;
use crate::evaluation::wilson;

/// What was evaluated: a model under a mitigation, or under none.
#[derive(Clone, Copy, Debug)]
pub struct Arm<'a> {
    /// The outcomes of this arm, and the work that they took.
    pub evaluation: &'a Evaluation,
    /// Index of the arm, with attention alone, whose gains are subtracted; `None` for such an arm itself, and without one.
    pub against: Option<usize>,
    /// Index of the arm of the same model under no mitigation; `None` for that arm itself, and where it was not evaluated.
    pub alone: Option<usize>,
}

/// Number of answers of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kinds {
    /// Number of answers that contain a right one.
    pub found: u64,
    /// Number of answers without a word.
    pub none: u64,
    /// Number of wrong answers that repeat the question, or themselves.
    pub repeated: u64,
    /// Number of wrong answers that repeat neither the question nor themselves.
    pub irrelevant: u64,
    /// Logits that are not numbers.
    pub not_a_number: u64,
}

impl Kinds {
    fn add(&mut self, kind: Kind) {
        *match kind {
            Kind::Found => &mut self.found,
            Kind::None => &mut self.none,
            Kind::Repeated => &mut self.repeated,
            Kind::Irrelevant => &mut self.irrelevant,
            Kind::NotANumber => &mut self.not_a_number,
        } += 1;
    }
}

/// What was found of the answers in one third of a document, by where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Third {
    /// Number of those questions to which an answer was right.
    pub found: u64,
    /// Number of questions whose answer lies in this third of the document.
    pub asked: u64,
}

/// One line of the table: what an arm answers to the documents of a task by one form of prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Index of the arm.
    pub arm: usize,
    /// Facts in each of its documents; `None` where [`Answers::facts`] has none.
    pub facts: Option<usize>,
    /// `None` for all tasks together.
    pub task: Option<RecallTask>,
    /// The kind of prompt.
    pub form: PromptForm,
    /// Number of questions answered, rightly or not.
    pub asked: u64,
    /// Mean number of tokens of their prompts.
    pub tokens: f64,
    /// Share of answers that contain a right one.
    pub contains: f64,
    /// Wilson 95 % interval of `contains`, lower end first.
    pub wilson: [f64; 2],
    /// Share of answers that are right as they are.
    pub exact: f64,
    /// Mean F1 of the answers, from 0 to 1.
    pub f1: f64,
    /// Number of the answers of each kind.
    pub kinds: Kinds,
    /// Answers found by where the right one lies: first, middle, last third of the document. Those not in it are not counted.
    pub thirds: [Third; 3],
    /// Gain in `contains` over one reading with the question at its end, `d-q:1`.
    pub gain: Option<Interval>,
    /// Gain in `contains` over the control of equal length.
    pub over_padding: Option<Interval>,
    /// Beyond what attention gains.
    pub beyond_attention: Option<Interval>,
    /// Gain in `contains` over the same model under no mitigation.
    pub over_alone: Option<Interval>,
}

/// What the table is made of.
#[derive(Clone, Copy, Debug)]
pub struct Answers<'a> {
    /// Documents that the arms were asked about.
    pub documents: &'a [Document],
    /// Facts in each document, where they are to stand apart; empty where they are not.
    pub facts: &'a [usize],
    /// The kinds of prompts.
    pub forms: &'a [PromptForm],
    /// The arms that are compared, each evaluated on these documents by these forms.
    pub arms: &'a [Arm<'a>],
    /// Seed of the bootstrap.
    pub seed: u64,
}

/// Documents that are counted together.
#[derive(Clone, Copy, Debug)]
struct Group {
    facts: Option<usize>,
    task: Option<RecallTask>,
}

/// Every number of facts, the fewest first, with every task; behind several tasks, all together.
fn groups(answers: &Answers<'_>) -> Vec<Group> {
    let tasks: BTreeSet<RecallTask> = answers.documents.iter().map(Document::task).collect();
    let together = (tasks.len() > 1).then_some(None);
    let tasks: Vec<Option<RecallTask>> = tasks.into_iter().map(Some).chain(together).collect();
    let facts: BTreeSet<usize> = answers.facts.iter().copied().collect();
    let facts: Vec<Option<usize>> = match facts.is_empty() {
        true => vec![None],
        false => facts.into_iter().map(Some).collect(),
    };
    let groups = facts.into_iter().flat_map(|facts| {
        let tasks = tasks.iter();
        tasks.map(move |task| Group { facts, task: *task })
    });
    groups.collect()
}

/// Every cell in which something was asked, arm by arm, number of facts by number, task by task, form by form; behind several tasks, all
/// together.
pub fn table(answers: &Answers<'_>) -> Vec<Cell> {
    let groups = groups(answers);
    let texts = texts(answers.documents);
    let by_place: Vec<ByPlace<'_>> = answers.arms.iter().map(|arm| by_place(arm.evaluation)).collect();
    let view = View {
        answers,
        texts: &texts,
        by_place: &by_place,
    };
    let places = (0..answers.arms.len()).flat_map(|arm| {
        let groups = groups.iter();
        groups.flat_map(move |group| (0..answers.forms.len()).map(move |form| (arm, *group, form)))
    });
    places
        .filter_map(|(arm, group, form)| view.cell(arm, group, form))
        .collect()
}

/// Outcomes by document and form.
type ByPlace<'a> = BTreeMap<(usize, usize), &'a Outcome>;

fn by_place(evaluation: &Evaluation) -> ByPlace<'_> {
    let outcomes = evaluation.outcomes.iter();
    outcomes
        .map(|outcome| ((outcome.document, outcome.form), outcome))
        .collect()
}

/// A number for each document that those read from one text share.
fn texts(documents: &[Document]) -> Vec<usize> {
    let mut first = BTreeMap::new();
    let numbers = documents.iter().enumerate();
    numbers
        .map(|(index, document)| *first.entry(document.context()).or_insert(index))
        .collect()
}

struct View<'a> {
    answers: &'a Answers<'a>,
    texts: &'a [usize],
    by_place: &'a [ByPlace<'a>],
}

impl View<'_> {
    fn cell(&self, arm: usize, group: Group, form: usize) -> Option<Cell> {
        let outcomes: Vec<&Outcome> = self
            .documents(group)
            .filter_map(|document| self.by_place[arm].get(&(document, form)).copied())
            .collect();
        if outcomes.is_empty() {
            return None;
        }
        let (mut kinds, mut thirds) = (Kinds::default(), [Third::default(); 3]);
        for outcome in &outcomes {
            kinds.add(outcome.score.kind);
            if let Some(depth) = outcome.depth {
                let third = &mut thirds[((3.0 * depth) as usize).min(2)];
                third.asked += 1;
                third.found += u64::from(outcome.score.is_found());
            }
        }
        let asked = outcomes.len() as u64;
        let mean = |value: &dyn Fn(&Outcome) -> f64| {
            outcomes.iter().map(|outcome| value(outcome)).sum::<f64>() / asked as f64
        };
        let kind = self.answers.forms[form];
        let place = |wanted: PromptForm| self.answers.forms.iter().position(|form| *form == wanted);
        let once = place(PromptForm::ONCE).filter(|once| *once != form);
        let control = kind.control().and_then(place);
        let over =
            |other: Option<usize>, against: Option<usize>| self.over(arm, group, form, other?, against);
        Some(Cell {
            arm,
            facts: group.facts,
            task: group.task,
            form: kind,
            asked,
            tokens: mean(&|outcome| outcome.tokens as f64),
            contains: kinds.found as f64 / asked as f64,
            wilson: wilson::interval(kinds.found, asked).into(),
            exact: mean(&|outcome| f64::from(u8::from(outcome.score.exact))),
            f1: mean(&|outcome| outcome.score.f1),
            kinds,
            thirds,
            gain: over(once, None),
            over_padding: over(control, None),
            beyond_attention: self.answers.arms[arm]
                .against
                .and_then(|against| over(once, Some(against))),
            over_alone: self.answers.arms[arm]
                .alone
                .and_then(|alone| self.over_arm(arm, alone, group, form)),
        })
    }

    fn documents(&self, group: Group) -> impl Iterator<Item = usize> {
        let facts = self.answers.facts;
        let documents = self.answers.documents.iter().enumerate();
        documents
            .filter(move |(index, document)| {
                let has_facts = group.facts.is_none_or(|of_it| facts.get(*index) == Some(&of_it));
                has_facts && group.task.is_none_or(|task| document.task() == task)
            })
            .map(|(index, _)| index)
    }

    /// What `form` finds more than `other`, less what it does so in the arm `against`; on the documents that all of them answered.
    fn over(
        &self,
        arm: usize,
        group: Group,
        form: usize,
        other: usize,
        against: Option<usize>,
    ) -> Option<Interval> {
        let gain = |arm: usize, document: usize| {
            Some(self.found(arm, document, form)? - self.found(arm, document, other)?)
        };
        self.mean_of(group, |document| {
            let theirs = against.map_or(Some(0.0), |against| gain(against, document));
            Some(gain(arm, document)? - theirs?)
        })
    }

    /// What an arm finds more than another by one form, on the documents that both answered.
    fn over_arm(&self, arm: usize, other: usize, group: Group, form: usize) -> Option<Interval> {
        self.mean_of(group, |document| {
            Some(self.found(arm, document, form)? - self.found(other, document, form)?)
        })
    }

    /// 1 for a right answer, 0 for another.
    fn found(&self, arm: usize, document: usize, form: usize) -> Option<f64> {
        let outcome = self.by_place[arm].get(&(document, form))?;
        Some(f64::from(u8::from(outcome.score.is_found())))
    }

    /// The bootstrapped mean of a value over the documents that have one.
    fn mean_of(&self, group: Group, value: impl Fn(usize) -> Option<f64>) -> Option<Interval> {
        let values = self.documents(group);
        let values = values.filter_map(|document| Some((value(document)?, self.texts[document])));
        let (values, texts): (Vec<f64>, Vec<usize>) = values.unzip();
        interval(&values, &texts, self.answers.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::Content;
    use super::super::prompt::Order;
    use super::super::score::Score;
    use super::*;

    fn documents() -> Vec<Document> {
        let document = |task, index: usize| {
            let content = Content::Attribute {
                text: format!("text {index}"),
                key: "key".into(),
                value: "value".into(),
            };
            Document::new(task, content).expect("a document")
        };
        (0..8)
            .map(|index| document([RecallTask::Fda, RecallTask::Swde][index / 4], index))
            .collect()
    }

    /// Right answers of a model as bits, `[document][form]`, as [`evaluation`] takes them.
    const ANSWERED: [[u8; 3]; 8] = [
        [0, 1, 0],
        [0, 1, 0],
        [1, 1, 1],
        [0, 1, 1],
        [0, 0, 0],
        [1, 1, 0],
        [0, 1, 0],
        [0, 0, 0],
    ];

    /// Right answers as bits, document by document, form by form.
    fn evaluation(found: &[[u8; 3]]) -> Evaluation {
        let outcomes = found.iter().enumerate().flat_map(|(document, forms)| {
            forms.iter().enumerate().map(move |(form, found)| Outcome {
                document,
                form,
                tokens: 10 * (form + 1),
                depth: (document != 7).then_some(document as f64 / 8.0),
                answer: String::new(),
                score: Score {
                    kind: [Kind::Irrelevant, Kind::Found][usize::from(*found)],
                    exact: *found == 1,
                    f1: f64::from(*found),
                },
            })
        });
        Evaluation {
            outcomes: outcomes.collect(),
            computed_tokens: 0,
        }
    }

    #[test]
    fn gains_are_differences_on_the_same_documents_and_attention_s_are_subtracted() {
        let documents = documents();
        let forms = [
            PromptForm::ONCE,
            PromptForm::TWICE,
            PromptForm::TWICE.control().expect("two readings"),
        ];
        let recurrent = evaluation(&ANSWERED);
        // Not finished: the last two documents are missing.
        let attention = evaluation(&[[1, 1, 1], [0, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 1]]);
        let arms = [
            Arm {
                evaluation: &recurrent,
                against: Some(1),
                alone: None,
            },
            Arm {
                evaluation: &attention,
                against: None,
                // As if it were the first under a mitigation.
                alone: Some(0),
            },
        ];
        let cells = table(&Answers {
            documents: &documents,
            facts: &[],
            forms: &forms,
            arms: &arms,
            seed: 0,
        });
        assert_eq!(cells.len(), 2 * 3 * 3);
        assert!(cells.iter().all(|cell| cell.facts.is_none()));
        let cell = |arm, task, form: PromptForm| {
            let found = cells
                .iter()
                .find(|cell| (cell.arm, cell.task, cell.form) == (arm, task, form));
            found.expect("a cell")
        };
        let mean = |interval: &Option<Interval>| interval.map(|interval| interval.mean);
        let all = cell(0, None, PromptForm::TWICE);
        assert_eq!((all.asked, all.kinds.found, all.kinds.irrelevant), (8, 6, 2));
        assert_eq!(
            (all.contains, all.exact, all.f1, all.tokens),
            (0.75, 0.75, 0.75, 20.0)
        );
        assert_eq!((mean(&all.gain), mean(&all.over_padding)), (Some(0.5), Some(0.5)));
        // On six documents: 3/6 more, against (1 − 1)/6.
        assert_eq!(mean(&all.beyond_attention), Some(0.5));
        let third = |found, asked| Third { found, asked };
        assert_eq!(all.thirds, [third(3, 3), third(2, 3), third(1, 1)]);
        let fda = cell(0, Some(RecallTask::Fda), PromptForm::TWICE);
        assert_eq!((fda.contains, mean(&fda.gain)), (1.0, Some(0.75)));
        let once = cell(0, None, PromptForm::ONCE);
        assert_eq!(
            (once.gain, once.over_padding, once.beyond_attention),
            (None, None, None)
        );
        let padded = cell(0, None, forms[2]);
        assert_eq!((mean(&padded.gain), padded.over_padding), (Some(0.0), None));
        let attention = cell(1, None, PromptForm::TWICE);
        assert_eq!(
            (mean(&attention.gain), attention.beyond_attention),
            (Some(0.0), None)
        );
        assert_eq!(attention.asked, 6);
        // On six documents: 5 found instead of 2, and 5 instead of 5.
        let over_alone = |form| mean(&cell(1, None, form).over_alone);
        assert_eq!(over_alone(PromptForm::ONCE), Some(3.0 / 6.0));
        assert_eq!(over_alone(PromptForm::TWICE), Some(0.0));
        assert_eq!(all.over_alone, None);
    }

    #[test]
    fn documents_of_each_number_of_facts_are_counted_apart() {
        let documents = documents();
        let forms = [
            PromptForm::ONCE,
            PromptForm::TWICE,
            PromptForm::new(Order::DocumentFirst, 2),
        ];
        let answered = evaluation(&ANSWERED);
        let arms = [Arm {
            evaluation: &answered,
            against: None,
            alone: None,
        }];
        // Two of each task with 4 facts, two with 16.
        let cells = table(&Answers {
            documents: &documents,
            facts: &[16, 4, 16, 4, 16, 4, 16, 4],
            forms: &forms,
            arms: &arms,
            seed: 0,
        });
        let once = cells.iter().filter(|cell| cell.form == PromptForm::ONCE);
        let counted: Vec<_> = once
            .map(|cell| (cell.facts, cell.task, cell.asked, cell.kinds.found))
            .collect();
        let (fda, swde) = (Some(RecallTask::Fda), Some(RecallTask::Swde));
        assert_eq!(
            counted,
            [
                (Some(4), fda, 2, 0),
                (Some(4), swde, 2, 1),
                (Some(4), None, 4, 1),
                (Some(16), fda, 2, 1),
                (Some(16), swde, 2, 0),
                (Some(16), None, 4, 1),
            ]
        );
        let twice = cells
            .iter()
            .find(|cell| cell.facts == Some(16) && cell.form == PromptForm::TWICE);
        let gain = twice.and_then(|cell| cell.gain).map(|gain| gain.mean);
        // On documents 0 and 2.
        assert_eq!(gain, Some(0.5));
    }
}

//! What is asked about: documents that are generated, or read from a data set.

use super::RecallArgs;
use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::format::counted;
use crate::output::write_file;
use serde_json::json;
use spillway_models::evaluation::recall::data;
use spillway_models::evaluation::recall::document::Document;
use spillway_models::evaluation::recall::generate::{Generator, Split};
use spillway_models::evaluation::recall::prompt::{self, PromptForm};
use std::collections::BTreeSet;
use std::path::Path;

/// Documents of a task, where nobody says.
const DOCUMENTS: usize = 200;
/// Broken places that are named one by one.
const MOST_NAMED: usize = 20;

/// The documents, and what was left out of them.
#[derive(Debug)]
pub struct Questions {
    /// Documents that are asked about.
    pub documents: Vec<Document>,
    /// Facts in each of them, where `--facts` says how many.
    pub facts: Vec<usize>,
    /// Number of documents left out because their answer is one character.
    pub not_scored: usize,
    /// Places of the data set that hold no document.
    pub broken: usize,
}

impl Questions {
    /// Generates or reads them.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for several tasks of one file and for numbers that no document has; [`ProgramError::File`] for a file
    /// that cannot be read, [`ProgramError::Failed`] for one that is broken in a place that was not to be passed over,
    /// [`ProgramError::Content`] for one without a document.
    pub fn open(args: &RecallArgs, context: &Context) -> Result<Self, ProgramError> {
        let mut questions = match &args.data {
            None => Self::generated(args)?,
            Some(path) => Self::read(args, path, context)?,
        };
        let is_scored: Vec<bool> = questions.documents.iter().map(Document::is_scored).collect();
        questions.not_scored = is_scored.iter().filter(|is_scored| !**is_scored).count();
        let mut kept = is_scored.iter().copied();
        questions.documents.retain(|_| kept.next() == Some(true));
        let mut kept = is_scored.iter().copied();
        questions.facts.retain(|_| kept.next() == Some(true));
        if questions.not_scored > 0 {
            let left_out = counted(questions.not_scored as u64, "document");
            context.remark(format_args!(
                "left out {left_out} with an answer of one character"
            ));
        }
        match (questions.documents.is_empty(), &args.data) {
            (true, Some(path)) => Err(ProgramError::content(path, "a document to ask about", "none")),
            _ => Ok(questions),
        }
    }

    fn generated(args: &RecallArgs) -> Result<Self, ProgramError> {
        let (mut documents, mut facts) = (Vec::new(), Vec::new());
        for part in generated(args, Split::Test)? {
            facts.extend(
                part.facts
                    .iter()
                    .flat_map(|facts| vec![*facts; part.documents.len()]),
            );
            documents.extend(part.documents);
        }
        Ok(Self {
            documents,
            facts,
            not_scored: 0,
            broken: 0,
        })
    }

    fn read(args: &RecallArgs, path: &Path, context: &Context) -> Result<Self, ProgramError> {
        let tasks = distinct(&args.tasks);
        let [task] = tasks.as_slice() else {
            let found = tasks.iter().map(|task| task.name()).collect::<Vec<_>>().join(",");
            return Err(ProgramError::usage("--task", "one task for --data", found));
        };
        let read = data::read(path, *task)?;
        let broken = read.broken.len();
        if !args.skip_broken {
            if let Some(error) = read.broken.into_iter().next() {
                return Err(ProgramError::Failed(format!(
                    "{error}; --skip-broken passes over what is broken"
                )));
            }
        } else {
            for error in read.broken.iter().take(MOST_NAMED) {
                context.remark(format_args!("passed over: {error}"));
            }
            if broken > MOST_NAMED {
                context.remark(format_args!("passed over: {} more", broken - MOST_NAMED));
            }
        }
        let mut documents = read.documents;
        documents.truncate(args.documents.map_or(usize::MAX, |most| most as usize));
        Ok(Self {
            documents,
            facts: Vec::new(),
            not_scored: 0,
            broken,
        })
    }

    /// The numbers of facts in documents, the fewest first; none where `--facts` does not say.
    pub fn numbers_of_facts(&self) -> Vec<usize> {
        let distinct: BTreeSet<usize> = self.facts.iter().copied().collect();
        distinct.into_iter().collect()
    }

    /// A number that differs between sets of documents (FNV-1a of their JSON).
    pub fn fingerprint(&self) -> u64 {
        let text = serde_json::to_string(&self.documents).unwrap_or_default();
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// Generated documents of every task.
struct Generated {
    /// Facts in each; `None` for the usual number.
    facts: Option<usize>,
    documents: Vec<Document>,
}

/// The documents of every number of facts.
fn generated(args: &RecallArgs, split: Split) -> Result<Vec<Generated>, ProgramError> {
    let allowed = Generator::FEWEST..=Generator::MOST;
    if let Some(found) = args.facts.iter().find(|facts| !allowed.contains(facts)) {
        let expected = format!("from {} to {}", Generator::FEWEST, Generator::MOST);
        return Err(ProgramError::usage("--facts", expected, found.to_string()));
    }
    let numbers = match args.facts.is_empty() {
        true => vec![None],
        false => distinct(&args.facts).into_iter().map(Some).collect(),
    };
    let (tasks, count) = (
        distinct(&args.tasks),
        args.documents.map_or(DOCUMENTS, |count| count as usize),
    );
    let generated = numbers.into_iter().map(|facts| {
        let generator = Generator {
            facts,
            ..Generator::new(split, args.seed)
        };
        let documents = tasks.iter().flat_map(|task| generator.documents(*task, count));
        Generated {
            facts,
            documents: documents.collect(),
        }
    });
    Ok(generated.collect())
}

fn distinct<T: Copy + PartialEq>(asked: &[T]) -> Vec<T> {
    let mut distinct: Vec<T> = Vec::new();
    for one in asked {
        if !distinct.contains(one) {
            distinct.push(*one);
        }
    }
    distinct
}

/// The documents of all numbers of facts, one after the other.
fn in_a_row(generated: Vec<Generated>) -> Vec<Document> {
    generated.into_iter().flat_map(|part| part.documents).collect()
}

/// `--write-documents`.
///
/// # Errors
/// As [`Questions::open`], and for a file that cannot be written.
pub fn write(args: &RecallArgs, path: &Path, context: &Context) -> Result<(), ProgramError> {
    let documents = in_a_row(generated(args, Split::Test)?);
    write_file(path, |file| data::write(&documents, file))?;
    written(path, documents.len(), "document", context)
}

/// `--training-text`: every document of the training split by every kind of prompt, with its answer.
///
/// # Errors
/// As [`write()`].
pub fn write_training(
    args: &RecallArgs,
    forms: &[PromptForm],
    path: &Path,
    context: &Context,
) -> Result<(), ProgramError> {
    let documents = in_a_row(generated(args, Split::Train)?);
    let forms: Vec<PromptForm> = forms.iter().copied().filter(|form| !form.is_padded).collect();
    write_file(path, |file| {
        for document in &documents {
            for form in &forms {
                let (prompt, answer) = (prompt::text(document, *form), &document.answers()[0]);
                writeln!(file, "{}", json!({ "text": format!("{prompt} {answer}.") }))?;
            }
        }
        Ok(())
    })?;
    written(path, documents.len() * forms.len(), "text", context)
}

fn written(path: &Path, count: usize, thing: &str, context: &Context) -> Result<(), ProgramError> {
    context.print_json(&json!({ "files": [path.display().to_string()], "count": count }))?;
    let count = counted(count as u64, thing);
    context.print_line(format_args!("{count} written to {}", path.display()))
}

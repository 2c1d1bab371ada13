//! What came of a run, as it is written and printed.

use crate::encoder::Short;
use crate::kit::format::{count, counted, grouped, list};
use crate::trial::NONE;
use serde::Serialize;
use serde_json::json;
use spillway_models::Info;
use spillway_models::evaluation::recall::bootstrap::Interval;
use spillway_models::evaluation::recall::document::Document;
use spillway_models::evaluation::recall::evaluate::Evaluation;
use spillway_models::evaluation::recall::prompt::PromptForm;
use spillway_models::evaluation::recall::summary::Cell;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Version of the format of `recall.json`.
pub const VERSION: u32 = 2;
/// Name of the file with the whole report as data.
pub const JSON: &str = "recall.json";
/// A line for each cell.
pub const CSV: &str = "recall.csv";
/// Name of the file with every answer, one to a line as JSON.
pub const ANSWERS: &str = "recall-answers.jsonl";

/// Content of `recall.json`: what was asked, and the scores of every model under every mitigation.
#[derive(Debug, Serialize)]
pub struct RecallReport<'a> {
    /// Version of the file's format, [`VERSION`].
    pub version: u32,
    /// Whether everything has been asked.
    pub complete: bool,
    /// The models that were asked.
    pub models: Vec<&'a Info>,
    /// The model with attention alone whose gains are subtracted from those of the others.
    pub attention: Option<String>,
    /// The data set's file, or `generated`.
    pub data: String,
    /// Seed of the documents and the bootstrap.
    pub seed: u64,
    /// Documents asked about, all tasks together.
    pub documents: usize,
    /// Documents left out because their answer is one character.
    pub not_scored: usize,
    /// Places of the data set that hold no document.
    pub broken: usize,
    /// Numbers of facts in generated documents, the fewest first; empty for the usual ones.
    pub facts: Vec<usize>,
    /// L, to which documents were cut; `None` for whole ones.
    pub length: Option<usize>,
    /// Tokens of an answer at most.
    pub answer_tokens: usize,
    /// The kinds of prompts.
    pub forms: &'a [PromptForm],
    /// How a model with an encoder reads a prompt that is shorter than the encoder; `None` for as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_prompt: Option<Short>,
    /// Every model under each of its mitigations.
    pub arms: Vec<ArmReport>,
    /// The table; `arm` is an index into `arms`.
    pub cells: Vec<Cell>,
}

/// A model under a mitigation.
#[derive(Clone, Debug, Serialize)]
pub struct ArmReport {
    /// Name of the model.
    pub model: String,
    /// Index of the model in the report's `models`.
    pub index: usize,
    /// The mitigation's text form.
    pub mitigation: String,
    /// Whether the model remembers by keys and values alone.
    pub is_attention: bool,
    /// Prompt tokens that went through the model.
    pub computed_tokens: u64,
    /// Prompt tokens of all prompts together.
    pub prompt_tokens: u64,
    /// Time that the answers took, in seconds, added up over all processes.
    pub seconds: f64,
}

impl ArmReport {
    /// The model, and the mitigation if there is one.
    pub fn name(&self) -> String {
        match self.mitigation.as_str() {
            NONE => self.model.clone(),
            mitigation => format!("{}, {mitigation}", self.model),
        }
    }
}

/// A share in percent: `48.6`.
pub fn percent(share: f64) -> String {
    grouped(100.0 * share, 1)
}

/// A difference in points of percent with its interval: `+12.5 (8.0 to 17.0)`.
pub fn points(interval: Option<Interval>) -> String {
    interval.map_or_else(
        || "–".into(),
        |found| {
            let sign = if found.mean > 0.0 { "+" } else { "" };
            format!(
                "{sign}{} ({} to {})",
                percent(found.mean),
                percent(found.low),
                percent(found.high)
            )
        },
    )
}

/// Task, or all of them.
pub fn task_name(cell: &Cell) -> &'static str {
    cell.task.map_or("all", |task| task.name())
}

/// ` of 4, 8 and 16 facts`; nothing where no number was asked for.
pub fn of_facts(facts: &[usize]) -> String {
    match facts {
        [] => String::new(),
        [facts] => format!(" of {}", counted(*facts as u64, "fact")),
        facts => {
            let numbers: Vec<String> = facts.iter().map(|facts| count(*facts as u64)).collect();
            format!(" of {} facts", list(&numbers))
        }
    }
}

impl RecallReport<'_> {
    /// The numbers of facts that stand apart: one that is not known if no number was asked for.
    pub fn numbers_of_facts(&self) -> Vec<Option<usize>> {
        match self.facts.as_slice() {
            [] => vec![None],
            facts => facts.iter().copied().map(Some).collect(),
        }
    }

    /// The cells of an arm in which all tasks stand together, or its only task.
    pub fn whole(&self, arm: usize) -> impl Iterator<Item = &Cell> {
        let has_all = self.cells.iter().any(|cell| cell.task.is_none());
        let cells = self.cells.iter();
        cells.filter(move |cell| cell.arm == arm && cell.task.is_none() == has_all)
    }

    /// Names of the tasks that were asked, and of all together, in the order of the table.
    pub fn tasks(&self) -> Vec<&'static str> {
        let mut tasks: Vec<&'static str> = Vec::new();
        for cell in &self.cells {
            if !tasks.contains(&task_name(cell)) {
                tasks.push(task_name(cell));
            }
        }
        tasks
    }
}

/// The table that is printed: for every arm and number of facts, kinds of prompts by tasks.
pub fn text(report: &RecallReport<'_>) -> String {
    let mut text = String::new();
    let numbers = report.numbers_of_facts();
    let blocks = report.arms.iter().enumerate();
    let blocks = blocks.flat_map(|(index, arm)| numbers.iter().map(move |facts| (index, arm, *facts)));
    let tasks = report.tasks();
    for (index, arm, facts) in blocks {
        let cells = report.cells.iter();
        let cells: Vec<&Cell> = cells
            .filter(|cell| (cell.arm, cell.facts) == (index, facts))
            .collect();
        let names: String = tasks.iter().map(|task| format!("{task:>13}")).collect();
        append(
            &mut text,
            format_args!(
                "\n{}: % of answers found{}\n{:<14}{names}{:>26}{:>26}{:>26}\n",
                arm.name(),
                match facts {
                    Some(facts) => format!(" in documents{}", of_facts(&[facts])),
                    None => String::new(),
                },
                "",
                "gain over d-q:1",
                "over padding",
                "beyond attention"
            ),
        );
        for form in report.forms {
            let of_form = || cells.iter().filter(|cell| cell.form == *form);
            let Some(last) = of_form().next_back() else {
                continue;
            };
            let shares = tasks.iter().map(|task| {
                let cell = of_form().find(|cell| task_name(cell) == *task);
                format!("{:>13}", cell.map_or("–".into(), |cell| percent(cell.contains)))
            });
            let shares: String = shares.collect();
            append(
                &mut text,
                format_args!(
                    "{:<14}{shares}{:>26}{:>26}{:>26}\n",
                    form.to_string(),
                    points(last.gain),
                    points(last.over_padding),
                    points(last.beyond_attention)
                ),
            );
        }
    }
    text
}

/// Writing into a `String` cannot fail.
fn append(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(arguments);
}

/// `recall.csv`: one line per cell.
///
/// # Errors
/// The writer's.
pub fn write_csv(report: &RecallReport<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    let mut names: Vec<String> = [
        "model",
        "mitigation",
        "facts",
        "task",
        "form",
        "order",
        "passes",
        "padded",
        "pieces",
        "asked",
        "tokens",
        "contains",
        "wilson_low",
        "wilson_high",
        "exact",
        "f1",
        "none",
        "repeated",
        "irrelevant",
        "not_a_number",
    ]
    .map(String::from)
    .into();
    for third in ["first", "middle", "last"] {
        names.extend([format!("{third}_found"), format!("{third}_asked")]);
    }
    for contrast in ["gain", "over_padding", "beyond_attention", "over_alone"] {
        names.extend([
            contrast.to_string(),
            format!("{contrast}_low"),
            format!("{contrast}_high"),
        ]);
    }
    csv.write_record(&names).map_err(io::Error::other)?;
    for cell in &report.cells {
        let arm = &report.arms[cell.arm];
        let mut record = vec![
            arm.model.clone(),
            arm.mitigation.clone(),
            cell.facts.map(|facts| facts.to_string()).unwrap_or_default(),
            task_name(cell).into(),
            cell.form.to_string(),
            cell.form.order.name().into(),
            cell.form.passes.to_string(),
            cell.form.is_padded.to_string(),
            cell.form
                .pieces
                .map(|pieces| pieces.to_string())
                .unwrap_or_default(),
            cell.asked.to_string(),
            cell.tokens.to_string(),
            cell.contains.to_string(),
            cell.wilson[0].to_string(),
            cell.wilson[1].to_string(),
            cell.exact.to_string(),
            cell.f1.to_string(),
        ];
        let kinds = cell.kinds;
        let counts = [kinds.none, kinds.repeated, kinds.irrelevant, kinds.not_a_number];
        record.extend(counts.map(|count| count.to_string()));
        for third in cell.thirds {
            record.extend([third.found.to_string(), third.asked.to_string()]);
        }
        for contrast in [
            cell.gain,
            cell.over_padding,
            cell.beyond_attention,
            cell.over_alone,
        ] {
            record.extend(match contrast {
                Some(found) => [found.mean, found.low, found.high].map(|value| value.to_string()),
                None => Default::default(),
            });
        }
        csv.write_record(&record).map_err(io::Error::other)?;
    }
    csv.flush()
}

/// `recall-answers.jsonl`: every answer, in the order of models, mitigations, documents and kinds of prompts.
///
/// # Errors
/// The writer's.
pub fn write_answers<'a>(
    report: &RecallReport<'_>,
    evaluations: impl Iterator<Item = &'a Evaluation>,
    documents: &[Document],
    out: &mut dyn Write,
) -> io::Result<()> {
    for (arm, evaluation) in report.arms.iter().zip(evaluations) {
        let mut outcomes: Vec<_> = evaluation.outcomes.iter().collect();
        outcomes.sort_by_key(|outcome| (outcome.document, outcome.form));
        for outcome in outcomes {
            let document = &documents[outcome.document];
            let line = json!({
                "model": arm.model,
                "mitigation": arm.mitigation,
                "task": document.task(),
                "document": outcome.document,
                "form": report.forms[outcome.form],
                "tokens": outcome.tokens,
                "depth": outcome.depth,
                "answer": outcome.answer,
                "expected": document.answers(),
                "kind": outcome.score.kind,
                "exact": outcome.score.exact,
                "f1": outcome.score.f1,
            });
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

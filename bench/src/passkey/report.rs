//! The grid of accuracies, as it is written and printed.

use serde::Serialize;
use spillway_models::Info;
use spillway_models::evaluation::passkey::RECALLED;
use spillway_models::evaluation::passkey_text::evaluate::{Answer, Evaluation, Outcome};
use spillway_models::evaluation::passkey_text::prompt::Case;
use spillway_models::evaluation::wilson;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Version of the format of `passkey.json`.
pub const VERSION: u32 = 1;

/// Content of `passkey.json`: what was asked, and the grid of every mitigation.
#[derive(Debug, Serialize)]
pub struct PasskeysReport<'a> {
    /// Version of the file's format, [`VERSION`].
    pub version: u32,
    /// The model that was asked.
    pub model: &'a Info,
    /// The training length that the heat maps mark, from the command line or the checkpoint.
    pub train_length: Option<u64>,
    /// Seed of the passkeys.
    pub seed: u64,
    /// Whether every mitigation has been asked all that it is to be asked.
    pub complete: bool,
    /// Context lengths that were asked for, in tokens.
    pub lengths: &'a [u64],
    /// Rows of the grid.
    pub depths: usize,
    /// Number of prompts for each cell of the grid.
    pub samples: usize,
    /// The grids, one for each mitigation.
    pub runs: Vec<Run>,
}

/// The grid of one mitigation: passkeys found by length and depth.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// The mitigation's text form.
    pub mitigation: String,
    /// Whether it has been asked all that it is to be asked.
    pub complete: bool,
    /// Why longer prompts were not asked, if they were not.
    pub stopped: Option<String>,
    /// Longest of the lengths at which, and at all shorter ones, more than 95 % of the passkeys were found.
    pub recall_length: Option<u64>,
    /// Prompt tokens that went through the model.
    pub computed_tokens: u64,
    /// Prompt tokens of all prompts together.
    pub prompt_tokens: u64,
    /// Time that the answers took, in seconds, added up over all processes.
    pub seconds: f64,
    /// Row by row within a length, lengths ascending.
    pub cells: Vec<Cell>,
}

/// A cell of the grid: the prompts of one length whose passkey lies in one row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Context length that was asked for, in tokens.
    pub length: u64,
    /// Least real length of its prompts.
    pub tokens_min: usize,
    /// Largest real length of its prompts.
    pub tokens_max: usize,
    /// Row, from the beginning of the text.
    pub row: usize,
    /// Where the row begins, 0 to 1.
    pub depth_from: f64,
    /// Where the row ends, 0 to 1.
    pub depth_to: f64,
    /// Number of prompts asked, each with one passkey.
    pub samples: u64,
    /// Number of prompts whose passkey was found.
    pub correct: u64,
    /// Prompts after which the logits were not numbers any more.
    pub not_a_number: u64,
    /// Share of the passkeys that were found, `correct / samples`.
    pub accuracy: f64,
    /// Lower end of the Wilson 95 % interval.
    pub wilson_low: f64,
    /// Upper end of it.
    pub wilson_high: f64,
}

impl Run {
    /// Gathers the outcomes into cells. As long as some are missing, nothing is said of the length of recall.
    pub fn new(
        mitigation: String,
        cases: &[Case],
        evaluation: &Evaluation,
        rows: usize,
        seconds: f64,
        complete: bool,
    ) -> Self {
        let mut cells: Vec<Cell> = Vec::new();
        let mut outcomes: Vec<&Outcome> = evaluation.outcomes.iter().collect();
        outcomes.sort_by_key(|outcome| outcome.case);
        for outcome in outcomes {
            let case = &cases[outcome.case];
            let same = |cell: &Cell| (cell.length, cell.row) == (case.length, case.row);
            if !cells.last().is_some_and(same) {
                cells.push(Cell::empty(case, rows));
            }
            if let Some(cell) = cells.last_mut() {
                cell.add(&outcome.answer, outcome.tokens);
            }
        }
        Self {
            mitigation,
            complete,
            stopped: None,
            recall_length: recall_length(&cells).filter(|_| complete),
            computed_tokens: evaluation.computed_tokens,
            prompt_tokens: evaluation.prompt_tokens(),
            seconds,
            cells,
        }
    }

    /// The context lengths that were asked, in tokens, ascending.
    pub fn lengths(&self) -> Vec<u64> {
        let mut lengths: Vec<u64> = self.cells.iter().map(|cell| cell.length).collect();
        lengths.dedup();
        lengths
    }

    /// A table of accuracies for the terminal, depth down and length across.
    pub fn table(&self) -> String {
        let lengths = self.lengths();
        let mut text = String::from("depth     ");
        lengths
            .iter()
            .for_each(|length| append(&mut text, format_args!("{length:>9}")));
        let rows = self.cells.iter().map(|cell| cell.row + 1).max().unwrap_or(0);
        for row in 0..rows {
            let cells: Vec<&Cell> = self.cells.iter().filter(|cell| cell.row == row).collect();
            let Some(first) = cells.first() else { continue };
            let depth = format!("{:.0}-{:.0} %", 100.0 * first.depth_from, 100.0 * first.depth_to);
            append(&mut text, format_args!("\n{depth:<10}"));
            for length in &lengths {
                match cells.iter().find(|cell| cell.length == *length) {
                    Some(cell) => append(&mut text, format_args!("{:>9.2}", cell.accuracy)),
                    None => append(&mut text, format_args!("{:>9}", "")),
                }
            }
        }
        text.push_str("\nall       ");
        for length in lengths {
            append(
                &mut text,
                format_args!("{:>9.2}", accuracy_at(&self.cells, length)),
            );
        }
        text
    }
}

impl Cell {
    fn empty(case: &Case, rows: usize) -> Self {
        let edge = |row: usize| row as f64 / rows as f64;
        Self {
            length: case.length,
            tokens_min: usize::MAX,
            tokens_max: 0,
            row: case.row,
            depth_from: edge(case.row),
            depth_to: edge(case.row + 1),
            samples: 0,
            correct: 0,
            not_a_number: 0,
            accuracy: 0.0,
            wilson_low: 0.0,
            wilson_high: 1.0,
        }
    }

    fn add(&mut self, answer: &Answer, tokens: usize) {
        self.tokens_min = self.tokens_min.min(tokens);
        self.tokens_max = self.tokens_max.max(tokens);
        self.samples += 1;
        self.correct += u64::from(*answer == Answer::Found);
        self.not_a_number += u64::from(*answer == Answer::NotANumber);
        self.accuracy = self.correct as f64 / self.samples as f64;
        (self.wilson_low, self.wilson_high) = wilson::interval(self.correct, self.samples);
    }
}

/// Writing into a `String` cannot fail.
fn append(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(arguments);
}

fn accuracy_at(cells: &[Cell], length: u64) -> f64 {
    let at = cells.iter().filter(|cell| cell.length == length);
    let (correct, samples) = at.fold((0, 0), |sum, cell| (sum.0 + cell.correct, sum.1 + cell.samples));
    correct as f64 / samples.max(1) as f64
}

/// Lengths are ascending in `cells`.
fn recall_length(cells: &[Cell]) -> Option<u64> {
    let mut lengths: Vec<u64> = cells.iter().map(|cell| cell.length).collect();
    lengths.dedup();
    lengths
        .into_iter()
        .take_while(|length| accuracy_at(cells, *length) > RECALLED)
        .last()
}

/// `passkey.csv`: one line per mitigation and cell.
///
/// # Errors
/// Whatever the writer gives.
pub fn write_csv(runs: &[Run], out: &mut dyn Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        mitigation: &'a str,
        length: u64,
        tokens_min: usize,
        tokens_max: usize,
        row: usize,
        depth_from: f64,
        depth_to: f64,
        samples: u64,
        correct: u64,
        not_a_number: u64,
        accuracy: f64,
        wilson_low: f64,
        wilson_high: f64,
    }
    let mut csv = csv::Writer::from_writer(out);
    for run in runs {
        for cell in &run.cells {
            // Spelled out, because the csv crate writes no header for flattened structs.
            csv.serialize(Line {
                mitigation: &run.mitigation,
                length: cell.length,
                tokens_min: cell.tokens_min,
                tokens_max: cell.tokens_max,
                row: cell.row,
                depth_from: cell.depth_from,
                depth_to: cell.depth_to,
                samples: cell.samples,
                correct: cell.correct,
                not_a_number: cell.not_a_number,
                accuracy: cell.accuracy,
                wilson_low: cell.wilson_low,
                wilson_high: cell.wilson_high,
            })?;
        }
    }
    csv.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(length: u64, row: usize) -> Case {
        Case {
            length,
            row,
            depth: 0.0,
            blocks: 1,
            block: 0,
            key: "00000".into(),
        }
    }

    fn run() -> Run {
        use Answer::{Found, Missed, NotANumber};
        let cases = [
            case(64, 0),
            case(64, 0),
            case(64, 1),
            case(64, 1),
            case(128, 0),
            case(128, 0),
            case(128, 1),
        ];
        let answers = [Found, Found, Found, Found, Found, Missed, NotANumber];
        let outcomes = answers.into_iter().enumerate();
        let outcomes = outcomes
            .map(|(case, answer)| Outcome {
                case,
                tokens: 60 + case,
                answer,
            })
            .collect();
        Run::new(
            "none".into(),
            &cases,
            &Evaluation {
                outcomes,
                computed_tokens: 9,
            },
            2,
            1.0,
            true,
        )
    }

    #[test]
    fn outcomes_are_counted_in_their_cells() {
        let run = run();
        let counts: Vec<_> = run
            .cells
            .iter()
            .map(|c| (c.length, c.row, c.samples, c.correct))
            .collect();
        assert_eq!(
            counts,
            [(64, 0, 2, 2), (64, 1, 2, 2), (128, 0, 2, 1), (128, 1, 1, 0)]
        );
        let last = &run.cells[3];
        assert_eq!((last.not_a_number, last.tokens_min, last.tokens_max), (1, 66, 66));
        assert_eq!((last.depth_from, last.depth_to), (0.5, 1.0));
        assert_eq!(run.recall_length, Some(64));
        assert_eq!(run.prompt_tokens, (60..67).sum::<u64>());
    }

    #[test]
    fn the_csv_has_a_line_per_cell_and_the_table_a_row_per_depth() {
        let mut out = Vec::new();
        write_csv(&[run()], &mut out).expect("written to memory");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text.lines().count(), 5);
        assert!(text.starts_with("mitigation,length,tokens_min,"), "{text}");
        assert!(
            text.lines()
                .nth(3)
                .expect("line")
                .starts_with("none,128,64,65,0,0.0,0.5,2,1,0,0.5,"),
            "{text}"
        );
        let table = run().table();
        assert_eq!(table.lines().count(), 4);
        assert!(
            table.lines().nth(1).expect("row").starts_with("0-50 %"),
            "{table}"
        );
    }
}

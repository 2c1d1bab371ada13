//! What every study leaves: its pages, pictures in files of their own, and the paragraphs of `RESULTS.md`.

use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::page::{self, Row};
use crate::kit::picture::{Drawing, Figure};
use crate::output::OutputFolder;
use maud::Markup;
use serde::Serialize;
use serde_json::Value;
use std::io::{self, Write};
use std::path::Path;

/// Folder of the pictures.
const FIGURES: &str = "figures";
/// Heading of the findings that measurements support.
pub const SUPPORTED: &str = "What the trainings support";
/// Heading of the findings that measurements do not support.
pub const UNSUPPORTED: &str = "What they do not support";

/// A picture and the file it is written to.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Name of the file without its ending.
    pub name: String,
    /// The drawing with its title and caption.
    pub figure: Figure,
}

impl Picture {
    /// A drawing with its title and caption.
    pub fn new(
        name: impl Into<String>,
        title: impl Into<String>,
        caption: impl Into<String>,
        drawing: Drawing,
    ) -> Self {
        Self {
            name: name.into(),
            figure: Figure::new(title, caption, drawing),
        }
    }
}

/// The pages of a study: `results.json`, `results.csv`, `RESULTS.md`, `report.html`, and a file for each picture.
pub struct Pages<'a, R, C> {
    /// The study's report, which is written to `results.json`.
    pub report: &'a R,
    /// Writes the lines of `results.csv`.
    pub csv: C,
    /// Content of `RESULTS.md`.
    pub markdown: String,
    /// Content of `report.html`.
    pub page: String,
    /// The pictures on it.
    pub pictures: &'a [Picture],
}

impl<R: Serialize, C: Fn(&R, &mut dyn Write) -> io::Result<()>> Pages<'_, R, C> {
    /// Writes all of them.
    ///
    /// # Errors
    /// [`ProgramError::File`].
    pub fn write(&self, folder: &mut OutputFolder) -> Result<(), ProgramError> {
        folder.write_json("results.json", self.report)?;
        folder.write("results.csv", |file| (self.csv)(self.report, file))?;
        folder.write("RESULTS.md", |file| file.write_all(self.markdown.as_bytes()))?;
        folder.write("report.html", |file| file.write_all(self.page.as_bytes()))?;
        write_figures(folder, self.pictures)
    }
}

/// Prints the sentences that are supported and those that are not, and `document` beside the files of the pages in `out`.
///
/// # Errors
/// As [`Context::print`].
pub fn print_results(
    context: &Context,
    findings: [&[String]; 2],
    out: &Path,
    document: Value,
) -> Result<(), ProgramError> {
    let [supported, unsupported] = findings;
    print_findings(context, supported, unsupported)?;
    let files = ["report.html", "RESULTS.md", "results.json", "results.csv"];
    context.print_folder(out, &files, document)?;
    context.remark(format_args!("\nreport: {}", out.join("report.html").display()));
    Ok(())
}

/// The end of a command that trains: an error where something is left to be done.
///
/// # Errors
/// [`ProgramError::Failed`] for trainings that are not `complete`.
pub fn expect_complete(complete: bool) -> Result<(), ProgramError> {
    match complete {
        true => Ok(()),
        false => Err(ProgramError::Failed(
            "interrupted; the same command with --resume goes on".into(),
        )),
    }
}

/// Writes each picture as `figures/NAME.svg`.
///
/// # Errors
/// [`ProgramError::File`].
pub fn write_figures<'a>(
    folder: &mut OutputFolder,
    pictures: impl IntoIterator<Item = &'a Picture>,
) -> Result<(), ProgramError> {
    pictures.into_iter().try_for_each(|picture| {
        let svg = picture.figure.file();
        folder.write(&format!("{FIGURES}/{}.svg", picture.name), |file| {
            file.write_all(svg.as_bytes())
        })
    })
}

/// Prints both kinds of sentences, each under its title.
///
/// # Errors
/// As [`Context::print`].
fn print_findings(
    context: &Context,
    supported: &[String],
    unsupported: &[String],
) -> Result<(), ProgramError> {
    for (title, sentences) in [(SUPPORTED, supported), (UNSUPPORTED, unsupported)] {
        context.print_line(format_args!("\n{title}"))?;
        sentences
            .iter()
            .try_for_each(|sentence| context.print_line(format_args!("- {sentence}")))?;
    }
    Ok(())
}

/// A part of sentences in Markdown; nothing without any.
pub fn markdown_sentences(title: &str, sentences: &[String]) -> String {
    let lines: String = sentences
        .iter()
        .map(|sentence| format!("- {sentence}\n"))
        .collect();
    match sentences {
        [] => String::new(),
        _ => format!("\n## {title}\n\n{lines}"),
    }
}

/// Headings, perhaps of several lines, and rows of as many cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// A heading for each column.
    pub headings: Vec<String>,
    /// Cells, row by row.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// The table as HTML, for a page.
    pub fn html(&self) -> Markup {
        let rows: Vec<Row> = self.rows.iter().map(Row::of).collect();
        page::table(&page::headings(&self.headings), &rows)
    }

    /// In Markdown, with headings of one line.
    pub fn markdown(&self) -> String {
        let headings = self.headings.iter().map(|heading| heading.replace('\n', " "));
        markdown_table(&headings.collect::<Vec<_>>(), &self.rows)
    }
}

/// A table in Markdown.
pub fn markdown_table(headings: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = "|---".repeat(headings.len());
    let rows: String = rows.iter().map(|row| line(row)).collect();
    format!("{}{rule}|\n{rows}", line(headings))
}

/// The list of the pictures in Markdown.
pub fn markdown_figures<'a>(pictures: impl IntoIterator<Item = &'a Picture>) -> String {
    let line = |picture: &Picture| format!("- [{}]({FIGURES}/{}.svg)\n", picture.figure.title, picture.name);
    let lines: String = pictures.into_iter().map(line).collect();
    format!("\n## Figures\n\n{lines}")
}

/// Different values, the smallest first.
pub fn distinct(values: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut values: Vec<u64> = values.into_iter().collect();
    values.sort_unstable();
    values.dedup();
    values
}

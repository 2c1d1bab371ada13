//! What every study leaves: pictures in files of their own, and the paragraphs of `RESULTS.md`.

use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::picture::{Drawing, Figure};
use crate::output::OutputFolder;

/// Folder of the pictures.
const FIGURES: &str = "figures";
/// What comes above the sentences that numbers support, and above those that they do not.
pub const SUPPORTED: &str = "What the trainings support";
/// Heading of the findings that measurements do not support.
pub const UNSUPPORTED: &str = "What they do not support";

/// A picture and the file it is written to.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Name of the file without its ending.
    pub name: String,
    /// The picture.
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
pub fn print_findings(
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

//! Tables of coloured cells: rows by columns, each with its number written in.

use super::ink::Ink;
use super::picture::{Drawing, Entry, Sample, at};
use maud::html;

const TOP: f64 = 52.0;
const BOTTOM: f64 = 52.0;
/// Width of a character.
const CHARACTER: f64 = 7.6;

/// A coloured cell of a [`Grid`], with its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Darkness of the cell, from 0 (light) to 1 (dark).
    pub shade: f64,
    /// What is written in it.
    pub text: String,
    /// What is said under the pointer.
    pub hover: String,
    /// Whether it has a frame.
    pub framed: bool,
}

/// Rows by columns of cells.
#[derive(Clone, Debug)]
pub struct Grid {
    /// Name of the columns.
    pub columns_name: String,
    /// Name of the rows.
    pub rows_name: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Names of the rows.
    pub rows: Vec<String>,
    /// Cells, `[rows][columns]`; `None` where nothing was measured.
    pub cells: Vec<Vec<Option<Cell>>>,
    /// What the scale is called, and what its ends and its middle stand for.
    pub scale: (String, [String; 3]),
    /// A line before this column, and what is written on it.
    pub divider: Option<(usize, String)>,
}

impl Grid {
    /// The grid as a drawing.
    pub fn draw(&self) -> Drawing {
        let longest = |texts: &mut dyn Iterator<Item = &String>| {
            CHARACTER * texts.map(|text| text.chars().count()).max().unwrap_or(0) as f64
        };
        let texts = self.cells.iter().flatten().flatten().map(|cell| &cell.text);
        let width = (longest(&mut texts.chain(&self.columns)) + 12.0).max(46.0);
        let height = 30.0;
        let left = (longest(&mut self.rows.iter()) + 14.0).max(40.0);
        let x = |column: usize| left + width * column as f64;
        let y = |row: usize| TOP + height * row as f64;
        let (right, bottom) = (x(self.columns.len()), y(self.rows.len()));
        let names = CHARACTER * self.columns_name.chars().count() as f64;
        let middle = ((left + right) / 2.0).max(names / 2.0 + 4.0);
        let divider = self.divider.as_ref().map(|(column, text)| {
            let (line, length) = (x(*column) - 1.0, CHARACTER * text.chars().count() as f64);
            // To the left of the line only where there is room.
            let is_left = line > right / 2.0 && line > length;
            (line, text, is_left, if is_left { line } else { line + length })
        });
        let cells = || {
            let rows = self.cells.iter().enumerate();
            rows.flat_map(|(row, cells)| {
                cells
                    .iter()
                    .enumerate()
                    .map(move |(column, cell)| (row, column, cell))
            })
        };
        let body = html! {
            text.ink.name x="4" y="16" { (self.rows_name) }
            @for (row, column, cell) in cells().filter_map(|(row, column, cell)| Some((row, column, cell.as_ref()?))) {
                @let ink = Ink::shade(cell.shade);
                g { title { (cell.hover) }
                    rect class={ "f " (ink.class()) } x=(at(x(column))) y=(at(y(row))) width=(at(width - 2.0)) height=(at(height - 2.0)) {}
                    @if cell.framed {
                        rect.l.c1 stroke-width="3" x=(at(x(column) + 1.0)) y=(at(y(row) + 1.0)) width=(at(width - 4.0)) height=(at(height - 4.0)) {}
                    }
                    text class=(ink.on()) text-anchor="middle" x=(at(x(column) + width / 2.0 - 1.0)) y=(at(y(row) + height / 2.0 + 3.5)) { (cell.text) }
                }
            }
            @for (row, name) in self.rows.iter().enumerate() {
                text.ink text-anchor="end" x=(at(left - 8.0)) y=(at(y(row) + height / 2.0 + 3.5)) { (name) }
            }
            @for (column, name) in self.columns.iter().enumerate() {
                text.ink text-anchor="middle" x=(at(x(column) + width / 2.0 - 1.0)) y=(at(bottom + 17.0)) { (name) }
            }
            text.ink.name text-anchor="middle" x=(at(middle)) y=(at(bottom + 40.0)) { (self.columns_name) }
            @if let Some((line, text, is_left, _)) = divider {
                path.l.c1 stroke-width="2" stroke-dasharray="4 4" d=(format!("M{} {}V{}", at(line), at(TOP - 8.0), at(bottom + 4.0))) {}
                text.ink text-anchor=(if is_left { "end" } else { "start" }) x=(at(line)) y=(at(TOP - 12.0)) { (text) }
            }
        };
        let rows_name = CHARACTER * self.rows_name.chars().count() as f64;
        let divided = divider.map_or(0.0, |(.., end)| end);
        let written = rows_name.max(middle + names / 2.0).max(divided);
        Drawing {
            size: (right.max(written) + 10.0, bottom + BOTTOM),
            body,
            legend: vec![Entry {
                text: self.scale.0.clone(),
                sample: Sample::Scale(self.scale.1.clone()),
            }],
            is_table: true,
        }
    }
}

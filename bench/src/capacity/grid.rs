//! Tables of coloured cells: rows by columns, each with its number written in.

use crate::diagnose::report::chart::{INK, responsive, shade_colour};
use crate::error::ProgramError;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const LEFT: i32 = 96;
const TOP: i32 = 34;
const BOTTOM: i32 = 52;
const FONT: &str = "sans-serif";

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// A cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// From 0 (light) to 1 (dark).
    pub shade: f64,
    /// What is written in it.
    pub text: String,
    /// Whether it has a frame.
    pub framed: bool,
}

/// Rows by columns of cells.
#[derive(Clone, Debug)]
pub struct Grid<'a> {
    /// Name of the columns.
    pub columns_name: &'a str,
    /// Name of the rows.
    pub rows_name: &'a str,
    /// Names of the columns.
    pub columns: &'a [String],
    /// Names of the rows.
    pub rows: &'a [String],
    /// `[rows][columns]`; none where nothing was measured.
    pub cells: &'a [Vec<Option<Cell>>],
    /// Pixels of a cell.
    pub cell: (i32, i32),
}

impl Grid<'_> {
    /// The picture.
    ///
    /// # Errors
    /// [`ProgramError::Picture`] from the drawing library.
    pub fn svg(&self) -> Result<String, ProgramError> {
        let mut svg = String::new();
        let drawn = {
            let area = SVGBackend::with_string(&mut svg, self.size()).into_drawing_area();
            self.draw(&area).and_then(|()| area.present())
        };
        drawn.map_err(|cause| ProgramError::Picture {
            picture: self.rows_name.into(),
            cause: cause.to_string(),
        })?;
        Ok(responsive(svg, self.size()))
    }

    /// Pixels of the whole picture.
    pub fn size(&self) -> (u32, u32) {
        let width = LEFT + self.cell.0 * (self.columns.len() as i32).max(4) + 8;
        let height = TOP + self.cell.1 * self.rows.len() as i32 + BOTTOM;
        (width.unsigned_abs(), height.unsigned_abs())
    }

    fn corner(&self, row: usize, column: usize) -> (i32, i32) {
        (LEFT + self.cell.0 * column as i32, TOP + self.cell.1 * row as i32)
    }

    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Drawn {
        let (width, height) = self.cell;
        for (row, cells) in self.cells.iter().enumerate() {
            for (column, cell) in cells.iter().enumerate() {
                let Some(cell) = cell else { continue };
                let (x, y) = self.corner(row, column);
                let corners = [(x, y), (x + width - 2, y + height - 2)];
                area.draw(&Rectangle::new(corners, shade_colour(cell.shade).filled()))?;
                if cell.framed {
                    let inner = [(x + 1, y + 1), (x + width - 3, y + height - 3)];
                    area.draw(&Rectangle::new(inner, RGBColor(213, 94, 0).stroke_width(3)))?;
                }
                let ink = if cell.shade > 0.5 { WHITE } else { INK };
                text(
                    area,
                    &cell.text,
                    (x + width / 2, y + height / 2),
                    &ink,
                    HPos::Center,
                )?;
            }
        }
        for (row, name) in self.rows.iter().enumerate() {
            let y = self.corner(row, 0).1 + height / 2;
            text(area, name, (LEFT - 8, y), &INK, HPos::Right)?;
        }
        let bottom = self.corner(self.rows.len(), 0).1;
        for (column, name) in self.columns.iter().enumerate() {
            let x = self.corner(0, column).0 + width / 2;
            text(area, name, (x, bottom + 12), &INK, HPos::Center)?;
        }
        let middle = LEFT + width * self.columns.len() as i32 / 2;
        text(area, self.columns_name, (middle, bottom + 36), &INK, HPos::Center)?;
        text(area, self.rows_name, (8, 14), &INK, HPos::Left)
    }
}

fn text(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    words: &str,
    place: (i32, i32),
    ink: &RGBColor,
    side: HPos,
) -> Drawn {
    let style = (FONT, 15)
        .into_font()
        .color(ink)
        .pos(Pos::new(side, VPos::Center));
    area.draw_text(words, &style, place)
}

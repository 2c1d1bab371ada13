//! The heat map: accuracy by length (across) and depth of the passkey (down).

use super::report::Run;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const CELL: (i32, i32) = (68, 30);
const LEFT: i32 = 100;
const TOP: i32 = 98;
const RIGHT: i32 = 118;
const BOTTOM: i32 = 64;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(110, 110, 110);

/// Accuracy 0 to 1 from dark to light: legible in grey and to colour-blind eyes (points of the viridis map).
const COLOURS: [(u8, u8, u8); 5] = [
    (68, 1, 84),
    (59, 82, 139),
    (33, 145, 140),
    (94, 201, 98),
    (253, 231, 37),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// The picture as SVG text.
///
/// # Errors
/// What the drawing library says.
pub fn svg(run: &Run, model: &str, train_length: Option<u64>) -> Result<String, String> {
    let mut text = String::new();
    let grid = Grid::new(run);
    {
        let area = SVGBackend::with_string(&mut text, grid.size()).into_drawing_area();
        draw(&area, &grid, run, model, train_length)
            .and_then(|()| area.present())
            .map_err(|error| error.to_string())?;
    }
    Ok(text)
}

struct Grid {
    lengths: Vec<u64>,
    rows: usize,
}

impl Grid {
    fn new(run: &Run) -> Self {
        let rows = run.cells.iter().map(|cell| cell.row + 1).max().unwrap_or(0);
        Self {
            lengths: run.lengths(),
            rows,
        }
    }

    fn width(&self) -> i32 {
        // A title needs room even over a single column.
        CELL.0 * (self.lengths.len() as i32).max(5)
    }

    fn size(&self) -> (u32, u32) {
        let (width, height) = (
            LEFT + self.width() + RIGHT,
            TOP + CELL.1 * self.rows as i32 + BOTTOM,
        );
        (width.unsigned_abs(), height.unsigned_abs())
    }

    fn corner(&self, column: usize, row: usize) -> (i32, i32) {
        (LEFT + CELL.0 * column as i32, TOP + CELL.1 * row as i32)
    }
}

fn draw(area: &Area<'_>, grid: &Grid, run: &Run, model: &str, train_length: Option<u64>) -> Drawn {
    area.fill(&WHITE)?;
    let title = format!("Passkey retrieval, {model}");
    write(area, &title, (LEFT, 24), 21, &INK, (HPos::Left, VPos::Center))?;
    let trained = train_length.map_or(String::new(), |length| {
        format!("  ·  training length {}", short(length))
    });
    let subtitle = format!("mitigation: {}{trained}", run.mitigation);
    write(
        area,
        &subtitle,
        (LEFT, 46),
        15,
        &FAINT,
        (HPos::Left, VPos::Center),
    )?;
    cells(area, grid, run)?;
    axes(area, grid)?;
    train_line(area, grid, train_length)?;
    colour_bar(area, grid)
}

fn cells(area: &Area<'_>, grid: &Grid, run: &Run) -> Drawn {
    for cell in &run.cells {
        let Some(column) = grid.lengths.iter().position(|length| *length == cell.length) else {
            continue;
        };
        let (x, y) = grid.corner(column, cell.row);
        // One pixel of white between cells.
        let corners = [(x, y), (x + CELL.0 - 1, y + CELL.1 - 1)];
        area.draw(&Rectangle::new(corners, colour(cell.accuracy).filled()))?;
        let ink = if cell.accuracy < 0.6 { WHITE } else { INK };
        let centre = (x + CELL.0 / 2, y + CELL.1 / 2);
        write(
            area,
            &format!("{:.2}", cell.accuracy),
            centre,
            14,
            &ink,
            (HPos::Center, VPos::Center),
        )?;
    }
    Ok(())
}

fn axes(area: &Area<'_>, grid: &Grid) -> Drawn {
    let bottom = grid.corner(0, grid.rows).1;
    for (column, length) in grid.lengths.iter().enumerate() {
        let x = grid.corner(column, 0).0 + CELL.0 / 2;
        write(
            area,
            &short(*length),
            (x, bottom + 14),
            14,
            &INK,
            (HPos::Center, VPos::Center),
        )?;
    }
    let middle = LEFT + CELL.0 * grid.lengths.len() as i32 / 2;
    write(
        area,
        "context length (tokens)",
        (middle, bottom + 40),
        15,
        &INK,
        (HPos::Center, VPos::Center),
    )?;
    for row in 0..grid.rows {
        let y = grid.corner(0, row).1 + CELL.1 / 2;
        let edge = |row: usize| format!("{:.0}", 100.0 * row as f64 / grid.rows as f64);
        let label = format!("{}–{} %", edge(row), edge(row + 1));
        write(area, &label, (LEFT - 8, y), 14, &INK, (HPos::Right, VPos::Center))?;
    }
    write(
        area,
        "depth of the passkey",
        (8, TOP - 12),
        15,
        &INK,
        (HPos::Left, VPos::Center),
    )
}

/// A dashed line between the last column inside the training length and the first beyond it.
fn train_line(area: &Area<'_>, grid: &Grid, train_length: Option<u64>) -> Drawn {
    let Some(train_length) = train_length else {
        return Ok(());
    };
    let inside = grid
        .lengths
        .iter()
        .filter(|length| **length <= train_length)
        .count();
    if inside == 0 || inside == grid.lengths.len() {
        return Ok(());
    }
    let (x, bottom) = (grid.corner(inside, 0).0, grid.corner(0, grid.rows).1);
    let red = RGBColor(200, 30, 30);
    for y in (TOP - 20..bottom + 4).step_by(8) {
        area.draw(&PathElement::new(
            vec![(x, y), (x, (y + 4).min(bottom + 4))],
            red.stroke_width(2),
        ))?;
    }
    write(
        area,
        "training length",
        (x, TOP - 30),
        14,
        &red,
        (HPos::Center, VPos::Center),
    )
}

fn colour_bar(area: &Area<'_>, grid: &Grid) -> Drawn {
    let x = LEFT + CELL.0 * grid.lengths.len() as i32 + 20;
    let height = CELL.1 * grid.rows as i32;
    for step in 0..height {
        let share = 1.0 - f64::from(step) / f64::from(height.max(1));
        let corners = [(x, TOP + step), (x + 14, TOP + step + 1)];
        area.draw(&Rectangle::new(corners, colour(share).filled()))?;
    }
    for (share, label) in [(1.0, "1"), (0.5, "0.5"), (0.0, "0")] {
        let y = TOP + (f64::from(height) * (1.0 - share)) as i32;
        write(area, label, (x + 20, y), 14, &INK, (HPos::Left, VPos::Center))?;
    }
    write(
        area,
        "accuracy",
        (x, TOP - 12),
        14,
        &INK,
        (HPos::Left, VPos::Center),
    )
}

fn write(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    ink: &RGBColor,
    anchor: (HPos, VPos),
) -> Drawn {
    let style = (FONT, size)
        .into_font()
        .color(ink)
        .pos(Pos::new(anchor.0, anchor.1));
    area.draw_text(text, &style, at)
}

fn colour(share: f64) -> RGBColor {
    let place = share.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let low = (place as usize).min(COLOURS.len() - 2);
    let (from, to, part) = (COLOURS[low], COLOURS[low + 1], place - low as f64);
    let mix = |a: u8, b: u8| (f64::from(a) + part * (f64::from(b) - f64::from(a))).round() as u8;
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}

/// `8192` as `8k`, `1048576` as `1M`; other lengths in full.
fn short(length: u64) -> String {
    match length {
        m if m >= 1 << 20 && m.is_multiple_of(1 << 20) => format!("{}M", m >> 20),
        k if k >= 1 << 10 && k.is_multiple_of(1 << 10) => format!("{}k", k >> 10),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::evaluate::{Answer, Evaluation, Outcome};
    use super::super::prompt::Case;
    use super::*;

    /// A model that forgets: the deeper the passkey and the longer the text, the less is found.
    fn run() -> Run {
        let (mut cases, mut outcomes) = (Vec::new(), Vec::new());
        for (column, length) in [1024u64, 2048, 4096, 8192, 16384, 32768, 65536]
            .into_iter()
            .enumerate()
        {
            for (row, sample) in (0..10).flat_map(|row| (0..20).map(move |sample| (row, sample))) {
                cases.push(Case {
                    length,
                    row,
                    depth: 0.0,
                    blocks: 1,
                    block: 0,
                    key: "00000".into(),
                });
                let found = sample < 40 + 3 * row as i32 - 10 * column as i32;
                let answer = if found { Answer::Found } else { Answer::Missed };
                outcomes.push(Outcome {
                    case: outcomes.len(),
                    tokens: length as usize,
                    answer,
                });
            }
        }
        Run::new(
            "rri:0.9999,0.75".into(),
            &cases,
            &Evaluation {
                outcomes,
                computed_tokens: 0,
            },
            10,
            1.0,
        )
    }

    #[test]
    fn the_picture_names_every_length_depth_and_accuracy() {
        let svg = svg(&run(), "mamba2-370m", Some(8192)).expect("drawn");
        for text in [
            "1k",
            "64k",
            "0–10 %",
            "90–100 %",
            "1.00",
            "training length",
            "rri:0.9999,0.75",
            "accuracy",
        ] {
            assert!(svg.contains(text), "no {text}");
        }
        let cells = svg.matches("width=\"67\" height=\"29\"").count();
        assert_eq!(cells, 70);
    }

    #[test]
    fn colours_run_from_end_to_end() {
        assert_eq!(
            (colour(0.0), colour(1.0)),
            (RGBColor(68, 1, 84), RGBColor(253, 231, 37))
        );
        assert_eq!(colour(0.125), RGBColor(64, 42, 112));
        assert_eq!(
            [1000, 1024, 65536, 1 << 20].map(short),
            ["1000", "1k", "64k", "1M"]
        );
    }
}

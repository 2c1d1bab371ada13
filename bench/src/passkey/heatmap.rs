//! The heat map: accuracy by length (across) and depth of the passkey (down).

use super::report::{Cell, Run};
use crate::kit::format::{count, counted, position};
use crate::kit::grid::{self, Grid};
use crate::kit::picture::Figure;

/// The answers of one mitigation by length and depth, as a picture.
pub fn figure(run: &Run, model: &str, train_length: Option<u64>) -> Figure {
    let lengths = run.lengths();
    let rows = run.cells.iter().map(|cell| cell.row + 1).max().unwrap_or(0);
    let cell = |row: usize, length: u64| {
        let found = run
            .cells
            .iter()
            .find(|cell| (cell.row, cell.length) == (row, length));
        found.map(drawn)
    };
    let edge = |row: usize| format!("{:.0}", 100.0 * row as f64 / rows as f64);
    // Between the last column inside the training length and the first beyond it.
    let inside = train_length.map_or(0, |trained| {
        lengths.iter().filter(|length| **length <= trained).count()
    });
    let grid = Grid {
        columns_name: "context length (tokens)".into(),
        rows_name: "depth of the passkey".into(),
        columns: lengths.iter().map(|length| position(*length as f64)).collect(),
        rows: (0..rows)
            .map(|row| format!("{}–{} %", edge(row), edge(row + 1)))
            .collect(),
        cells: (0..rows)
            .map(|row| lengths.iter().map(|length| cell(row, *length)).collect())
            .collect(),
        scale: ("accuracy".into(), ["0", "", "1"].map(String::from)),
        divider: (1..lengths.len())
            .contains(&inside)
            .then(|| (inside, "training length".into())),
    };
    let trained = train_length.map_or(String::new(), |length| {
        format!(", training length {} tokens", count(length))
    });
    let title = format!("Passkey retrieval, {model}: {}", run.mitigation);
    let caption = format!(
        "Share of the passkeys found by length of the prompt and depth of the passkey in it{trained}. Under the pointer: the Wilson 95 % interval."
    );
    Figure::new(title, caption, grid.draw())
}

fn drawn(cell: &Cell) -> grid::Cell {
    grid::Cell {
        shade: cell.accuracy,
        text: format!("{:.2}", cell.accuracy),
        hover: format!(
            "{} tokens: {} found ({:.2} to {:.2}) in {}",
            count(cell.length),
            cell.correct,
            cell.wilson_low,
            cell.wilson_high,
            counted(cell.samples, "prompt")
        ),
        framed: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_models::evaluation::passkey_text::evaluate::{Answer, Evaluation, Outcome};
    use spillway_models::evaluation::passkey_text::prompt::Case;

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
            true,
        )
    }

    #[test]
    fn the_picture_names_every_length_depth_and_accuracy() {
        let svg = figure(&run(), "mamba2-370m", Some(8192)).file();
        for text in [
            "1K",
            "64K",
            "0–10 %",
            "90–100 %",
            "1.00",
            "training length",
            "rri:0.9999,0.75",
            "accuracy",
        ] {
            assert!(svg.contains(text), "no {text}");
        }
        assert_eq!(svg.matches("prompts</title>").count(), 70);
    }
}

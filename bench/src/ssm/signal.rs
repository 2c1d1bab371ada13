//! The signal that systems listen to: a file of numbers, or the built-in one.

use crate::error::ProgramError;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_models::input::{MAX_SETTINGS, read_stream};
use std::f64::consts::TAU;
use std::path::Path;

/// Samples of a signal, at least and at most: fewer show nothing, and the convolution costs their square.
pub const SAMPLES: std::ops::RangeInclusive<usize> = 32..=20_000;
/// Samples of the built-in signal where no number is asked for.
pub const DEFAULT_SAMPLES: usize = 1000;

/// Waves in the built-in signal, and how often the fastest of them goes up and down in it.
const WAVES: usize = 24;
const FASTEST: f64 = 14.0;
/// Where its step is, as a share of it, and how high, in standard deviations of the noise.
const STEP: (f64, f64) = (0.6, 2.0);

/// A signal as its samples, with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// Name of the signal.
    pub name: String,
    /// Samples u_0, u_1, … of the signal, the oldest first.
    pub samples: Vec<f64>,
}

impl Signal {
    /// Noise of no more than 14 cycles over the whole length, and a step of two of its standard deviations: slow and fast
    /// parts, and a jump that no smooth function follows.
    pub fn built_in(length: usize, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let waves: Vec<(f64, f64)> = (0..WAVES)
            .map(|_| (FASTEST * random.random::<f64>(), TAU * random.random::<f64>()))
            .collect();
        let size = (2.0 / WAVES as f64).sqrt();
        let at = |k: usize| {
            let share = k as f64 / length as f64;
            let noise: f64 = waves
                .iter()
                .map(|(cycles, phase)| (TAU * cycles * share + phase).sin())
                .sum();
            size * noise + if share < STEP.0 { 0.0 } else { STEP.1 }
        };
        Self {
            name: format!("the built-in signal, seed {seed}"),
            samples: (0..length).map(at).collect(),
        }
    }

    /// Numbers one to a line, or a table with commas, semicolons, tabs or blanks between its columns, whose first line may name
    /// them; a file of one line is a list. `column` counts from 1.
    ///
    /// # Errors
    /// [`ProgramError::File`] and [`ProgramError::Content`] for a file that cannot be read or holds something else;
    /// [`ProgramError::Usage`] for a column that it does not have, and for a table without `column`.
    pub fn read(path: &Path, column: Option<usize>, length: Option<usize>) -> Result<Self, ProgramError> {
        let bytes = read_stream(path, MAX_SETTINGS).map_err(ProgramError::file("read", path))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| ProgramError::content(path, "numbers as text", "bytes that are no text"))?;
        let mut samples = parse(&text, column, path)?;
        if let Some(length) = length {
            samples.truncate(length);
        }
        let (least, most) = (*SAMPLES.start(), *SAMPLES.end());
        if samples.len() < least || length.is_some_and(|length| samples.len() < length) {
            let expected = format!("at least {} numbers", length.unwrap_or(least));
            return Err(ProgramError::content(path, expected, samples.len().to_string()));
        }
        if samples.len() > most {
            let expected = format!("at most {most} numbers (--length N reads the first N)");
            return Err(ProgramError::content(path, expected, samples.len().to_string()));
        }
        let name = path.file_name().map_or_else(
            || path.display().to_string(),
            |name| name.to_string_lossy().into(),
        );
        let signal = Self { name, samples };
        match signal.deviation() > 0.0 {
            true => Ok(signal),
            false => Err(ProgramError::content(
                path,
                "numbers that differ",
                "the same number everywhere",
            )),
        }
    }

    /// Standard deviation over the whole length, the unit of errors.
    pub fn deviation(&self) -> f64 {
        let count = self.samples.len() as f64;
        let mean = self.samples.iter().sum::<f64>() / count;
        let square = self.samples.iter().map(|u| (u - mean) * (u - mean)).sum::<f64>();
        (square / count).sqrt()
    }
}

/// The numbers of a text.
fn parse(text: &str, column: Option<usize>, path: &Path) -> Result<Vec<f64>, ProgramError> {
    let text = text.trim_start_matches('\u{feff}');
    let lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, cells(line)));
    let mut lines: Vec<(usize, Vec<&str>)> = lines.filter(|(_, cells)| !cells.is_empty()).collect();
    let names = match lines.first() {
        Some((_, first)) if first.iter().all(|cell| cell.parse::<f64>().is_err()) => lines.remove(0).1,
        _ => Vec::new(),
    };
    if let ([(number, only)], None) = (lines.as_slice(), column) {
        return only.iter().map(|cell| value(cell, *number, path)).collect();
    }
    let width = lines.first().map_or(0, |(_, cells)| cells.len());
    let index = match column {
        Some(column) if (1..=width).contains(&column) => column - 1,
        Some(column) => {
            let expected = format!("a column from 1 to {width} of {}", path.display());
            return Err(ProgramError::usage("--column", expected, column.to_string()));
        }
        None if width > 1 => {
            let named = match names.is_empty() {
                true => format!("{width} of them"),
                false => names.join(", "),
            };
            let expected = format!("one column, or --column 1 to {width}");
            return Err(ProgramError::content(path, expected, named));
        }
        None => 0,
    };
    let read = |(number, cells): &(usize, Vec<&str>)| match cells.get(index) {
        Some(cell) => value(cell, *number, path),
        None => {
            let expected = format!(
                "{} in line {number}",
                crate::kit::format::counted(width as u64, "column")
            );
            Err(ProgramError::content(path, expected, cells.len().to_string()))
        }
    };
    lines.iter().map(read).collect()
}

fn cells(line: &str) -> Vec<&str> {
    let line = line.trim();
    let separator = [',', ';', '\t'].into_iter().find(|c| line.contains(*c));
    match separator {
        _ if line.is_empty() || line.starts_with('#') => Vec::new(),
        Some(separator) => line
            .split(separator)
            .map(|cell| cell.trim().trim_matches('"'))
            .collect(),
        None => line.split_whitespace().collect(),
    }
}

fn value(cell: &str, line: usize, path: &Path) -> Result<f64, ProgramError> {
    match cell.parse::<f64>() {
        Ok(number) if number.abs() <= 1e100 => Ok(number),
        _ => {
            let found: String = cell.chars().take(40).collect();
            let expected = format!("a finite number in line {line}");
            Err(ProgramError::content(path, expected, format!("{found:?}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, column: Option<usize>) -> Result<Vec<f64>, String> {
        parse(text, column, Path::new("signal.csv")).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_columns_and_tables_are_read() {
        for text in [
            "1\n2.5\n-3e2\n",
            "1 2.5 -3e2",
            "1,2.5,-3e2\n",
            "# ours\nu\n1\n\n2.5\n-3e2",
            "\u{feff}\"u\"\r\n1\r\n2.5\r\n-3e2",
        ] {
            assert_eq!(read(text, None), Ok(vec![1.0, 2.5, -300.0]), "{text:?}");
        }
        let table = "t;u\n0;5\n1;6\n";
        assert_eq!(read(table, Some(2)), Ok(vec![5.0, 6.0]));
        for (text, column, part) in [
            (table, None, "found t, u"),
            (table, Some(3), "--column: expected a column from 1 to 2"),
            (table, Some(0), "--column"),
            ("1\nx\n", None, "a finite number in line 2, found \"x\""),
            ("1\nNaN\n", None, "line 2"),
            ("1,2\n3\n", Some(2), "2 columns in line 2, found 1"),
        ] {
            let error = read(text, column).expect_err(text);
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_built_in_signal_is_a_noise_of_size_one_and_a_step_of_two() {
        let signal = Signal::built_in(4000, 1);
        let mean = |samples: &[f64]| samples.iter().sum::<f64>() / samples.len() as f64;
        let (before, after) = signal.samples.split_at(2400);
        assert!((mean(after) - mean(before) - 2.0).abs() < 0.5);
        assert_ne!(signal, Signal::built_in(4000, 2));
        assert_eq!(signal, Signal::built_in(4000, 1));
        assert!(signal.deviation() > 0.8 && signal.deviation() < 2.0);
    }
}

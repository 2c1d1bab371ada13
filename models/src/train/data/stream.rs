//! Batches from one part or a mixture of several, at any position.

use serde_json::{Value, json};

use super::error::DataError;
use super::seed::{fraction, mix};
use crate::train::Batch;

/// Where batches come from: always the same ones for the same configuration, seed and position.
pub trait Source: Send {
    /// The next batch; there is always one.
    ///
    /// # Errors
    /// [`DataError::Id`] from a file of tokens that is damaged. The position stays where it was.
    fn next(&mut self) -> Result<Batch, DataError>;

    /// Where the source is: a few counters.
    fn position(&self) -> Value;

    /// Goes to a position of a source of the same configuration and seed. The batches that follow are the same as there.
    ///
    /// # Errors
    /// [`DataError::Position`] for what is no position, or one in other data, or in batches of another size; the source stays
    /// where it was.
    fn seek(&mut self, position: &Value) -> Result<(), DataError>;

    /// All ids, and all targets, are below it.
    fn vocab_size(&self) -> usize;
}

/// The batches of a source as an iterator without an end.
pub fn batches(source: &mut dyn Source) -> impl Iterator<Item = Result<Batch, DataError>> {
    std::iter::from_fn(move || Some(source.next()))
}

/// One row of a batch: a sequence to be filled in.
pub(super) struct Row<'a> {
    /// Ids that the model reads, `[time]`.
    pub(super) ids: &'a mut [u32],
    /// What is to be predicted.
    pub(super) targets: &'a mut [u32],
    /// All 1 before; empty if no part of the source weighs its targets.
    pub(super) weights: &'a mut [f32],
}

/// Which sequence of a part is to be filled in: its row of the batch, and its number within the row.
#[derive(Clone, Copy, Debug)]
pub(super) struct SequenceNumber {
    /// Row of the batch.
    pub(super) row: usize,
    /// Rows of a batch.
    pub(super) rows: usize,
    /// How many sequences of the same part this row has had before.
    pub(super) number: u64,
}

impl SequenceNumber {
    /// How many sequences of the part come before this one, counted over all rows.
    pub(super) fn index(&self) -> u64 {
        self.number
            .wrapping_mul(self.rows as u64)
            .wrapping_add(self.row as u64)
    }
}

/// Sequences without an end, any of which can be reached at once.
pub(super) trait Sequences: Send {
    /// Fills in a sequence, and says whether it goes on where the one before it in the same row ended.
    fn fill(&self, sequence: SequenceNumber, row: &mut Row<'_>) -> Result<bool, DataError>;

    /// All ids are below it.
    fn vocab_size(&self) -> usize;

    /// Whether some weights are not 1.
    fn is_weighted(&self) -> bool {
        false
    }

    /// Tells data from files apart; generated data follow from the configuration.
    fn checksum(&self) -> u64 {
        0
    }
}

/// A part of a mixture.
pub(super) struct MixturePart {
    /// Share of the sequences that come from this part; the shares of all parts add up to 1.
    pub(super) share: f64,
    /// The sequences that the part gives.
    pub(super) sequences: Box<dyn Sequences>,
}

/// Batches of sequences, each from one of the parts, which is drawn anew for every row of every batch.
pub(super) struct Stream {
    parts: Vec<MixturePart>,
    rows: usize,
    time: usize,
    seed: u64,
    batches: u64,
    /// Sequences that a row has had of a part, `[part, row]`.
    taken: Vec<u64>,
}

impl Stream {
    /// Batches of `rows` sequences of `time` tokens, both at least 1, from parts whose shares add up to 1.
    pub(super) fn new(parts: Vec<MixturePart>, rows: usize, time: usize, seed: u64) -> Self {
        let taken = vec![0; parts.len() * rows];
        Self {
            parts,
            rows,
            time,
            seed,
            batches: 0,
            taken,
        }
    }

    /// The part that a row of a batch is taken from.
    fn part(&self, batch: u64, row: usize) -> usize {
        let mut rest = fraction(self.seed, batch, row as u64);
        let found = self.parts.iter().position(|part| {
            rest -= part.share;
            rest < 0.0
        });
        // Rounding may leave a rest: then it is the last part that has a share.
        let last = || self.parts.iter().rposition(|part| part.share > 0.0);
        found.or_else(last).unwrap_or(0)
    }

    fn checksum(&self) -> String {
        let parts = self.parts.iter().map(|part| part.sequences.checksum());
        let all = parts
            .enumerate()
            .fold(0, |hash, (index, part)| mix(hash, index as u64, part));
        format!("{all:016x}")
    }

    fn expect(&self, position: &Value, field: &'static str, expected: &Value) -> Result<(), DataError> {
        match &position[field] {
            found if found == expected => Ok(()),
            found => Err(DataError::Position {
                field,
                expected: expected.to_string(),
                found: found.to_string(),
            }),
        }
    }

    /// The counters in a position: one for every part and row, in each row as many as there were batches.
    fn counters(&self, position: &Value) -> Result<(u64, Vec<u64>), DataError> {
        let wrong = |field, expected: String| DataError::Position {
            field,
            expected,
            found: position[field].to_string(),
        };
        // No run gets there, and no counter overflows below.
        let batches = position["batches"].as_u64().filter(|batches| *batches < 1 << 62);
        let batches = batches.ok_or_else(|| wrong("batches", "a whole number below 2^62".into()))?;
        if self.parts.len() == 1 {
            self.expect(position, "taken", &Value::Null)?;
            return Ok((batches, vec![batches; self.rows]));
        }
        let list = position["taken"].as_array().into_iter().flatten();
        let taken: Option<Vec<u64>> = list.map(Value::as_u64).collect();
        let taken = taken.filter(|taken| taken.len() == self.taken.len());
        let rows_agree = |taken: &Vec<u64>| {
            (0..self.rows).all(|row| {
                let of_row = taken.iter().skip(row).step_by(self.rows);
                of_row.map(|count| u128::from(*count)).sum::<u128>() == u128::from(batches)
            })
        };
        let (parts, rows) = (self.parts.len(), self.rows);
        let expected = || format!("{parts} × {rows} counters, {batches} in each of the {rows} rows");
        let taken = taken
            .filter(rows_agree)
            .ok_or_else(|| wrong("taken", expected()))?;
        Ok((batches, taken))
    }
}

impl Source for Stream {
    fn next(&mut self) -> Result<Batch, DataError> {
        let (rows, time) = (self.rows, self.time);
        let weighted = self.parts.iter().any(|part| part.sequences.is_weighted());
        let mut ids = vec![0; rows * time];
        let mut targets = vec![0; rows * time];
        let mut weights = vec![1.0; if weighted { rows * time } else { 0 }];
        let mut continues = Vec::with_capacity(rows);
        let mut taken = self.taken.clone();
        for row in 0..rows {
            let part = self.part(self.batches, row);
            let number = &mut taken[part * rows + row];
            let range = row * time..(row + 1) * time;
            let mut sequence = Row {
                ids: &mut ids[range.clone()],
                targets: &mut targets[range.clone()],
                weights: weights.get_mut(range).unwrap_or_default(),
            };
            let which = SequenceNumber {
                row,
                rows,
                number: *number,
            };
            let goes_on = self.parts[part].sequences.fill(which, &mut sequence)?;
            // What another part put between has interrupted it.
            continues.push(goes_on && self.batches > 0 && self.part(self.batches - 1, row) == part);
            *number += 1;
        }
        self.taken = taken;
        self.batches += 1;
        Ok(Batch {
            sequences: rows,
            time,
            ids,
            targets,
            weights: weighted.then_some(weights),
            continues,
        })
    }

    fn position(&self) -> Value {
        let mut position = json!({
            "batches": self.batches,
            "sequences": self.rows,
            "time": self.time,
            "checksum": self.checksum(),
        });
        if self.parts.len() > 1 {
            position["taken"] = json!(self.taken);
        }
        position
    }

    fn seek(&mut self, position: &Value) -> Result<(), DataError> {
        self.expect(position, "sequences", &json!(self.rows))?;
        self.expect(position, "time", &json!(self.time))?;
        self.expect(position, "checksum", &json!(self.checksum()))?;
        (self.batches, self.taken) = self.counters(position)?;
        Ok(())
    }

    fn vocab_size(&self) -> usize {
        let sizes = self.parts.iter().map(|part| part.sequences.vocab_size());
        sizes.max().unwrap_or(0)
    }
}

//! The tensors of the layout, of those in a file.

use std::collections::BTreeMap;

use super::Tensors;
use super::conversion::{Conversion, DeltaHeads, Join, Rows};
use super::described::Described;
use super::error::GgufError;
use super::names::block;
use crate::checkpoint::header::{Change, Dtype, TensorInfo};

/// A weight that was halved more often has no digits left.
const MOST_HALVINGS: i32 = 60;
/// Parts of all tensors of a file together: the largest published files have a tenth.
const MOST_PARTS: usize = 1 << 20;

/// The tensors of the layout that a file was made of.
///
/// # Errors
/// [`GgufError::Tensor`] for a tensor of another shape than the heads of the model have, or without those that it belongs together with.
pub(super) fn tensors(described: &Described, stored: &Tensors) -> Result<Tensors, GgufError> {
    let mut found = Assembled {
        described,
        tensors: Tensors::new(),
        joined: BTreeMap::new(),
        parts: 0,
    };
    for (name, info) in stored {
        if !described.has_block_of(name) {
            continue;
        }
        let (ours, conversion) = described.names.of(name);
        found.add(name, info, ours, conversion)?;
    }
    found.join()
}

/// Tensors with their names, by their place in one that they make.
type Pieces<'a> = BTreeMap<usize, (&'a str, &'a TensorInfo)>;

struct Assembled<'a> {
    described: &'a Described,
    tensors: Tensors,
    /// Tensors that are one in the layout, by its name and their place in it.
    joined: BTreeMap<String, (Join, Pieces<'a>)>,
    parts: usize,
}

fn wrong(tensor: &str, reason: impl Into<String>) -> GgufError {
    GgufError::Tensor {
        tensor: tensor.into(),
        reason: reason.into(),
    }
}

impl<'a> Assembled<'a> {
    fn add(
        &mut self,
        name: &'a str,
        info: &'a TensorInfo,
        ours: String,
        conversion: Conversion,
    ) -> Result<(), GgufError> {
        let heads = &self.described.heads;
        match conversion {
            Conversion::Dropped => {}
            Conversion::Joined(join, place) => {
                let entry = self.joined.entry(ours).or_insert_with(|| (join, BTreeMap::new()));
                entry.1.insert(place, (name, info));
            }
            Conversion::Divided(parts) => {
                for (part, info) in parts.iter().zip(divided(name, info, parts.len())?) {
                    self.tensors.insert(format!("{ours}.{part}"), info);
                }
            }
            Conversion::Stack => {
                let [count, height, width] = matrices(name, info)?;
                self.count(count)?;
                for index in 0..count {
                    let part = rows(name, info, index * height, height)?;
                    let part = TensorInfo {
                        shape: vec![height, width],
                        ..part
                    };
                    self.tensors.insert(ours.replace("{}", &index.to_string()), part);
                }
            }
            Conversion::ValueRows(_) | Conversion::ValueDecay | Conversion::ValueKernel
                if heads.delta.share() > 1 =>
            {
                let span = match conversion {
                    Conversion::ValueRows(span) => span,
                    Conversion::ValueKernel => Rows::AfterKeys,
                    _ => Rows::OneEach,
                };
                self.count(heads.delta.values + 1)?;
                let mut parts = grouped(name, info, &heads.delta, span)?;
                parts
                    .iter_mut()
                    .for_each(|part| part.change = conversion.change(heads));
                self.tensors
                    .insert(ours, put_together(conversion.shape(&info.shape, heads), parts));
            }
            Conversion::Rescaled if heads.rescale_every > 0 => {
                let number = block(name)
                    .and_then(|(number, _)| number.parse::<i32>().ok())
                    .unwrap_or_default();
                let times = number / heads.rescale_every as i32;
                let change = Change::Doubled {
                    times: times.min(MOST_HALVINGS),
                };
                self.tensors.insert(
                    ours,
                    TensorInfo {
                        change,
                        ..info.clone()
                    },
                );
            }
            _ => {
                let changed = TensorInfo {
                    shape: conversion.shape(&info.shape, heads),
                    change: conversion.change(heads),
                    ..info.clone()
                };
                self.tensors.insert(ours, checked(name, info, changed)?);
            }
        }
        Ok(())
    }

    fn count(&mut self, more: usize) -> Result<(), GgufError> {
        self.parts = self.parts.saturating_add(more);
        match self.parts <= MOST_PARTS {
            true => Ok(()),
            false => Err(GgufError::Limit {
                what: "parts of tensors",
                limit: MOST_PARTS as u64,
                found: self.parts as u64,
            }),
        }
    }

    fn join(mut self) -> Result<Tensors, GgufError> {
        for (ours, (join, pieces)) in std::mem::take(&mut self.joined) {
            let pieces: Vec<(&str, &TensorInfo)> = pieces.into_values().collect();
            let [first, second] = pieces.as_slice() else {
                let name = pieces.first().map_or("", |(name, _)| name);
                return Err(wrong(
                    name,
                    format!("expected two tensors that make {ours}, found one"),
                ));
            };
            self.count(match join {
                Join::Rows | Join::Latent => matrices(first.0, first.1)?[0].saturating_mul(2),
                Join::KeyHeads => 4 * self.described.heads.delta.keys,
            })?;
            let (shape, parts) = match join {
                Join::Rows => by_matrix(*first, *second, false)?,
                Join::Latent => by_matrix(*first, *second, true)?,
                Join::KeyHeads => by_key_head(*first, *second, &self.described.heads.delta)?,
            };
            self.tensors.insert(ours, put_together(shape, parts));
        }
        Ok(self.tensors)
    }
}

/// A tensor of parts, of which there is at least one.
fn put_together(shape: Vec<usize>, parts: Vec<TensorInfo>) -> TensorInfo {
    let first = parts.first();
    TensorInfo {
        dtype: first.map_or(Dtype::F32, |part| part.dtype),
        dtype_name: first.map_or_else(String::new, |part| part.dtype_name.clone()),
        begin: 0,
        end: 0,
        change: Change::None,
        shape,
        parts,
    }
}

/// Rows of a tensor: `count` of them from `first` on, a row being the values of the last dimension.
fn rows(name: &str, info: &TensorInfo, first: usize, count: usize) -> Result<TensorInfo, GgufError> {
    let width = match info.shape.as_slice() {
        [.., width] if info.shape.len() > 1 => *width,
        _ => 1,
    };
    if let Dtype::Blocks(format) = info.dtype
        && !width.is_multiple_of(format.values())
    {
        let reason = format!(
            "expected rows of whole blocks of {}, found rows of {width}",
            format.values()
        );
        return Err(wrong(name, reason));
    }
    let bytes = |rows: usize| {
        info.dtype
            .bytes_of(rows.saturating_mul(width))
            .unwrap_or(usize::MAX)
    };
    let begin = info.begin.saturating_add(bytes(first));
    let end = begin.saturating_add(bytes(count));
    if end > info.end {
        let reason = format!(
            "expected at least {} rows, found shape {:?}",
            first.saturating_add(count),
            info.shape
        );
        return Err(wrong(name, reason));
    }
    let shape = match info.shape.len() {
        0 | 1 => vec![count],
        _ => vec![count, width],
    };
    Ok(TensorInfo {
        shape,
        begin,
        end,
        ..info.clone()
    })
}

/// The sizes of a stack of matrices; of one matrix, a stack of one.
fn matrices(name: &str, info: &TensorInfo) -> Result<[usize; 3], GgufError> {
    match info.shape.as_slice() {
        [rows, columns] => Ok([1, *rows, *columns]),
        [count, rows, columns] => Ok([*count, *rows, *columns]),
        shape => Err(wrong(
            name,
            format!("expected a matrix or a stack of them, found shape {shape:?}"),
        )),
    }
}

/// [`Join::Rows`], and [`Join::Latent`] where the first are `transposed`.
fn by_matrix(
    first: (&str, &TensorInfo),
    second: (&str, &TensorInfo),
    transposed: bool,
) -> Result<(Vec<usize>, Vec<TensorInfo>), GgufError> {
    let [count, stored_rows, stored_columns] = matrices(first.0, first.1)?;
    let [others, more, width] = matrices(second.0, second.1)?;
    let (rows_of_first, columns) = match transposed {
        true => (stored_columns, stored_rows),
        false => (stored_rows, stored_columns),
    };
    if others != count || width != columns {
        let reason = format!(
            "expected matrices that go with {} of shape {:?}, found shape {:?}",
            first.0, first.1.shape, second.1.shape
        );
        return Err(wrong(second.0, reason));
    }
    let mut parts = Vec::new();
    for index in 0..count {
        let mut part = rows(first.0, first.1, index * stored_rows, stored_rows)?;
        if transposed {
            part.shape = vec![rows_of_first, columns];
            part.change = Change::Transposed;
        }
        parts.extend([part, rows(second.0, second.1, index * more, more)?]);
    }
    let rows = rows_of_first + more;
    // Heads of a latent attention are rows of one matrix.
    let shape = match (first.1.shape.len(), transposed) {
        (3, false) => vec![count, rows, columns],
        _ => vec![count * rows, columns],
    };
    Ok((shape, parts))
}

/// [`Join::KeyHeads`]: both have their heads of values in the order of the keys'.
fn by_key_head(
    joint: (&str, &TensorInfo),
    gates: (&str, &TensorInfo),
    heads: &DeltaHeads,
) -> Result<(Vec<usize>, Vec<TensorInfo>), GgufError> {
    let (keys, values) = (heads.keys * heads.key_width, heads.values * heads.value_width);
    let ([_, height, width], [_, gate_rows, gate_width]) =
        (matrices(joint.0, joint.1)?, matrices(gates.0, gates.1)?);
    if (height, gate_rows, gate_width) != (2 * keys + values, values, width) || heads.keys == 0 {
        let reason = format!(
            "expected {values} rows beside {} rows of queries, keys and values, found shapes {:?} and {:?}",
            2 * keys + values,
            gates.1.shape,
            joint.1.shape
        );
        return Err(wrong(gates.0, reason));
    }
    let share = heads.share() * heads.value_width;
    let mut parts = Vec::new();
    for head in 0..heads.keys {
        let key = head * heads.key_width;
        parts.push(rows(joint.0, joint.1, key, heads.key_width)?);
        parts.push(rows(joint.0, joint.1, keys + key, heads.key_width)?);
        parts.push(rows(joint.0, joint.1, 2 * keys + head * share, share)?);
        parts.push(rows(gates.0, gates.1, head * share, share)?);
    }
    Ok((vec![2 * keys + 2 * values, width], parts))
}

/// Rows of heads of values in the order of the heads of keys.
fn grouped(
    name: &str,
    info: &TensorInfo,
    heads: &DeltaHeads,
    span: Rows,
) -> Result<Vec<TensorInfo>, GgufError> {
    let (before, width) = match span {
        Rows::AfterKeys => (2 * heads.keys * heads.key_width, heads.value_width),
        Rows::All => (0, heads.value_width),
        Rows::OneEach => (0, 1),
    };
    let found = match info.shape.as_slice() {
        [rows] => *rows,
        [.., width] if *width > 0 => info.shape.iter().product::<usize>() / width,
        _ => 0,
    };
    let expected = before + heads.values * width;
    if found != expected {
        return Err(wrong(
            name,
            format!("expected {expected} rows, found shape {:?}", info.shape),
        ));
    }
    let mut parts = Vec::new();
    if before > 0 {
        parts.push(rows(name, info, 0, before)?);
    }
    for head in 0..heads.keys {
        for copy in 0..heads.share() {
            parts.push(rows(
                name,
                info,
                before + (copy * heads.keys + head) * width,
                width,
            )?);
        }
    }
    Ok(parts)
}

/// A stack of rows, one after the other.
fn divided(name: &str, info: &TensorInfo, parts: usize) -> Result<Vec<TensorInfo>, GgufError> {
    let (count, bytes): (usize, _) = (info.shape.iter().product(), info.end - info.begin);
    if !count.is_multiple_of(parts) || !bytes.is_multiple_of(parts) || matches!(info.dtype, Dtype::Blocks(_))
    {
        let reason = format!("expected {parts} rows of floats, found shape {:?}", info.shape);
        return Err(wrong(name, reason));
    }
    let part = |index: usize| TensorInfo {
        shape: vec![1, 1, count / parts],
        begin: info.begin + index * (bytes / parts),
        end: info.begin + (index + 1) * (bytes / parts),
        ..info.clone()
    };
    Ok((0..parts).map(part).collect())
}

/// Checks that a shape in the layout has the values that are stored, and that rows and columns can change places.
fn checked(name: &str, stored: &TensorInfo, info: TensorInfo) -> Result<TensorInfo, GgufError> {
    let count = |shape: &[usize]| shape.iter().product::<usize>();
    if count(&info.shape) != count(&stored.shape) {
        return Err(wrong(
            name,
            format!("expected whole heads, found shape {:?}", stored.shape),
        ));
    }
    let expected = match (info.change, info.shape.as_slice()) {
        (Change::Halves { heads }, [rows, _]) if heads > 0 && rows.is_multiple_of(2 * heads) => {
            return Ok(info);
        }
        (Change::ColumnsByHead { heads, copies, width }, [_, columns])
            if *columns == heads * copies * width =>
        {
            return Ok(info);
        }
        (Change::Halves { heads }, _) => format!("rows of {heads} heads of pairs"),
        (Change::ColumnsByHead { heads, copies, width }, _) => {
            format!("columns of {heads} times {copies} heads of {width}")
        }
        _ => return Ok(info),
    };
    Err(wrong(
        name,
        format!("expected {expected}, found shape {:?}", stored.shape),
    ))
}

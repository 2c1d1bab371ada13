//! Sequences and their chunks as tables on a device, so that kernels have no branch on the layout.

use cubecl::prelude::BufferArg;
use cubecl::server::Handle;

use super::{Client, Error};
use crate::sequences::Sequences;

/// Begin and end row of every sequence.
///
/// # Shapes
/// `[batch, 2]` as u32 on the device.
#[derive(Clone, Debug)]
pub struct SequenceTable {
    handle: Handle,
    batch: usize,
}

impl SequenceTable {
    /// The table of `batch` sequences.
    ///
    /// # Errors
    /// [`Error::Problem`] when the sequences do not fit, [`Error::TooLarge`] at 2³² rows.
    pub fn new(client: &Client, sequences: &Sequences, batch: usize, time: usize) -> Result<Self, Error> {
        let spans = spans(sequences, batch, time)?;
        let entries: Vec<u32> = spans.iter().flat_map(|&(start, end)| [start, end]).collect();
        Ok(Self {
            handle: upload(client, &entries),
            batch,
        })
    }

    /// Number of sequences in the table.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The table as an argument of a launch: `&[u32]`.
    pub(crate) fn arg(&self) -> BufferArg {
        // SAFETY: the handle was made from that many values (one, if there are none).
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), (2 * self.batch).max(1)) }
    }
}

/// The chunks of all sequences, in order. No chunk straddles two sequences; the last one of each may be shorter.
///
/// # Shapes
/// Chunks `[chunks, 3]`: first row, row after the last, sequence. Sequences `[batch, 2]`: first chunk, chunk after the
/// last. All u32 on the device.
#[derive(Clone, Debug)]
pub struct ChunkTable {
    chunks: Handle,
    sequences: Handle,
    count: usize,
    batch: usize,
}

impl ChunkTable {
    /// The table for chunks of at most `chunk_size` rows.
    ///
    /// # Errors
    /// As for [`SequenceTable::new`].
    pub fn new(
        client: &Client,
        sequences: &Sequences,
        batch: usize,
        time: usize,
        chunk_size: usize,
    ) -> Result<Self, Error> {
        let chunk_size = chunk_size.clamp(1, u32::MAX as usize) as u32;
        let spans = spans(sequences, batch, time)?;
        let (mut chunks, mut ranges) = (Vec::new(), Vec::with_capacity(2 * batch));
        for (sequence, &(begin, end)) in spans.iter().enumerate() {
            ranges.push((chunks.len() / 3) as u32);
            let mut start = begin;
            while start < end {
                let stop = start.saturating_add(chunk_size).min(end);
                chunks.extend([start, stop, sequence as u32]);
                start = stop;
            }
            ranges.push((chunks.len() / 3) as u32);
        }
        Ok(Self {
            chunks: upload(client, &chunks),
            sequences: upload(client, &ranges),
            count: chunks.len() / 3,
            batch,
        })
    }

    /// Number of chunks of all sequences together.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Number of sequences in the table.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The chunks as an argument of a launch: `&[u32]`.
    pub(crate) fn chunks(&self) -> BufferArg {
        // SAFETY: the handle was made from that many values (one, if there are none).
        unsafe { BufferArg::from_raw_parts(self.chunks.clone(), (3 * self.count).max(1)) }
    }

    /// The sequences as an argument of a launch: `&[u32]`.
    pub(crate) fn sequences(&self) -> BufferArg {
        // SAFETY: as above.
        unsafe { BufferArg::from_raw_parts(self.sequences.clone(), (2 * self.batch).max(1)) }
    }
}

/// Begin and end of every sequence as u32.
fn spans(sequences: &Sequences, batch: usize, time: usize) -> Result<Vec<(u32, u32)>, Error> {
    sequences.validate(batch, time)?;
    let rows = sequences.rows(batch, time);
    if rows > u32::MAX as usize {
        return Err(Error::TooLarge {
            what: "the number of token rows",
            limit: u64::from(u32::MAX),
            found: rows as u64,
        });
    }
    let span = |b| {
        let span = sequences.span(b, time);
        (span.start as u32, span.end as u32)
    };
    Ok((0..batch).map(span).collect())
}

/// Whole numbers on the device; one 0 where there are none.
fn upload(client: &Client, values: &[u32]) -> Handle {
    match values {
        [] => client.create_from_slice(&[0; 4]),
        values => client.create_from_slice(bytemuck::cast_slice(values)),
    }
}

/// Whole numbers that a kernel reads.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    handle: Handle,
    len: usize,
}

impl Words {
    /// A copy of values.
    pub(crate) fn new(client: &Client, values: &[u32]) -> Self {
        Self {
            handle: upload(client, values),
            len: values.len().max(1),
        }
    }

    /// The values as an argument of a launch: `&[u32]`.
    pub(crate) fn arg(&self) -> BufferArg {
        // SAFETY: the handle was made from that many values.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.len) }
    }
}

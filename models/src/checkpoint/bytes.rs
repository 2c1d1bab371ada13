//! The bytes of one weights file: mapped from disk, or part of the program.

use std::path::Path;

use memmap2::Mmap;

use super::error::CheckpointError;
use crate::input;

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum Bytes {
    /// A file mapped read-only: pages come when touched, and can be given back.
    Mapped(Mmap),
    /// A file's bytes that are in memory already.
    Owned(Vec<u8>),
    /// Compiled into the program.
    Static(&'static [u8]),
}

impl Bytes {
    /// Maps the file at `path` read-only; an empty file gives no bytes.
    pub(super) fn map(path: &Path) -> Result<Self, CheckpointError> {
        let (file, metadata) = input::open(path).map_err(CheckpointError::io(path, "opening"))?;
        if metadata.len() == 0 {
            // An empty file cannot be mapped; as a slice it is reported like any other truncated file.
            return Ok(Self::Static(&[]));
        }
        // SAFETY: the mapping is read-only and private. Values are copied out of it and never borrowed past a call, so the
        // one hazard left is another process truncating the file meanwhile, which ends this process with a bus error, as it
        // does every program that maps its input.
        let map = unsafe { Mmap::map(&file) }.map_err(CheckpointError::io(path, "mapping"))?;
        Ok(Self::Mapped(map))
    }

    /// All bytes of the file, wherever they are.
    pub(super) fn all(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
            Self::Static(bytes) => bytes,
        }
    }

    /// Tells the system that `[begin, end)` is not needed any more, so that a model and its file are never both in memory.
    ///
    /// Advice only: the pages can still be read, and then come from the file again. The megabyte before `begin` is included:
    /// reading a page makes the system map its neighbours, too, so that every block brings back some of the one before it
    /// (6 % of a model stayed mapped that way).
    pub(super) fn release(&self, begin: usize, end: usize) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
            && begin < end
        {
            let begin = begin.saturating_sub(1 << 20);
            // SAFETY: the mapping is read-only and file-backed, so dropped pages hold nothing that the file does not, and
            // references into the mapping see the same values when the pages come back.
            let advised =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, begin, end - begin) };
            // A refusal costs memory, not correctness.
            drop(advised);
        }
        #[cfg(not(unix))]
        let _ = (begin, end);
    }
}

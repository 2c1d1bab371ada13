//! States with the ids that they have read, to go on from.

use std::sync::Arc;

use super::ModelState;

/// A state of one sequence, and the ids that it has read.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Ids that the state has read, from the first token on.
    pub ids: Arc<[u32]>,
    /// The state after them.
    pub state: ModelState,
}

/// Marks within a limit of bytes; the one that was used longest ago goes first, and the newest never.
#[derive(Clone, Debug)]
pub struct Marks {
    limit_bytes: usize,
    bytes: usize,
    /// What was used last is last.
    marks: Vec<Mark>,
}

impl Marks {
    /// Marks, none yet, that may take `limit_bytes` bytes together; the newest stays whatever it takes.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            bytes: 0,
            marks: Vec::new(),
        }
    }

    /// The mark that has read most of what `ids` begin with, and not all of them, so that a token is left to have logits.
    pub fn longest(&mut self, ids: &[u32]) -> Option<&Mark> {
        let fits = |mark: &Mark| mark.ids.len() < ids.len() && ids.starts_with(&mark.ids);
        let fitting = self.marks.iter().enumerate().filter(|(_, mark)| fits(mark));
        let (index, _) = fitting.max_by_key(|(_, mark)| mark.ids.len())?;
        let mark = self.marks.remove(index);
        self.marks.push(mark);
        self.marks.last()
    }

    /// Keeps a mark, in place of an older one of the same ids.
    pub fn keep(&mut self, mark: Mark) {
        if let Some(index) = self.marks.iter().position(|older| older.ids == mark.ids) {
            self.remove(index);
        }
        self.bytes += bytes_of(&mark);
        self.marks.push(mark);
        while self.bytes > self.limit_bytes && self.marks.len() > 1 {
            self.remove(0);
        }
    }

    fn remove(&mut self, index: usize) {
        self.bytes -= bytes_of(&self.marks.remove(index));
    }

    /// The mark that was kept or used last.
    pub fn last(&self) -> Option<&Mark> {
        self.marks.last()
    }

    /// Number of marks that are kept.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Memory that they take; what states share is counted for each.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn bytes_of(mark: &Mark) -> usize {
    mark.state.bytes() + size_of_val(&*mark.ids)
}

//! Reads streams by several ranks, one stream after another, to the same bits as one process.
//!
//! A stream goes through the [ring](crate::parallel::ring). Where the model is started again every T tokens, what lies
//! between two starts has nothing to do with what came before: each rank reads whole pieces by itself. Rank 0 has the sums
//! and the states, and says when to break off.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::stream::{Reading, SEGMENT, StreamRun};
use super::text::Stream;
use super::treatment::{RestartScope, Treatment};
use crate::error::ModelError;
use crate::parallel::collectives::{broadcast, decoded_numbers};
use crate::parallel::ring::Ring;
use crate::parallel::{Communicator, Tag, or_fail};
use crate::state::ModelState;

const PIECE: Tag = Tag::new(20, "the losses of a piece");

/// Tokens of each rank in one call: as many as make the beginning and the end of a ring short beside the rest, and few
/// enough to hear of a stop.
const CALL: u64 = 16 * SEGMENT;

impl Reading<'_> {
    /// As [`Reading::go_on`] on all ranks; every one of them calls this with the same streams. What is read so far is that
    /// of rank 0.
    pub(super) fn go_on_together(
        &self,
        ranks: &dyn Communicator,
        streams: &mut [StreamRun],
        treatment: &(dyn Fn(&Stream) -> Treatment + Sync),
    ) -> Result<Duration, ModelError> {
        let begin = Instant::now();
        let positions: Vec<u64> = streams.iter().map(|run| run.tally.position).collect();
        let positions = numbers(ranks, &positions)?;
        for (run, position) in streams.iter_mut().zip(positions) {
            run.tally.position = position;
            let treatment = treatment(&run.stream);
            let read = self.read_together(ranks, run, &treatment);
            if or_fail(ranks, read)? {
                break;
            }
        }
        Ok(begin.elapsed())
    }

    /// Whether rank 0 has broken off.
    fn read_together(
        &self,
        ranks: &dyn Communicator,
        run: &mut StreamRun,
        treatment: &Treatment,
    ) -> Result<bool, ModelError> {
        if run.is_done() {
            return Ok(false);
        }
        let mut state = match run.state.take() {
            Some(state) => state,
            None => treatment.start(self.model)?,
        };
        // A state that rank 0 has read from a file.
        state.positions = numbers(ranks, &state.positions)?;
        let mut left_off = self.breaks_off(ranks, 0)?;
        while !run.is_done() && !left_off {
            let before = run.tally.position;
            let left = (CALL * ranks.size() as u64).min(run.stream.length - before);
            match treatment.restarts() {
                Some(restart) if restart.scope == RestartScope::Model => {
                    self.read_pieces(ranks, run, treatment, &mut state, left)?;
                }
                _ => self.read_in_ring(ranks, run, treatment, &mut state, left)?,
            }
            left_off = self.breaks_off(ranks, run.tally.position - before)?;
        }
        self.put_back(run, state);
        Ok(left_off)
    }

    /// Rank 0's watch, heard by all.
    fn breaks_off(&self, ranks: &dyn Communicator, tokens: u64) -> Result<bool, ModelError> {
        let breaks = ranks.rank() == 0 && (self.watch)(tokens).is_break();
        Ok(broadcast(ranks, 0, vec![u8::from(breaks)])? == [1])
    }

    fn read_in_ring(
        &self,
        ranks: &dyn Communicator,
        run: &mut StreamRun,
        treatment: &Treatment,
        state: &mut ModelState,
        left: u64,
    ) -> Result<(), ModelError> {
        let position = run.tally.position;
        let count = treatment.enter(self.model, state, position, left)?;
        let ids = self.text.read(run.stream.offset + position, count as usize + 1);
        let losses = Ring::new(ranks).losses(self.model, &ids[..count as usize], &ids[1..], state)?;
        if let Some(losses) = losses {
            self.take_in(run, &losses, state);
        }
        run.tally.position = position + count;
        Ok(())
    }

    /// Pieces between starts, dealt out to the ranks. The last of them may end before the next start; its state is on rank 0.
    fn read_pieces(
        &self,
        ranks: &dyn Communicator,
        run: &mut StreamRun,
        treatment: &Treatment,
        state: &mut ModelState,
        left: u64,
    ) -> Result<(), ModelError> {
        let pieces = pieces(treatment, run.tally.position, left);
        let (rank, size) = (ranks.rank(), ranks.size());
        let mut own = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            // The first may go on from a state that only rank 0 has, and somebody may go on from the last.
            if owner(index, pieces.len(), size) != rank {
                continue;
            }
            let (start, count) = (piece.start, (piece.end - piece.start) as usize);
            treatment.enter(self.model, state, start, count as u64)?;
            let ids = self.text.read(run.stream.offset + start, count + 1);
            let losses = self.model.losses(&ids[..count], &ids[1..], state)?;
            match rank {
                0 => own.push((index, losses)),
                _ => ranks.send(0, PIECE, bytemuck::cast_slice(&losses).to_vec())?,
            }
        }
        let mut own = own.into_iter().peekable();
        for (index, piece) in pieces.iter().enumerate() {
            if rank == 0 {
                let losses = match own.next_if(|(mine, _)| *mine == index) {
                    Some((_, losses)) => losses,
                    None => decoded_numbers(
                        ranks,
                        owner(index, pieces.len(), size),
                        PIECE,
                        (piece.end - piece.start) as usize,
                    )?,
                };
                self.take_in(run, &losses, state);
            }
            run.tally.position = piece.end;
        }
        Ok(())
    }

    /// On rank 0: the losses of what comes next.
    fn take_in(&self, run: &mut StreamRun, losses: &[f32], state: &ModelState) {
        run.tally.losses.add(self.grid, run.tally.position, losses);
        run.tally.state_bytes = run.tally.state_bytes.max(state.bytes() as u64);
    }
}

/// Who reads piece `index` of `count`: rank 0 the first and the last, the others in turn.
fn owner(index: usize, count: usize, ranks: usize) -> usize {
    match index + 1 == count {
        true => 0,
        false => index % ranks,
    }
}

/// What lies between two starts, within `left` tokens from `position` on.
fn pieces(treatment: &Treatment, position: u64, left: u64) -> Vec<Range<u64>> {
    let (mut begin, end) = (position, position + left);
    let mut pieces = Vec::new();
    while begin < end {
        let count = treatment.segment(begin, end - begin);
        pieces.push(begin..begin + count);
        begin += count;
    }
    pieces
}

/// Rank 0's numbers on every rank.
fn numbers(ranks: &dyn Communicator, own: &[u64]) -> Result<Vec<u64>, ModelError> {
    let bytes = broadcast(ranks, 0, bytemuck::cast_slice(own).to_vec())?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_lie_between_starts_and_the_last_one_is_rank_0s() {
        let treatment = Treatment::restart(100);
        assert_eq!(pieces(&treatment, 150, 170), [150..200, 200..300, 300..320]);
        let owners: Vec<usize> = (0..5).map(|index| owner(index, 5, 3)).collect();
        assert_eq!(owners, [0, 1, 2, 0, 0]);
        assert_eq!(owner(0, 1, 3), 0);
    }
}

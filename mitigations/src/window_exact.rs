//! A sliding window over the state without subtraction, one chunk of tokens at a time.
//!
//! A stretch of tokens acts on a state as h ↦ A ∘ h + G, and stretches compose associatively (see [`ssm_core::element`]). Cut
//! the sequence at multiples of Q and keep the elements of the last m whole chunks; at the start of every chunk the state is
//! what these leave when they start from nothing:
//!
//! ```text
//! h_{cQ} = G of (e_{c−m} then e_{c−m+1} then … then e_{c−1})          m = ⌈(R − 1) / Q⌉
//! ```
//!
//! Inside a chunk nothing is dropped, so a token sees between mQ + 1 and mQ + Q tokens, itself included: at least R, and at
//! most R + Q. (For R a multiple of Q these are R + 1 to R + Q.)
//!
//! The composition is kept by two stacks. The back stack holds the newer chunks and the composition of all of them; the front
//! stack holds the older ones, each with everything newer in the front already composed behind it. Pushing costs one compose,
//! dropping the oldest costs none, and turning the back stack over into an empty front costs one per chunk: with the one that
//! joins both, at most three composes per chunk, amortised, for any R.
//!
//! Nothing is subtracted and nothing divided, so there is no cancellation at any decay and any length; and only the monoid law
//! is asked for, so the same queue serves recurrences whose decay is a matrix. The price is m states (the front and back
//! elements) instead of one second state.
//!
//! The window is per layer, as in [`crate::window_by_difference`].

use crate::gate_queue::{GateQueue, Writes};
use crate::pieces::{
    count_data, in_pieces, next_multiple, own_memory, saved_count, saved_state, saved_tensor,
};
use burn::tensor::{Device, Tensor, TensorData};
use ssm_core::intervention::Next;
use ssm_core::{Element, Error, Gates, Incompatible, Intervention, Memory, Rule, Site, State};
use std::any::Any;
use std::collections::BTreeMap;

/// `window-exact:R` and `window-exact:R,chunk=Q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowExact {
    /// R, at least 1.
    pub tokens: u64,
    /// Q, at least 1.
    pub chunk: u64,
}

impl WindowExact {
    /// Tokens in a chunk unless the text says otherwise.
    pub const DEFAULT_CHUNK: u64 = 64;

    /// m, the whole chunks that are kept.
    pub fn kept_chunks(&self) -> u64 {
        (self.tokens - 1).div_ceil(self.chunk)
    }
}

/// The queue of chunk elements.
#[derive(Clone, Debug, Default)]
struct TwoStacks {
    /// Oldest chunk last; each composed with everything newer in this stack.
    front: Vec<Element>,
    /// Newest chunk last, each on its own.
    back: Vec<Element>,
    /// All of `back`, composed.
    back_total: Option<Element>,
    /// Composes done so far, the joins of both stacks included.
    composes: u64,
    /// Chunks that came in so far.
    chunks: u64,
}

impl TwoStacks {
    fn len(&self) -> usize {
        self.front.len() + self.back.len()
    }

    fn push(&mut self, element: Element) -> Result<(), Error> {
        self.chunks += 1;
        self.back_total = Some(match &self.back_total {
            Some(total) => self.composes.add_one_after(total.compose(&element))?,
            None => element.clone(),
        });
        self.back.push(element);
        Ok(())
    }

    fn drop_oldest(&mut self) -> Result<(), Error> {
        if self.front.is_empty() {
            self.back_total = None;
            while let Some(older) = self.back.pop() {
                let suffix = match self.front.last() {
                    Some(newer) => self.composes.add_one_after(older.compose(newer))?,
                    None => older,
                };
                self.front.push(suffix);
            }
        }
        self.front.pop();
        Ok(())
    }

    /// The state that all chunks of the queue leave when they start from nothing; `None` for no chunks.
    fn state(&mut self) -> Result<Option<Tensor<4>>, Error> {
        match (self.front.last(), &self.back_total) {
            (None, None) => Ok(None),
            (Some(older), None) => Ok(Some(older.update.clone())),
            (None, Some(newer)) => Ok(Some(newer.update.clone())),
            (Some(older), Some(newer)) => {
                let mut state = State {
                    memory: older.update.clone(),
                    position: 0,
                };
                self.composes.add_one_after(newer.apply(&mut state))?;
                Ok(Some(state.memory))
            }
        }
    }
}

trait Count {
    /// Counts one more where the operation went well.
    fn add_one_after<T>(&mut self, result: Result<T, Error>) -> Result<T, Error>;
}

impl Count for u64 {
    fn add_one_after<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        *self += u64::from(result.is_ok());
        result
    }
}

/// The queue, and what the tokens of the current chunk wrote so far.
#[derive(Clone, Debug, Default)]
struct ChunkWindow {
    chunks: TwoStacks,
    current: GateQueue,
}

impl Memory for ChunkWindow {
    fn clone_box(&self) -> Box<dyn Memory> {
        Box::new(self.clone())
    }

    fn bytes(&self) -> usize {
        let stacks = &self.chunks;
        let elements = stacks.front.iter().chain(&stacks.back).chain(&stacks.back_total);
        self.current.bytes() + elements.map(Element::bytes).sum::<usize>()
    }

    fn save(&self) -> BTreeMap<String, TensorData> {
        let mut saved = self.current.save();
        saved.insert("composes".into(), count_data(self.chunks.composes));
        saved.insert("chunks".into(), count_data(self.chunks.chunks));
        let stacks = [("front", &self.chunks.front), ("back", &self.chunks.back)];
        for (stack, elements) in stacks {
            saved.insert(format!("{stack}.len"), count_data(elements.len() as u64));
            for (index, element) in elements.iter().enumerate() {
                saved.insert(format!("{stack}.{index}.log_decay"), element.log_decay.to_data());
                saved.insert(format!("{stack}.{index}.update"), element.update.to_data());
            }
        }
        saved.extend(self.chunks.back_total.iter().flat_map(|total| {
            [
                ("back_total.log_decay".into(), total.log_decay.to_data()),
                ("back_total.update".into(), total.update.to_data()),
            ]
        }));
        saved
    }

    fn report(&self) -> BTreeMap<String, f64> {
        let per_chunk = if self.chunks.chunks == 0 {
            0.0
        } else {
            self.chunks.composes as f64 / self.chunks.chunks as f64
        };
        BTreeMap::from([("composes_per_chunk".into(), per_chunk)])
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Intervention for WindowExact {
    fn text(&self) -> String {
        match self.chunk {
            Self::DEFAULT_CHUNK => format!("window-exact:{}", self.tokens),
            chunk => format!("window-exact:{},chunk={chunk}", self.tokens),
        }
    }

    fn check(&self, site: &Site) -> Result<(), Incompatible> {
        if site.rule == Rule::WeightedSum {
            return Ok(());
        }
        Err(Incompatible {
            intervention: self.text(),
            layer: site.layer,
            reason: "this layer's stretches do not compose as products and sums of states; use reset:N or reset-overlap:N,M".into(),
        })
    }

    fn start(&self, _site: &Site, _batch: usize, _device: &Device) -> Box<dyn Memory> {
        Box::new(ChunkWindow::default())
    }

    fn restore(
        &self,
        site: &Site,
        batch: usize,
        device: &Device,
        saved: &BTreeMap<String, TensorData>,
    ) -> Result<Box<dyn Memory>, Error> {
        let element = |name: &str| saved_element(saved, name, site, batch, device);
        let stack = |stack: &str| -> Result<Vec<Element>, Error> {
            (0..saved_count(saved, &format!("{stack}.len"))?)
                .map(|index| element(&format!("{stack}.{index}")))
                .collect()
        };
        let (front, back) = (stack("front")?, stack("back")?);
        let back_total = if back.is_empty() {
            None
        } else {
            Some(element("back_total")?)
        };
        let composes = saved_count(saved, "composes")?;
        let chunks = TwoStacks {
            front,
            back,
            back_total,
            composes,
            chunks: saved_count(saved, "chunks")?,
        };
        Ok(Box::new(ChunkWindow {
            chunks,
            current: GateQueue::restore(site, batch, device, saved)?,
        }))
    }

    fn on_recurrence(
        &self,
        _site: &Site,
        gates: Gates,
        state: &mut State,
        memory: &mut dyn Memory,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        let window: &mut ChunkWindow = own_memory(memory)?;
        in_pieces(
            gates,
            state,
            |position| next_multiple(position, self.chunk),
            |piece, state| {
                window.current.push(Writes::of(&piece))?;
                let output = next(piece.clone(), state)?;
                if state.position.is_multiple_of(self.chunk) {
                    self.end_chunk(&piece, state, window)?;
                }
                Ok(output)
            },
        )
    }
}

impl WindowExact {
    fn end_chunk(&self, gates: &Gates, state: &mut State, window: &mut ChunkWindow) -> Result<(), Error> {
        let writes = window.current.pop_all()?;
        let tokens = writes.len();
        window
            .chunks
            .push(Element::of(&writes.unread(gates), tokens.min(64))?)?;
        let kept = usize::try_from(self.kept_chunks()).unwrap_or(usize::MAX);
        if window.chunks.len() <= kept {
            // Nothing is too old yet: the state is the window.
            return Ok(());
        }
        while window.chunks.len() > kept {
            window.chunks.drop_oldest()?;
        }
        state.memory = match window.chunks.state()? {
            Some(memory) => memory,
            None => state.memory.zeros_like(),
        };
        Ok(())
    }
}

fn saved_element(
    saved: &BTreeMap<String, TensorData>,
    name: &str,
    site: &Site,
    batch: usize,
    device: &Device,
) -> Result<Element, Error> {
    let missing = |what: String| Error::Saved {
        what,
        expected: "a chunk's element".into(),
        found: "nothing".into(),
    };
    let (decay_name, update_name) = (format!("{name}.log_decay"), format!("{name}.update"));
    let shape = [batch, site.heads, site.key_dim, site.value_dim];
    let update = saved_state(saved, &update_name, shape, device)?.ok_or_else(|| missing(update_name))?;
    let log_decay =
        saved_tensor::<3>(saved, &decay_name, batch, device)?.ok_or_else(|| missing(decay_name.clone()))?;
    let [_, heads, rows] = log_decay.dims();
    if heads != site.heads || (rows != 1 && rows != site.key_dim) {
        return Err(Error::Saved {
            what: decay_name,
            expected: format!("[{batch}, {}, 1 or {}]", site.heads, site.key_dim),
            found: format!("{:?}", log_decay.dims()),
        });
    }
    Ok(Element { log_decay, update })
}

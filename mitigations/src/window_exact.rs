//! A sliding window over the state without subtraction, one chunk of tokens at a time.
//!
//! A segment of tokens acts on a state as h ↦ A ∘ h + G, and segments compose associatively (see [`spillway_ssm_core::element`]). Cut
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
//! is asked for, so the same queue serves recurrences whose decay is a matrix (the delta rule) and weighted means kept
//! relative to their maximum (RWKV-4). The price is m states (the front and back elements) instead of one second state; with a
//! matrix per element, m·(1 + K/V) of them.
//!
//! A state that begins with the sum over a prefix would lose it, so layers whose state does are refused; a window by difference
//! keeps it, because what it subtracts are tokens.
//!
//! With R = Q a token sees its own chunk and the one before, Q + 1 to 2Q tokens, and one element is all that is kept. Windows of this
//! form are called jagged, and `window-jagged:Q` is how this one is written (*Sliding Window Recurrences for Sequence Models*,
//! 2512.13921, whose layers are trained with it).
//!
//! The window is per layer, as in [`crate::window_by_difference`].

use crate::form::{Form, Parameter};
use crate::gate_queue::GateQueue;
use crate::mitigation::{Part, Role};
use crate::pieces::{
    count_data, in_pieces, next_multiple, own_state, own_states, saved_count, saved_state, saved_tensor,
};
use crate::reset::empty_like;
use crate::writes::Writes;
use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::element::Transition;
use spillway_ssm_core::intervention::Next;
use spillway_ssm_core::{
    Element, Error, Gates, Incompatible, Intervention, InterventionState, Rule, Site, State,
};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const FORM: Form = Form {
    name: "window-exact",
    syntax: "window-exact:R[,chunk=Q]",
    summary: "only the last R tokens, up to one chunk of Q, without subtraction",
    parameters: &[
        Parameter::required("R", "tokens that the state holds at least, at least 1"),
        Parameter::optional(
            "chunk",
            "tokens by which the state may hold more, at least 1",
            "64",
        ),
    ],
    works_on: "every model but JRT-RNN, whose prefix it would lose",
    calibrated: false,
    example: "window-exact:2048",
    parse: |written| {
        let ([tokens], [chunk]) = written.values_and(["chunk"])?;
        Ok(Arc::new(WindowExact {
            tokens: written.tokens("window", tokens)?,
            chunk: chunk.map_or(Ok(WindowExact::DEFAULT_CHUNK), |chunk| {
                written.tokens("chunk", chunk)
            })?,
        }))
    },
};

pub(crate) const JAGGED: Form = Form {
    name: "window-jagged",
    syntax: "window-jagged:Q",
    summary: "only the chunk of Q tokens at hand and the one before: window-exact:Q,chunk=Q",
    parameters: &[Parameter::required("Q", "tokens of a chunk, at least 1")],
    works_on: "every model but JRT-RNN, whose prefix it would lose",
    calibrated: false,
    example: "window-jagged:1024",
    parse: |written| {
        let [chunk] = written.exactly()?;
        let tokens = written.tokens("chunk", chunk)?;
        Ok(Arc::new(WindowExact {
            tokens,
            chunk: tokens,
        }))
    },
};

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

impl TwoStacks {
    /// The queue of these sequences of the batch, in this order.
    fn select(&self, rows: &[usize]) -> Result<Self, Error> {
        let selected = |element: &Element| element.select(rows);
        Ok(Self {
            front: self.front.iter().map(selected).collect::<Result<_, _>>()?,
            back: self.back.iter().map(selected).collect::<Result<_, _>>()?,
            back_total: self.back_total.as_ref().map(selected).transpose()?,
            ..*self
        })
    }

    /// One queue for the sequences of all `queues`. At one position they have equally many elements in either stack.
    fn cat(queues: &[&Self]) -> Result<Self, Error> {
        let sizes: Vec<(usize, usize)> = queues.iter().map(|q| (q.front.len(), q.back.len())).collect();
        let Some(first) = queues
            .first()
            .filter(|_| sizes.windows(2).all(|pair| pair[0] == pair[1]))
        else {
            return Err(Error::Value {
                what: "windows to join",
                expected: "those of sequences at one position",
                found: format!("{sizes:?} chunks in their stacks"),
            });
        };
        let stack = |stack: fn(&Self) -> &Vec<Element>| {
            let elements = 0..stack(first).len();
            elements
                .map(|index| {
                    let elements: Vec<&Element> = queues.iter().map(|queue| &stack(queue)[index]).collect();
                    Element::cat(&elements)
                })
                .collect::<Result<Vec<_>, Error>>()
        };
        let totals: Vec<&Element> = queues.iter().flat_map(|queue| &queue.back_total).collect();
        Ok(Self {
            front: stack(|queue| &queue.front)?,
            back: stack(|queue| &queue.back)?,
            back_total: match totals.is_empty() {
                true => None,
                false => Some(Element::cat(&totals)?),
            },
            ..**first
        })
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

impl InterventionState for ChunkWindow {
    fn clone_box(&self) -> Box<dyn InterventionState> {
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
                save_element(&mut saved, &format!("{stack}.{index}"), element);
            }
        }
        if let Some(total) = &self.chunks.back_total {
            save_element(&mut saved, "back_total", total);
        }
        saved
    }

    fn select(&self, rows: &[usize]) -> Result<Box<dyn InterventionState>, Error> {
        Ok(Box::new(Self {
            chunks: self.chunks.select(rows)?,
            current: self.current.select(rows)?,
        }))
    }

    fn cat(&self, others: &[&dyn InterventionState]) -> Result<Box<dyn InterventionState>, Error> {
        let others = own_states::<Self>(others)?;
        let all: Vec<&Self> = [self].into_iter().chain(others).collect();
        let chunks: Vec<&TwoStacks> = all.iter().map(|window| &window.chunks).collect();
        let queues: Vec<&GateQueue> = all.iter().map(|window| &window.current).collect();
        Ok(Box::new(Self {
            chunks: TwoStacks::cat(&chunks)?,
            current: GateQueue::cat(&queues)?,
        }))
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
        if !site.begins_with_prefix {
            return Ok(());
        }
        Err(Incompatible {
            intervention: self.text(),
            layer: site.layer,
            reason: format!(
                "this layer's state begins with the sum over a prefix, which a state made anew from the last tokens would lose; use \
                 window:{}, which keeps it",
                self.tokens
            ),
        })
    }

    fn start(&self, _site: &Site, _batch: usize, _device: &Device) -> Box<dyn InterventionState> {
        Box::new(ChunkWindow::default())
    }

    fn restore(
        &self,
        site: &Site,
        batch: usize,
        device: &Device,
        saved: &BTreeMap<String, TensorData>,
    ) -> Result<Box<dyn InterventionState>, Error> {
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
        site: &Site,
        gates: Gates,
        state: &mut State,
        own: &mut dyn InterventionState,
        next: &mut Next<'_>,
    ) -> Result<Tensor<4>, Error> {
        let window: &mut ChunkWindow = own_state(own)?;
        in_pieces(
            gates,
            state,
            |position| next_multiple(position, self.chunk),
            |piece, state| {
                window.current.push(Writes::of(&piece))?;
                let output = next(piece.clone(), state)?;
                if state.position.is_multiple_of(self.chunk) {
                    self.end_chunk(site, &piece, state, window)?;
                }
                Ok(output)
            },
        )
    }
}

impl Part for WindowExact {
    fn role(&self) -> Role {
        Role::Window
    }
}

impl WindowExact {
    fn end_chunk(
        &self,
        site: &Site,
        gates: &Gates,
        state: &mut State,
        window: &mut ChunkWindow,
    ) -> Result<(), Error> {
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
            None => empty_like(site, state),
        };
        Ok(())
    }
}

fn save_element(saved: &mut BTreeMap<String, TensorData>, name: &str, element: &Element) {
    saved.insert(format!("{name}.update"), element.update.to_data());
    let (kind, data) = match &element.transition {
        Transition::Decay(sum) => ("log_decay", sum.to_data()),
        Transition::Mean(sum) => ("log_decay", sum.to_data()),
        Transition::Matrix(matrix) => ("matrix", matrix.to_data()),
    };
    saved.insert(format!("{name}.{kind}"), data);
}

fn saved_element(
    saved: &BTreeMap<String, TensorData>,
    name: &str,
    site: &Site,
    batch: usize,
    device: &Device,
) -> Result<Element, Error> {
    let missing = |what: &str| Error::Saved {
        what: what.into(),
        expected: "a chunk's element".into(),
        found: "nothing".into(),
    };
    let state = |name: String, shape: [usize; 4]| {
        saved_state(saved, &name, shape, device)?.ok_or_else(|| missing(&name))
    };
    let update = state(format!("{name}.update"), site.state_shape(batch))?;
    if site.rule == Rule::Delta {
        let shape = [batch, site.heads, site.key_dim, site.key_dim];
        let transition = Transition::Matrix(state(format!("{name}.matrix"), shape)?);
        return Ok(Element { transition, update });
    }
    let name = format!("{name}.log_decay");
    let sum = saved_tensor::<3>(saved, &name, batch, device)?.ok_or_else(|| missing(&name))?;
    let [_, heads, rows] = sum.dims();
    if heads != site.heads || (rows != 1 && rows != site.key_dim) {
        return Err(Error::Saved {
            what: name,
            expected: format!("[{batch}, {}, 1 or {}]", site.heads, site.key_dim),
            found: format!("{:?}", sum.dims()),
        });
    }
    let transition = match site.rule {
        Rule::Mean => Transition::Mean(sum),
        Rule::WeightedSum | Rule::Delta => Transition::Decay(sum),
    };
    Ok(Element { transition, update })
}

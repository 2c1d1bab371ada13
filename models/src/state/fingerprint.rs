//! What tells one model from another: a hash of everything that decides what it computes.
//!
//! The values of the weights are hashed as they are read, not the names, sizes and times of their files: archives and hubs set
//! all times alike, and two fine-tunes of one model differ in nothing else. A model keeps its fingerprint when its files are
//! moved, split into shards or written in another format without changing a value.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

/// A running hash, XXH3 with 128 bits. It tells different things apart; it does not withstand someone who wants two of a kind.
#[derive(Clone)]
pub(crate) struct Fingerprint(Box<Xxh3>);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({:032x})", self.0.digest128())
    }
}

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self(Box::new(Xxh3::new()))
    }

    /// A text, kept apart from the next one by its length.
    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(&(text.len() as u64).to_le_bytes());
        self.bytes(text.as_bytes());
    }

    /// The name and shape of what comes next.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) {
        self.text(name);
        self.text(&format!("{shape:?}"));
    }

    /// Values, in any number of blocks.
    pub(crate) fn values(&mut self, values: &[f32]) {
        self.bytes(bytemuck::cast_slice(values));
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn digest(&self) -> u128 {
        self.0.digest128()
    }
}

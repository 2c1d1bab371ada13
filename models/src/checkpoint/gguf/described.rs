//! An architecture as a GGUF file has it.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::container::Entry;
use super::conversion::HeadCounts;
use super::names::{Names, block};

/// An architecture as a file has it.
pub(super) struct Described {
    pub names: &'static Names,
    pub config: Map<String, Json>,
    pub heads: HeadCounts,
    /// Blocks from this on are no part of the model: they foretell later tokens.
    pub blocks: Option<usize>,
}

/// The shapes of the tensors of a file.
pub(super) struct Shapes<'a>(BTreeMap<&'a str, &'a [usize]>);

impl<'a> Shapes<'a> {
    pub fn new(tensors: &'a [Entry]) -> Self {
        let shape = |entry: &'a Entry| (entry.name.as_str(), entry.shape.as_slice());
        Self(tensors.iter().map(shape).collect())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Empty where there is no such tensor.
    pub fn of(&self, name: &str) -> &'a [usize] {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// The shape of the first block that has such a tensor.
    pub fn in_blocks(&self, blocks: usize, part: &str) -> Option<&'a [usize]> {
        (0..blocks).find_map(|block| self.0.get(format!("blk.{block}.{part}").as_str()).copied())
    }
}

impl Described {
    /// Without heads, and with all blocks.
    pub fn of(names: &'static Names, config: Json) -> Self {
        Self {
            names,
            config: config.as_object().cloned().unwrap_or_default(),
            heads: HeadCounts::default(),
            blocks: None,
        }
    }

    /// Whether a tensor is outside of all blocks, or in one that is part of the model.
    pub fn has_block_of(&self, name: &str) -> bool {
        match (self.blocks, block(name)) {
            (Some(blocks), Some((number, _))) => number.parse().is_ok_and(|number: usize| number < blocks),
            _ => true,
        }
    }
}

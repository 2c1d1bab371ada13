//! The RWKV tokenizer: at each place the longest token of the vocabulary that the text goes on with.
//!
//! A vocabulary file (`rwkv_vocab_v20230424.txt` and its kin) has one token a line: its id, its text as a Python literal of
//! a string or of bytes, and its length in bytes, with blanks between.
//!
//! ```text
//! 33 ' ' 1
//! 129 b'\x80' 1
//! 259 '\n\n' 2
//! ```

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::TokenizerError;
use super::literal;
use crate::checkpoint::disguise;
use crate::{budget, input};

/// The id that ends a text. It stands for no text, and files leave it out.
const END_OF_TEXT: u32 = 0;
/// The longest file that is read. The published one has 1.1 MB.
const MAX_BYTES: u64 = 16 << 20;
/// Memory for a byte of the file: a node of the trie, and what it is built from.
const BYTES_PER_BYTE: u64 = 64;
/// A node at which no token ends.
const NO_TOKEN: u32 = u32::MAX;

/// A vocabulary, and the trie of its tokens.
#[derive(Clone, Debug)]
pub struct RwkvVocabulary {
    /// The tokens' bytes by id.
    tokens: HashMap<u32, Box<[u8]>>,
    /// A node's children follow each other. The root is the first node.
    nodes: Vec<Node>,
    /// The byte that leads to each node; ascending among the children of one.
    labels: Vec<u8>,
    largest_id: u32,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// The token that ends here, or [`NO_TOKEN`].
    token: u32,
    first_child: u32,
    children: u32,
}

impl RwkvVocabulary {
    /// Reads a vocabulary file.
    ///
    /// # Errors
    /// [`TokenizerError::Invalid`] when it cannot be read or is empty, [`TokenizerError::Line`] for a line that is no token,
    /// or repeats an id or a text.
    pub fn open(path: &Path) -> Result<Self, TokenizerError> {
        let invalid = |reason: String| TokenizerError::Invalid {
            path: path.to_path_buf(),
            reason,
        };
        let text = input::read_text(path, MAX_BYTES).map_err(|error| invalid(error.to_string()))?;
        if let Some(found) = disguise::of_text(&text) {
            return Err(invalid(format!("it is {}: {}", found.found, found.advice)));
        }
        let needed = budget::product([text.len() as u64, BYTES_PER_BYTE]);
        budget::ask(
            "the tokens of a vocabulary",
            needed,
            "use the model's own vocabulary",
        )?;
        Self::parse(path, &text)
    }

    /// Reads the content of a vocabulary file; `path` is named in errors only.
    ///
    /// # Errors
    /// As [`RwkvVocabulary::open`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, TokenizerError> {
        let mut by_text: BTreeMap<Vec<u8>, (u32, usize)> = BTreeMap::new();
        let mut by_id: HashMap<u32, usize> = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let wrong = |reason: String| TokenizerError::Line {
                path: path.to_path_buf(),
                line: number,
                reason,
            };
            let (id, token) = parse_line(line).map_err(wrong)?;
            if let Some(first) = by_id.insert(id, number) {
                return Err(wrong(format!("id {id} stands in line {first} already")));
            }
            if let Some((other, first)) = by_text.insert(token, (id, number)) {
                return Err(wrong(format!(
                    "the text of id {id} is that of id {other} in line {first}"
                )));
            }
        }
        let Some(largest_id) = by_id.keys().max().copied() else {
            return Err(TokenizerError::Invalid {
                path: path.to_path_buf(),
                reason: "it has no tokens".into(),
            });
        };
        let sorted: Vec<(&[u8], u32)> = by_text
            .iter()
            .map(|(text, (id, _))| (text.as_slice(), *id))
            .collect();
        let (nodes, labels) = trie(&sorted);
        Ok(Self {
            tokens: sorted.iter().map(|(text, id)| (*id, (*text).into())).collect(),
            nodes,
            labels,
            largest_id,
        })
    }

    /// The largest id of a token.
    pub fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// The ids of `text`, by the longest match at each place.
    ///
    /// # Errors
    /// [`TokenizerError::NoToken`] where no token begins with the next byte; a vocabulary of all 256 bytes has one everywhere.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.encode_up_to(text, text.len())?.0)
    }

    /// The ids of the tokens that begin before `end`, and where the last of them ends. They are those of any longer text that
    /// begins with `text` if at least [`RwkvVocabulary::longest_token`] bytes follow `end`.
    pub(super) fn encode_up_to(&self, text: &[u8], end: usize) -> Result<(Vec<u32>, usize), TokenizerError> {
        let mut ids = Vec::with_capacity(end / 3);
        let mut at = 0;
        while let Some(byte) = text.get(at).filter(|_| at < end) {
            let (length, id) = self.longest(&text[at..]).ok_or(TokenizerError::NoToken {
                byte: *byte,
                offset: at,
            })?;
            ids.push(id);
            at += length;
        }
        Ok((ids, at))
    }

    /// Bytes of the longest token.
    pub(super) fn longest_token(&self) -> usize {
        self.tokens.values().map(|token| token.len()).max().unwrap_or(0)
    }

    /// The longest token that `text` begins with: its length and id.
    fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        let (mut node, mut longest) = (*self.nodes.first()?, None);
        for (index, byte) in text.iter().enumerate() {
            let first = node.first_child as usize;
            let children = &self.labels[first..first + node.children as usize];
            let Ok(child) = children.binary_search(byte) else {
                break;
            };
            node = self.nodes[first + child];
            if node.token != NO_TOKEN {
                longest = Some((index + 1, node.token));
            }
        }
        longest
    }

    /// The bytes that an id stands for: none for the end of a text, `None` for an id that there is not.
    pub fn token(&self, id: u32) -> Option<&[u8]> {
        let token = self.tokens.get(&id).map(AsRef::as_ref);
        token.or_else(|| (id == END_OF_TEXT).then_some(&[]))
    }
}

/// Nodes and labels of the trie of sorted, different, non-empty texts, level by level.
fn trie(sorted: &[(&[u8], u32)]) -> (Vec<Node>, Vec<u8>) {
    let empty = Node {
        token: NO_TOKEN,
        first_child: 0,
        children: 0,
    };
    let (mut nodes, mut labels) = (vec![empty], vec![0]);
    // For each node, the texts that begin with it, and its depth.
    let mut spans = vec![(0..sorted.len(), 0)];
    let mut node = 0;
    while let Some((span, depth)) = spans.get(node).cloned() {
        let mut texts = &sorted[span.clone()];
        let mut begin = span.start;
        // The text that ends here sorts before those that go on.
        if let Some((_, id)) = texts.first().filter(|(text, _)| text.len() == depth) {
            nodes[node].token = *id;
            (texts, begin) = (&texts[1..], begin + 1);
        }
        nodes[node].first_child = nodes.len() as u32;
        for group in texts.chunk_by(|(a, _), (b, _)| a[depth] == b[depth]) {
            nodes[node].children += 1;
            nodes.push(empty);
            labels.push(group[0].0[depth]);
            spans.push((begin..begin + group.len(), depth + 1));
            begin += group.len();
        }
        node += 1;
    }
    (nodes, labels)
}

/// `ID LITERAL LENGTH`, where the literal may hold blanks.
fn parse_line(line: &str) -> Result<(u32, Vec<u8>), String> {
    let fields = line.split_once(' ').and_then(|(id, rest)| {
        let (literal, length) = rest.rsplit_once(' ')?;
        Some((id, literal.trim(), length))
    });
    let (id, text, length) =
        fields.ok_or("expected an id, a Python literal and a length, with blanks between")?;
    let id = id
        .parse::<u32>()
        .ok()
        .filter(|id| *id != NO_TOKEN)
        .ok_or_else(|| format!("expected an id, found {id:?}"))?;
    let token = literal::parse(text)?;
    let length = length
        .parse::<usize>()
        .map_err(|_| format!("expected a length, found {length:?}"))?;
    if token.len() != length {
        return Err(format!(
            "the line says {length} bytes, the literal has {}",
            token.len()
        ));
    }
    if token.is_empty() {
        return Err("expected a token of at least one byte".into());
    }
    Ok((id, token))
}

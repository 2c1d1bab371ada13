//! Text from ids that come one at a time.

use super::{Kind, Tokenizer};

/// Decodes token by token and gives out whole characters only: a character of several tokens appears with its last one.
#[derive(Clone, Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Where tokens are bytes: an incomplete character.
    bytes: Vec<u8>,
    /// Where tokens are not bytes: those given out last, as context for later ones (a leading blank, for example), and those held back.
    ids: Vec<u32>,
    /// How many of `ids`, the first ones, have been given out.
    read: usize,
}

/// A character takes at most four bytes; what is incomplete after this many tokens stays so.
const HELD_BACK: usize = 8;

impl Tokenizer {
    /// A decoder that takes one id at a time.
    pub fn stream(&self) -> StreamDecoder<'_> {
        self.stream_after(&[])
    }

    /// A decoder of what follows `before`, of which the last few ids are enough: decode(before + new) without the beginning that
    /// decode(before) is. Some tokenizers take a blank off the beginning of what they decode, which the first new word has lost
    /// when it is decoded by itself.
    pub fn stream_after(&self, before: &[u32]) -> StreamDecoder<'_> {
        let last = &before[before.len().saturating_sub(HELD_BACK)..];
        let is_needed = matches!(self.0, Kind::Json(_));
        // Where a character is cut, new ids change what the ones before them are.
        let is_whole = is_needed && !self.decode(last).ends_with(char::REPLACEMENT_CHARACTER);
        let ids = if is_whole { last.to_vec() } else { Vec::new() };
        StreamDecoder {
            tokenizer: self,
            bytes: Vec::new(),
            read: ids.len(),
            ids,
        }
    }
}

impl StreamDecoder<'_> {
    /// Adds a token and returns the text that is complete with it, often empty.
    pub fn push(&mut self, id: u32) -> String {
        match self.tokenizer.bytes_of(&[id]) {
            Some(bytes) => {
                self.bytes.extend(bytes);
                self.complete_bytes()
            }
            None => {
                self.ids.push(id);
                self.complete_tokens()
            }
        }
    }

    /// The rest, incomplete characters as U+FFFD.
    pub fn finish(&mut self) -> String {
        let before = self.tokenizer.decode(&self.ids[..self.read]);
        let all = self.tokenizer.decode(&self.ids);
        let bytes = std::mem::take(&mut self.bytes);
        self.ids.clear();
        self.read = 0;
        let tokens = all.get(before.len()..).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned() + tokens
    }

    /// All bytes but an incomplete character at the end.
    fn complete_bytes(&mut self) -> String {
        let incomplete = match self.bytes.utf8_chunks().last() {
            // An invalid end may be the beginning of a character only if the decoder would accept more bytes.
            Some(last) => match std::str::from_utf8(last.invalid()) {
                Err(error) if error.error_len().is_none() => last.invalid().len(),
                _ => 0,
            },
            None => 0,
        };
        let complete: Vec<u8> = self.bytes.drain(..self.bytes.len() - incomplete).collect();
        String::from_utf8_lossy(&complete).into_owned()
    }

    /// Text that the held-back tokens add to those given out before them.
    fn complete_tokens(&mut self) -> String {
        let before = self.tokenizer.decode(&self.ids[..self.read]);
        let all = self.tokenizer.decode(&self.ids);
        let unfinished = all.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.read < HELD_BACK;
        match all.get(before.len()..) {
            Some(new) if !new.is_empty() && !unfinished => {
                let new = new.to_string();
                self.ids.drain(..self.read);
                self.read = self.ids.len();
                new
            }
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_byte_stream_gives_out_whole_characters_only() {
        let tokenizer = Tokenizer::bytes();
        let mut stream = tokenizer.stream();
        let text = "aé€😀b";
        let pieces: Vec<String> = text.bytes().map(|b| stream.push(u32::from(b))).collect();
        assert_eq!(pieces, ["a", "", "é", "", "", "€", "", "", "", "😀", "b"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn broken_utf8_is_replaced_once_it_is_certain() {
        let tokenizer = Tokenizer::bytes();
        let mut stream = tokenizer.stream();
        assert_eq!(stream.push(0xE2), "");
        assert_eq!(stream.push(u32::from(b'x')), "\u{FFFD}x");
        assert_eq!(stream.push(0xFF), "\u{FFFD}");
        assert_eq!(stream.push(0xE2), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
    }

    /// As Llama's, in small: words begin with a mark, and decoding takes a blank off the beginning.
    const STRIPPING: &str = r#"{"version": "1.0", "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "merges": [],
        "vocab": {"<unk>": 0, "▁": 1, "h": 2, "i": 3, "▁world": 4, "<0xC3>": 5, "<0xA9>": 6}}}"#;

    #[test]
    fn what_follows_a_prompt_keeps_its_first_blank() {
        let tokenizer = Tokenizer::from_json(Path::new("tokenizer.json"), STRIPPING, 8).unwrap();
        let prompt = tokenizer.encode("hi").unwrap();
        let read = |before: &[u32], ids: &[u32]| {
            let mut stream = tokenizer.stream_after(before);
            let text: String = ids.iter().map(|id| stream.push(*id)).collect();
            text + &stream.finish()
        };
        assert_eq!(read(&prompt, &[4, 4]), " world world");
        assert_eq!(
            tokenizer.decode(&[prompt.as_slice(), &[4, 4]].concat()),
            "hi world world"
        );
        assert_eq!(read(&[], &[4, 4]), "world world");
        // A prompt that ends within a character is no help.
        assert_eq!(read(&[2, 5], &[4]), "world");
        assert_eq!(read(&[2], &[5, 6]), "é");
    }
}

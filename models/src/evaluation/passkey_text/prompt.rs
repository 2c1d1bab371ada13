//! The passkey prompt: five digits in one line of an otherwise endless repetition.
//!
//! ```text
//! prefix, then n blocks of filler, block ⌊depth · (n − 1)⌋ of them replaced by the passkey's, then suffix
//! n = (length − tokens(prefix) − tokens(suffix)) div tokens(filler)
//! ```
//!
//! The four strings are a task definition and must be met to the letter. They stem from *Landmark Attention* (2305.16300) and
//! InfiniteBench; their form here is that of the experiments of *Stuffed Mamba* (2410.07145).
//!
//! Sample i of N at one length lies at depth (i + ½)/N, so that the rows of the grid share the samples evenly. The whole
//! prompt is tokenised at once. Its real length differs from the one asked for by up to a block, because blocks are whole and
//! the passkey's has another number of tokens: reports state the real one.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::tokenizer::{Tokenizer, TokenizerError};

/// What every prompt begins with.
pub const PREFIX: &str =
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it.\n\n";
/// The block that is repeated.
pub const FILLER: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";
/// What every prompt ends with.
pub const SUFFIX: &str = "\nWhat is the pass key? The passkey is";

/// Tokens that the original experiment lets a model answer with.
const ANSWER_TOKENS: usize = 5;

/// The block that holds the passkey.
pub fn passkey_block(key: &str) -> String {
    format!("The passkey is {key}. Remember it. {key} is the passkey.\n")
}

/// The numbers of tokens that decide how many blocks a length has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    prefix: usize,
    filler: usize,
    suffix: usize,
}

impl Template {
    /// Counts the tokens of the parts.
    ///
    /// # Errors
    /// [`TokenizerError`] from a model that has no tokenizer.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let count = |part| Ok::<_, TokenizerError>(tokenizer.encode(part)?.len());
        Ok(Self {
            prefix: count(PREFIX)?,
            filler: count(FILLER)?.max(1),
            suffix: count(SUFFIX)?,
        })
    }

    /// n, the number of blocks at a length.
    pub fn blocks(&self, length: u64) -> usize {
        let room = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .saturating_sub(self.prefix + self.suffix);
        room / self.filler
    }

    /// The least length that has room for one block.
    pub fn shortest(&self) -> u64 {
        (self.prefix + self.filler + self.suffix) as u64
    }
}

/// One passkey prompt and the answer to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Length asked for, in tokens.
    pub length: u64,
    /// Index of the row of the grid, from the beginning of the text.
    pub row: usize,
    /// Where the passkey is: 0 at the beginning, 1 at the end.
    pub depth: f64,
    /// Number n of blocks, that of the passkey included.
    pub blocks: usize,
    /// Index of the block that is replaced.
    pub block: usize,
    /// The passkey, five digits.
    pub key: String,
}

impl Case {
    /// The prompt as text: prefix, n blocks, suffix.
    pub fn text(&self) -> String {
        let after = self.blocks.saturating_sub(self.block + 1);
        let key = passkey_block(&self.key);
        [
            PREFIX,
            &FILLER.repeat(self.block),
            &key,
            &FILLER.repeat(after),
            SUFFIX,
        ]
        .concat()
    }

    /// Whether a continuation gives the passkey.
    pub fn is_answered_by(&self, continuation: &str) -> bool {
        continuation.contains(&self.key)
    }
}

/// The prompts of one length: `rows · per_cell` of them, `per_cell` in each row. Passkeys are uniform over 00000 to 99999 and
/// depend on the seed, the length and the sample only, so that every mitigation is asked the same.
pub fn cases(template: &Template, length: u64, rows: usize, per_cell: usize, seed: u64) -> Vec<Case> {
    let mut random = StdRng::seed_from_u64(seed ^ length.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (blocks, samples) = (template.blocks(length), rows * per_cell);
    let case = |sample: usize| {
        let depth = (sample as f64 + 0.5) / samples as f64;
        let block = (depth * blocks.saturating_sub(1) as f64) as usize;
        let key = format!("{:05}", random.random_range(0..100_000u32));
        Case {
            length,
            row: sample / per_cell,
            depth,
            blocks,
            block,
            key,
        }
    };
    (0..samples).map(case).collect()
}

/// How many tokens a model may answer with: five as in the original experiment, or as many as a blank and five digits take
/// with this tokenizer (six with a byte-level one).
///
/// # Errors
/// [`TokenizerError`] from a model that has no tokenizer.
pub fn answer_tokens(tokenizer: &Tokenizer, key: &str) -> Result<usize, TokenizerError> {
    Ok(tokenizer.encode(&format!(" {key}"))?.len().max(ANSWER_TOKENS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Template {
        Template::new(&Tokenizer::bytes()).expect("bytes need no file")
    }

    #[test]
    fn the_number_of_blocks_follows_the_definition() {
        let template = template();
        // 93, 90 and 37 bytes: see the strings.
        assert_eq!(
            template,
            Template {
                prefix: 93,
                filler: 90,
                suffix: 37
            }
        );
        assert_eq!(template.shortest(), 220);
        assert_eq!(
            [219, 220, 309, 310, 1024].map(|length| template.blocks(length)),
            [0, 1, 1, 2, 9]
        );
    }

    #[test]
    fn the_passkey_replaces_the_block_at_its_depth() {
        let cases = cases(&template(), 1024, 4, 5, 7);
        assert_eq!(cases.len(), 20);
        for (i, case) in cases.iter().enumerate() {
            let depth = (i as f64 + 0.5) / 20.0;
            assert_eq!((case.row, case.depth, case.blocks), (i / 5, depth, 9));
            assert_eq!(case.block, (depth * 8.0).floor() as usize);
            let text = case.text();
            let at = text
                .find(&passkey_block(&case.key))
                .expect("the passkey is in the prompt");
            assert_eq!(at, PREFIX.len() + case.block * FILLER.len());
            assert_eq!(text.matches(FILLER).count(), 8);
            assert!(text.starts_with(PREFIX) && text.ends_with(SUFFIX));
            let real = PREFIX.len() + 8 * FILLER.len() + passkey_block(&case.key).len() + SUFFIX.len();
            assert_eq!(text.len(), real);
        }
    }

    #[test]
    fn passkeys_have_five_digits_and_follow_the_seed() {
        let keys = |length, seed| -> Vec<String> {
            cases(&template(), length, 10, 20, seed)
                .into_iter()
                .map(|case| case.key)
                .collect()
        };
        assert_eq!(keys(1024, 1), keys(1024, 1));
        assert_ne!(keys(1024, 1), keys(1024, 2));
        assert_ne!(keys(1024, 1), keys(2048, 1));
        assert!(
            keys(1024, 1)
                .iter()
                .all(|key| key.len() == 5 && key.bytes().all(|b| b.is_ascii_digit()))
        );
    }

    #[test]
    fn an_answer_counts_wherever_the_digits_stand() {
        let case = &cases(&template(), 1024, 1, 1, 0)[0];
        assert!(case.is_answered_by(&format!(" {}", case.key)));
        assert!(case.is_answered_by(&format!("{}.", case.key)));
        assert!(!case.is_answered_by(&case.key[..4]));
        assert_eq!(answer_tokens(&Tokenizer::bytes(), &case.key).expect("bytes"), 6);
    }
}

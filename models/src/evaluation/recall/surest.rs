//! A document read in [pieces](super::pieces): which state answers.

use burn::tensor::Tensor;
use spillway_ssm_core::Chain;

use super::document::Document;
use super::pieces::{Pieces, Read};
use super::prompt::{self, Divisible, Order};
use crate::error::ModelError;
use crate::model::{Logits, Model};
use crate::prompt::PromptReading;
use crate::state::ModelState;

/// What came of reading a document in pieces.
#[derive(Clone, Debug)]
pub struct ReadInPieces {
    /// The state that answers; `None` where no state has logits that are numbers.
    pub best: Option<Surest>,
    /// Tokens that all states together read.
    pub computed: u64,
}

/// The state that answers.
#[derive(Clone, Debug)]
pub struct Surest {
    /// Index of its piece.
    pub piece: usize,
    /// −Σ p ln p of its first token, in nats.
    pub entropy: f64,
    /// Ids of the prompt that it read.
    pub prompt: Vec<u32>,
    /// The logits after that, `[1, vocabulary]`.
    pub logits: Tensor<2>,
    /// The model's state after the prompt.
    pub state: ModelState,
}

/// Reads `document` in pieces, with `chain` acting; a model with an encoder reads every piece as `reading` says. A document without
/// tokens is one piece.
///
/// # Errors
/// As [`Model::start`], [`Model::logits`] and [`crate::tokenizer::Tokenizer::encode`].
pub fn surest(
    model: &Model,
    chain: &Chain,
    document: &Document,
    (order, pieces): (Order, Pieces),
    reading: &PromptReading,
) -> Result<ReadInPieces, ModelError> {
    let parts = prompt::divisible(document, order, model.tokenizer())?;
    let mut reader = Reader {
        model,
        chain,
        reading,
        parts: &parts,
        best: None,
        computed: 0,
    };
    // An encoder reads a prompt's beginning as a whole, and nothing of it can be kept for another.
    match (pieces.read, model.encoder_length()) {
        (Read::Everything, 0) => reader.in_passing(pieces.tokens)?,
        (read, _) => reader.one_by_one(pieces.tokens, read)?,
    }
    Ok(ReadInPieces {
        best: reader.best,
        computed: reader.computed,
    })
}

struct Reader<'a> {
    model: &'a Model,
    chain: &'a Chain,
    reading: &'a PromptReading,
    parts: &'a Divisible,
    best: Option<Surest>,
    computed: u64,
}

impl Reader<'_> {
    /// A prompt for each piece, from the beginning.
    fn one_by_one(&mut self, tokens: usize, read: Read) -> Result<(), ModelError> {
        let document = &self.parts.document;
        for (index, start) in starts(document.len(), tokens).enumerate() {
            let end = document.len().min(start + tokens);
            let first = match read {
                Read::Alone => start,
                Read::Everything => 0,
            };
            let prompt = [&self.parts.head, &document[first..end], &self.parts.tail].concat();
            let mut state = self.model.start(self.chain, 1)?;
            let logits = self.model.read_prompt(&prompt, self.reading, &mut state)?;
            self.computed += prompt.len() as u64;
            self.add(index, prompt, logits, state)?;
        }
        Ok(())
    }

    /// Reads the document once; after each piece of `tokens` tokens a copy of the state goes on to the question.
    fn in_passing(&mut self, tokens: usize) -> Result<(), ModelError> {
        let Divisible { head, document, tail } = self.parts;
        let mut state = self.model.start(self.chain, 1)?;
        self.model.advance(head, &mut state)?;
        self.computed += head.len() as u64;
        for (index, start) in starts(document.len(), tokens).enumerate() {
            let end = document.len().min(start + tokens);
            self.model.advance(&document[start..end], &mut state)?;
            let mut asked = state.clone();
            let logits = self.model.logits(tail, &mut asked, Logits::Last)?;
            self.computed += (end - start + tail.len()) as u64;
            let prompt = [head.as_slice(), &document[..end], tail].concat();
            self.add(index, prompt, logits, asked)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        piece: usize,
        prompt: Vec<u32>,
        logits: Tensor<2>,
        state: ModelState,
    ) -> Result<(), ModelError> {
        let values: Vec<f32> = logits.to_data().iter::<f32>().collect();
        let Some(entropy) = entropy(&values[..values.len().min(self.model.info().vocab_size)]) else {
            return Ok(());
        };
        if self.best.as_ref().is_none_or(|best| entropy < best.entropy) {
            self.best = Some(Surest {
                piece,
                entropy,
                prompt,
                logits,
                state,
            });
        }
        Ok(())
    }
}

/// Where pieces begin; one where there is nothing to divide.
fn starts(length: usize, tokens: usize) -> impl Iterator<Item = usize> {
    (0..length.max(1)).step_by(tokens)
}

/// −Σ p ln p of softmax(logits), in nats; `None` where a logit is not a number or all are −∞.
pub fn entropy(logits: &[f32]) -> Option<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if logits.iter().any(|logit| logit.is_nan()) || !largest.is_finite() {
        return None;
    }
    // With z_i = logit_i − largest: ln Σ e^z − Σ e^z z / Σ e^z.
    let (mut sum, mut weighted) = (0.0, 0.0);
    for logit in logits.iter().filter(|logit| logit.is_finite()) {
        let z = f64::from(*logit) - f64::from(largest);
        sum += z.exp();
        weighted += z.exp() * z;
    }
    Some(sum.ln() - weighted / sum)
}

#[cfg(test)]
mod tests {
    use super::super::document::RecallTask;
    use super::super::generate::{Generator, Split};
    use super::*;
    use crate::LoadOptions;

    #[test]
    fn entropy_is_that_of_the_definition() {
        assert!((entropy(&[3.0; 8]).expect("numbers") - 8f64.ln()).abs() < 1e-12);
        assert_eq!(entropy(&[0.0, f32::NEG_INFINITY]), Some(0.0));
        let logits = [1.0f32, -2.0, 80.0, 79.5];
        let total: f64 = logits.iter().map(|&x| (f64::from(x) - 80.0).exp()).sum();
        let shares = logits.iter().map(|&x| (f64::from(x) - 80.0).exp() / total);
        let expected: f64 = shares.map(|p| -p * p.ln()).sum();
        assert!((entropy(&logits).expect("numbers") - expected).abs() < 1e-12);
        for bad in [
            vec![f32::NAN, 1.0],
            vec![f32::NEG_INFINITY; 2],
            vec![],
            vec![f32::INFINITY, 0.0],
        ] {
            assert_eq!(entropy(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_surest_state_is_found_whatever_is_shared() {
        let model = Model::shipped(&LoadOptions::default()).expect("the shipped model loads");
        let chain = Chain::default();
        let generator = Generator {
            facts: Some(6),
            ..Generator::new(Split::Test, 3)
        };
        let document = &generator.documents(RecallTask::Fda, 1)[0];
        for (order, read) in [
            (Order::DocumentFirst, Read::Alone),
            (Order::QuestionFirst, Read::Everything),
        ] {
            let parts = prompt::divisible(document, order, model.tokenizer()).expect("bytes");
            let pieces = Pieces { tokens: 50, read };
            let read_in_pieces = surest(
                &model,
                &chain,
                document,
                (order, pieces),
                &PromptReading::default(),
            )
            .expect("logits");
            let (found, computed) = (read_in_pieces.best.expect("numbers"), read_in_pieces.computed);
            // Every prompt read alone, from the beginning.
            let mut entropies = Vec::new();
            for start in (0..parts.document.len()).step_by(50) {
                let end = parts.document.len().min(start + 50);
                let first = if read == Read::Alone { start } else { 0 };
                let ids = [&parts.head, &parts.document[first..end], &parts.tail].concat();
                let mut state = model.start(&chain, 1).expect("a state");
                let logits = model.logits(&ids, &mut state, Logits::Last).expect("logits");
                let values: Vec<f32> = logits.into_data().iter::<f32>().collect();
                entropies.push((entropy(&values).expect("numbers"), ids));
            }
            assert!(entropies.len() > 3, "{}", parts.document.len());
            let best = entropies
                .iter()
                .enumerate()
                .min_by(|(_, a), (_, b)| a.0.total_cmp(&b.0))
                .expect("pieces");
            assert_eq!(found.piece, best.0);
            assert!((found.entropy - best.1.0).abs() < 1e-4, "{read:?}");
            assert_eq!(found.prompt, best.1.1);
            assert_eq!(found.state.position(), found.prompt.len() as u64);
            let most: usize = entropies.iter().map(|(_, ids)| ids.len()).sum();
            match read {
                Read::Alone => assert_eq!(computed, most as u64),
                Read::Everything => assert!(computed < most as u64),
            }
        }
    }
}

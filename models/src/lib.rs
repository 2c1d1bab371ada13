//! Assembled models: checkpoint layouts, tokenizers, generation

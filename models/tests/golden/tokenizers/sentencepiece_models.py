"""Writes bpe.model and unigram.model, trained on the text that comes with Spillway, and expected.json: what SentencePiece makes of some texts.

    python sentencepiece_models.py TEXT      # with the package sentencepiece 0.2.3
"""

import json
import sys
from pathlib import Path

import sentencepiece

HERE = Path(__file__).parent
TEXTS = [
    "In the beginning God created the heaven and the earth.",
    "And it came to pass, that when Isaac was old, and his eyes were dim",
    "  two blanks before,  two inside, one behind ",
    "naïve café — 中文 😀",
    "line one\nline two\ttab",
    "0123456789",
    "a",
]
COMMON = {"input": sys.argv[1], "vocab_size": 500, "num_threads": 1, "max_sentence_length": 1 << 16, "input_sentence_size": 20000}
sentencepiece.SentencePieceTrainer.train(
    model_prefix=str(HERE / "bpe"), model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
    remove_extra_whitespaces=False, split_digits=True, user_defined_symbols=["<turn>"], **COMMON,
)
sentencepiece.SentencePieceTrainer.train(model_prefix=str(HERE / "unigram"), model_type="unigram", **COMMON)
expected = {}
for name in ("bpe", "unigram"):
    (HERE / f"{name}.vocab").unlink()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(HERE / f"{name}.model"))
    expected[name] = [{"text": text, "ids": processor.encode(text), "decoded": processor.decode(processor.encode(text))} for text in TEXTS]
(HERE / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")

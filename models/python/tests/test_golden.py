"""Logits and greedy continuations against those that other people's software computed, from NumPy in to NumPy out."""

from itertools import takewhile

import numpy as np
import pytest
from conftest import folders, golden, relative_error

import spillway


def test_there_are_golden_models():
    assert len(folders()) > 40


def greedy_by_logits(model: spillway.Model, ids: np.ndarray, count: int) -> list[int]:
    """The likeliest id, again and again, whether or not it ends a text."""
    state = model.prefill(ids[:-1])
    found, last = [], int(ids[-1])
    for _ in range(count):
        last = int(model.logits([last], state, last=True).argmax())
        found.append(last)
    return found


@pytest.mark.parametrize("name", folders())
def test_logits_and_greedy_continuations_are_the_peers(name):
    expected = golden(name)
    model = spillway.load(expected.path)
    batch, time = expected.ids.shape
    if model.encoder_length:
        # Only a prompt is read both ways: all but its last token, and the logits after that.
        assert model.encoder_length < time, f"{name}: a prompt that the encoder reads whole"
        state = model.prefill(expected.ids[:, :-1])
        logits = model.logits(expected.ids[:, -1:], state)
    else:
        logits = model.logits(expected.ids)
        assert logits.shape == (batch, time, model.vocab_size)
    assert logits.dtype == np.float32
    # Where prompts are long, only the last ones are kept; a vocabulary may be padded.
    kept = expected.logits[:, -logits.shape[1] :, : model.vocab_size]
    assert relative_error(logits[:, -kept.shape[1] :], kept) <= expected.tolerance
    for ids, greedy in zip(expected.ids, expected.greedy):
        # The peers' may choose a row that pads the vocabulary, and went on after an id that ends a text.
        greedy = list(takewhile(lambda id: id < model.vocab_size, greedy.tolist()))
        assert greedy_by_logits(model, ids, len(greedy)) == greedy
        until_end = list(takewhile(lambda id: id not in model.eos_ids, greedy))
        assert model.generate(ids, max_tokens=len(greedy)).ids.tolist() == until_end

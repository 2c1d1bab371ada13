"""The same checkpoints in transformers, in this process: `.ci/python PYTHON` with a Python that has torch and transformers."""

import numpy as np
import pytest
from conftest import folders, golden, relative_error

import spillway

pytestmark = pytest.mark.transformers

# Every golden language model in Hugging Face's layout, but for the one whose forward fails in transformers 5.23 itself (5.24 computed its
# golden numbers).
FAILS_THERE = "xlstm-fused-hf"
NAMES = [name for name in folders() if name.endswith("-hf") and name != FAILS_THERE]


@pytest.mark.parametrize("name", NAMES)
def test_logits_losses_and_greedy_text_are_those_of_transformers(name):
    import torch
    from transformers import AutoModelForCausalLM

    expected = golden(name)
    theirs = AutoModelForCausalLM.from_pretrained(expected.path, dtype=torch.float32).eval()
    ours = spillway.load(expected.path)
    ids = torch.tensor(expected.ids)
    with torch.no_grad():
        logits = theirs(ids, use_cache=False).logits
    vocab = ours.vocab_size
    # Both in f32, of which each page's bound is that of one against f64.
    # Ids as tensors, arrays out.
    assert relative_error(ours.logits(ids), logits[..., :vocab].numpy()) <= expected.tolerance
    log_p = torch.log_softmax(logits[:, :-1, :vocab].double(), -1).gather(-1, ids[:, 1:, None])[..., 0]
    assert relative_error(ours.loss(ids), -log_p.numpy()) <= expected.tolerance
    with torch.no_grad():
        for row in ids:
            new = []
            for _ in range(8):
                step = theirs(torch.cat([row, torch.tensor(new, dtype=row.dtype)])[None], use_cache=False).logits
                new.append(int(step[0, -1, :vocab].argmax()))
            assert ours.generate(row, max_tokens=8).ids.tolist() == new
    assert np.isfinite(log_p.numpy()).all()

"""Shapes, types, states, generation: what a call gives and what it leaves behind."""

import copy
import math
import os
import subprocess
import sys

import numpy as np
import pytest

import spillway
from conftest import GOLDEN, relative_error


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    largest = logits.max(-1, keepdims=True)
    return logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))


def test_shapes_follow_those_of_the_ids(shipped):
    assert shipped.logits([1, 2, 3]).shape == (3, 256)
    assert shipped.logits([[1, 2, 3], [4, 5, 6]]).shape == (2, 3, 256)
    assert shipped.logits([1, 2, 3], last=True).shape == (256,)
    assert shipped.logits([[1, 2, 3], [4, 5, 6]], last=True).shape == (2, 256)
    assert shipped.loss([1, 2, 3]).shape == (2,)
    assert shipped.loss([[1, 2, 3], [4, 5, 6]]).shape == (2, 2)
    assert shipped.logits([]).shape == (0, 256)
    assert shipped.loss([7]).shape == (0,)
    logits = shipped.logits([1, 2, 3])
    assert logits.dtype == np.float32 and logits.flags.writeable and logits.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ">i4"])
def test_ids_may_be_of_any_integer_type_and_layout(shipped, dtype):
    ids = np.array([[1, 2, 3, 100], [5, 6, 7, 127]])
    expected = shipped.logits(ids)
    assert np.array_equal(shipped.logits(ids.astype(dtype)), expected)
    assert np.array_equal(shipped.logits(np.asfortranarray(ids.astype(dtype))), expected)
    assert np.array_equal(shipped.logits(ids.astype(dtype)[:, ::-1]), shipped.logits(ids[:, ::-1].tolist()))


def test_losses_are_those_of_the_logits(shipped, text_ids):
    ids = text_ids[:700]
    log_p = log_softmax(shipped.logits(ids[:-1]))
    expected = -log_p[np.arange(699), ids[1:]]
    np.testing.assert_allclose(shipped.loss(ids), expected, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(shipped.loss(ids[:-1], ids[1:]), shipped.loss(ids))
    batch = np.stack([ids[:300], ids[300:600]])
    np.testing.assert_allclose(shipped.loss(batch)[1], shipped.loss(batch[1]), rtol=0, atol=2e-5)


def test_the_last_logits_are_the_last_of_all(shipped, text_ids):
    ids = text_ids[:600]
    np.testing.assert_allclose(shipped.logits(ids, last=True), shipped.logits(ids)[-1], rtol=0, atol=1e-5)


def test_a_text_may_be_cut_anywhere(shipped, text_ids):
    whole = shipped.logits(text_ids[:600])
    state = shipped.start()
    parts = [shipped.logits(text_ids[begin:end], state) for begin, end in [(0, 1), (1, 37), (37, 37), (37, 600)]]
    assert state.position == 600
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=2e-4)
    # Losses without targets end before the last id, which the next call begins with.
    state = shipped.start()
    losses = [shipped.loss(text_ids[begin : end + 1], state=state) for begin, end in [(0, 100), (100, 599)]]
    np.testing.assert_allclose(np.concatenate(losses), shipped.loss(text_ids[:600]), rtol=0, atol=2e-4)


def test_a_fork_goes_its_own_way_and_a_saved_state_goes_on_to_the_bit(shipped, text_ids, tmp_path):
    state = shipped.prefill(text_ids[:300])
    fork, copies = state.fork(), [copy.copy(state), copy.deepcopy(state)]
    state.save(tmp_path / "state.safetensors")
    after = shipped.logits(text_ids[300:310], state)
    assert state.position == 310 and fork.position == 300
    restored = shipped.restore(tmp_path / "state.safetensors")
    assert restored.position == 300 and restored.nbytes == fork.nbytes
    for other in [fork, restored, *copies]:
        np.testing.assert_array_equal(shipped.logits(text_ids[300:310], other), after)


def test_a_mitigation_belongs_to_its_state(shipped, text_ids, tmp_path):
    window = shipped.loss(text_ids, mitigation="window:64")
    assert shipped.loss(text_ids)[1000:].mean() > window[1000:].mean() + 0.5
    state = shipped.prefill(text_ids[:100], mitigation="window:64")
    assert state.mitigation == "window:64" and "window:64" in repr(state)
    # Named again or not, but not another one.
    shipped.logits([1], state.fork())
    shipped.logits([1], state.fork(), mitigation="window:64")
    with pytest.raises(ValueError, match="mitigation: expected that of the state"):
        shipped.logits([1], state, mitigation="window:32")
    state.save(tmp_path / "window.safetensors")
    with pytest.raises(spillway.SpillwayError, match="chain: expected none, found window:64"):
        shipped.restore(tmp_path / "window.safetensors")
    assert shipped.restore(tmp_path / "window.safetensors", mitigation="window:64").mitigation == "window:64"


def test_states_are_joined_and_divided(shipped, text_ids):
    states = [shipped.prefill(text_ids[:100]), shipped.prefill(text_ids[100:150])]
    batch = spillway.State.cat(states)
    assert (batch.batch, batch.positions, batch.position) == (2, [100, 50], 100)
    logits = shipped.logits([[65], [66]], batch, last=True)
    second = batch.select([1])
    assert second.positions == [51]
    np.testing.assert_allclose(logits[1], shipped.logits([66], states[1], last=True), rtol=0, atol=2e-5)


def test_greedy_and_sampled_text(shipped):
    first = shipped.generate("And God said, Let there be ", max_tokens=24)
    assert first.finish == "length" and len(first.ids) == 24 and first.ids.dtype == np.int64
    assert shipped.tokenizer.decode(first.ids) == first.text == str(first)
    assert shipped.generate("And God said, Let there be ", max_tokens=24).text == first.text
    # One token at a time from the logits is the same.
    state = shipped.prefill("And God said, Let there be")
    id, ids = ord(" "), []
    for _ in range(24):
        id = int(shipped.logits([id], state, last=True).argmax())
        ids.append(id)
    assert ids == first.ids.tolist()
    drawn = [shipped.generate("And ", max_tokens=20, temperature=1.0, top_k=40, top_p=0.95, seed=seed).text for seed in [1, 1, 2]]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_generation_leaves_the_state_after_all_that_it_gave(shipped):
    generated = shipped.generate("In the beginning", max_tokens=10)
    assert generated.state.position == 26
    further = shipped.generate(" and", max_tokens=10, state=generated.state)
    whole = np.concatenate([shipped.tokenizer.encode("In the beginning"), generated.ids, shipped.tokenizer.encode(" and")])
    assert shipped.generate(whole, max_tokens=10).text == further.text
    assert shipped.generate("In the beginning", max_tokens=0).state.position == 16


def test_a_text_ends_at_a_stop_string_or_when_its_receiver_says_so(shipped):
    whole = shipped.generate("And God said, Let there be ", max_tokens=60).text
    word = whole.split()[1]
    stopped = shipped.generate("And God said, Let there be ", max_tokens=60, stop=word)
    assert (stopped.finish, stopped.stop) == ("stop", word)
    assert whole.startswith(stopped.text + word)
    pieces = []

    def five(piece):
        pieces.append(piece)
        return len(pieces) < 5

    ended = shipped.generate("And God said, Let there be ", max_tokens=60, on_text=five)
    assert ended.finish == "cancelled" and "".join(pieces) == ended.text == whole[: len(ended.text)]
    assert len(pieces) == 5


def test_what_the_receiver_raises_comes_out(shipped):
    def fail(piece):
        raise RuntimeError("enough")

    state = shipped.start()
    with pytest.raises(RuntimeError, match="enough"):
        shipped.generate("And ", max_tokens=10, on_text=fail, state=state)
    # The state is whole: after the prompt and the one id that was chosen.
    assert state.position == 5


def test_text_to_ids_and_back(shipped):
    tokenizer = shipped.tokenizer
    ids = tokenizer.encode("aé€😀")
    assert ids.dtype == np.int64 and ids.tolist() == list("aé€😀".encode())
    assert tokenizer.decode(ids) == tokenizer.decode(ids.tolist()) == "aé€😀"
    assert tokenizer.decode([]) == "" and tokenizer.encode("").shape == (0,)
    assert (tokenizer.name, tokenizer.vocab_size) == ("bytes", 256)


def test_what_a_model_says_of_itself(shipped):
    assert shipped.name == "tiny-mamba2-kjv" and shipped.architecture == "mamba2"
    assert (shipped.vocab_size, shipped.train_length, shipped.eos_ids, shipped.encoder_length) == (256, 64, [], 0)
    assert shipped.info["parameters"] == 138_456 and shipped.info["kept_as"] == "f32"
    assert len(shipped.fingerprint) == 32 and "138456" in repr(shipped)
    other = spillway.shipped(dtype="int8")
    assert other.info["kept_as"] == "int8" and other.fingerprint != shipped.fingerprint


def test_a_gguf_file_is_kept_in_its_own_types_unless_others_are_asked_for():
    path = GOLDEN.parent / "gguf" / "mamba2-hf.gguf"
    own, exact = spillway.load(path), spillway.load(path, dtype="f32")
    assert "q8_0" in own.info["kept_as"] and exact.info["kept_as"] == "f32"
    assert own.info["weight_bytes"] < exact.info["weight_bytes"] / 2
    ids = list(range(50))
    assert 0 < relative_error(own.logits(ids), exact.logits(ids)) < 4e-2


def test_what_is_calibrated_takes_its_numbers_from_text(shipped, text_ids):
    wanting = spillway.Mitigation("state-norm:auto")
    assert wanting.needs_calibration and str(wanting) == "state-norm:auto"
    with pytest.raises(ValueError, match="state-norm:auto: its numbers come from text"):
        shipped.loss(text_ids, mitigation=wanting)
    ready = wanting.calibrated(shipped, text_ids)
    assert not ready.needs_calibration and ready != wanting and "calibrated" in repr(ready)
    assert ready == wanting.calibrated(shipped, text_ids)
    assert shipped.loss(text_ids, mitigation=ready)[1000:].mean() < shipped.loss(text_ids)[1000:].mean() - 0.5


def test_the_table_of_mitigations():
    table = {entry["name"]: entry for entry in spillway.mitigations()}
    assert {"window", "rri", "state-norm", "reset"} <= set(table)
    for entry in table.values():
        assert str(spillway.Mitigation(entry["example"])) == entry["example"]


def test_threads_are_counted_and_set(shipped, text_ids):
    before = spillway.threads()
    try:
        spillway.set_threads(1)
        assert spillway.threads() == 1
        assert math.isfinite(shipped.loss(text_ids[:300]).mean())
    finally:
        spillway.set_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_process_has_threads_of_its_own():
    program = """
import os
import spillway
model = spillway.shipped()
expected = model.loss([1, 2, 3])
child = os.fork()
if child == 0:
    os._exit(0 if (model.loss([1, 2, 3]) == expected).all() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "0\n", done.stderr

"""What is refused, by which exception, and that it says why."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import GOLDEN

import spillway


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.zeros((2, 3, 4), int), ValueError, r"ids: expected an array \[time\] or \[batch, time\].*\[2, 3, 4\]"),
        (np.int64(3), ValueError, r"ids: expected an array \[time\]"),
        (np.zeros((0, 5), int), ValueError, "at least one sequence"),
        ([1, 256], ValueError, r"ids\[1\]: expected an id from 0 to 255, found 256"),
        ([[1, 2], [3, -1]], ValueError, r"ids\[1, 1\]: expected an id from 0 to 255, found -1"),
        (np.array([2**63], np.uint64), ValueError, r"found 9223372036854775808"),
        ([1.0, 2.0], TypeError, "ids: expected integers, found an array of float64"),
        ([True, False], TypeError, "ids: expected integers, found an array of bool"),
        ("In the beginning", TypeError, "model.tokenizer.encode makes ids"),
        (["a", "b"], TypeError, "model.tokenizer.encode makes ids"),
        ([[1, 2], [3]], ValueError, "inhomogeneous"),
        (None, TypeError, "ids: expected integers, found an array of object"),
    ],
)
def test_ids_that_are_none(shipped, ids, error, message):
    for call in (shipped.logits, shipped.loss):
        with pytest.raises(error, match=message):
            call(ids)


def test_arguments_that_are_impossible(shipped):
    for call, message in [
        (lambda: shipped.logits([], last=True), "empty prompt"),
        (lambda: shipped.loss([]), "at least one token"),
        (lambda: shipped.loss([1, 2], [1]), r"targets: expected the shape of ids, \[2\], found \[1\]"),
        (lambda: shipped.loss([1, 2], [1, 300]), r"targets\[1\]: expected an id from 0 to 255, found 300"),
        (lambda: shipped.generate(""), "empty prompt"),
        (lambda: shipped.generate([[1, 2]]), r"prompt: expected one sequence"),
        (lambda: shipped.generate("a", temperature=-1.0), "temperature: expected 0 or a positive number, found -1"),
        (lambda: shipped.generate("a", top_p=1.5), "top-p"),
        (lambda: shipped.generate("a", top_k=0), "top-k"),
        (lambda: shipped.start(batch=0), "batch: expected at least 1, found 0"),
        (lambda: shipped.logits([1], mitigation="windwo:64"), "window"),
        (lambda: shipped.logits([1], mitigation="forget:1.5"), "above 0 and at most 1"),
        (lambda: shipped.start().select([1]), "sequence: expected an index below 1, found 1"),
        (lambda: spillway.State.cat([]), "at least one"),
        (lambda: spillway.shipped(dtype="f16"), "dtype: expected f32, bf16, int8 or int4, found f16"),
        (lambda: spillway.shipped(device="gpu"), "device: expected cpu, wgpu"),
        (lambda: spillway.set_threads(0), "threads: expected a number from 1 to 1024, found 0"),
        (lambda: spillway.diagnose(shipped, length=100), "length: expected at least twice the training length"),
        (lambda: spillway.diagnose(shipped, length=256, threshold=0.5), "threshold: expected a factor above 1"),
        (lambda: spillway.diagnose(shipped, length=256, mitigations="dam:3"), "mitigation dam:3"),
        (lambda: spillway.diagnose(shipped, "a", length=256), "at least 2 tokens"),
        (lambda: shipped.logits([[1], [2]], shipped.start()), "ids: expected 1 sequences as in the state, found 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    for call in [
        lambda: shipped.logits([1], mitigation=3),
        lambda: shipped.generate("a", stop=3),
        lambda: shipped.logits([1], state="none"),
        lambda: spillway.load(3),
        lambda: shipped.start().save(None),
    ]:
        with pytest.raises(TypeError):
            call()


def test_a_state_belongs_to_one_model(shipped, tmp_path):
    other = spillway.load(GOLDEN / "mamba2-hf")
    state = other.prefill([1, 2, 3])
    with pytest.raises(ValueError, match="expected one of this model"):
        shipped.logits([1], state)
    with pytest.raises(ValueError, match="expected those of one model"):
        spillway.State.cat([state, shipped.start()])
    state.save(tmp_path / "state.safetensors")
    with pytest.raises(spillway.SpillwayError, match="state.safetensors"):
        shipped.restore(tmp_path / "state.safetensors")
    # What is refused leaves a state as it was.
    with pytest.raises(ValueError, match="found 256"):
        shipped.logits([256], state := shipped.prefill([1, 2]))
    assert state.position == 2


def test_files(shipped, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        spillway.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        shipped.restore(tmp_path / "none.safetensors")
    with pytest.raises(OSError, match="state.safetensors"):
        shipped.start().save(tmp_path / "no folder" / "state.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{nothing")
    (tmp_path / "config.json").write_text('{"model_type": "mamba2"}')
    with pytest.raises(spillway.SpillwayError, match="model.safetensors"):
        spillway.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(spillway.SpillwayError):
        spillway.load(str(tmp_path))
    damaged = tmp_path / "damaged.safetensors"
    shipped.prefill([1, 2, 3]).save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(spillway.SpillwayError, match="damaged.safetensors"):
        shipped.restore(damaged)
    with pytest.raises(spillway.SpillwayError, match="tokenizer"):
        spillway.load(GOLDEN / "mamba2-codestral-hf", tokenizer=damaged)


def test_more_states_than_any_memory_holds_are_refused_before_they_are_made(shipped):
    with pytest.raises(MemoryError, match="the states of 1099511627776 sequences need"):
        shipped.start(batch=1 << 40)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
@pytest.mark.parametrize(
    "call",
    [
        "model.loss(np.full(5_000_000, 65, np.uint8), state=state)",
        "model.generate('And ', max_tokens=100_000_000, state=state)",
        "spillway.diagnose(model, length=1 << 40)",
    ],
)
def test_ctrl_c_ends_a_long_call_and_leaves_the_state_whole(call):
    program = f"""
import os, signal, threading, time
import numpy as np
import spillway
model = spillway.shipped()
state = model.start()
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
begin = time.monotonic()
try:
    {call}
except KeyboardInterrupt:
    model.logits([65], state)
    print("interrupted", time.monotonic() - begin < 20)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "interrupted True\n", done.stderr


def test_other_threads_go_on_while_one_computes(shipped, text_ids):
    import threading

    ids = np.tile(text_ids, 20)
    counted, done = 0, threading.Event()

    def compute():
        shipped.loss(ids)
        done.set()

    thread = threading.Thread(target=compute)
    thread.start()
    while not done.wait(0.001):
        counted += 1
    thread.join()
    assert counted > 10
    # One state in two threads: one call has it, and the other is told.
    state, found = shipped.start(), []
    threads = [threading.Thread(target=lambda: found.append(attempt(shipped, ids, state))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) in (["done", "refused"], ["done", "done"])
    assert state.position == len(ids) * found.count("done") - found.count("done")


def attempt(model, ids, state):
    try:
        model.loss(ids, state=state)
        return "done"
    except ValueError as error:
        assert "another thread" in str(error)
        return "refused"

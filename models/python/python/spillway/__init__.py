"""Recurrent language models at any context length, on a CPU.

    import spillway

    model = spillway.load("path/to/checkpoint")      # or spillway.shipped()
    ids = model.tokenizer.encode("In the beginning")
    logits = model.logits(ids)                       # float32 [time, vocab_size]
    losses = model.loss(ids)                         # nats, float32 [time - 1]
    state = model.prefill("In the beginning")
    print(model.generate(" God", max_tokens=40, state=state.fork()).text)
    report = spillway.diagnose(model)                # what `spillway diagnose` writes into report.json

`Model`, `State`, `Mitigation`, `Tokenizer` and `Generation` have the rest; `spillway.harness` runs models under lm-eval.
"""

# What the extension needs, so that its absence is an ImportError.
import numpy as _numpy  # noqa: F401

from ._spillway import (
    Generation,
    Mitigation,
    Model,
    SpillwayError,
    State,
    Tokenizer,
    __version__,
    diagnose,
    load,
    mitigations,
    set_threads,
    shipped,
    shipped_text,
    threads,
)

__all__ = [
    "Generation",
    "Mitigation",
    "Model",
    "SpillwayError",
    "State",
    "Tokenizer",
    "__version__",
    "diagnose",
    "load",
    "mitigations",
    "set_threads",
    "shipped",
    "shipped_text",
    "threads",
]

"""A model that collapses, what cures it, and a state that is kept: cells for a notebook, or `python examples/collapse.py`."""

# %% The model that comes with Spillway was trained on windows of 64 bytes, and reads 8,192.
import numpy as np

import spillway

model = spillway.shipped()
ids = model.tokenizer.encode(spillway.shipped_text()[:8193])
print(model, ids.shape)

# %% Loss against position, as it is and with a sliding window of the training length over its state.
edges = [0, 64, 256, 1024, 4096, 8192]
for mitigation in ["none", "window:64"]:
    losses = model.loss(ids, mitigation=mitigation)
    means = [losses[begin:end].mean() for begin, end in zip(edges, edges[1:])]
    print(f"{mitigation:>10}", "  ".join(f"{mean:.2f}" for mean in means), "nats per byte")

# %% A prompt is read once; every continuation goes on from a fork of its state.
state = model.prefill("And God said unto Moses, ", mitigation="window:64")
for seed in range(3):
    generated = model.generate("Speak", max_tokens=40, temperature=0.7, seed=seed, state=state.fork())
    print(repr("Speak" + generated.text))

# %% Logits are NumPy arrays: the likeliest next bytes.
logits = model.logits(model.tokenizer.encode("In the beginnin"), last=True)
for id in np.argsort(logits)[::-1][:3]:
    print(repr(model.tokenizer.decode([id])), f"{logits[id]:.2f}")

# %% Where, in which heads, and which mitigation is best: what `spillway diagnose` writes into report.json.
report = spillway.diagnose(model, length=2048, streams=1, mitigations=["window:64", "rri:0.99005,0.75"])
print("\n".join(report["summary"]))
print([(run["mitigation"], round(run["beyond"], 2)) for run in report["runs"]])

"""Spillway's models under EleutherAI's lm-eval.

    python -m spillway.harness --model spillway --model_args pretrained=path/to/checkpoint --tasks lambada_openai

is `lm-eval` with a model called `spillway`; from Python:

    lm_eval.simple_evaluate(model=spillway.harness.SpillwayLM(pretrained="path"), tasks=[...])

A context is read once, whatever the number of continuations that are scored after it: each goes on from a fork of the state. Where lm-eval
lets windows of a fixed length slide over a long text, these models read it in one go, from its first token to its last; `max_length` cuts
contexts and texts for those that were trained to no more.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from .. import Mitigation, Model, State, load, shipped

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

# Tokens whose logits are there at a time.
_PIECE = 512
# Options of a generation that `Model.generate` has by the same name.
_SAMPLING = ("top_k", "top_p", "repetition_penalty")
# Names under which lm-eval's tasks and its command line give a number of new tokens.
_MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@register_model("spillway")
class SpillwayLM(TemplateLM):
    """A model of Spillway as lm-eval has models.

    pretrained: path of a checkpoint, a `spillway.Model`, or "shipped" for the one that comes with Spillway.
    dtype, device, tokenizer: as in `spillway.load`.
    mitigation: its text form, or a `spillway.Mitigation`. On a command line, where commas divide arguments, give them as JSON.
    max_length: tokens of a context, or of a text whose likelihood is asked for, beyond which its beginning is dropped; none by default.
    max_gen_toks: new tokens where a task does not say.
    prefix_token_id: what stands before a text without a context; the id that ends texts, unless given.
    add_bos_token: let texts begin as the tokenizer would have them begin.
    seed: of sampled generations.

    Other arguments that lm-eval passes to every model (batch_size and the like) are taken and change nothing.
    """

    def __init__(
        self,
        pretrained: str | os.PathLike[str] | Model = "shipped",
        *,
        dtype: str | None = None,
        device: str | None = None,
        tokenizer: str | None = None,
        mitigation: str | Mitigation | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        prefix_token_id: int | None = None,
        add_bos_token: bool = False,
        seed: int = 0,
        batch_size: Any = None,
        max_batch_size: Any = None,
        trust_remote_code: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(pretrained, Model):
            self.model = pretrained
        elif pretrained == "shipped":
            self.model = shipped(dtype=dtype, device=device or "cpu")
        else:
            self.model = load(pretrained, dtype=dtype, device=device or "cpu", tokenizer=tokenizer)
        self._mitigation = mitigation
        # A mitigation that cannot work is refused here, and not after an hour.
        self.model.start(mitigation=mitigation)
        if max_length is not None and max_length < 2:
            raise ValueError(f"max_length: expected at least 2, found {max_length}")
        self._max_length = max_length
        self._max_gen_toks = max_gen_toks
        self._prefix_token_id = prefix_token_id
        self._add_bos_token = add_bos_token
        self._seed = seed

    @property
    def eot_token_id(self) -> int:
        ids = self.model.eos_ids
        if not ids:
            raise ValueError(
                f"{self.model.name}: no id ends a text; give prefix_token_id, which stands before texts without a context"
            )
        return ids[0]

    @property
    def prefix_token_id(self) -> int:
        return self.eot_token_id if self._prefix_token_id is None else self._prefix_token_id

    @property
    def tokenizer_name(self) -> str:
        return self.model.name

    def get_model_info(self) -> dict[str, Any]:
        """What is kept beside the results."""
        info = self.model.info
        return {
            "model_num_parameters": info["parameters"],
            "model_dtype": info["kept_as"],
            "model_architecture": info["architecture"],
            "model_sha": self.model.fingerprint,
            "mitigation": str(self._mitigation or "none"),
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        special = self._add_bos_token if add_special_tokens is None else add_special_tokens
        return self.model.tokenizer.encode(string, special=special).tolist()

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        by_context: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (_, context, continuation) in enumerate(requests):
            by_context[self._cut(context or [self.prefix_token_id], len(continuation))].append(index)
        scores: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests") as progress:
            for context, indices in by_context.items():
                state = self._read(context[:-1])
                for index in indices:
                    key, _, continuation = requests[index]
                    scores[index] = self._score(state.fork(), context[-1], continuation)
                    if key is not None:
                        self.cache_hook.add_partial("loglikelihood", key, scores[index])
                    progress.update()
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        scores = []
        for request in tqdm(requests, disable=disable_tqdm, desc="Running loglikelihood_rolling requests"):
            (text,) = request.args
            ids = self.tok_encode(text)
            length = self._max_length or len(ids) or 1
            total = 0.0
            # Of a text that is longer than the model may read, each part is one of its own.
            for begin in range(0, len(ids), length):
                before = ids[begin - 1] if begin else self.prefix_token_id
                part = ids[begin : begin + length]
                losses = self.model.loss([before, *part], mitigation=self._mitigation)
                total -= float(losses.sum(dtype=np.float64))
            scores.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return scores

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        texts = []
        for request in tqdm(requests, disable=disable_tqdm, desc="Running generate_until requests"):
            context, options = request.args
            options = dict(options)
            until = options.pop("until", None) or []
            given = [options.pop(name, None) for name in _MAX_TOKENS]
            max_tokens = next((int(value) for value in given if value is not None), self._max_gen_toks)
            temperature = float(options.pop("temperature", None) or 0.0)
            if not options.pop("do_sample", temperature > 0):
                temperature = 0.0
            elif temperature == 0.0:
                temperature = 1.0
            sampling = {name: value for name in _SAMPLING if (value := options.pop(name, None)) is not None}
            if options:
                raise ValueError(f"generation options that Spillway does not have: {', '.join(sorted(options))}")
            prompt = self.tok_encode(context) or [self.prefix_token_id]
            generated = self.model.generate(
                self._cut(prompt, max_tokens),
                max_tokens=max_tokens,
                temperature=temperature,
                seed=self._seed,
                stop=[until] if isinstance(until, str) else list(until),
                mitigation=self._mitigation,
                **sampling,
            )
            texts.append(generated.text)
            self.cache_hook.add_partial("generate_until", request.args, generated.text)
        return texts

    def _cut(self, context: list[int], following: int) -> tuple[int, ...]:
        """What of a context is read where so many tokens follow: at least its last one."""
        if self._max_length is None:
            return tuple(context)
        return tuple(context[-max(1, self._max_length - following) :])

    def _read(self, context: tuple[int, ...]) -> State:
        if not context:
            return self.model.start(mitigation=self._mitigation)
        return self.model.prefill(np.array(context), mitigation=self._mitigation)

    def _score(self, state: State, last: int, continuation: list[int]) -> tuple[float, bool]:
        """log p of a continuation, and whether each of its tokens is the likeliest."""
        total, is_greedy = 0.0, True
        read = np.array([last, *continuation[:-1]])
        targets = np.array(continuation)
        for begin in range(0, len(targets), _PIECE):
            piece = targets[begin : begin + _PIECE]
            logits = self.model.logits(read[begin : begin + _PIECE], state).astype(np.float64)
            largest = logits.max(axis=-1)
            log_sum = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=-1))
            total += float((logits[np.arange(len(piece)), piece] - log_sum).sum())
            is_greedy &= bool((logits.argmax(axis=-1) == piece).all())
        return total, is_greedy

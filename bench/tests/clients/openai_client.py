#!/usr/bin/env python3
"""A session of the `openai` package with `spillway serve`, whose replies are held against each other.

    openai_client.py PROGRAM      # pip install openai; PROGRAM was built with --features serve
"""

import json
import subprocess
import sys

from openai import BadRequestError, OpenAI

PROMPT = "And God said, Let there be "


def main():
    command = [sys.argv[1], "serve", "--port", "0", "--json", "-q", "--template", "rwkv", "--api-key", "secret"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said = ""
    while not said.rstrip().endswith("}"):
        said += server.stdout.readline()
    client = OpenAI(base_url=json.loads(said)["address"] + "/v1", api_key="secret")
    try:
        model = client.models.list().data[0].id
        ask = {"model": model, "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
        whole = client.completions.create(**ask, logprobs=2)
        text = whole.choices[0].text
        assert whole.usage.completion_tokens == 24 and whole.choices[0].finish_reason == "length"
        assert len(whole.choices[0].logprobs.tokens) == 24 and "".join(whole.choices[0].logprobs.tokens) == text
        pieces = [chunk.choices[0].text for chunk in client.completions.create(**ask, stream=True)]
        assert "".join(pieces) == text and len(pieces) > 5
        several = client.completions.create(model=model, prompt=[PROMPT, "And he went "], n=2, max_tokens=8, seed=1)
        assert [choice.index for choice in several.choices] == [0, 1, 2, 3]

        messages = [{"role": "user", "content": "And God said"}]
        chat = {"model": model, "max_tokens": 16, "temperature": 0}
        first = client.chat.completions.create(messages=messages, **chat, logprobs=True, top_logprobs=3)
        assert len(first.choices[0].logprobs.content[0].top_logprobs) == 3
        stream = client.chat.completions.create(
            messages=messages, **chat, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert chunks[-1].usage.completion_tokens == 16
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert streamed.strip() == first.choices[0].message.content
        messages += [first.choices[0].message.model_dump(include={"role", "content"}), messages[0]]
        second = client.chat.completions.create(messages=messages, **chat)
        cached = second.usage.prompt_tokens_details.cached_tokens
        assert cached > first.usage.prompt_tokens, second.usage
        stopped = client.chat.completions.create(messages=messages, **chat | {"max_tokens": 64}, stop=["e"])
        assert "e" not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop"
        try:
            client.completions.create(model=model, prompt="a", max_tokens=10**9)
            raise AssertionError("a billion tokens were not refused")
        except BadRequestError as refused:
            assert "max_tokens" in refused.message
        print(f"first turn {first.usage.prompt_tokens} tokens; second {second.usage.prompt_tokens}, {cached} of them not read again")
    finally:
        server.terminate()
    assert server.wait(60) == 0


if __name__ == "__main__":
    main()

"""Writes expected.json: `python expected.py` with transformers."""

import json
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

FOLDER = Path(__file__).parent

rendered = []
for case in json.loads((FOLDER / "cases.json").read_text()):
    template = _compile_jinja_template((FOLDER / case["template"]).read_text())
    for asking in (False, True):
        told = {"add_generation_prompt": asking, "bos_token": "<s>", "eos_token": "</s>"}
        rendered.append(template.render(messages=case["messages"], **told))
(FOLDER / "expected.json").write_text(json.dumps(rendered, ensure_ascii=False, indent=1) + "\n")

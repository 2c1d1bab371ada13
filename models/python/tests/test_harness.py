"""lm-eval on tasks that lie beside it, without a network."""

import json

import numpy as np
import pytest

import spillway

pytestmark = pytest.mark.harness

# Blanks are at the beginning of what follows: lm-eval takes them off the end of a context.
QUESTIONS = [
    {"question": "And God said, Let there be", "choices": [" light", " zqxj!"], "answer": 0},
    {"question": "And it came to", "choices": [" xkcd", " pass"], "answer": 1},
    {"question": "And it came to", "choices": [" pass", " pqss"], "answer": 0},
    {"question": "In the beginning God created the", "choices": [" heaven", " 9!9!9!"], "answer": 0},
]
TASKS = {
    "choices": """
task: spillway_choices
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
target_delimiter: ""
metric_list:
  - metric: acc
""",
    "perplexity": """
task: spillway_perplexity
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list:
  - metric: byte_perplexity
""",
    "continuation": """
task: spillway_continuation
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs:
  until: [","]
  max_gen_toks: 12
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
""",
}
COMMON = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    file = folder / "questions.jsonl"
    file.write_text("\n".join(json.dumps(question) for question in QUESTIONS))
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(task + COMMON.format(file=file))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
            patch.setenv(name, "1")
        patch.setenv("HF_HOME", str(folder / "cache"))
        import lm_eval
        from lm_eval.tasks import TaskManager

        from spillway.harness import SpillwayLM

        found = lm_eval.simple_evaluate(
            model=SpillwayLM(prefix_token_id=ord("\n"), mitigation="window:64"),
            tasks=[f"spillway_{name}" for name in TASKS],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
        )
    return found


def log_p(model, context, continuation):
    """By the losses of the whole, read in one go."""
    read = model.tokenizer.encode(context + continuation)
    losses = model.loss(read, mitigation="window:64").astype(np.float64)
    return -losses[len(context.encode()) - 1 :].sum()


def test_likelihoods_of_choices_are_those_of_the_model(shipped, results):
    expected = []
    for question in QUESTIONS:
        scores = [log_p(shipped, question["question"], choice) for choice in question["choices"]]
        expected.append(scores)
    samples = sorted(results["samples"]["spillway_choices"], key=lambda sample: sample["doc_id"])
    found = [[float(response[0]) for response in sample["filtered_resps"]] for sample in samples]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    right = [int(np.argmax(scores)) == question["answer"] for scores, question in zip(expected, QUESTIONS)]
    assert results["results"]["spillway_choices"]["acc,none"] == np.mean(right) > 0.5


def test_perplexity_is_that_of_the_losses(shipped, results):
    total, size = 0.0, 0
    for question in QUESTIONS:
        total -= log_p(shipped, "\n", question["question"])
        size += len(question["question"].encode())
    found = results["results"]["spillway_perplexity"]["byte_perplexity,none"]
    np.testing.assert_allclose(found, np.exp(total / size), rtol=1e-5)


def test_generations_are_greedy_and_end_where_the_task_says(shipped, results):
    samples = sorted(results["samples"]["spillway_continuation"], key=lambda sample: sample["doc_id"])
    for sample, question in zip(samples, QUESTIONS):
        expected = shipped.generate(question["question"], max_tokens=12, stop=",", mitigation="window:64").text
        assert sample["resps"] == [[expected]]


def test_it_is_found_by_name_and_takes_a_command_lines_arguments():
    from lm_eval.api.registry import get_model

    from spillway.harness import SpillwayLM

    assert get_model("spillway") is SpillwayLM
    lm = SpillwayLM.create_from_arg_string("pretrained=shipped,dtype=int8,max_length=100", {"batch_size": 1, "device": None})
    assert lm.model.info["kept_as"] == "int8"
    with pytest.raises(ValueError, match="no id ends a text; give prefix_token_id"):
        lm.prefix_token_id
    with pytest.raises(ValueError, match="window"):
        SpillwayLM(mitigation="windwo:64")


def test_likelihoods_of_a_long_continuation_and_the_greedy_flag(shipped):
    from spillway.harness import SpillwayLM

    lm = SpillwayLM(shipped)
    ids = shipped.tokenizer.encode(spillway.shipped_text()[:1500]).tolist()
    [(score, greedy)] = lm._loglikelihood_tokens([(None, ids[:10], ids[10:])], disable_tqdm=True)
    np.testing.assert_allclose(score, -shipped.loss(ids)[9:].sum(dtype=np.float64), rtol=1e-5)
    assert not greedy
    best = shipped.generate(ids[:10], max_tokens=5).ids.tolist()
    assert lm._loglikelihood_tokens([(None, ids[:10], best)], disable_tqdm=True)[0][1]

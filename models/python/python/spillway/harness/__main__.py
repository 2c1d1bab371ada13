"""`lm-eval`, with a model called `spillway`."""

from lm_eval.__main__ import cli_evaluate

cli_evaluate()

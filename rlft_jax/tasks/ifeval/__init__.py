"""IFEval: instructions whose following a rule can check (Zhou et al., 2023, arXiv:2311.07911).

Rows hold `prompt`, `instruction_id_list` (as "punctuation:no_comma") and `kwargs`, one mapping of
arguments for each instruction. The checkers are written from the definitions and give the verdicts
of the published code, except where that hangs, guesses, draws random numbers or trips over a lone
asterisk: docstrings say where. Nothing is downloaded, no model is asked, and every checker takes
time linear in the response.
"""

from rlft_jax.tasks.ifeval.instructions import CHECKERS, Instruction, instructions_of
from rlft_jax.tasks.ifeval.task import (
    SCORERS,
    TEMPLATES,
    demonstration,
    grade,
    group,
    judged,
    problem,
)
from rlft_jax.tasks.ifeval.verdicts import Verdict, variants, verdict

__all__ = [
    "CHECKERS",
    "SCORERS",
    "TEMPLATES",
    "Instruction",
    "Verdict",
    "demonstration",
    "grade",
    "group",
    "instructions_of",
    "judged",
    "problem",
    "variants",
    "verdict",
]

"""The reward that a policy has learnt without a reward model.

It is how much likelier than its reference the policy finds a response, times beta (Rafailov et al.,
2023, arXiv:2305.18290, section 4): what DPO's metrics call `rewards/chosen` and `rewards/rejected`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from rlft_jax.commands.held_out_pairs import config_of
from rlft_jax.commands.logprobs import score_examples
from rlft_jax.config.derived import needs_reference
from rlft_jax.config.settings import settings_of
from rlft_jax.data.encoding import Group
from rlft_jax.data.pairs import pair_of, prompt_key
from rlft_jax.data.preferences import encode_pairs
from rlft_jax.data.readers import Rows
from rlft_jax.data.report import Report
from rlft_jax.data.reward_rows import characters, source_of
from rlft_jax.models.qwen2 import Compute, Dtype
from rlft_jax.objectives import dpo
from rlft_jax.runs.inference import load_replicas
from rlft_jax.runs.loading import Origin, find
from rlft_jax.tasks.problem import Row


class PolicyPair(NamedTuple):
    """Two responses as a policy reads them, the better one first.

    Attributes:
        characters: Of each response.
        prompt: What pairs that are not independent have in common.
        source: Where the row says it is from.
    """

    examples: Group
    characters: tuple[int, ...]
    prompt: str
    source: str | None


class ImplicitReward(NamedTuple):
    """A policy and what it is compared with, before their weights are read.

    Attributes:
        rows: Responses scored at once.
    """

    policy: Origin
    reference: Origin
    beta: float
    rows: int
    dtype: Dtype

    @property
    def description(self) -> dict[str, Any]:
        """What scores depend on beside the policy, for JSON."""
        return {"reference": self.reference.model, "beta": self.beta}

    def pairs(
        self, rows: Rows, *, source_column: str | None = None
    ) -> tuple[list[PolicyPair], Report]:
        """Returns the pairs of rows, encoded as for DPO, and what became of all rows.

        Raises:
            ValueError: If a row is no pair, naming it.
        """
        made, reports = [], []
        most = min(o.architecture.max_positions for o in (self.policy, self.reference))
        for place in range(len(rows)):
            row = rows[place]
            groups, report = encode_pairs(
                rows[place : place + 1], self.policy.tokenizer, tokens=most
            )
            reports.append(report)
            made += [_pair(row, group, source_column) for group in groups]
        return made, Report.total(reports)

    def scores(self, pairs: Sequence[PolicyPair]) -> Float[np.ndarray, "B 2"]:
        """Returns the rewards of both responses of each pair."""
        examples = [example for pair in pairs for example in pair.examples]

        def logprobs(origin: Origin) -> np.ndarray:
            replicas = load_replicas(origin, Compute(dtype=self.dtype))
            scored = score_examples(replicas, examples, rows=self.rows)
            return np.array([logp.sum(dtype=np.float64) for logp in scored])

        ratios = logprobs(self.policy) - logprobs(self.reference)
        return self.beta * ratios.reshape(-1, 2)


def plan_implicit_reward(
    model: str,
    *,
    reference: str | None = None,
    beta: int | float | None = None,
    rows: int,
    dtype: Dtype,
) -> ImplicitReward:
    """Reads what a policy and its reference are.

    Args:
        model: The policy.
        reference: What it is compared with; of a DPO run, what it was compared with in training.
        beta: What ratios are multiplied by, likewise.
        rows: Responses to score at once.
        dtype: What to compute in.

    Raises:
        ValueError: If one of them is no policy, or they do not speak in the same tokens.
    """
    config, usual = config_of(model), settings_of(dpo.objective)["beta"].default
    if config is not None and is_dpo(config):
        usual = config["objective"]["beta"]
        if reference is None and needs_reference(config):
            reference = config["reference"] or config["model"]["path"]
    if reference is None:
        raise ValueError(
            f"--model={model} learnt without a reference. Say what to compare it with: set"
            " --reference to the model that training began with."
        )
    scale = float(usual if beta is None else beta)
    if scale <= 0:
        raise ValueError(f"--beta={beta} must be above 0.")
    made = ImplicitReward(find(model), find(reference), scale, rows, dtype)
    vocabularies = [o.tokenizer.hf.get_vocab() for o in (made.policy, made.reference)]
    if vocabularies[0] != vocabularies[1]:
        raise ValueError(
            f"--model={model} and --reference={reference} have different vocabularies, so their"
            " log-probabilities cannot be compared. Name the model that training began with."
        )
    return made


def is_dpo(config: dict[str, Any]) -> bool:
    """Whether a run's policy learnt from preferences."""
    return config["objective"]["name"] == "dpo"


def _pair(row: Row, group: Group, source_column: str | None) -> PolicyPair:
    pair = pair_of(row)
    lengths = (characters(pair.chosen), characters(pair.rejected))
    return PolicyPair(group, lengths, prompt_key(pair.prompt), source_of(row, source_column))

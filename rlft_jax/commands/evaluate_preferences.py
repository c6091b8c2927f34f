"""`rlft evaluate --task=preferences`: how often a model prefers the better of two responses."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from rlft_jax import reward_evaluation
from rlft_jax.commands.data_sets import read_named, refuse_without_effect
from rlft_jax.commands.held_out_pairs import config_of, held_out_pairs
from rlft_jax.commands.implicit_rewards import is_dpo, plan_implicit_reward
from rlft_jax.commands.outputs import outputs
from rlft_jax.commands.policies import check_seed
from rlft_jax.data.formatting import Preset, TooLong
from rlft_jax.data.readers import Rows
from rlft_jax.data.report import Report
from rlft_jax.data.reward_rows import RewardExample, pair_examples
from rlft_jax.models.qwen2 import Compute, Dtype
from rlft_jax.progress import progress, say
from rlft_jax.runs.scoring import Scorer, plan_scorer


@runtime_checkable
class Judge(Protocol):
    """What gives both responses of pairs a score; its weights are not read before it does."""

    @property
    def description(self) -> dict[str, Any]: ...
    def pairs(self, rows: Rows, *, source_column: str | None) -> tuple[Sequence[Any], Report]: ...
    def scores(self, pairs: Sequence[Any]) -> Float[np.ndarray, "B 2"]: ...


class ExplicitReward(NamedTuple):
    """A reward model."""

    scorer: Scorer

    @property
    def description(self) -> dict[str, Any]:
        """What scores depend on beside the model, for JSON."""
        return {"formatter": self.scorer.formatter.description}

    def pairs(
        self, rows: Rows, *, source_column: str | None = None
    ) -> tuple[list[RewardExample], Report]:
        """Returns the pairs of rows, as the model reads them, and what became of all rows."""
        return pair_examples(rows, self.scorer.formatter, source_column=source_column)

    def scores(self, pairs: Sequence[RewardExample]) -> Float[np.ndarray, "B 2"]:
        """Returns the scores of both responses of each pair."""
        texts = [text for pair in pairs for text in pair.texts]
        scores = self.scorer.scores(self.scorer.load())
        with progress("Scoring", len(texts), unit="responses") as advance:
            return scores(texts, advance).reshape(-1, 2)


def evaluate_preferences(
    *,
    task: Literal["preferences"],
    model: str,
    data: str | None = None,
    split: str = "test",
    subset: str | None = None,
    limit: int | None = None,
    source_column: str | None = None,
    preset: Preset | None = None,
    tokens: int | None = None,
    too_long: TooLong | None = None,
    reference: str | None = None,
    beta: int | float | None = None,
    seed: int = 0,
    batch_rows: int = 64,
    dtype: Dtype = "float32",
    out: str | None = None,
) -> None:
    """Measures how often a model prefers the better of two responses.

    The model is a reward model; or a policy, whose reward is how much likelier than a reference it
    finds a response, as DPO has it. Beside every accuracy stands that of a rule that prefers the
    longer response. Prints tables, and writes all figures with the spec of how they were measured
    if asked to. Measure on prompts that the model was not trained on.

    Args:
        task: This one.
        model: Hugging Face folder, hub name or run directory.
        data: File (.jsonl, .jsonl.gz, .parquet), folder or hub name of pairs, as for training.
            Left out, what the run that is the model held out by prompt.
        split: Which split of a folder or hub data set, or a slice such as "test[:100]". A file
            has one split, whatever its name, which can be sliced too.
        subset: Which configuration of a hub data set, where it has several.
        limit: Take the first pairs only.
        source_column: Where rows say what they are from, for figures of each source;
            `meta.subset` is a column in a column.
        preset: How a reward model reads a prompt with a response, if its folder does not say: by
            its chat template, as plain text with the names of the roles, or as a pair of
            segments. Left out, what is usual for its tokenizer.
        tokens: The most tokens that it reads, likewise; left out, as many as it can.
        too_long: Likewise, whether longer pairs are dropped, or the start of the prompt is cut.
        reference: What a policy is compared with; left out, what a DPO run compared it with.
        beta: What a policy's log-ratio to its reference is multiplied by; left out, the DPO run's,
            or else 0.1. Changes calibration, not accuracy.
        seed: Of the intervals.
        batch_rows: Responses to score at once, on all devices together; changes memory and speed
            only.
        dtype: What to compute in.
        out: The .json file to write.
    """
    if batch_rows < 1:
        raise ValueError(f"--batch_rows={batch_rows} must be at least 1.")
    check_seed(seed)
    formatting = {"preset": preset, "tokens": tokens, "too_long": too_long}
    how = {"reference": reference, "beta": beta, "rows": batch_rows, "dtype": dtype}
    judge = judge_of(model, formatting, **how)
    if data is None:
        chosen = {"split": None if split == "test" else split, "subset": subset, "limit": limit}
        refuse_without_effect(chosen, "without --data")
        rows, name = held_out_pairs(model)
    else:
        rows, name = read_named(data, split=split, subset=subset, limit=limit)
    pairs, report = judge.pairs(rows, source_column=source_column)
    left_out = {"too long": report.too_long, "equally good": report.equal}
    _say_losses(report, left_out)
    if not pairs:
        raise ValueError(f"Nothing is left of the {report.rows} pairs of {name} to measure on.")
    with outputs(out, None) as files:
        result = reward_evaluation.evaluate(
            judge.scores(pairs),
            np.array([pair.characters for pair in pairs]),
            [pair.prompt for pair in pairs],
            sources=None if source_column is None else [pair.source for pair in pairs],
            seed=seed,
            spec={
                "model": model,
                "data": name,
                **judge.description,
                "cut": report.truncated,
                "left_out": left_out,
                "dtype": dtype,
            },
        )
        files.finish(result)
    reward_evaluation.show(result)


def judge_of(
    model: str,
    formatting: Mapping[str, Any],
    *,
    reference: str | None,
    beta: int | float | None,
    rows: int,
    dtype: Dtype,
) -> Judge:
    """The reward model, or the policy with its reference, that is to be measured.

    Raises:
        ValueError: If it is neither, or a flag is given that belongs to the other.
    """
    config = config_of(model)
    if reference is not None or (config is not None and is_dpo(config)):
        refuse_without_effect(formatting, "on a policy, which reads pairs as in DPO")
        how = {"rows": rows, "dtype": dtype}
        return plan_implicit_reward(model, reference=reference, beta=beta, **how)
    why = "without --reference, which says that a policy is measured"
    refuse_without_effect({"beta": beta}, why)
    return ExplicitReward(plan_scorer(model, compute=Compute(dtype=dtype), rows=rows, **formatting))


def _say_losses(report: Report, left_out: Mapping[str, int]) -> None:
    for why, count in left_out.items():
        if count:
            say(f"{count} of {report.rows} pairs are left out: {why}.")
    if report.truncated:
        say(f"{report.truncated} of {report.rows} pairs lose the start of their prompt.")

"""The data sets that a reward model learns from and is measured on."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rlft_jax.data.encoding import Progress, each_encoded
from rlft_jax.data.formatting import Formatter
from rlft_jax.data.mixtures import Source, divide, sources
from rlft_jax.data.prompt_split import (
    SharedPrompts,
    parts_without_shared,
    prompt_of_pair,
    split_parts,
)
from rlft_jax.data.report import Report
from rlft_jax.data.reward_rows import (
    RewardExample,
    graded_examples,
    graded_prompt,
    pair_examples,
)
from rlft_jax.tasks.problem import Row

Loss = Literal["bradley_terry", "regression"]


class RewardData(NamedTuple):
    """Examples to learn from, part by part of the mixture, and examples held out.

    Attributes:
        heldout_rows: The rows behind the held-out examples, as they were read.
    """

    parts: list[list[RewardExample]]
    weights: list[int | float]
    report: Report
    heldout: list[RewardExample]
    heldout_report: Report
    heldout_rows: list[Row]


def reward_data(
    formatter: Formatter,
    loss: Loss,
    seed: int,
    progress: Progress | None = None,
    *,
    path: str = "",
    mixture: Sequence[Mapping[str, Any]] = (),
    split: str = "train",
    subset: str | None = None,
    limit: int | None = None,
    holdout: int | float = 0,
    heldout_path: str = "",
    heldout_split: str = "test",
    shared_prompts: SharedPrompts = "error",
    score_column: str = "score",
    margin_column: str | None = None,
    source_column: str | None = None,
) -> RewardData:
    """Reads and encodes what a reward model learns from: pairs, or graded texts for regression.

    Args:
        formatter: Of the reward model.
        loss: The objective's: "bradley_terry" learns from pairs, "regression" from grades.
        seed: Chooses the prompts that are held out.
        progress: Called with the rows done and the rows there are, of each data set.
        path: A JSONL (also .gz), JSON or Parquet file, a folder of them, or a name on the hub.
        mixture: Instead of `path`, several data sets: each has its `path` and `weight`, and what
            differs from the settings here.
        split: Which split of a folder or hub data set; may be a slice such as train[:1000].
        subset: Which configuration of a hub data set.
        limit: Use the first rows of each data set only.
        holdout: How many rows of each data set, or which share, are held out: all rows of a prompt
            together, so there may be a few more.
        heldout_path: Instead, a data set to evaluate on; of it `holdout` rows (0: all) are taken.
        heldout_split: Which split of it.
        shared_prompts: What happens to rows whose prompt is in the `heldout_path` too.
        score_column: For regression, where rows have their score. Pairs with score_chosen and
            score_rejected are two graded texts.
        margin_column: For Bradley-Terry, where rows say how much better the chosen response is.
        source_column: Where rows say what they are from, for figures by source.

    Raises:
        ValueError: If data cannot be read, has another format, or nothing of it is left.
    """
    everything = sources(path, mixture, split=split, subset=subset, limit=limit)
    if any(source.task or source.template for source in everything):
        raise ValueError(
            "Rows for a reward model bring their own prompts and responses: a task or template in"
            " data.mixture would have no effect. Remove it."
        )
    prompt_of = graded_prompt if loss == "regression" else prompt_of_pair
    train, heldout = divide(
        everything,
        holdout=holdout,
        heldout_path=heldout_path,
        heldout_split=heldout_split,
        seed=seed,
        split=functools.partial(split_parts, prompt_of=prompt_of),
    )
    train, shared = parts_without_shared(
        train, heldout, shared_prompts=shared_prompts, prompt_of=prompt_of
    )

    def encode(_: Source, rows: Sequence[Row]) -> tuple[list[RewardExample], Report]:
        settings = {"source_column": source_column, "progress": progress}
        if loss == "regression":
            return graded_examples(rows, formatter, score_column=score_column, **settings)
        return pair_examples(rows, formatter, margin_column=margin_column, **settings)

    parts, reports = each_encoded(train, encode)
    heldout_parts, heldout_reports = each_encoded(heldout, encode)
    return RewardData(
        parts=parts,
        weights=[source.weight for source in everything],
        report=dataclasses.replace(Report.total(reports), shared_prompts=shared),
        heldout=list(itertools.chain.from_iterable(heldout_parts)),
        heldout_report=Report.total(heldout_reports),
        heldout_rows=[row for _, rows in heldout for row in rows],
    )


def unused(loss: Loss, settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with the settings of `reward_data`: those that the chosen loss does not use."""
    idle = {"margin_column": None} if loss == "regression" else {"score_column": "score"}
    return [
        f"config.data.{name} = {settings[name]!r} has no effect with config.objective.loss ="
        f" {loss!r}; leave it at {default!r}."
        for name, default in idle.items()
        if settings[name] != default
    ]

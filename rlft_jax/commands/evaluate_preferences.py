"""`rlft evaluate --task=preferences`: how often a reward model prefers the better response."""

import json
from typing import Literal

import numpy as np

from rlft_jax import reward_evaluation
from rlft_jax.commands.data_sets import read_named
from rlft_jax.commands.policies import Dtype
from rlft_jax.data.formatting import Preset, TooLong
from rlft_jax.data.reward_rows import pair_examples
from rlft_jax.files import written_whole
from rlft_jax.models.qwen2 import Compute
from rlft_jax.progress import progress, say
from rlft_jax.runs.scoring import plan_scorer


def evaluate_preferences(
    *,
    task: Literal["preferences"],
    model: str,
    data: str,
    split: str = "test",
    subset: str | None = None,
    limit: int | None = None,
    source_column: str | None = None,
    preset: Preset | None = None,
    tokens: int | None = None,
    too_long: TooLong | None = None,
    seed: int = 0,
    batch_rows: int = 64,
    dtype: Dtype = "float32",
    out: str | None = None,
) -> None:
    """Measures how often a reward model prefers the better of two responses.

    Beside every accuracy stands that of a rule that prefers the longer response. Prints tables,
    and writes all figures with the spec of how they were measured if asked to. Measure on prompts
    that the model was not trained on.

    Args:
        task: This one.
        model: The reward model: Hugging Face folder, hub name or run directory.
        data: File (.jsonl, .jsonl.gz, .parquet), folder or hub name of pairs, as for training.
        split: Which split of a folder or hub data set, or a slice such as "test[:100]". A file
            has one split, whatever its name, which can be sliced too.
        subset: Which configuration of a hub data set, where it has several.
        limit: Take the first pairs only.
        source_column: Where rows say what they are from, for figures of each source;
            `meta.subset` is a column in a column.
        preset: How the model reads a prompt with a response, if its folder does not say: by its
            chat template, as plain text with the names of the roles, or as a pair of segments.
            Left out, what is usual for its tokenizer.
        tokens: The most tokens that it reads, likewise; left out, as many as it can.
        too_long: Likewise, whether longer pairs are dropped, or the start of the prompt is cut.
        seed: Of the intervals.
        batch_rows: Responses to score at once, on all devices together; changes memory and speed
            only.
        dtype: What to compute in.
        out: The .json file to write.
    """
    if batch_rows < 1:
        raise ValueError(f"--batch_rows={batch_rows} must be at least 1.")
    how = {"preset": preset, "tokens": tokens, "too_long": too_long}
    scorer = plan_scorer(model, compute=Compute(dtype=dtype), rows=batch_rows, **how)
    rows, source = read_named(data, split=split, subset=subset, limit=limit)
    examples, report = pair_examples(rows, scorer.formatter, source_column=source_column)
    left_out = {"too long": report.too_long, "equally good": report.equal}
    for why, count in left_out.items():
        if count:
            say(f"{count} of {report.rows} pairs are left out: {why}.")
    if report.truncated:
        say(f"{report.truncated} of {report.rows} pairs lose the start of their prompt.")
    if not examples:
        raise ValueError(f"Nothing is left of the {report.rows} pairs of {source} to measure on.")
    texts = [text for example in examples for text in example.texts]
    scores = scorer.scores(scorer.load())
    with progress("Scoring", len(texts), unit="responses") as advance:
        found = scores(texts, advance).reshape(-1, 2)
    result = reward_evaluation.evaluate(
        found,
        np.array([example.characters for example in examples]),
        [example.prompt for example in examples],
        sources=None if source_column is None else [example.source for example in examples],
        seed=seed,
        spec={
            "model": model,
            "data": source,
            "formatter": scorer.formatter.description,
            "cut": report.truncated,
            "left_out": left_out,
            "dtype": dtype,
        },
    )
    if out is not None:
        with written_whole(out) as file:
            file.write(json.dumps(result, indent=2) + "\n")
    reward_evaluation.show(result)

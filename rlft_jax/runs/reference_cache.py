"""What the reference makes of a data set, computed once and kept beside the data."""

import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from rlft_jax.batch import Example, Responses
from rlft_jax.environment import cache_folder
from rlft_jax.files import written_whole
from rlft_jax.progress import is_first_process, progress, say
from rlft_jax.rollout import Score
from rlft_jax.runs.plan import Plan
from rlft_jax.training.processes import gathered_everywhere

# Counts up when the files' content changes.
FORMAT = 1
EMPTY = Example(np.zeros(0, np.int32), np.zeros(0, bool))

Pair = tuple[Example, Example]


class ScoredPair(NamedTuple):
    """A pair of responses with the log-probabilities of their tokens under the reference."""

    examples: Pair
    reference_logprobs: tuple[Float[np.ndarray, " _"], ...]


def with_scores(plan: Plan, score: Score, reference_digest: str) -> Plan:
    """The plan with scored pairs for pairs, read from the file beside the data or written there.

    Args:
        score: Scores responses under the reference.
        reference_digest: Of the reference's parameters.

    Raises:
        ValueError: If there is a file, and it is damaged.
    """
    data = plan.data
    pairs = [pair for part in [*data.parts, data.heldout] for pair in part]
    file = folder(plan) / f"{key(pairs, reference_digest, plan)}.npz"
    # All processes read, or all compute, because they compute together.
    if gathered_everywhere(np.array([file.exists()])).all():
        say(f"The reference's log-probabilities are read from {file}.")
        scores = read(file, pairs)
    else:
        scores = computed(plan, pairs, score)
        if is_first_process():
            write(file, pairs, scores)
    scored = iter([ScoredPair(pair, found) for pair, found in zip(pairs, scores, strict=True)])
    parts = [[next(scored) for _ in part] for part in data.parts]
    return plan._replace(data=dataclasses.replace(data, parts=parts, heldout=list(scored)))


def key(pairs: Sequence[Pair], reference_digest: str, plan: Plan) -> str:
    """What scores depend on, as a name: the reference, and the ids that data and template gave."""
    known = hashlib.sha256(f"{FORMAT} {reference_digest} {plan.base.compute.dtype}".encode())
    for pair in pairs:
        for example in pair:
            known.update(np.int64(len(example.tokens)).tobytes())
            known.update(np.ascontiguousarray(example.tokens).tobytes())
            known.update(np.ascontiguousarray(example.is_response).tobytes())
    return known.hexdigest()[:32]


def folder(plan: Plan) -> Path:
    """A folder beside the data where it is a file of ours to write beside, else in the cache."""
    section = plan.config["data"]
    path = Path(section["path"] or section["mixture"][0]["path"]).expanduser().absolute()
    beside = path if path.is_dir() else path.parent
    is_local = path.exists() and os.access(beside, os.W_OK)
    return (beside / ".rlft_jax" if is_local else cache_folder()) / "reference_logprobs"


def computed(
    plan: Plan, pairs: Sequence[Pair], score: Score
) -> list[tuple[Float[np.ndarray, " _"], ...]]:
    """The scores of all pairs, each process computing its share of them."""
    process, processes = jax.process_index(), jax.process_count()
    size = plan.config["batch"]["prompts"]
    found: list[tuple[np.ndarray, ...]] = []
    with progress("Scoring with the reference", len(pairs), unit="pairs") as advance:
        for start in range(0, len(pairs), size):
            chunk = list(pairs[start : start + size])
            whole = [*chunk, *[(EMPTY, EMPTY)] * (size - len(chunk))]
            mine = Responses.of(whole[process * size // processes :][: size // processes])
            rows = np.zeros((*mine.lengths.shape, plan.config["batch"]["tokens"]), np.float32)
            rows[..., : mine.tokens.shape[-1]] = score({}, mine)
            for pair, both in zip(chunk, gathered_everywhere(rows)):
                found.append(tuple(row[: len(e.tokens)] for e, row in zip(pair, both)))
            advance(len(chunk))
    return found


def write(
    file: Path, pairs: Sequence[Pair], scores: Sequence[tuple[Float[np.ndarray, " _"], ...]]
) -> None:
    """Writes the scores of the responses' tokens; the file appears when it is whole."""
    flat = zip((e for pair in pairs for e in pair), (row for both in scores for row in both))
    values = [row[example.is_response] for example, row in flat]
    with written_whole(file, binary=True) as opened:
        np.savez(opened, logprobs=np.concatenate(values))


def read(file: Path, pairs: Sequence[Pair]) -> list[tuple[Float[np.ndarray, " _"], ...]]:
    """The inverse of `write`; tokens that are no response's get 0.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with file.open("rb") as raw, np.load(raw) as opened:
            values = opened["logprobs"]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is damaged ({error}). Delete it, and start again.") from error
    ends = np.cumsum([int(e.is_response.sum()) for pair in pairs for e in pair])
    if len(values) != ends[-1]:
        raise ValueError(
            f"{file} has {len(values)} values for {ends[-1]} tokens, so it is damaged."
            " Delete it, and start again."
        )
    parts = iter(np.split(values, ends[:-1]))

    def row(example: Example) -> np.ndarray:
        row = np.zeros(len(example.tokens), np.float32)
        row[example.is_response] = next(parts)
        return row

    return [(row(chosen), row(rejected)) for chosen, rejected in pairs]

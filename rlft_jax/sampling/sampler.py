"""Responses from prompts.

The host cuts prompts into groups of rows, lets the compiled half in `decoding` run a chunk of
tokens at a time, and looks between chunks whether every row has come to its end.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from rlft_jax.batch import bucket
from rlft_jax.models.qwen2 import Qwen2
from rlft_jax.sampling import decoding
from rlft_jax.sampling.filters import Filter, keep_min_p, keep_top_k, keep_top_p
from rlft_jax.sampling.transcripts import Completion, Transcript

# Fewer columns of a cache than this are not worth another compiled program.
FIRST_COLUMNS = 64
PROMPT_MULTIPLE = 16


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How to sample; filters apply in the order and with the meaning of `transformers`.

    Attributes:
        max_new_tokens: The most tokens of a completion.
        temperature: 0 takes the likeliest token.
        top_k: Sample among the k likeliest tokens; 0 for all.
        top_p: Sample among the likeliest tokens that together have this probability.
        min_p: Sample among tokens at least this share as likely as the likeliest.
        repetition_penalty: Divides the positive and multiplies the negative logits of tokens
            that occurred in prompt or completion.
        stop_ids: A completion ends with the first of these tokens, which belongs to it.
        stop_strings: A completion ends with the token that completes one of these in its text.
        batch_rows: Samples decoded at once, at most; changes memory and speed only.
        chunk: Tokens between two looks at who has finished; changes speed only.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    batch_rows: int = 256
    chunk: int = 16

    def __post_init__(self):
        is_filtered = self.top_k or self.top_p != 1 or self.min_p
        problems = {
            f"max_new_tokens = {self.max_new_tokens} must be at least 1.": self.max_new_tokens < 1,
            f"temperature = {self.temperature} must be at least 0.": not self.temperature >= 0,
            f"top_k = {self.top_k} must be at least 1, or 0 for all tokens.": self.top_k < 0,
            f"top_p = {self.top_p} must be above 0 and at most 1.": not 0 < self.top_p <= 1,
            f"min_p = {self.min_p} must be from 0 to 1.": not 0 <= self.min_p <= 1,
            f"repetition_penalty = {self.repetition_penalty} must be above 0.": (
                not self.repetition_penalty > 0
            ),
            f"top_k = {self.top_k}, top_p = {self.top_p} and min_p = {self.min_p} do nothing at"
            " temperature = 0. Leave them at 0, 1 and 0, or raise the temperature.": (
                self.temperature == 0 and bool(is_filtered)
            ),
            "stop_strings holds an empty string. Remove it.": "" in self.stop_strings,
            f"batch_rows = {self.batch_rows} must be at least 1.": self.batch_rows < 1,
            f"chunk = {self.chunk} must be at least 1.": self.chunk < 1,
        }
        _refuse([problem for problem, is_so in problems.items() if is_so])

    @property
    def filters(self) -> list[Filter]:
        """The filters that are switched on, in order."""
        chosen = [
            functools.partial(keep_top_k, k=self.top_k) if self.top_k else None,
            functools.partial(keep_top_p, p=self.top_p) if self.top_p < 1 else None,
            functools.partial(keep_min_p, p=self.min_p) if self.min_p else None,
        ]
        return [keep for keep in chosen if keep is not None]

    @property
    def steps(self) -> int:
        """Tokens of a chunk, evened out so that the last chunk has little to spare."""
        chunks = -(-self.max_new_tokens // self.chunk)
        return -(-self.max_new_tokens // chunks)


class Sampler:
    """Samples with one model and one way of sampling; keeps what was compiled.

    A request's randomness depends on the seed, the request's number, the number of the sample
    and of the token alone: not on what shares its batch, nor on `batch_rows`, `chunk` or `mesh`.

    Args:
        graph: Structure of the model.
        settings: How to sample.
        decode: Turns tokens into text; needed for stop strings only.
        filters: More filters on logits, after those of the settings.
        mesh: Devices of this process to share rows, over all axes; each gets all weights.

    Attributes:
        decode_steps: Tokens decoded so far in every row, over all calls.
    """

    def __init__(
        self,
        graph: nnx.GraphDef,
        settings: SamplingSettings,
        *,
        decode: Callable[[Sequence[int]], str] | None = None,
        filters: Sequence[Filter] = (),
        mesh: Mesh | None = None,
    ):
        if settings.stop_strings and decode is None:
            _refuse([f"stop_strings = {settings.stop_strings} need `decode` to look for them."])
        self.settings, self.decode_steps = settings, 0
        self._graph, self._mesh = graph, mesh
        self._transcript = functools.partial(
            Transcript,
            max_new_tokens=settings.max_new_tokens,
            stop_ids=settings.stop_ids,
            stop_strings=settings.stop_strings,
            decode=decode,
        )
        place = lambda *axes: None if mesh is None else NamedSharding(mesh, PartitionSpec(*axes))
        self._rows = place(mesh.axis_names) if mesh else None
        self._weights = jax.jit(
            functools.partial(decoding.decode_weights, graph=graph), out_shardings=place()
        )
        self._prefill = jax.jit(
            functools.partial(
                decoding.prefill, graph=graph, with_seen=settings.repetition_penalty != 1
            ),
            static_argnames=("samples", "columns"),
            out_shardings=self._rows,
        )
        self._widened = jax.jit(
            decoding.widened, static_argnames="columns", out_shardings=self._rows
        )
        self._decode = jax.jit(
            functools.partial(
                decoding.decode,
                graph=graph,
                steps=settings.steps,
                temperature=settings.temperature,
                repetition_penalty=settings.repetition_penalty,
                filters=[*settings.filters, *filters],
            ),
            donate_argnames="state",
            out_shardings=self._rows,
        )

    def __call__(
        self,
        params: PyTree,
        prompts: Sequence[Sequence[int]],
        *,
        samples: int = 1,
        seed: int = 0,
        requests: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """Returns `samples` completions of every prompt.

        Args:
            params: Parameters of the model, a pure dict.
            requests: A number below 2**32 for every prompt, for its randomness; its place if
                left out. Equal numbers give equal prompts equal samples.

        Raises:
            ValueError: If a prompt is empty or leaves no room for `max_new_tokens`.
        """
        requests = range(len(prompts)) if requests is None else requests
        self._check(params, prompts, samples, seed, requests)
        if not prompts:
            return []
        weights = self._weights(params)
        groups = -(-len(prompts) * samples // self.settings.batch_rows)
        shards = 1 if self._mesh is None else self._mesh.size
        completions: list[list[Completion]] = [[] for _ in prompts]
        # Like lengths share a group, for little padding; all groups share a size.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        size = -(-len(prompts) // groups)
        for start in range(0, len(prompts), size):
            chosen = order[start : start + size]
            prefix, state = self._prefill(
                params,
                *self._padded(
                    [prompts[i] for i in chosen],
                    [requests[i] for i in chosen],
                    bucket(size, shards),
                ),
                np.uint32(seed),
                samples=samples,
                columns=self._columns(self.settings.steps),
            )
            transcript = self._transcript(len(chosen), samples)
            self._run(weights, prefix, state, transcript)
            for i, group in zip(chosen, transcript.completions(), strict=True):
                completions[i] = group
        return completions

    def _run(
        self,
        weights: decoding.Weights,
        prefix: decoding.Prefix,
        state: decoding.State,
        transcript: Transcript,
    ) -> None:
        """Decodes until all rows of a transcript have ended."""
        steps = self.settings.steps
        for start in range(0, self.settings.max_new_tokens, steps):
            if start + steps > state.keys[0].shape[-1]:
                state = self._widened(state, columns=self._columns(start + steps))
            state, *outputs = self._decode(weights, prefix, state, np.int32(start))
            self.decode_steps += steps
            transcript.extend(*jax.device_get(outputs))
            if transcript.is_complete:
                return

    def _columns(self, tokens: int) -> int:
        """Columns of a cache for so many tokens: doubled when full, never beyond the last chunk."""
        s = self.settings
        columns = -(-FIRST_COLUMNS // s.steps) * s.steps
        while columns < tokens:
            columns *= 2
        return min(columns, -(-s.max_new_tokens // s.steps) * s.steps)

    def _padded(
        self, prompts: list[Sequence[int]], requests: list[int], size: int
    ) -> list[jax.Array | np.ndarray]:
        """Tokens, lengths and requests; prompts of no tokens fill the group up to its size."""
        lengths = np.zeros(size, np.int32)
        lengths[: len(prompts)] = [len(prompt) for prompt in prompts]
        tokens = np.zeros((size, bucket(int(lengths.max()), PROMPT_MULTIPLE)), np.int32)
        for row, prompt in zip(tokens, prompts):
            row[len(row) - len(prompt) :] = prompt
        numbers = np.zeros(size, np.uint32)
        numbers[: len(requests)] = requests
        arrays = [tokens, lengths, numbers]
        return arrays if self._rows is None else jax.device_put(arrays, self._rows)

    def _check(
        self,
        params: PyTree,
        prompts: Sequence[Sequence[int]],
        samples: int,
        seed: int,
        requests: Sequence[int],
    ) -> None:
        model: Qwen2 = nnx.merge(self._graph, params)
        a, s, problems = model.architecture, self.settings, []
        if samples < 1 or samples > s.batch_rows:
            problems.append(
                f"samples = {samples} of a prompt must be from 1 to batch_rows = {s.batch_rows},"
                " as they share a batch. Raise batch_rows."
            )
        if len(requests) != len(prompts):
            problems.append(f"{len(requests)} requests do not number {len(prompts)} prompts.")
        if not all(0 <= number < 2**32 for number in (seed, *requests)):
            problems.append("A seed or request is not from 0 to 2**32 - 1. Choose smaller numbers.")
        for i, prompt in enumerate(prompts):
            if len(prompt) == 0:
                problems.append(f"Prompt {i} is empty. Give it a token to start from.")
            elif len(prompt) + s.max_new_tokens > a.max_positions:
                problems.append(
                    f"Prompt {i} of {len(prompt)} tokens and max_new_tokens ="
                    f" {s.max_new_tokens} exceed the model's {a.max_positions} positions."
                    " Shorten the prompt, or lower max_new_tokens."
                )
            elif min(prompt) < 0 or max(prompt) >= a.vocabulary:
                problems.append(
                    f"Prompt {i} has tokens from {min(prompt)} to {max(prompt)}, but the model"
                    f" knows 0 to {a.vocabulary - 1}. Encode it with the model's tokenizer."
                )
        _refuse(problems)


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise ValueError("This cannot be sampled:\n- " + "\n- ".join(problems))

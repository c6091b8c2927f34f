"""Responses from prompts.

The host keeps a queue of samples and a table of rows. It decodes a chunk of tokens at a time, and
between chunks the rows of samples that came to their end go to those that wait, so that one long
completion holds up nobody.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import PyTree

from rlft_jax.models.qwen2 import Qwen2
from rlft_jax.packing import bucket
from rlft_jax.sampling.decoding import Prompts
from rlft_jax.sampling.filters import Filter
from rlft_jax.sampling.programs import programs
from rlft_jax.sampling.settings import SamplingSettings, refuse
from rlft_jax.sampling.table import Table, Waiting
from rlft_jax.sampling.transcripts import Completion, Transcript

PROMPT_MULTIPLE = 16
# About the most tokens of prompts that are read at once: what reads them needs memory.
PREFILL_TOKENS = 1 << 16


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
        decode_steps: Decode steps so far, over all calls.
        decoded_tokens: Tokens decoded so far, in all rows of all steps.
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
            refuse([f"stop_strings = {settings.stop_strings} need `decode` to look for them."])
        self.settings, self.decode_steps, self.decoded_tokens = settings, 0, 0
        self._graph, self._shards = graph, 1 if mesh is None else mesh.size
        self._transcript = functools.partial(
            Transcript,
            max_new_tokens=settings.max_new_tokens,
            stop_ids=settings.stop_ids,
            stop_strings=settings.stop_strings,
            decode=decode,
        )
        self._programs = programs(graph, settings, filters=filters, mesh=mesh)

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
        weights = self._programs.weights(params)
        transcript = self._transcript(len(prompts) * samples)
        table = self._table(prompts, samples)

        def decode() -> None:
            said = table.decode(weights)
            table.release(said.samples[transcript.extend(*said)])
            self.decode_steps += self.settings.steps
            self.decoded_tokens += self.settings.steps * len(table)

        for chosen, block in self._blocks(params, prompts, len(table) // samples):
            waiting = [
                Waiting(i * samples + g, source, len(prompts[i]), requests[i], g)
                for source, i in enumerate(chosen)
                for g in range(samples)
            ]
            while waiting:
                while not table.free:
                    decode()
                entering, waiting = waiting[: table.free], waiting[table.free :]
                table.admit(block, entering, seed)
        while table.free < len(table):
            table.shrink()
            decode()
        made = transcript.completions()
        return [made[start : start + samples] for start in range(0, len(made), samples)]

    def _table(self, prompts: Sequence[Sequence[int]], samples: int) -> Table:
        """A table for samples of prompts."""
        s = self.settings
        longest = bucket(max(map(len, prompts)), PROMPT_MULTIPLE)
        return Table(
            self._programs,
            rows=min(len(prompts) * samples, s.batch_rows),
            columns=longest + -(-s.max_new_tokens // s.steps) * s.steps,
            shards=self._shards,
            steps=s.steps,
        )

    def _blocks(
        self, params: PyTree, prompts: Sequence[Sequence[int]], most: int
    ) -> Iterator[tuple[list[int], Prompts]]:
        """Prompts, read so many at once at most: which they are, and what was read."""
        longest = max(map(len, prompts))
        most = max(min(most, PREFILL_TOKENS // longest), 1)
        # All blocks share a size; like lengths share a block, for little padding.
        size = -(-len(prompts) // -(-len(prompts) // most))
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            arrays = self._padded([prompts[i] for i in chosen], bucket(size, self._shards))
            yield chosen, self._programs.prefill(params, *self._programs.place(arrays))

    def _padded(self, prompts: list[Sequence[int]], size: int) -> list[np.ndarray]:
        """Tokens and lengths; prompts of no tokens fill the block up to its size."""
        lengths = np.zeros(size, np.int32)
        lengths[: len(prompts)] = [len(prompt) for prompt in prompts]
        tokens = np.zeros((size, bucket(int(lengths.max()), PROMPT_MULTIPLE)), np.int32)
        for row, prompt in zip(tokens, prompts):
            row[: len(prompt)] = prompt
        return [tokens, lengths]

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
        if samples < 1:
            problems.append(f"samples = {samples} of a prompt must be at least 1.")
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
        refuse(problems)

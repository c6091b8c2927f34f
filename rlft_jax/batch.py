"""The data that training sees: responses, padded on the host and packed for the devices.

Responses are made, scored and selected padded, `[B, G, T]`. `pack` lays them into the rows of a
`Batch`, `[M, R, T]`: M micro-batches of R rows. A response never spans rows, and all responses to
a prompt share a micro-batch. Padded is the special case of one response a row.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlft_jax.packing import Packing, shared_start


class Example(NamedTuple):
    """One prompt and response as ids, with True at the tokens that the policy answers for."""

    tokens: Int[np.ndarray, " T"]
    is_response: Bool[np.ndarray, " T"]


class Responses(NamedTuple):
    """G responses to each of B prompts, on the host, padded on the right.

    Entry `t` of every per-token field is about token `t` itself, so nothing is ever shifted.
    Log-probabilities are in nats, of token `t` given those before it.

    Attributes:
        lengths: Tokens of prompt and response together; 0 where there is no response.
        rewards: One per response.
        advantages: How much to reinforce each token.
        sampled_logprobs: As the sampler recorded them.
        old_logprobs: Under the policy before the first update, or as the sampler recorded them.
        reference_logprobs: Under the frozen reference policy.
    """

    tokens: Int[np.ndarray, "B G T"]
    is_response: Bool[np.ndarray, "B G T"]
    lengths: Int[np.ndarray, "B G"]
    rewards: Float[np.ndarray, "B G"] | None = None
    advantages: Float[np.ndarray, "B G T"] | None = None
    sampled_logprobs: Float[np.ndarray, "B G T"] | None = None
    old_logprobs: Float[np.ndarray, "B G T"] | None = None
    reference_logprobs: Float[np.ndarray, "B G T"] | None = None

    @property
    def shared(self) -> Int[np.ndarray, " B"]:
        """Leading tokens of all responses to a prompt that may be computed once for all."""
        return shared_start(self.tokens, self.lengths, ~self.is_response)

    @classmethod
    def of(cls, groups: Sequence[Sequence[Example]]) -> "Responses":
        """Pads groups of examples, one group per prompt, all of one size G."""
        B, G = len(groups), len(groups[0])
        lengths = np.array([[len(e.tokens) for e in group] for group in groups], np.int32)
        T = int(lengths.max())
        tokens, is_response = np.zeros((B, G, T), np.int32), np.zeros((B, G, T), bool)
        for b, group in enumerate(groups):
            for g, example in enumerate(group):
                tokens[b, g, : lengths[b, g]] = example.tokens
                is_response[b, g, : lengths[b, g]] = example.is_response
        return cls(tokens, is_response, lengths)


PER_TOKEN = ("advantages", "sampled_logprobs", "old_logprobs", "reference_logprobs")


class Batch(NamedTuple):
    """What one optimiser step sees: M micro-batches of R rows of T tokens.

    The train step takes one micro-batch after another, so objectives see these fields without
    their first axis.

    Attributes:
        tokens: Prompt and response ids.
        segments: Which response of its micro-batch a token belongs to, counted from 1 in the
            order of `is_real`; 0 is padding.
        positions: Place of each token in its response, its prompt included, from 0. Those of a
            response whose prompt is with another one do not begin at 0.
        is_response: True at the tokens that the policy has to answer for.
        is_real: False where a prompt or response is filled in to make shapes even.
        starts: Where each response of a row begins, and its padding; T where there are no more.
            Only where a kernel has to know.
        prompt_starts: Where in its row a token's prompt begins: elsewhere than the response, if
            another one has the prompt. Only where responses share prompts.
    """

    tokens: Int[Array, "*M R T"]
    segments: Int[Array, "*M R T"]
    positions: Int[Array, "*M R T"]
    is_response: Bool[Array, "*M R T"]
    is_real: Bool[Array, "*M P G"]
    starts: Int[Array, "*M R S"] | None = None
    prompt_starts: Int[Array, "*M R T"] | None = None
    rewards: Float[Array, "*M P G"] | None = None
    advantages: Float[Array, "*M R T"] | None = None
    sampled_logprobs: Float[Array, "*M R T"] | None = None
    old_logprobs: Float[Array, "*M R T"] | None = None
    reference_logprobs: Float[Array, "*M R T"] | None = None

    def require(self, field: str) -> Array:
        """Returns an optional field, or says which setting would have added it."""
        value = getattr(self, field)
        if value is None:
            raise ValueError(
                f"This objective needs `batch.{field}`, but the batch has none. {_ADDED_BY[field]}"
            )
        return value

    def per_response(self, values: Float[Array, "R T"]) -> Float[Array, "P G"]:
        """Sums of a per-token value over the tokens of each response."""
        P, G = self.is_real.shape
        sums = jax.ops.segment_sum(values.ravel(), self.segments.ravel(), P * G + 1)
        return sums[1:].reshape(P, G)

    def per_token(self, values: Float[Array, "P G"]) -> Float[Array, "R T"]:
        """Gives every token the value of its response; padding gets 0."""
        return jnp.pad(values.ravel(), (1, 0))[self.segments]


_ADDED_BY = {
    "rewards": "Rewards come from a rollout; set config.rollout.",
    "advantages": "Advantages come from a rollout; set config.rollout.",
    "sampled_logprobs": "The sampler records them; set config.rollout.",
    "old_logprobs": "Several updates per rollout need them; set config.rollout.",
    "reference_logprobs": "Set config.reference to the checkpoint to score with.",
}


def pack(responses: Responses, packing: Packing) -> Batch:
    """Lays responses into the rows of a batch, as `packing` says; the result is on the host."""
    per_token = {name: getattr(responses, name) for name in PER_TOKEN}
    # NumPy's arrays stand in for the devices' until somebody puts them there.
    fields: dict[str, Any] = {
        "tokens": packing.lay(responses.tokens),
        "segments": packing.segments,
        "positions": packing.positions,
        "is_response": packing.lay(responses.is_response),
        "is_real": packing.deal(responses.lengths > 0),
        "starts": packing.starts if packing.most else None,
        "prompt_starts": packing.prompt_starts if packing.shares else None,
        "rewards": None if responses.rewards is None else packing.deal(responses.rewards),
        **{name: None if x is None else packing.lay(x) for name, x in per_token.items()},
    }
    return Batch(**fields)

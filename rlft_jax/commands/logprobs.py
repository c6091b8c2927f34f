"""`rlft logprobs`: what a model thinks of given completions, token by token."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rlft_jax.batch import Example, Responses
from rlft_jax.commands.requests import encode_requests, line_of, read_requests
from rlft_jax.files import written_whole
from rlft_jax.models.qwen2 import Compute, Dtype
from rlft_jax.progress import progress
from rlft_jax.runs.inference import Replicas, load_replicas, policy_score
from rlft_jax.runs.loading import find
from rlft_jax.training.feeding import Feed


def logprobs(
    *,
    model: str,
    data: str,
    out: str,
    batch_rows: int = 16,
    dtype: Dtype = "float32",
) -> None:
    """Scores the completions of a file, token by token.

    Each line of the file is {"prompt": text, "completion": text}, or has "messages" in place of
    the prompt. The same lines are written, in the same order, with "logprobs", the natural
    logarithms of the probabilities of the completion's tokens at temperature 1, and "token_ids",
    those tokens. Prompt and completion are encoded apart, as when sampling. No token that ends a
    text is added: one that is written in the completion is scored.

    Args:
        model: Hugging Face folder, hub name or run directory.
        data: The .jsonl or .jsonl.gz file of prompts and completions.
        out: The .jsonl file to write; it appears when it is complete.
        batch_rows: Completions to score at once, on all devices together; changes memory and
            speed only.
        dtype: What to compute in.
    """
    requests = read_requests(data, with_completion=True)
    if batch_rows < 1:
        raise ValueError(f"--batch_rows={batch_rows} must be at least 1.")
    origin = find(model)
    completions = origin.tokenizer.encode_batch([r.row["completion"] for r in requests])
    prompts = encode_requests(
        data,
        requests,
        origin.tokenizer,
        positions=origin.architecture.max_positions,
        following=list(map(len, completions)),
    )
    with written_whole(out) as file:
        replicas = load_replicas(origin, Compute(dtype=dtype))
        examples = list(map(_example, prompts, completions))
        scored = score_examples(replicas, examples, rows=batch_rows)
        for request, ids, logp in zip(requests, completions, scored, strict=True):
            added = {"logprobs": logp.tolist(), "token_ids": ids}
            file.write(line_of({**request.row, **added}))


def score_examples(
    replicas: Replicas, examples: Sequence[Example], *, rows: int
) -> list[Float[np.ndarray, " t"]]:
    """Returns the log-probabilities of each example's response tokens, in order."""
    policy, mesh = replicas
    feed = Feed(mesh, tokens=policy.origin.architecture.max_positions, packed=False)
    score = policy_score(policy.graph, {}, feed)
    scored: list[np.ndarray] = [np.zeros(0, np.float32)] * len(examples)
    # Like lengths share a batch, for little padding; the longest come first, so that what does
    # not fit into memory shows at once.
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i].tokens))
    with progress("Scoring", len(examples), unit="completions") as advance:
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            responses = Responses.of([[examples[i]] for i in chosen])
            logps = score(policy.params, responses)[:, 0]
            for i, logp, is_response in zip(chosen, logps, responses.is_response[:, 0]):
                scored[i] = logp[is_response]
            advance(len(chosen))
    return scored


def _example(prompt: list[int], completion: list[int]) -> Example:
    tokens = np.array([*prompt, *completion], np.int32)
    return Example(tokens, np.arange(len(tokens)) >= len(prompt))

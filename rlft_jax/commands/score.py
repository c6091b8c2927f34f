"""`rlft score`: what a reward model thinks of given completions."""

from rlft_jax.commands.requests import format_requests, line_of, read_requests
from rlft_jax.data.formatting import Preset, TooLong
from rlft_jax.files import written_whole
from rlft_jax.models.qwen2 import Compute, Dtype
from rlft_jax.progress import progress, say
from rlft_jax.runs.scoring import plan_scorer


def score(
    *,
    model: str,
    data: str,
    out: str,
    preset: Preset | None = None,
    tokens: int | None = None,
    too_long: TooLong | None = None,
    batch_rows: int = 64,
    dtype: Dtype = "float32",
) -> None:
    """Scores the completions of a file with a reward model.

    Each line of the file is {"prompt": text, "completion": text}, or has "messages" in place of
    the prompt. The same lines are written, in the same order, with "score". A reward model that
    was trained here reads them as it did in training; of others the folder does not say how.

    Args:
        model: The reward model: Hugging Face folder, hub name or run directory.
        data: The .jsonl or .jsonl.gz file of prompts and completions.
        out: The .jsonl file to write; it appears when it is complete.
        preset: How the model reads a prompt with a completion, if its folder does not say: by its
            chat template, as plain text with the names of the roles, or as a pair of segments.
            Left out, what is usual for its tokenizer.
        tokens: The most tokens that it reads, likewise; left out, as many as it can.
        too_long: Likewise, what happens to longer ones: the start of the prompt is cut, or they
            are an error because the model was trained to drop them.
        batch_rows: Completions to score at once, on all devices together; changes memory and
            speed only.
        dtype: What to compute in.
    """
    requests = read_requests(data, with_completion=True)
    if batch_rows < 1:
        raise ValueError(f"--batch_rows={batch_rows} must be at least 1.")
    how = {"preset": preset, "tokens": tokens, "too_long": too_long}
    scorer = plan_scorer(model, compute=Compute(dtype=dtype), rows=batch_rows, **how)
    # All that can be wrong with the requests is known before the weights are loaded.
    made = format_requests(data, requests, scorer.formatter)
    cut = sum(one.is_cut for one in made)
    if cut:
        tokens = scorer.formatter.tokens
        say(f"{cut} of {len(made)} prompts lose their start to fit {tokens} tokens.")
    texts = [one.text for one in made if one.text is not None]
    with written_whole(out) as file:
        scores = scorer.scores(scorer.load())
        with progress("Scoring", len(texts), unit="completions") as advance:
            found = scores(texts, advance)
        for request, value in zip(requests, found.tolist(), strict=True):
            file.write(line_of({**request.row, "score": value}))

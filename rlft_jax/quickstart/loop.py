"""The whole loop in minutes: a tiny model learns Countdown by SFT, then by RLOO."""

import functools
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from rlft_jax import evaluate
from rlft_jax.config.schema import resolved
from rlft_jax.data.problems import encode_problem
from rlft_jax.data.tiny_tokenizer import save_tiny_tokenizer
from rlft_jax.data.tokenizer import stop_ids
from rlft_jax.files import written_whole
from rlft_jax.models import convert
from rlft_jax.models.new_folder import new_folder
from rlft_jax.models.qwen2 import Architecture, Compute, Qwen2
from rlft_jax.runs import experiment, exporting, inference, loading
from rlft_jax.sampling.settings import SamplingSettings
from rlft_jax.tasks import countdown
from rlft_jax.training.run_directory import versions

TASK = dict(task="countdown", template="plain")
SIZES: dict[str, Any] = dict(numbers=(3,), largest=20, targets=(10, 99))
EXAMPLES, PRACTICE, HELDOUT, SAMPLES = 20_000, 5_500, 512, 8
TOKENS, MAX_NEW_TOKENS = 32, 24
# Numbers of two digits and the tags of an answer are one token each: sums become a table to learn.
WORDS = [*map(str, range(10, 100)), countdown.OPEN, countdown.CLOSE]
VOCABULARY = 272


def sft_config(folder: Path, seed: int) -> ConfigDict:
    """Imitation of worked derivations."""
    return ConfigDict(
        dict(
            seed=seed,
            steps=950,
            model=dict(path=str(folder / "base"), unroll=0),
            data=dict(path=str(folder / "data/train.jsonl"), **TASK),
            objective=dict(name="sft"),
            optimizer=dict(name="adamw", learning_rate=3e-3, warmup_steps=20, weight_decay=0.01),
            batch=dict(prompts=64, tokens=TOKENS, packed=False),
            every=dict(log=10, save=100),
        )
    )


def rloo_config(folder: Path, seed: int) -> ConfigDict:
    """Reinforcement of what the verifier finds right, from the SFT model on."""
    return ConfigDict(
        dict(
            seed=seed,
            steps=900,
            model=dict(path=str(folder / "sft"), unroll=0),
            data=dict(path=str(folder / "data/practice.jsonl"), **TASK),
            rollout=dict(responses=8),
            # Above 1, groups stay different for longer: equal ones teach nothing.
            sampling=dict(max_new_tokens=MAX_NEW_TOKENS, temperature=1.15, batch_rows=512),
            selection=dict(name="informative", share=0.25),
            objective=dict(name="rloo", ratio="token", aggregation="token"),
            optimizer=dict(name="adamw", learning_rate=5e-4, schedule="linear", warmup_steps=20),
            batch=dict(prompts=64, tokens=TOKENS, packed=False),
            every=dict(log=5, save=50, samples=100),
        )
    )


def quickstart(folder: Path, seed: int) -> dict[str, Any]:
    """Runs what of the loop has not been run yet in `folder`; returns the summary."""
    stage = Stages(folder, seed)
    stage.run("data", lambda: make_data(folder / "data", seed))
    stage.run("base", lambda: make_base(folder, seed))
    stage.run("sft", lambda: experiment.run(resolved(sft_config(folder, seed)), folder / "sft"))
    stage.run("sft_evaluation", lambda: measure(folder, "sft", seed))
    stage.run("rloo", lambda: experiment.run(resolved(rloo_config(folder, seed)), folder / "rloo"))
    stage.run("rloo_evaluation", lambda: measure(folder, "rloo", seed))
    stage.run("export", lambda: export(folder))
    return summarize(folder, seed, stage.seconds)


class Stages:
    """Runs each stage once, however often the whole is started, and keeps the time it took.

    Raises:
        ValueError: If the folder holds something else, or the stages of another seed.
    """

    def __init__(self, folder: Path, seed: int):
        self._file = folder / "stages.json"
        self.seconds: dict[str, float] = {}
        self._seed, self._done = seed, []
        theirs = [name for name in ("data", "base", "export") if (folder / name).exists()]
        if theirs and not self._file.exists():
            raise ValueError(
                f"{folder} is no quickstart of ours, and holds {' and '.join(theirs)}. Choose"
                " another --workdir."
            )
        if self._file.exists():
            kept = json.loads(self._file.read_text())
            self.seconds, self._done = kept["seconds"], kept["done"]
            if kept["seed"] != seed:
                raise ValueError(
                    f"{folder} holds a quickstart of --seed={kept['seed']}, not {seed}."
                    " Choose another --workdir."
                )
        self._write()

    def run(self, name: str, act: Callable[[], object]) -> None:
        """Does a stage that is not done. The time of one that was stopped counts, if it could."""
        if name in self._done:
            return
        start = time.monotonic()
        try:
            act()
            self._done.append(name)
        finally:
            before = self.seconds.get(name, 0.0)
            self.seconds[name] = round(before + time.monotonic() - start, 2)
            self._write()

    def _write(self) -> None:
        with written_whole(self._file) as file:
            kept = {"seed": self._seed, "seconds": self.seconds, "done": self._done}
            json.dump(kept, file)


def make_data(folder: Path, seed: int) -> None:
    """Writes problems: to imitate solutions of, to practise on, and to evaluate on.

    No problem is in two of the sets. Practice on what SFT has shown the solutions of would
    teach little: the model knows them by heart. Numbers to practise on come in every order, so
    that none of these prompts is learned by heart either.
    """
    generate = functools.partial(countdown.generate, **SIZES)
    heldout = generate(seed=3 * seed, count=HELDOUT, unique=True)
    practice = generate(seed=3 * seed + 1, count=PRACTICE, unique=True, exclude=heldout)
    train = generate(seed=3 * seed + 2, count=EXAMPLES, exclude=[*heldout, *practice])
    practice = [
        {**row, "nums": nums}
        for row in practice
        for nums in sorted(set(itertools.permutations(row["nums"])))
    ]
    with new_folder(folder, replace=True) as new:
        for name, rows in (("train", train), ("practice", practice), ("heldout", heldout)):
            lines = [json.dumps(row) + "\n" for row in rows]
            (new / f"{name}.jsonl").write_text("".join(lines))


def make_base(folder: Path, seed: int) -> None:
    """Writes a fresh model and its tokenizer as a Hugging Face folder."""
    rows = [json.loads(line) for line in read(folder, "train")[:1000]]
    posed = [countdown.problem(row, template="plain").prompt for row in rows]
    solved = [countdown.demonstration(row, template="plain") for row in rows]
    with new_folder(folder / "base", replace=True) as new:
        save_tiny_tokenizer([*map(str, posed), *solved], new, size=VOCABULARY, words=WORDS)
        words = loading.load_tokenizer(new)
        architecture = Architecture(
            vocabulary=-(-words.vocab_size // 16) * 16,
            width=64,
            layers=3,
            heads=4,
            kv_heads=2,
            head_width=16,
            feed_forward=256,
            rope_theta=10_000.0,
            max_positions=128,
        )
        model = Qwen2(architecture, rngs=nnx.Rngs(jax.random.key(seed)))
        params = nnx.to_pure_dict(nnx.split(model)[1])
        ends = stop_ids(words)
        convert.save(new, params, architecture, dtype="float32", stop_ids=ends, pad_id=words.pad_id)


def read(folder: Path, name: str) -> list[str]:
    """The lines of a data file."""
    return (folder / f"data/{name}.jsonl").read_text().splitlines()


def measure(folder: Path, name: str, seed: int) -> None:
    """Evaluates a run on the held-out problems."""
    replicas = inference.load_replicas(str(folder / name), Compute(unroll=0))
    tokenizer = replicas.policy.origin.tokenizer
    settings = SamplingSettings(max_new_tokens=MAX_NEW_TOKENS, batch_rows=2048)
    problems = [
        countdown.problem(json.loads(line), template="plain") for line in read(folder, "heldout")
    ]
    prompts = [encode_problem(problem, tokenizer) for problem in problems]
    spec = {"model": name, "temperature": 1.0, "max_new_tokens": MAX_NEW_TOKENS, **TASK, **SIZES}
    result = evaluate.evaluate(
        problems,
        task="countdown",
        sample=inference.sample_from(replicas, prompts, settings, samples=SAMPLES, seed=seed),
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        samples=SAMPLES,
        seed=seed,
        spec=spec,
        chunk=256,
        shown=12,
        description=f"Evaluating {name}",
    )
    with written_whole(folder / f"{name}_evaluation.json") as file:
        json.dump(result, file, indent=1)


def export(folder: Path) -> None:
    """Writes the last model as a Hugging Face folder."""
    with new_folder(folder / "export", replace=True) as new:
        exporting.write(str(folder / "rloo"), new, dtype="float32")


def summarize(folder: Path, seed: int, seconds: dict[str, float]) -> dict[str, Any]:
    """Writes and returns every figure of the whole."""
    results = {
        name: json.loads((folder / f"{name}_evaluation.json").read_text())
        for name in ("sft", "rloo")
    }
    summary = {
        name: {
            "pass_at_1": result["pass_at_k"]["1"]["value"],
            "best_of_8": result["best_of_n"]["verifier"]["8"]["value"],
            **result,
        }
        for name, result in results.items()
    }
    summary |= {
        "seed": seed,
        "seconds": {**seconds, "total": round(sum(seconds.values()), 2)},
        "versions": versions(),
    }
    with written_whole(folder / "summary.json") as file:
        json.dump(summary, file, indent=1)
    return summary

r"""Times a peer's training and ours in turn, pair by pair, and prints the ratio of their rates.

    python tests/benchmarks/against_peers.py --what=sft --peer=trl --peer_python=TRL/bin/python
    ... --what=sft --ours=--config.model.dtype=bfloat16
    ... --what=sft --data=train.jsonl.gz --tokens=512
    ... --what=rloo --batch=16 --responses=8 --new=128 --mean_length=30 --row=1024 \
        --steps=3 --pairs=1 --ours=--config.batch.micro_batches=4
    ... --what=decode --peer=transformers --shape=qwen2.5-0.5b --batch=16 --new=32 \
        --steps=2 --ours=--config.sampling.dtype=bfloat16

Both learn from the same files: those of `rlft bench` without a config, or, with --data, a tokenizer
of the texts in a JSONL file and their rows of prompt and completion, question and answer, or
instruction and output. Peers run with their defaults. Busy machines slow torch down more than ours,
so pairs are told apart by how much others worked meanwhile. Nothing here is part of the tests.
"""

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.optimize import brentq
from scipy.special import expit, logsumexp

from rlft_jax.bench import workloads
from rlft_jax.data.row_forms import demonstration
from rlft_jax.data.tokenizer import stop_ids
from rlft_jax.models import convert
from rlft_jax.models.qwen2 import Compute
from rlft_jax.runs import loading

RATES = {
    "sft": "loss_tokens_per_second",
    "dpo": "samples_per_second",
    "reward": "samples_per_second",
    "rloo": "new_tokens_per_second",
    "decode": "new_tokens_per_second",
}
CONFIG = """\
from pathlib import Path
from rlft_jax.bench import workloads

def get_config():
    config = workloads.config({what!r}, Path({folder!r}))
    config.update({changes!r})
    return config
"""
# More work of others than this makes a pair tell little.
QUIET = 0.1
RLFT = [sys.executable, "-c", "from rlft_jax.main import run; raise SystemExit(run())"]


def rows_of(file: Path) -> list[dict[str, str]]:
    """Prompts and completions of a JSONL file."""
    stored = file.read_bytes()
    text = gzip.decompress(stored) if file.suffix == ".gz" else stored
    rows = [json.loads(line) for line in text.splitlines()]  # of bytes: at line feeds alone
    named = [
        {"prompt": row["question"], "completion": row["answer"]} if "question" in row else row
        for row in rows
    ]
    plain = [demonstration(row, template=None, turns="all") for row in named]
    # A line between the two, which tokenizers then split alike on both sides.
    return [{"prompt": row["prompt"] + "\n", "completion": row["completion"]} for row in plain]


def prepare(folder: Path, arguments: argparse.Namespace) -> Path:
    """Writes model and data; returns the config of our side."""
    shape = workloads.SHAPES[arguments.shape]
    kind = "rloo" if arguments.what == "decode" else arguments.what
    workloads.write(
        kind,
        folder,
        shape,
        prompts=arguments.batch,
        tokens=arguments.row,
        new=arguments.new,
    )
    changes: dict[str, Any] = {"batch": {"prompts": arguments.batch, "tokens": arguments.row}}
    if arguments.mean_length is not None:
        plant_stop(folder / "model", arguments.mean_length)
    if kind == "rloo":
        changes["rollout"] = {"responses": arguments.responses}
        changes["sampling"] = {"max_new_tokens": arguments.new}
    if arguments.data is not None:
        rows = rows_of(arguments.data)
        workloads.save_tiny_tokenizer(
            (row["prompt"] + row["completion"] for row in rows[:4000]),
            folder / "model",
            size=shape.vocabulary,
        )
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        changes["data"] = {"loss_on": "assistant"}
        changes["batch"] |= {"packed": True, "prompts": arguments.prompts or arguments.batch}
    config = folder / "config.py"
    config.write_text(CONFIG.format(what=kind, folder=str(folder), changes=changes))
    return config


def plant_stop(folder: Path, mean: float) -> None:
    """Gives a model of random weights its stop token every `mean` tokens, whatever it has read.

    Values get a bias, so that all hidden states share a direction, and the stop token's row of the
    embedding lies along it.
    """
    origin, params = loading.find(str(folder)), convert.load(folder)
    graph = loading.structure(origin.architecture, Compute()).graph
    params["layers"]["attention"]["v"]["bias"] += 3.0
    stop = stop_ids(origin.tokenizer)[0]
    ids = np.random.default_rng(0).integers(300, origin.architecture.vocabulary, (16, 96))
    hidden = jax.jit(lambda params, ids: nnx.merge(graph, params).hidden(ids))(params, ids)
    hidden_rD = np.asarray(hidden)[:, 32:].reshape(-1, origin.architecture.width).astype(float)
    embedding_VD = np.array(params["embed"]["embedding"], float)
    others_r = logsumexp(hidden_rD @ np.delete(embedding_VD, stop, axis=0).T, axis=1)
    common_D = hidden_rD.mean(0)
    logits_r = hidden_rD @ common_D / (common_D @ common_D)
    surplus = lambda size: expit(size * logits_r - others_r).mean() - 1 / mean
    embedding_VD[stop] = brentq(surplus, -50, 50) * common_D / (common_D @ common_D)
    params["embed"]["embedding"] = jnp.asarray(embedding_VD, jnp.float32)
    (folder / "model.safetensors").unlink()
    convert.save(
        folder,
        params,
        origin.architecture,
        dtype="bfloat16",
        stop_ids=stop_ids(origin.tokenizer),
        pad_id=origin.tokenizer.pad_id,
    )


def ours(config: Path, arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Figures of `rlft bench`."""
    flags = [f"--what={arguments.what}", f"--config={config}", f"--json={out}"]
    if arguments.what == "decode":
        flags.append(f"--rows={arguments.batch}")
    return figures([*RLFT, "bench", *flags, f"--steps={arguments.steps}", *arguments.ours], out)


def theirs(folder: Path, arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Figures of the peer."""
    names = ["what", "batch", "tokens", "new", "steps"]
    names += ["responses"] * (arguments.what != "decode")
    flags = [f"--{name}={getattr(arguments, name)}" for name in names]
    flags += [f"--folder={folder}", f"--json={out}", *arguments.theirs]
    is_text = arguments.what == "sft" and arguments.data is None
    flags += ["--loss_on_all"] * (is_text and arguments.peer == "trl")
    script = Path(__file__).with_name(f"{arguments.peer}_steps.py")
    return figures([arguments.peer_python, str(script), *flags], out)


def figures(command: list[str], out: Path) -> dict[str, Any]:
    """Runs a side and reads what it wrote, with the share of the processors that others used."""
    before, start = (busy(), own()), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    room = (time.monotonic() - start) * (os.cpu_count() or 1)
    others = (busy() - before[0]) - (own() - before[1])
    return {**json.loads(out.read_text()), "others": max(others, 0.0) / room}


def busy() -> float:
    """Seconds that all processors together have worked; 0 where Linux does not tell."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, *_ = map(int, stat.read_text().split("\n")[0].split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def own() -> float:
    """Seconds that finished children have worked."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=tuple(RATES), required=True)
    parser.add_argument("--peer", default="trl", choices=("trl", "tunix", "transformers"))
    parser.add_argument("--peer_python", required=True, help="of an environment with the peer")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="that count, of each run")
    parser.add_argument("--shape", default="small", choices=tuple(workloads.SHAPES))
    parser.add_argument("--batch", type=int, help="prompts of a step; 8, for RLOO 2")
    parser.add_argument("--prompts", type=int, help="prompts of a step of ours, with --data")
    parser.add_argument("--tokens", type=int, default=256, help="the most of a text, to train on")
    parser.add_argument("--row", type=int, help="tokens of a row of ours, where it is packed")
    parser.add_argument("--new", type=int, default=64, help="tokens to sample, for RLOO")
    parser.add_argument("--responses", type=int, default=4, help="to a prompt, for RLOO")
    parser.add_argument("--mean_length", type=float, help="of completions, planted, for RLOO")
    parser.add_argument("--data", type=Path, help="rows to imitate, packed on our side")
    parser.add_argument("--ours", action="append", default=[], help="a flag of rlft bench")
    parser.add_argument("--theirs", action="append", default=[], help="a flag of its script")
    arguments = parser.parse_args()
    if arguments.mean_length is not None and arguments.what != "rloo":
        parser.error("--mean_length plants the stop of completions: only for --what=rloo")
    if arguments.row is not None and arguments.what not in ("rloo", "reward"):
        parser.error("--row is of groups and pairs: only for --what=rloo and --what=reward")
    if (arguments.what == "decode") != (arguments.peer == "transformers"):
        parser.error("--what=decode is beside --peer=transformers, and nothing else is")
    if arguments.data is not None and arguments.what != "sft":
        parser.error("--data are rows to imitate: only for --what=sft")
    if arguments.peer == "tunix" and (arguments.what == "reward" or arguments.data is not None):
        parser.error("Tunix trains no reward models, and its rows are full: no --data")
    if arguments.what == "decode":
        arguments.tokens, arguments.row = workloads.PROMPT, workloads.PROMPT + arguments.new
    arguments.batch = arguments.batch or (2 if arguments.what == "rloo" else 8)
    group = workloads.POSED + arguments.responses * (arguments.new + 1)
    rows = {"rloo": group, "reward": 3 * arguments.tokens // 2}
    arguments.row = arguments.row or rows.get(arguments.what, arguments.tokens)
    rate = RATES[arguments.what]
    ratios: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = prepare(folder, arguments)
        for number in range(arguments.pairs):
            sides = [
                ("ours", lambda: ours(config, arguments, folder / "ours.json")),
                ("theirs", lambda: theirs(folder, arguments, folder / "theirs.json")),
            ]
            found = {side: run() for side, run in (sides if number % 2 == 0 else sides[::-1])}
            ratio = found["ours"][rate] / found["theirs"][rate]
            others = max(side["others"] for side in found.values())
            ratios.append((others, ratio))
            rates = ", ".join(f"{side} {figures[rate]:.1f}" for side, figures in found.items())
            print(f"pair {number + 1}: {rates} {rate}, ratio {ratio:.2f};", end=" ")
            print(f"others used {others:.0%} of the processors", flush=True)
    told("all pairs", [ratio for _, ratio in ratios])
    told(f"pairs with less than {QUIET:.0%}", [ratio for others, ratio in ratios if others < QUIET])


def told(which: str, ratios: list[float]) -> None:
    """Prints median and spread."""
    if ratios:
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{which}: {len(ratios)}, ratio {statistics.median(ratios):.2f}, {spread}")


if __name__ == "__main__":
    main()

"""Times Tunix's trainers on the files that `against_peers.py` wrote; run it with Tunix's Python.

    python tunix_steps.py --what=sft --folder=FOLDER --batch=8 --tokens=256 --steps=10 --json=OUT

Needs google-tunix and what it brings, nothing of this project. The first steps do not count. Rows
of supervised learning and of preferences have to fill their tokens: Tunix pads and packs nothing.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from transformers import AutoTokenizer
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen2 import params as qwen2_params
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout
from tunix.sft import peft_trainer
from tunix.sft import utils as sft_utils
from tunix.sft.dpo import dpo_trainer

WARMUP = 3
NEVER = 10**6


class Timed:
    """Batches, and when each was asked for: what lies between is a step."""

    def __init__(self, batches):
        self.batches, self.asked = batches, []
        self.steps: list[float] = []

    def __iter__(self):
        for batch in self.batches:
            self.asked.append(time.perf_counter())
            yield batch

    def end(self, model: nnx.Module) -> None:
        """Waits for the last step and keeps the seconds of those that count."""
        jax.block_until_ready(nnx.state(model))
        self.steps = np.diff([*self.asked, time.perf_counter()])[WARMUP:].tolist()


def load(folder: Path, mesh: jax.sharding.Mesh) -> nnx.Module:
    """The folder's model, in float32."""
    c = json.loads((folder / "model/config.json").read_text())
    heads = c["num_attention_heads"]
    config = qwen2.ModelConfig(
        num_layers=c["num_hidden_layers"],
        vocab_size=c["vocab_size"],
        embed_dim=c["hidden_size"],
        hidden_dim=c["intermediate_size"],
        num_heads=heads,
        head_dim=c.get("head_dim", c["hidden_size"] // heads),
        num_kv_heads=c["num_key_value_heads"],
        norm_eps=c["rms_norm_eps"],
        rope_theta=1_000_000,
        use_tied_embedding=c["tie_word_embeddings"],
    )
    return qwen2_params.create_model_from_safe_tensors(
        str(folder / "model"), config, mesh, dtype=jnp.float32
    )


def supervised(rows, tokenizer, arguments, mesh, steps):
    ids = np.array(encoded(tokenizer, [row["prompt"] + row["completion"] for row in rows]))
    batch = lambda i: ids[np.arange(i, i + arguments.batch) % len(ids)]
    timed = Timed(
        [
            peft_trainer.TrainingInput(
                input_tokens=batch(i), input_mask=np.ones_like(batch(i), bool)
            )
            for i in range(0, steps * arguments.batch, arguments.batch)
        ]
    )
    config = peft_trainer.TrainingConfig(
        eval_every_n_steps=NEVER,
        max_steps=steps,
        pbar_description=None,
        max_inflight_computations=1,
    )
    model = load(arguments.folder, mesh)

    def inputs(x):
        mask = x.input_tokens != tokenizer.pad_token_id
        return {
            "input_tokens": x.input_tokens,
            "input_mask": x.input_mask,
            "positions": sft_utils.build_positions_from_mask(mask),
            "attention_mask": sft_utils.make_causal_attn_mask(mask),
        }

    trainer = peft_trainer.PeftTrainer(model, optax.adamw(1e-4), config)
    trainer.with_gen_model_input_fn(inputs).train(timed)
    timed.end(model)
    rate = arguments.batch * ids.shape[1] / statistics.median(timed.steps)
    return timed, {"tokens_per_second": rate, "loss_tokens_per_second": rate}, arguments.batch


def preferences(rows, tokenizer, arguments, mesh, steps):
    column = lambda name: np.array(encoded(tokenizer, [row[name] for row in rows]))
    columns = {name: column(name) for name in ("prompt", "chosen", "rejected")}

    def batch(first: int) -> dpo_trainer.TrainingInput:
        chosen = np.arange(first, first + arguments.batch) % len(rows)
        part = {name: ids[chosen] for name, ids in columns.items()}
        ids = {f"{name}_ids": x for name, x in part.items()}
        masks = {f"{name}_mask": np.ones_like(x, bool) for name, x in part.items()}
        return dpo_trainer.TrainingInput(**ids, **masks)

    timed = Timed([batch(i) for i in range(0, steps * arguments.batch, arguments.batch)])
    config = dpo_trainer.DPOTrainingConfig(
        eval_every_n_steps=NEVER,
        max_steps=steps,
        pbar_description=None,
        max_inflight_computations=1,
    )
    model, reference = (load(arguments.folder, mesh) for _ in range(2))
    dpo_trainer.DPOTrainer(model, reference, optax.adamw(1e-4), config).train(timed)
    timed.end(model)
    return timed, {}, 2 * arguments.batch


def reinforcement(rows, tokenizer, arguments, mesh, steps):
    model, reference = (load(arguments.folder, mesh) for _ in range(2))
    prompts = [row["prompt"] for row in rows]
    longest = max(map(len, encoded(tokenizer, prompts)))
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    cluster = rl_cluster.RLCluster(
        actor=model,
        reference=reference,
        tokenizer=tokenizer,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(roles, mesh),
            rollout_engine="vanilla",
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.adamw(1e-4),
                eval_every_n_steps=NEVER,
                max_steps=steps,
                mini_batch_size=arguments.batch,
                train_micro_batch_size=arguments.batch,
                pbar_description=None,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=arguments.new,
                max_prompt_length=longest,
                kv_cache_size=longest + arguments.new + 1,
                temperature=1.0,
                top_p=1.0,  # without one it takes the likeliest token, whatever the temperature
                top_k=None,
            ),
        ),
    )
    sampled: list[int] = []
    generate = cluster.rollout.generate

    def counted(*given, **named):
        found = generate(*given, **named)
        sampled.append(sum(map(len, found.tokens)))
        return found

    cluster.rollout.generate = counted
    learner = grpo_learner.GRPOLearner(
        rl_cluster=cluster,
        algo_config=grpo_learner.GRPOConfig(
            num_generations=arguments.responses,
            num_iterations=1,
            beta=0.05,
            advantage_estimator="rloo",
        ),
        reward_fns=lambda prompts, completions, **_: [float(len(x) % 7) for x in completions],
    )
    count = arguments.batch
    part = lambda i: [prompts[(i * count + j) % len(prompts)] for j in range(count)]
    timed = Timed([{"prompts": np.array(part(i))} for i in range(steps)])
    learner.train(timed)
    timed.end(model)
    rates = [new / taken for new, taken in zip(sampled[WARMUP:], timed.steps, strict=True)]
    rate = statistics.median(rates)
    return timed, {"new_tokens_per_second": rate}, count * arguments.responses


def encoded(tokenizer, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


KINDS = {"sft": supervised, "dpo": preferences, "rloo": reinforcement}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=tuple(KINDS), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    for name, default in (("batch", 8), ("tokens", 256), ("new", 64), ("responses", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    rows = list(map(json.loads, (arguments.folder / "data.jsonl").read_text().splitlines()))
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder / "model")
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=auto)
    with mesh:
        timed, found, samples = KINDS[arguments.what](
            rows, tokenizer, arguments, mesh, WARMUP + arguments.steps
        )
    found["step_seconds"] = statistics.median(timed.steps)
    found["samples_per_second"] = samples / found["step_seconds"]
    found["versions"] = {
        "jax": jax.__version__,
        "tunix": importlib.metadata.version("google-tunix"),
    }
    arguments.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()

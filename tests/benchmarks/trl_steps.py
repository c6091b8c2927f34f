"""Times TRL's trainers on the files that `against_peers.py` wrote; run it with TRL's Python.

    python trl_steps.py --what=sft --folder=FOLDER --batch=8 --tokens=256 --steps=10 --json=OUT

Needs torch, transformers, TRL and datasets, nothing of this project. The first steps do not count.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_DISABLED": "true"}

import torch
import trl
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

WARMUP = 3


class Clock(TrainerCallback):
    """Seconds of every step, and what it was about."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_step_begin(self, *_, **__):
        self.start = time.perf_counter()

    def on_step_end(self, *_, **__):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)


def counting(collator, counts):
    """The same collator, noting tokens of every batch, and those that bear the loss."""

    def collate(rows):
        batch = collator(rows)
        ids = batch["input_ids"]
        mask = batch.get("attention_mask")
        labels = batch.get("labels")
        counts.append(
            {
                "tokens": int(ids.numel() if mask is None else mask.sum()),
                "places": ids.numel(),
                "scored": 0 if labels is None else int((labels != -100).sum()),
            }
        )
        return batch

    return collate


def trainer_of(what, folder, arguments, options, clock):
    """A trainer on the folder's model and rows."""
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    options |= dict(
        per_device_train_batch_size=arguments.batch,
        max_steps=WARMUP + arguments.steps,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        gradient_checkpointing=False,
        output_dir=str(folder / "trl"),
        use_cpu=not torch.cuda.is_available(),
        bf16=arguments.bf16,
    )
    model = lambda: AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    common = dict(processing_class=tokenizer, callbacks=[clock])
    if what == "sft":
        # The loss is on what the rows say: on all tokens of a text, on a completion's otherwise.
        if arguments.loss_on_all:
            rows = [{"text": row["prompt"] + row["completion"]} for row in rows]
        made = trl.SFTConfig(max_length=arguments.tokens, packing=arguments.packing, **options)
        data = Dataset.from_list(rows)
        return trl.SFTTrainer(model=model(), args=made, train_dataset=data, **common)
    if what == "dpo":
        made = trl.DPOConfig(max_length=arguments.tokens, beta=0.1, **options)
        data = Dataset.from_list(rows)
        return trl.DPOTrainer(
            model=model(), ref_model=model(), args=made, train_dataset=data, **common
        )
    if what == "reward":
        # What frames a text there takes room too, which more of the prompt takes here.
        words = lambda row: " ".join(row.values()).replace("><", "> <").split()
        room = lambda row: arguments.tokens - 3 - len(words({**row, "rejected": ""}))
        rows = [{**row, "prompt": words(row)[0] * room(row) + row["prompt"]} for row in rows]
        scorer = AutoModelForSequenceClassification.from_pretrained(
            folder / "model", num_labels=1, dtype=torch.float32
        )
        made = trl.RewardConfig(max_length=arguments.tokens, **options)
        data = Dataset.from_list(rows)
        return trl.RewardTrainer(model=scorer, args=made, train_dataset=data, **common)
    options["per_device_train_batch_size"] = arguments.batch * arguments.responses
    made = trl.RLOOConfig(
        num_generations=arguments.responses,
        max_completion_length=arguments.new,
        beta=0.05,
        **options,
    )
    reward = lambda completions, **_: [float(len(text) % 7) for text in completions]
    return trl.RLOOTrainer(
        model=str(folder / "model"),
        reward_funcs=reward,
        args=made,
        train_dataset=Dataset.from_list(rows),
        **common,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=("sft", "dpo", "reward", "rloo"), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    for name, default in (("batch", 8), ("tokens", 256), ("new", 64), ("responses", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=10)
    for name in ("bf16", "packing", "loss_on_all"):
        parser.add_argument(f"--{name}", action="store_true")
    arguments = parser.parse_args()
    clock, counts = Clock(), []
    trainer = trainer_of(arguments.what, arguments.folder, arguments, {}, clock)
    if arguments.what != "rloo":
        trainer.data_collator = counting(trainer.data_collator, counts)
    trainer.train()

    seconds = clock.seconds[WARMUP:]
    found = {"step_seconds": statistics.median(seconds)}
    if arguments.what == "rloo":
        lengths = [log for log in trainer.state.log_history if "completions/mean_length" in log]
        each = arguments.batch * arguments.responses
        new = [log["completions/mean_length"] * each for log in lengths][WARMUP:]
        rates = [count / taken for count, taken in zip(new, seconds, strict=False)]
        found |= {"new_tokens_per_second": statistics.median(rates)}
        samples = each
    else:
        of_step = list(zip(counts[WARMUP:], seconds, strict=False))
        rate = lambda name: statistics.median(count[name] / taken for count, taken in of_step)
        found |= {"tokens_per_second": rate("tokens"), "loss_tokens_per_second": rate("scored")}
        used = sum(c["tokens"] for c, _ in of_step) / sum(c["places"] for c, _ in of_step)
        found["padding_waste"] = 1 - used
        samples = arguments.batch * (1 if arguments.what == "sft" else 2)
    found["samples_per_second"] = samples / found["step_seconds"]
    found["versions"] = {"torch": torch.__version__, "trl": trl.__version__}
    arguments.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()

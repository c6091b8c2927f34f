"""SFT of Qwen2.5-0.5B on worked Countdown derivations, with the settings of arXiv:2506.21560.

    rlft train --config=configs/countdown_sft.py --workdir=runs/countdown_sft

The rows are problems (`nums`, `target`); their derivations are written by our solver. Rows of
your own: --config.data.path=FILE.jsonl --config.data.split=train. With a derivation in a column
`answer` or `response` they are used as they are; rows of `prompt` and `completion` need
--config.data.task=none as well.

From the authors' code come full parameters, 1,000 rows, 10 epochs, batch 16, learning rate 5e-6,
weight decay 0.01, warm-up over 100 steps and cosine decay; from their text SFT, early stopping
with patience 3 and the checkpoint of lowest held-out loss. Ours are bfloat16 in the place of
float16, packed rows, TinyZero's prompt for base models, and the solver's derivations for the
traces that they trained on.

Written for one accelerator of 16 GiB or more; not measured yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns everything that tells this run from another."""
    config = ConfigDict()
    config.seed = 0
    config.epochs = 10.0

    config.model = dict(path="Qwen/Qwen2.5-0.5B", dtype="bfloat16", remat="full")
    config.data = dict(
        path="Jiayi-Pan/Countdown-Tasks-3to4",
        split="train[:1200]",
        task="countdown",
        template="tinyzero",
        holdout=200,
    )
    config.objective = dict(name="sft")
    config.optimizer = dict(
        name="adamw", learning_rate=5e-6, schedule="cosine", warmup_steps=100, weight_decay=0.01
    )
    config.batch = dict(prompts=16, tokens=1024)

    config.every = dict(log=10, evaluate=50, save=100)
    config.keep = dict(last=1, best=1, metric="eval_loss")
    config.stop = dict(patience=3)
    return config

r"""A DistilBERT that learns UltraFeedback's scores themselves, as in arXiv:2506.21560.

    rlft train --config=configs/ultrafeedback_regression.py --workdir=runs/ultrafeedback_regression
    rlft evaluate --task=preferences --model=runs/ultrafeedback_regression \
        --data=HuggingFaceH4/ultrafeedback_binarized --split=test_prefs

Every pair is two texts with a score each, and the loss is their squared error; how often the better
one scores higher is measured afterwards. Texts of your own: --config.data.path=FILE.jsonl
--config.data.split=train with `prompt`, `completion` and `score`.

From the authors' code come the learning rate 2e-5, batch 16 (pairs, so 32 texts), 3 epochs, 512
tokens, and texts that are chats without special tokens. Ours are bfloat16, packed rows, weight
decay 0.01, warm-up over 100 steps, long prompts cut from the left, and the checkpoint of lowest
loss on 200 rows held out by prompt; they took the one of highest accuracy on the test split.

Written for one accelerator of 16 GiB or more; not measured yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns everything that tells this run from another."""
    config = ConfigDict()
    config.seed = 0
    config.epochs = 3.0

    config.model = dict(
        path="distilbert-base-uncased", parameters="new_head", dtype="bfloat16", remat="dots"
    )
    config.data = dict(
        path="HuggingFaceH4/ultrafeedback_binarized", split="train_prefs", holdout=200
    )
    config.formatter = dict(preset="plain", too_long="cut")
    config.objective = dict(name="reward_model", loss="regression")
    config.optimizer = dict(
        name="adamw", learning_rate=2e-5, schedule="linear", warmup_steps=100, weight_decay=0.01
    )
    config.batch = dict(prompts=32, tokens=512)

    config.every = dict(log=10, evaluate=500, save=500)
    config.keep = dict(last=1, best=1, metric="eval_loss")
    config.evaluation = dict(limit=400)
    return config

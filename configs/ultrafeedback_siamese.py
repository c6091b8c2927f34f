r"""A Siamese DistilBERT that tells the better of two responses, as in arXiv:2506.21560.

    rlft train --config=configs/ultrafeedback_siamese.py --workdir=runs/ultrafeedback_siamese
    rlft evaluate --task=preferences --model=runs/ultrafeedback_siamese \
        --data=HuggingFaceH4/ultrafeedback_binarized --split=test_prefs

Both responses go through one encoder, and Bradley-Terry's loss compares their scores. Pairs of your
own: --config.data.path=FILE.jsonl --config.data.split=train with `chosen` and `rejected`. Another
encoder: --config.model.path=NAME; a DeBERTa-v3 works too.

From the authors' code come the learning rate 2e-5, batch 16, 3 epochs, 512 tokens, and texts that
are chats without special tokens. Ours are bfloat16, packed rows, weight decay 0.01, warm-up over
100 steps, long prompts cut from the left, pairs of equal scores left out, and 200 pairs of the
training split held out by prompt in the place of their 200 of the test split.

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
    config.objective = dict(name="reward_model", loss="bradley_terry")
    config.optimizer = dict(
        name="adamw", learning_rate=2e-5, schedule="linear", warmup_steps=100, weight_decay=0.01
    )
    config.batch = dict(prompts=16, tokens=512)

    config.every = dict(log=10, evaluate=500, save=500)
    config.keep = dict(last=1, best=1, metric="eval_accuracy")
    return config

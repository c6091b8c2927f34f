"""Our imitation is that of TRL's SFTTrainer, losses and gradients."""

import numpy as np
import pytest

from rlft_jax.objectives import sft
from tests import tiny

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from tests.objectives import trl_models  # noqa: E402

# Warnings of theirs are theirs.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
RESPONSES = tiny.responses(group=1, scored=False)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_loss_and_gradient_over_micro_batches_are_theirs(micro_batches, tmp_path):
    policy = tiny.policy()
    folder = trl_models.save(policy.params, tiny.ARCHITECTURE, tmp_path)
    model = trl_models.load(folder)
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(output_dir=str(tmp_path / "run"), **trl_models.QUIET),
        train_dataset=Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[-100, 2]]}),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    tokens = torch.tensor(RESPONSES.tokens[:, 0]).long()
    is_token = torch.arange(tokens.shape[1]) < torch.tensor(RESPONSES.lengths)
    labels = torch.where(torch.tensor(RESPONSES.is_response[:, 0]), tokens, -100)
    items = torch.tensor(int(RESPONSES.is_response.sum()))
    loss = 0.0
    for part in torch.arange(len(tokens)).chunk(micro_batches):
        inputs = {
            "input_ids": tokens[part],
            "attention_mask": is_token[part].long(),
            "labels": labels[part],
        }
        share = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=items)
        share.backward()
        loss += float(share.detach())

    batch = tiny.batch_of(RESPONSES, micro_batches=micro_batches)
    gradient, metrics = tiny.gradient(policy, sft.objective, batch)
    np.testing.assert_allclose(metrics["loss"].value, loss, rtol=1e-6)
    assert tiny.distance(gradient, trl_models.gradients(model, tiny.ARCHITECTURE)) < 2e-6

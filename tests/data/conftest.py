"""Tokenizers: the real Qwen2.5 ones, and small ones made on the spot."""

import shutil

import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, processors

from rlft_jax.data.tokenizer import Tokenizer, load_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def qwen(shared_data, tmp_path_factory) -> dict[str, Tokenizer]:
    """The tokenizers of Qwen2.5, base and instruct."""
    source, loaded = shared_data / "tokenizers/qwen2.5", {}
    for kind in ("base", "instruct"):
        folder = tmp_path_factory.mktemp(kind)
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(source / name, folder)
        shutil.copy(source / f"tokenizer_config.{kind}.json", folder / "tokenizer_config.json")
        loaded[kind] = load_tokenizer(folder)
    return loaded


def small_tokenizer(chat_template: str | None = CHATML, **special) -> Tokenizer:
    """A tokenizer of single bytes, with the special tokens given."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        models.BPE({character: i for i, character in enumerate(alphabet)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([*special.values(), "<|im_start|>", "<|im_end|>"])
    if "bos_token" in special:
        bos = special["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    hf = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    hf.chat_template = chat_template
    return Tokenizer(hf)


@pytest.fixture
def letters() -> Tokenizer:
    """One token per byte, and the chat markup of Qwen."""
    return small_tokenizer(eos_token="<end>")


@pytest.fixture
def llama_like() -> Tokenizer:
    """A tokenizer that puts <s> in front of plain text."""
    return small_tokenizer(bos_token="<s>", eos_token="</s>")

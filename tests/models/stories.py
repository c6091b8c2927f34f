"""Turns stories260K, a trained Llama of llama2.c's format, into a Hugging Face folder.

    python tests/models/stories.py SOURCE_FOLDER OUT_FOLDER

SOURCE_FOLDER has stories260K.bin and tok512.bin. A Llama is a Qwen2 whose biases of queries, keys
and values are zero, so that is what the folder says it is. It was never trained on chats; CHAT is
what they are to look like.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, models, processors

from rlft_jax.data.tiny_tokenizer import qwen_tokenizer

UNKNOWN, START, END = "<unk>", "<s>", "</s>"  # ids 0, 1 and 2
CHAT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}{{ '\\nA: ' + m.content | trim + eos_token }}"
    "{% else %}{{ '\\nQ: ' + m.content | trim }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\nA:' }}{% endif %}"
)


def convert(source: Path, out: Path) -> Path:
    """Writes weights, configs and tokenizer into `out` and returns it."""
    out.mkdir(parents=True, exist_ok=True)
    config, tensors = read_weights(source / "stories260K.bin")
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    write = lambda name, content: (out / name).write_text(json.dumps(content, indent=2) + "\n")
    write("config.json", config)
    write("generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    read_tokenizer(source / "tok512.bin").save(str(out / "tokenizer.json"))
    (out / "chat_template.jinja").write_text(CHAT)
    write(
        "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": UNKNOWN,
            "bos_token": START,
            "eos_token": END,
            "pad_token": UNKNOWN,
            "clean_up_tokenization_spaces": False,
            "model_max_length": config["max_position_embeddings"],
        },
    )
    return out


def read_weights(file: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The config and the tensors under Hugging Face's names."""
    data = file.read_bytes()
    D, F, L, N, K, V, T = struct.unpack("<7i", data[:28])
    assert V > 0, "a negative vocabulary would mean an untied head"
    H = D // N
    numbers = np.frombuffer(data, "<f4", offset=28)

    def take(*shape: int) -> np.ndarray:
        nonlocal numbers
        size = int(np.prod(shape))
        taken, numbers = numbers[:size].reshape(shape), numbers[size:]
        return np.ascontiguousarray(taken)

    def half_split(weights: np.ndarray, heads: int) -> np.ndarray:
        """Rows of each head from interleaved pairs to first all firsts, then all seconds."""
        return weights.reshape(L, heads, H // 2, 2, D).swapaxes(2, 3).reshape(L, heads * H, D)

    tensors = {"model.embed_tokens.weight": take(V, D)}
    stacked = {"input_layernorm.weight": take(L, D)}
    stacked["self_attn.q_proj.weight"] = half_split(take(L, N * H, D), N)
    stacked["self_attn.k_proj.weight"] = half_split(take(L, K * H, D), K)
    stacked["self_attn.v_proj.weight"] = take(L, K * H, D)
    stacked["self_attn.o_proj.weight"] = take(L, D, N * H)
    stacked["post_attention_layernorm.weight"] = take(L, D)
    stacked["mlp.gate_proj.weight"] = take(L, F, D)
    stacked["mlp.down_proj.weight"] = take(L, D, F)
    stacked["mlp.up_proj.weight"] = take(L, F, D)
    stacked["self_attn.q_proj.bias"] = np.zeros((L, N * H), np.float32)
    stacked["self_attn.k_proj.bias"] = np.zeros((L, K * H), np.float32)
    stacked["self_attn.v_proj.bias"] = np.zeros((L, K * H), np.float32)
    for name, per_layer in stacked.items():
        for i in range(L):
            tensors[f"model.layers.{i}.{name}"] = np.ascontiguousarray(per_layer[i])
    tensors["model.norm.weight"] = take(D)
    assert numbers.size == T * H, "two tables of rotary angles should be left"
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": D,
        "intermediate_size": F,
        "num_hidden_layers": L,
        "num_attention_heads": N,
        "num_key_value_heads": K,
        "vocab_size": V,
        "max_position_embeddings": T,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    return config, tensors


def read_tokenizer(file: Path) -> Tokenizer:
    """llama2.c's tokenizer in the form of Qwen's: pieces are of bytes, words keep their space.

    transformers makes a `Qwen2Tokenizer` for every model_type qwen2: of tokenizer.json it keeps the
    vocabulary, the merges and the post-processor, no more. What llama2.c does besides is to put a
    space in front of a text; here the caller does.
    """
    pieces, scores = read_pieces(file)
    units = byte_characters()
    as_units = lambda text: "".join(units[byte] for byte in text.encode())
    # Bytes come first in the file, then pieces; a byte that is a piece too is never used itself.
    names = [UNKNOWN, START, END, *(f"<0x{byte:02X}>" for byte in range(256))]
    ids = {units[byte]: 3 + byte for byte in range(256)}
    ids |= {as_units(piece): i for i, piece in enumerate(pieces[259:], start=259)}
    unused = [i for i in range(3, 259) if i not in ids.values()]
    merges = [
        (scores[i], piece[:cut], piece[cut:])
        for piece, i in ids.items()
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    merges = [merge[1:] for merge in sorted(merges, key=lambda merge: -merge[0])]
    # Characters of three bytes have to be merged by way of two, which get an unused id.
    for piece in [p for p in ids if len(p) == 3 and min(p) > "~" and "Ġ" not in p]:
        if piece[:2] not in ids:
            ids[piece[:2]] = unused.pop()
            merges.insert(0, (piece[0], piece[1]))
        merges.append((piece[:2], piece[2]))
    vocabulary = {name: i for i, name in enumerate(names) if i not in ids.values()} | ids
    assert sorted(vocabulary.values()) == list(range(len(pieces)))
    tokenizer = qwen_tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.add_special_tokens([AddedToken(x, special=True) for x in (UNKNOWN, START, END)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A $B", special_tokens=[(START, 1)]
    )
    return tokenizer


def read_pieces(file: Path) -> tuple[list[str], list[float]]:
    """The pieces by id, and how early each is merged: the higher the score, the earlier."""
    data, at = file.read_bytes(), 4
    pieces, scores = [], []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append(data[at + 8 : at + 8 + length].decode())
        scores.append(score)
        at += 8 + length
    return pieces, scores


def byte_characters() -> list[str]:
    """GPT-2's printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [
        chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)
    ]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(convert(Path(sys.argv[1]), Path(sys.argv[2])))

"""What messages and help call a setting is a setting, and has its full name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import rlft_jax
from rlft_jax.config.schema import PRESETS, SCHEMA
from rlft_jax.config.settings import settings_of

PACKAGE = Path(rlft_jax.__file__).parent
# Names of files, and what stands for any setting in explanations.
OTHERS = {"config.json", "config.py", "config.section", "config.section.setting", "config.x.y"}
# Settings whose entries have names of the user's.
MAPPINGS = ("config.reward.functions.", "config.reward.models.", "config.log.wandb.")


def names() -> Iterator[str]:
    """Every section and setting, in full."""
    for section, entry in SCHEMA.items():
        functions = [entry] if callable(entry) else entry.values()
        settings = {name for function in functions for name in settings_of(function)}
        settings |= {"name"} if not callable(entry) else set()
        prefix = f"config.{section}" if section else "config"
        yield prefix
        yield from (f"{prefix}.{name}" for name in sorted(settings))


KNOWN = {*names()} | {f"config.{section}.preset" for section in PRESETS}
DOTTED = "|".join(re.escape(n.removeprefix("config.")) for n in KNOWN if n.count(".") == 2)


def texts() -> Iterator[tuple[str, str, bool]]:
    """Every text of the package, with where it is and whether it is a docstring."""
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text())
        documents = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                where = f"{file.relative_to(PACKAGE)}:{node.lineno}"
                yield where, node.value, id(node) in documents


def unknown(text: str) -> list[str]:
    """What is named like a setting and is none."""
    named = re.findall(r"(?<![\w./])(?:--)?(config(?:\.[a-z_0-9]+)+)", text)
    return [name for name in named if name not in KNOWN | OTHERS and not name.startswith(MAPPINGS)]


def shortened(text: str) -> list[str]:
    """Settings that are named without the word that begins all names."""
    return re.findall(rf"(?<![\w.])(?:{DOTTED})(?![\w.])", text)


def test_settings_that_are_named_exist():
    assert [(where, unknown(text)) for where, text, _ in texts() if unknown(text)] == []
    assert unknown("set config.export.dtype or config.data.path") == ["config.export.dtype"]


def test_settings_are_named_in_full():
    # A text of one word is no message, but a key.
    messages = [(where, text) for where, text, is_doc in texts() if not is_doc and " " in text]
    assert [(where, shortened(text)) for where, text in messages if shortened(text)] == []
    assert shortened("data.path = 'x', not config.data.path = 'x'") == ["data.path"]

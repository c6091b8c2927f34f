"""A function's settings, read from its signature: where they and their defaults stand, once.

Config sections and command-line flags are both made from them. A setting is a keyword-only
parameter of a type that text can spell: numbers, text, booleans, choices, and sequences and
mappings of them. Other parameters (arrays, models, random keys) are the program's to fill.
"""

import ast
import collections.abc
import contextlib
import dataclasses
import difflib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

REQUIRED = inspect.Parameter.empty  # the default of a setting that has none

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_UNIONS = (typing.Union, types.UnionType)
_SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping)


class Setting(NamedTuple):
    """A keyword-only parameter that a config or a flag may set."""

    name: str
    annotation: Any
    default: Any
    help: str

    @property
    def is_required(self) -> bool:
        """Whether it has to be given."""
        return self.default is REQUIRED


def settings_of(function: Callable) -> dict[str, Setting]:
    """Returns the settings of a function (or class) by name, in the order of its signature.

    >>> def halve(model, *, times: int = 1): ...
    >>> settings_of(halve)["times"]
    Setting(name='times', annotation=<class 'int'>, default=1, help='')
    """
    meanings: dict[str, str] = {}
    for documented in reversed(
        inspect.getmro(function) if inspect.isclass(function) else [function]
    ):
        meanings |= argument_help(inspect.cleandoc(documented.__doc__ or ""))
    return {
        p.name: Setting(p.name, p.annotation, _default(function, p), meanings.get(p.name, ""))
        for p in inspect.signature(function, eval_str=True).parameters.values()
        if p.kind is p.KEYWORD_ONLY and can_spell(p.annotation)
    }


def argument_help(docstring: str) -> dict[str, str]:
    """Returns what the `Args:` (or `Attributes:`) section of a docstring says of each argument."""
    section = re.search(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)*)", docstring, re.MULTILINE)
    entries: dict[str, str] = {}
    name = indent = None
    for line in section[1].splitlines() if section else ():
        depth = len(line) - len(line.lstrip())
        indent = depth if indent is None else indent
        start = re.match(r"\*{0,2}(\w+)(?: \(.*?\))?:\s*(.*)", line.strip())
        if start and depth == indent:
            name, entries[start[1]] = start[1], start[2]
        elif name and line.strip():
            entries[name] = f"{entries[name]} {line.strip()}".strip()
    return entries


def summary(function: Callable) -> str:
    """Returns the first line of a docstring."""
    return (inspect.getdoc(function) or "").partition("\n")[0]


def describe_settings(
    settings: Iterable[Setting], *, prefix: str = "", indent: int = 2, column: int = 34
) -> list[str]:
    """Returns help, line by line: each setting with its default, and beside it what it means."""
    lines = []
    for name, annotation, default, meaning in settings:
        value = " (required)" if default is REQUIRED else f" = {default}".removesuffix("None")
        left = f"{' ' * indent}{prefix}{name}{value}".removesuffix(" = ")
        right = textwrap.wrap(_explain(annotation, meaning), 98 - column)
        if len(left) > column - 2:  # too long to share a line
            lines, left = [*lines, left], ""
        lines += [
            f"{text:<{column}}{part}" for text, part in zip_longest([left], right, fillvalue="")
        ]
    return lines


def _explain(annotation: Any, meaning: str) -> str:
    """What a setting means, or else its type. The names to choose from are always told."""
    members = (annotation, *typing.get_args(annotation))
    choices = [m for m in members if typing.get_origin(m) is Literal]
    if meaning and not choices:
        return meaning
    kind = describe_type(annotation)
    return f"{meaning} {kind[0].upper()}{kind[1:]}.".strip()


def entry_type(annotation: Any) -> Any:
    """Returns the type of a mapping's values, for a setting that is a mapping; None for others."""
    kind, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind in _UNIONS:
        return next(filter(None, map(entry_type, arguments)), None)
    return (arguments or (Any, Any))[1] if kind in _MAPPINGS else None


def can_spell(annotation: Any) -> bool:
    """Whether values of a type can be written in a config file and on a command line."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (Any, None, type(None), *_WORDS, *_SEQUENCES, *_MAPPINGS):
        return True
    if origin is Literal:
        return True
    if origin in (*_UNIONS, *_SEQUENCES, *_MAPPINGS):
        return all(can_spell(a) for a in arguments if a is not Ellipsis)
    return False


def describe_type(annotation: Any) -> str:
    """Returns a type in the words that an error or a help page uses.

    >>> describe_type(float | None)
    'a number or none'
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if annotation in (None, type(None)):
        return "none"
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in _UNIONS:
        return " or ".join(map(describe_type, arguments))
    if (origin or annotation) in _SEQUENCES:
        is_fixed = origin is tuple and arguments[-1] is not Ellipsis
        entries = ", ".join(describe_type(a) for a in arguments if a is not Ellipsis)
        return "a list" + f" ({'' if is_fixed else 'each '}{entries})" * bool(entries)
    if (origin or annotation) in _MAPPINGS:
        return "a mapping" + (
            f" from {' to '.join(map(describe_type, arguments))}" * bool(arguments)
        )
    return "a value"


def fit(value: Any, annotation: Any) -> Any:
    """Returns a value as its type wants it: 1 becomes 1.0 for a float, a list becomes a tuple.

    A mapping may also be a list of pairs, because a ConfigDict refuses names with dots.

    Raises:
        ValueError: If it is of another type: 0.5 is no int, 1 is no bool, "1" is no number.
    """
    kind, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind is Any:
        return value
    if kind in (None, type(None)) and value is None:
        return None
    if kind in _WORDS and type(value) is kind and value == value:  # NaN is not a number
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is Literal and any(type(c) is type(value) and c == value for c in arguments):
        return value
    if kind in _UNIONS and (readings := _readings(fit, value, arguments)):
        return readings[0]
    if kind in _SEQUENCES and isinstance(value, list | tuple):
        return _fit_sequence(value, kind, arguments)
    if kind in _MAPPINGS and _is_pairs(value):
        return fit(dict(value), annotation)
    if kind in _MAPPINGS and isinstance(value, Mapping):
        of_key, of_value = arguments or (Any, Any)
        return {fit(k, of_key): fit(v, of_value) for k, v in value.items()}
    raise ValueError(f"{value!r} is not {describe_type(annotation)}")


def parse(text: str, annotation: Any) -> Any:
    """Returns the value that a command line's text spells for a setting of this type.

    >>> parse("1e-6", float), parse("none", int | None), parse("q_proj,k_proj", list[str])
    (1e-06, None, ['q_proj', 'k_proj'])

    Raises:
        ValueError: If it spells none.
    """
    kind, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind in _UNIONS:
        members = sorted(arguments, key=lambda member: _rank(text, member))
        readings = _readings(parse, text, members)
    else:
        spellings = _spellings(text, kind, arguments)
        readings = [r for value in spellings for r in _readings(fit, value, [annotation])]
    if not readings:
        raise ValueError(f"{text!r} is not {describe_type(annotation)}")
    return readings[0]


def closest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that looks most like a mistyped one, if any does."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def _default(function: Callable, parameter: inspect.Parameter) -> Any:
    """A parameter's default. A dataclass's signature has a mark where a factory makes it."""
    fields = dataclasses.fields(function) if dataclasses.is_dataclass(function) else ()
    for field in fields:
        if field.name == parameter.name and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return parameter.default


def _readings(read: Callable, value: Any, annotations: Iterable[Any]) -> list[Any]:
    """What `value` becomes under each of the types that take it."""
    readings = []
    for annotation in annotations:
        with contextlib.suppress(ValueError):
            readings.append(read(value, annotation))
    return readings


def _rank(text: str, member: Any) -> int:
    """When to try a member of a union: any text is a `str`, so "none" and "7" come before it."""
    is_list = (typing.get_origin(member) or member) in _SEQUENCES
    looks_like_list = "," in text or text.startswith(("[", "("))
    return 1 if member is str else 2 if is_list and not looks_like_list else 0


def _is_pairs(value: Any) -> bool:
    """Whether a value lists names with values, as dict() takes them."""
    return isinstance(value, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in value
    )


def _fit_sequence(value: list | tuple, kind: Any, arguments: tuple) -> list | tuple:
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise ValueError(f"{value!r} has {len(value)} entries instead of {len(arguments)}")
        return tuple(map(fit, value, arguments))
    each = arguments[0] if arguments else Any
    return (list if kind is list else tuple)(fit(entry, each) for entry in value)


def _spellings(text: str, kind: Any, arguments: tuple) -> list[Any]:
    """The values that a text may mean where something of this kind is wanted."""
    if kind is str:
        return [text]
    if kind is bool:
        return [{"true": True, "1": True, "false": False, "0": False}.get(text.lower())]
    if kind in (None, type(None)):
        return [None] if text.lower() == "none" else []
    if kind is Literal:
        return [choice for choice in arguments if str(choice) == text]
    spellings: list[Any] = []
    with contextlib.suppress(ValueError):
        if kind in (int, float):
            return [kind(text)]
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        spellings.append(ast.literal_eval(text))
    if kind in _SEQUENCES and not text.startswith(("[", "(")):
        each = arguments[0] if arguments else Any
        with contextlib.suppress(ValueError):
            spellings.append([parse(entry.strip(), each) for entry in text.split(",")])
    return spellings + [text] * (kind is Any)

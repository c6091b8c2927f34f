"""The sections of a config: what was written, overridden and preset, settled against signatures.

Every function adds what it finds wrong to `problems`, a sentence each, and goes on.
"""

import ast
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlft_jax.config.settings import REQUIRED, closest, entry_type, fit, parse, settings_of

# What each section configures: a function, or functions among which the section's `name`
# chooses. The section "" is the top level: config.seed, config.steps.
Schema = Mapping[str, Callable | Mapping[str, Callable]]

# What each section says, before types and defaults: {section: {setting: value}}.
Written = dict[str, dict[str, Any]]


class FromCommandLine(dict[str, Any]):
    """A section that no file has, begun by single settings of the command line."""


class _Text(str):
    """A value as the command line spells it; what it means depends on the setting's type."""


def apply_overrides(
    written: Written,
    overrides: Sequence[tuple[str, str]],
    schema: Schema,
    problems: list[str],
) -> None:
    """Writes the command line's settings over the file's, creating sections as needed."""
    for path, text in overrides:
        section, dot, setting = path.partition(".")
        if not dot and section in schema:
            _replace_section(written, section, text, problems)
        elif not dot:
            written[""][section] = _Text(text)
        elif section in schema:
            written.setdefault(section, FromCommandLine())[setting] = _Text(text)
        else:
            sections = [s for s in schema if s]
            problems.append(_unknown_section(path, sections))


def _replace_section(written: Written, section: str, text: str, problems: list[str]) -> None:
    """Applies --config.lora=none or --config.lora="{'rank': 8}"."""
    value: Any = text
    with contextlib.suppress(ValueError, SyntaxError):
        value = None if text.lower() == "none" else ast.literal_eval(text)
    written.pop(section, None)
    if isinstance(value, dict):
        written[section] = value
    elif value is not None:
        problems.append(not_a_section(section, value))


def apply_preset(
    written: Written,
    section: str,
    presets: Mapping[str, Mapping[str, Any]],
    problems: list[str],
) -> None:
    """Fills in what the chosen preset says and nobody wrote."""
    if section not in written:
        return
    chosen = written[section].get("preset")
    if isinstance(chosen, _Text) and chosen.lower() == "none":
        chosen = None
    written[section]["preset"] = chosen
    if chosen is None:
        return
    if not isinstance(chosen, str) or chosen not in presets:
        problems.append(_no_choice(f"{section}.preset", chosen, presets))
        return
    written[section]["preset"] = str(chosen)
    for path, value in presets[chosen].items():
        other, _, setting = path.partition(".")
        written.setdefault(other, {}).setdefault(setting, value)


def settle_section(
    section: str,
    entry: Callable | Mapping[str, Callable],
    written: dict[str, Any],
    extra: Sequence[str],
    problems: list[str],
) -> dict[str, dict[str, Any]]:
    """One complete section under its name, or nothing if its function is not known."""
    chosen = {key: written.pop(key) for key in extra}
    if not callable(entry):
        name = written.pop("name", None)
        if name is None:
            choices = ", ".join(entry)
            problems.append(f"config.{section}.name is missing: choose one of {choices}.")
            return {}
        if not isinstance(name, str) or name not in entry:
            problems.append(_no_choice(f"{section}.name", name, entry))
            return {}
        chosen = {"name": str(name), **chosen}
        entry = entry[name]
    return {section: chosen | settle(section, entry, written, list(chosen), problems)}


def settle(
    section: str,
    function: Callable,
    written: Mapping[str, Any],
    also_known: Sequence[str],
    problems: list[str],
) -> dict[str, Any]:
    """All settings of a function: as written, or else by default."""
    settings = settings_of(function)
    where = function.__module__ if section else "the top level"
    dotted = lambda name: f"{section}.{name}" if section else name
    values = {name: s.default for name, s in settings.items() if name not in written}
    # Whole mappings come before their entries, which end up in them.
    for name in sorted(written, key=lambda name: "." in name):
        base, is_entry, key = name.partition(".")
        wanted = settings[base].annotation if base in settings else None
        wanted = entry_type(wanted) if is_entry else wanted
        if base not in settings or wanted is None:
            problems.append(unknown_setting(dotted(name), where, [*settings, *also_known]))
            continue
        try:
            value = _value(written[name], wanted)
        except ValueError as error:
            problems.append(f"config.{dotted(name)} cannot be set: {error}.")
            values.pop(base, None)
            continue
        if is_entry and isinstance(values.get(base), str | int | float):
            problems.append(
                f"config.{dotted(name)} cannot be set: config.{dotted(base)} = {values[base]!r} has"
                f' no entries. Set all of it, as in --config.{dotted(base)}="{{...}}".'
            )
            continue
        values[base] = _with_entry(values.get(base), key, value) if is_entry else value
    for name in [name for name, value in values.items() if value is REQUIRED]:
        problems.append(_missing(dotted(name), settings[name].help))
        del values[name]
    return {name: values[name] for name in settings if name in values}


def _with_entry(mapping: Any, key: str, value: Any) -> dict[str, Any]:
    return {**(mapping if isinstance(mapping, Mapping) else {}), key: value}


def _value(written: Any, annotation: Any) -> Any:
    is_text = isinstance(written, _Text)
    return parse(str(written), annotation) if is_text else fit(written, annotation)


def unknown_setting(path: str, where: str, known: Sequence[str]) -> str:
    """Says that a dotted setting does not exist, what does, and what was probably meant."""
    section, dot, setting = path.partition(".") if "." in path else ("", "", path)
    near = closest(setting, known)
    return f"config.{path} does not exist: {where} has {', '.join(known) or 'no settings'}." + (
        f" Did you mean config.{section}{dot}{near}?" if near else ""
    )


def _unknown_section(path: str, sections: Sequence[str]) -> str:
    section, _, rest = path.partition(".")
    near = closest(section, sections)
    return f"config.{path} does not exist: the sections are {', '.join(sections)}." + (
        f" Did you mean config.{near}.{rest}?" if near else ""
    )


def not_a_section(section: str, value: Any) -> str:
    """Says that a section was given a single value."""
    return (
        f"config.{section} is a section of settings, not {value!r}. Set them one by one, as in"
        f" --config.{section}.SETTING=VALUE, or leave it out with --config.{section}=none."
    )


def _missing(path: str, meaning: str) -> str:
    what = f" ({meaning.rstrip('.')})" if meaning else ""
    return f"config.{path} is missing{what}. Set it in the file, or with --config.{path}=VALUE."


def _no_choice(path: str, value: Any, choices: Iterable[str]) -> str:
    near = closest(str(value), choices)
    return f"config.{path} = {str(value)!r} does not exist: choose one of {', '.join(choices)}." + (
        f" Did you mean {near}?" if near else ""
    )

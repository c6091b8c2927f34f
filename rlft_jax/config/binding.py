"""From a config file and command-line overrides to plain, complete, checked sections.

A config says what tells one run from another. Each of its sections sets the keyword-only parameters
of one function (see `settings`), so no second list of settings or defaults has to be kept in step.
All mistakes are found together, before anything is loaded or compiled.
"""

import contextlib
import functools
import pathlib
import runpy
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, RequiredValueError

from rlft_jax.config.sections import (
    Schema,
    Written,
    apply_overrides,
    apply_preset,
    not_a_section,
    settle,
    settle_section,
    unknown_setting,
)
from rlft_jax.config.settings import closest, describe_settings, settings_of, summary

# What `config.SECTION.preset = NAME` fills in: {section: {name: {"section.setting": value}}}.
Presets = Mapping[str, Mapping[str, Mapping[str, Any]]]

# Chooses the sections, and the functions behind them, that what was written asks for; it may add
# to both what was written and the problems.
Narrow = Callable[[Written, list[str]], Schema]

# Tells what is wrong between settings that are each right, a sentence a problem. It indexes the
# config (`config["batch"]["prompts"]`), so that it stops at a setting that could not be read.
Check = Callable[[dict[str, Any]], Iterable[str]]

_FAILURES = (  # what a config file's own code may raise, short of ending the process
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError),
    *(OSError, RuntimeError, SyntaxError, TypeError, ValueError),
)


def read(path: str) -> ConfigDict:
    """Returns what `get_config()` of a Python file returns; "file.py:word" calls it with "word".

    Raises:
        ValueError: If there is no such file, it does not run, or it has no `get_config`.
    """
    name, _, argument = path.partition(".py:")
    file = pathlib.Path(name + ".py" if argument else path)
    if file.is_dir():
        names = ", ".join(sorted(f.name for f in file.glob("*.py"))) or "no .py file"
        raise ValueError(f"{file} is a folder, which holds {names}. Name a config file.")
    if not file.is_file():
        near = closest(file.stem, [f.stem for f in file.parent.glob("*.py")])
        hint = f" Did you mean {file.with_name(f'{near}.py')}?" if near else ""
        raise ValueError(f"There is no config file {file}.{hint}")
    with _explained(file):
        get_config = runpy.run_path(str(file)).get("get_config")
    if not callable(get_config):
        raise ValueError(f"{file} has no function get_config(). Add one that returns a ConfigDict.")
    with _explained(file):
        config = get_config(*([argument] if argument else []))
        if not isinstance(config, ConfigDict | dict):
            raise ValueError(f"get_config() returned {config!r}, which is no ConfigDict")
        return config if isinstance(config, ConfigDict) else ConfigDict(config)


def resolve(
    config: ConfigDict,
    overrides: Sequence[tuple[str, str]],
    schema: Schema,
    *,
    always: Collection[str] = (),
    narrow: Narrow | None = None,
    presets: Presets | None = None,
    checks: Sequence[Check] = (),
) -> dict[str, Any]:
    """Returns the whole config as plain values: top-level settings, and a dict or None a section.

    An override wins over the file, the file over a preset, a preset over a signature's default.
    A section that nobody wrote is None.

    Args:
        config: What the file says. Placeholders that nobody filled count as not written.
        overrides: Dotted settings and their text, such as ("objective.kl_weight", "0.05").
        schema: What each section may configure.
        always: Sections that are there without being written.
        narrow: What each section configures in this case, if that depends on other sections.
        presets: Values that sections take from a preset, by section and preset.
        checks: What else to ask of the result.

    Raises:
        ValueError: With everything that is wrong, a line each.
    """
    problems: list[str] = []
    written = _read_file(config, schema, problems)
    apply_overrides(written, overrides, schema, problems)
    for section in always:
        written.setdefault(section, {})
    sections = [section for section in schema if section]
    if narrow is not None:
        schema = narrow(written, problems)
    for section, by_name in (presets or {}).items():
        apply_preset(written, section, by_name, problems)

    resolved: dict[str, Any] = {}
    for section in ["", *sections]:
        if section == "":
            top = schema[section]
            assert callable(top)
            resolved |= settle(section, top, written[""], sections, problems)
        elif section in written and section in schema:
            extra = ["preset"] if section in (presets or {}) else []
            entry = schema[section]
            resolved |= settle_section(section, entry, written[section], extra, problems)
        else:
            resolved[section] = None

    found_before = bool(problems)
    for check in checks:
        # A check that needs what could not be read has nothing to say yet.
        with contextlib.suppress(*[KeyError] * found_before):
            problems.extend(check(resolved))
    if problems:
        raise refusal(problems)
    return resolved


def refusal(problems: Iterable[str]) -> ValueError:
    """The error that tells what is wrong with a config: every problem an entry of a list."""
    listed = "\n".join("- " + problem.replace("\n", "\n  ") for problem in problems)
    return ValueError(f"This config cannot run:\n{listed}")


def bind(function: Callable, section: Mapping[str, Any]) -> functools.partial:
    """Returns `function` with the settings of a resolved section filled in.

    `name` and `preset`, which chose the function and the values, are left out.

    Raises:
        ValueError: If the function has no such setting.
    """
    known = settings_of(function)
    chosen = {k: v for k, v in section.items() if k in known or k not in ("name", "preset")}
    for setting in chosen:
        if setting not in known:
            raise ValueError(unknown_setting(setting, function.__module__, list(known)))
    return functools.partial(function, **chosen)


def describe(
    schema: Schema, presets: Presets | None = None, choice: Mapping[str, str] | None = None
) -> str:
    """Returns a page with every section and setting, its default and its meaning.

    Settings that all functions of a section have stand before the functions.

    Args:
        choice: How a section is said to choose among its functions, where not by its `name`.
    """
    lines: list[str] = []
    for section, entry in schema.items():
        choices = {"": entry} if callable(entry) else entry
        lines += ["", f"config.{section}" if section else "config"]
        if section in (presets or {}):
            lines.append(f"  preset = one of {', '.join((presets or {})[section])}")
        settings = {name: settings_of(function).values() for name, function in choices.items()}
        first, *others = settings.values()
        common = [s for s in first if others and all(s in other for other in others)]
        lines += describe_settings(common)
        for name, function in choices.items():
            by = (choice or {}).get(section, "name =")
            lines.append(f"  {f'{by} {name}: ' if name else ''}{summary(function)}")
            own = [setting for setting in settings[name] if setting not in common]
            lines += describe_settings(own, indent=4)
    return "\n".join(lines[1:])


@contextlib.contextmanager
def _explained(file: pathlib.Path) -> Iterator[None]:
    """Turns a failure of the config file's own code into one line that says where it is."""
    try:
        yield
    except _FAILURES as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else next(reversed(lines), None)
        where = f"{file}, line {line}" if line else str(file)
        raise ValueError(f"{where}: {type(error).__name__}: {error}. Correct the file.") from error


def _plain(value: Any) -> Any:
    """A value of a ConfigDict without ConfigDicts and placeholders."""
    if isinstance(value, ConfigDict):
        items = value.items(preserve_field_references=True)
        return {k: _plain(v) for k, v in items if not _is_unset(v)}
    if isinstance(value, FieldReference):
        return _plain(value.get())
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value


def _is_unset(value: Any) -> bool:
    """Whether a value is a placeholder that still waits to be filled."""
    try:
        return isinstance(value, FieldReference) and value.get() is None
    except RequiredValueError:
        return True


def _read_file(config: ConfigDict, schema: Schema, problems: list[str]) -> Written:
    """What the file writes, by section; the top level is section ""."""
    written: Written = {"": {}}
    for key, value in _plain(config).items():
        if key not in schema or key == "":
            written[""][key] = value
        elif isinstance(value, dict):
            written[key] = value
        elif value is not None:
            problems.append(not_a_section(key, value))
    return written

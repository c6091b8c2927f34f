"""`rlft`, the one entry point: from words on the command line to a function in `commands`.

Nothing heavy is imported here, so that help and refusals come at once.
"""

import dis
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from rlft_jax.commands import BY_TASK
from rlft_jax.config.settings import (
    Setting,
    closest,
    describe_settings,
    describe_type,
    parse,
    settings_of,
)
from rlft_jax.environment import prepare_environment, use_huge_pages

COMMANDS = {
    "quickstart": "The whole loop on this machine in minutes: SFT, RLOO, best-of-N, export.",
    "train": "Trains what a config file says, or goes on with a run that was stopped.",
    "evaluate": "Measures a model on a task: pass@k, best-of-N, majority, with intervals.",
    "generate": "Completes the prompts of a file.",
    "logprobs": "Scores the completions of a file, token by token.",
    "score": "Scores the completions of a file with a reward model.",
    "export": "Turns a run into a Hugging Face folder, or into a PEFT adapter.",
    "inspect": "Shows what a config's data becomes: loss masks, lengths, what is dropped.",
    "bench": "Measures speed and memory on this machine, beside what the machine could do.",
    "env": "Tells versions, devices and folders, for a bug report.",
}

# Commands that spend their time on arithmetic.
COMPUTING = ("quickstart", "train", "evaluate", "generate", "logprobs", "score", "bench")

PAGE = """\
rlft trains language models after their pretraining, in JAX: Hugging Face folders in and out.

Usage: rlft COMMAND [--flag=value ...]

{commands}

Start here:
  rlft quickstart
  rlft train --config=configs/countdown_sft.py --workdir=runs/sft
  rlft evaluate --model=runs/sft --task=countdown --samples=16 --out=sft.json

A config file is one experiment. Any setting can be changed on the way, also one that the file
leaves at its default; what is not a setting is refused, with the nearest name:
  rlft train --config=configs/countdown_sft.py --workdir=runs/other --config.seed=1

Read on:
  rlft help COMMAND    its flags and their defaults
  rlft help config     every setting of a config file; of one section: rlft help config lora
  README.md            results, and the commands that gave them
  RLFT_TRACEBACK=1     in the environment: errors tell where they come from"""

_HELP = ("-h", "-help", "--help")


def run() -> int:
    """Runs `rlft` with the arguments of this process; returns the exit code."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in COMPUTING and not {*arguments} & {*_HELP}:
        use_huge_pages()
    return main(arguments)


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code.

    0 is success, 2 a mistake of the user's, told in a sentence on stderr, and 130 Ctrl-C. Commands
    have codes of their own beside these. RLFT_TRACEBACK=1 shows where a mistake was found; bugs
    always do.
    """
    try:
        return _dispatch(arguments)
    except (ValueError, OSError) as error:
        if os.environ.get("RLFT_TRACEBACK") == "1" or not _is_for_the_user(error):
            raise
        print(f"rlft: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rlft: stopped.", file=sys.stderr)
        return 130


def _dispatch(arguments: Sequence[str]) -> int:
    match list(arguments):
        case [] | ["help"]:
            print(overview())
        case [first, *_] if first in _HELP:
            print(overview())
        case ["--version"]:
            print(importlib.import_module("rlft_jax").__version__)
        case ["help", "config", *sections]:
            pages = [_config_help(section) for section in sections or [None]]
            print("\n\n".join(pages))
        case ["help", name, *rest]:
            print(command_help(name, load(name, rest)))
        case [name, *rest] if any(word in _HELP for word in rest):
            print(command_help(name, load(name, rest)))
        case [name, *rest]:
            _check_name(name)
            prepare_environment()
            function = load(name, rest)
            given = flag_values(name, function, rest)
            if name == "train":
                processes = importlib.import_module("rlft_jax.training.processes")
                processes.initialize_from_environment()
            return function(**given) or 0
    return 0


def load(name: str, arguments: Sequence[str] = ()) -> Callable[..., int | None]:
    """Returns the function of a command, or of its --task among the arguments; imports no other."""
    _check_name(name)
    tasks = re.findall(r"(?:^| )--?task[= ](\S+)", " ".join(arguments))
    name = BY_TASK.get(name, {}).get(tasks[-1] if tasks else "", name)
    return getattr(importlib.import_module(f"rlft_jax.commands.{name}"), name)


def overview() -> str:
    """Returns the page that says what `rlft` is and does."""
    commands = "\n".join(f"  {name:<12}{what}" for name, what in COMMANDS.items())
    return PAGE.format(commands=commands)


def command_help(name: str, function: Callable) -> str:
    """Returns a command's page: usage, what it does, and each flag with meaning and default."""
    settings = _flags_of(function).values()
    required = "".join(f" --{s.name}=..." for s in settings if s.is_required)
    takes_overrides = _takes_overrides(function)
    lines = [
        f"Usage: rlft {name}{required}"
        + " [--flag=value ...]" * (len(settings) > required.count("--"))
        + " [--config.section.setting=value ...]" * takes_overrides,
        "",
        *_description(function).splitlines(),
        "",
        *describe_settings(settings, prefix="--"),
    ]
    if takes_overrides:
        lines += ["", "`rlft help config` lists every section and setting of a config."]
    return "\n".join(lines)


def flag_values(name: str, function: Callable, arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the keyword arguments that the words after a command's name spell.

    Raises:
        ValueError: If a flag does not exist, has a value of another type, or is missing.
    """
    settings = _flags_of(function)
    given: dict[str, Any] = {}
    if _takes_overrides(function):
        given["overrides"], arguments = split_overrides(arguments)
    parsed = flags.FlagValues()
    for setting in settings.values():
        _define(setting, parsed)
    try:
        _, *words = parsed(["rlft", *arguments])
    except flags.UnrecognizedFlagError as error:
        takes_overrides = _takes_overrides(function)
        told = _unknown_flag(name, error.flagname, list(settings), takes_overrides)
        raise ValueError(told) from error
    except flags.Error as error:
        raise ValueError(f"{error}. See `rlft help {name}`.") from error
    if words:
        raise ValueError(
            f"`rlft {name}` takes flags only, but there is {' '.join(words)!r}."
            f" Write --flag=value; see `rlft help {name}`."
        )
    missing = [
        f"--{s.name}" for s in settings.values() if s.is_required and not parsed[s.name].present
    ]
    if missing:
        raise ValueError(f"`rlft {name}` needs {' and '.join(missing)}. See `rlft help {name}`.")
    return given | {setting: parsed[setting].value for setting in settings}


def split_overrides(arguments: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Returns the `--config.x.y=v` arguments as (dotted setting, text), and all the others.

    >>> split_overrides(["--config=a.py", "--config.seed=1", "--config.lora.rank", "8"])
    ([('seed', '1'), ('lora.rank', '8')], ['--config=a.py'])
    """
    overrides, others, words = [], [], iter(arguments)
    for word in words:
        override = re.fullmatch(r"--?config\.([^=]*)(?:=(.*))?", word, re.DOTALL)
        if not override:
            others.append(word)
            continue
        setting, text = override.groups()
        text = next(words, None) if text is None else text
        if text is None:
            raise ValueError(f"{word} has no value. Write {word}=VALUE.")
        overrides.append((setting, text))
    return overrides, others


class _Spelled(flags.ArgumentParser):
    """Reads a flag by the type of the parameter that it sets."""

    def __init__(self, annotation: Any):
        self.annotation = annotation

    def parse(self, argument: Any) -> Any:
        return parse(argument, self.annotation) if isinstance(argument, str) else argument

    def flag_type(self) -> str:
        return describe_type(self.annotation)


def _define(setting: Setting, into: flags.FlagValues) -> None:
    default = None if setting.is_required else setting.default
    if setting.annotation is bool:  # --flag and --noflag work as well as --flag=true
        flags.DEFINE_boolean(setting.name, default, setting.help, flag_values=into)
    else:
        spelled = _Spelled(setting.annotation)
        flags.DEFINE(spelled, setting.name, default, setting.help, flag_values=into)


def _flags_of(function: Callable) -> dict[str, Setting]:
    return {k: s for k, s in settings_of(function).items() if k != "overrides"}


def _takes_overrides(function: Callable) -> bool:
    return "overrides" in inspect.signature(function).parameters


def _description(function: Callable) -> str:
    """A docstring up to its list of arguments."""
    text = inspect.getdoc(function) or ""
    return re.split(r"^(?:Args|Returns|Raises):$", text, maxsplit=1, flags=re.MULTILINE)[0].strip()


def _config_help(section: str | None) -> str:
    return importlib.import_module("rlft_jax.config.schema").help_page(section)


def _check_name(name: str) -> None:
    if name not in COMMANDS:
        near = closest(name, [*COMMANDS, "help", "help config"])
        raise ValueError(
            f"There is no command {name!r}; there are {', '.join(COMMANDS)}."
            + (f" Did you mean `rlft {near}`?" if near else "")
        )


def _unknown_flag(name: str, flag: str, known: Sequence[str], takes_overrides: bool) -> str:
    section, dot, setting = flag.partition(".")
    near, all_flags = closest(section, known), ", ".join(f"--{k}" for k in known)
    if dot and takes_overrides:  # --confg.seed and --lora.rank
        near = f"config.{setting if near == 'config' else flag}"
    elif near is None and takes_overrides:
        all_flags += ", and --config.SECTION.SETTING"
    return f"--{flag} does not exist: `rlft {name}` has {all_flags or 'no flags'}." + (
        f" Did you mean --{near}?" if near else ""
    )


def _is_for_the_user(error: ValueError | OSError) -> bool:
    """Whether an error is a sentence of ours or the system's, not a bug.

    What a library raises, or a function in C that leaves no frame of its own, is a bug of ours.
    """
    if isinstance(error, OSError):
        return True
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    is_raised_there = dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
    ours = os.path.dirname(os.path.abspath(__file__))
    return is_raised_there and code.co_filename.startswith(ours)


def _sentence(error: Exception) -> str:
    """What to tell about an error; of the system's, without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__

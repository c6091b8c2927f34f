"""What a person at a terminal reads, and what a command gets."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import jax
import jax.numpy as jnp
import pytest

from rlft_jax import environment, main
from rlft_jax.commands.train import train as train_command
from rlft_jax.config.settings import fit

received: dict = {}


def train(
    *,
    config: str,
    workdir: str,
    examples: int = 3,
    temperature: float = 0.6,
    adapter: bool = False,
    dtype: Literal["float32", "bfloat16"] | None = None,
    stop: Sequence[str] = (),
    overrides: Sequence[tuple[str, str]] = (),
) -> int:
    """Trains what a config file says.

    Runs that were stopped go on.

    Args:
        config: The experiment.
        examples: How many to show.
        stop: Texts that end a response.
    """
    received.clear()
    received.update(locals())
    if config == "wrong":
        fit(config, int)
    if config == "slow":
        raise KeyboardInterrupt
    if config == "absent":
        open("/nowhere/at/all")  # noqa: SIM115
    if config == "bug":
        raise RuntimeError("a bug")
    if config == "library":
        random.sample([], k=1)
    if config == "c function":  # called by code of ours; it leaves no frame of its own
        ours = str(Path(main.__file__).with_name("code.py"))
        exec(compile("int(float('nan'))", ours, "exec"))
    return 75 if config == "preempted" else 0


@pytest.fixture(autouse=True)
def commands(monkeypatch, tmp_path):
    """`train` is the function above, and the cache of programs is a temporary one."""
    modules = {
        "rlft_jax.commands.train": SimpleNamespace(train=train),
        "rlft_jax.training.processes": SimpleNamespace(initialize_from_environment=lambda: False),
    }
    real = main.importlib.import_module
    monkeypatch.setattr(
        main, "importlib", SimpleNamespace(import_module=lambda m: modules.get(m) or real(m))
    )
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("RLFT_TRACEBACK", raising=False)


NEEDED = ["--config=a.py", "--workdir=out"]


def test_flags_become_the_parameters_of_the_command():
    words = ["--examples=5", "--temperature", "1", "--adapter", "--dtype=bfloat16", "--stop=a,b"]
    assert main.main(["train", *NEEDED, *words]) == 0
    assert received == {
        "config": "a.py",
        "workdir": "out",
        "examples": 5,
        "temperature": 1.0,
        "adapter": True,
        "dtype": "bfloat16",
        "stop": ("a", "b"),
        "overrides": [],
    }


def test_flags_left_out_have_the_defaults_of_the_signature():
    main.main(["train", *NEEDED, "--noadapter"])
    assert received["examples"] == 3
    assert received["adapter"] is False
    assert received["dtype"] is None
    assert received["stop"] == ()


def test_overrides_are_passed_on_in_order_and_as_text():
    words = ["--config.seed=1", "--config.a.b", "-2", "-config.prompt=x=y\nz", "--config.seed=2"]
    main.main(["train", *words, *NEEDED])
    assert received["overrides"] == [
        ("seed", "1"),
        ("a.b", "-2"),
        ("prompt", "x=y\nz"),
        ("seed", "2"),
    ]
    assert received["config"] == "a.py"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["trian"], r"no command 'trian'; .* Did you mean `rlft train`\?"),
        (["hlp"], r"no command 'hlp'; .* Did you mean `rlft help`\?"),
        (["help", "config", "lorra"], r"lorra is no section .* mean `rlft help config lora`\?"),
        (["help", "trian"], r"no command 'trian'"),
        (["train"], r"`rlft train` needs --config and --workdir\. See `rlft help train`"),
        (["train", *NEEDED, "--exmples=3"], r"--exmples does not .* Did you mean --examples\?"),
        (["train", *NEEDED, "--confg.seed=3"], r"--confg\.seed .* Did you mean --config\.seed\?"),
        (["train", *NEEDED, "--lora.rank=3"], r"--lora.* Did you mean --config\.lora\.rank\?"),
        (["train", *NEEDED, "--seed=3"], r"--seed does not .* --stop, and --config\.SECTION\.SET"),
        (["config", "--help"], r"no command 'config'; .* Did you mean `rlft help config`\?"),
        (["train", *NEEDED, "--examples=few"], r"flag --examples=few: 'few' is not a whole number"),
        (["train", *NEEDED, "--examples=0.5"], r"'0\.5' is not a whole number"),
        (["train", *NEEDED, "--dtype=bf16"], r"'bf16' is not one of 'float32', 'bfloat16'"),
        (["train", *NEEDED, "--adapter=maybe"], r"--adapter=maybe"),
        (["train", *NEEDED, "--workdir"], r"--workdir"),
        (["train", *NEEDED, "seed=3"], r"takes flags only, but there is 'seed=3'"),
        (["train", *NEEDED, "--config.seed"], r"--config\.seed has no value"),
        (["train", "--workdir=out", "--config=wrong"], r"'wrong' is not a whole number"),
        (["train", "--workdir=out", "--config=absent"], r"No such file or directory: /nowhere/at/"),
        (["env", "--config.seed=3"], r"--config\.seed does not exist: `rlft env` has no flags\."),
    ],
)
def test_mistakes_are_told_in_a_sentence_with_exit_code_2(words, complaint, capsys):
    assert main.main(words) == 2
    output, errors = capsys.readouterr()
    assert re.search(complaint, errors)
    assert errors.startswith("rlft: ")
    assert "Traceback" not in errors
    assert output == ""


def test_traceback_of_a_mistake_is_there_on_request(monkeypatch):
    monkeypatch.setenv("RLFT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="'wrong' is not"):
        main.main(["train", "--workdir=out", "--config=wrong"])


def test_bugs_keep_their_traceback():
    with pytest.raises(RuntimeError, match="a bug"):
        main.main(["train", "--workdir=out", "--config=bug"])
    with pytest.raises(ValueError, match="Sample larger than population"):
        main.main(["train", "--workdir=out", "--config=library"])
    with pytest.raises(ValueError, match="cannot convert float NaN"):
        main.main(["train", "--workdir=out", "--config=c function"])


def test_exit_code_is_the_commands_own():
    assert main.main(["train", "--workdir=out", "--config=preempted"]) == 75
    assert main.main(["train", "--workdir=out", "--config=slow"]) == 130


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_help_names_every_command(words, capsys):
    assert main.main(words) == 0
    page = capsys.readouterr().out
    assert all(f"  {name} " in page for name in main.COMMANDS)


@pytest.mark.parametrize("words", [["help", "train"], ["train", "--help"], ["train", "-h", "--x"]])
def test_help_of_a_command_shows_every_flag(words, capsys):
    assert main.main(words) == 0
    usage, *lines = capsys.readouterr().out.splitlines()
    assert usage == (
        "Usage: rlft train --config=... --workdir=... [--flag=value ...]"
        " [--config.section.setting=value ...]"
    )
    assert "Runs that were stopped go on." in lines
    assert "  --examples = 3                  How many to show." in lines
    assert "  --config (required)             The experiment." in lines
    assert not any("--overrides" in line for line in lines)


def test_help_of_a_config_can_be_that_of_a_section(capsys):
    assert main.main(["help", "config", "keep", "config.lora"]) == 0
    page = capsys.readouterr().out
    assert re.findall(r"^config.*", page, re.MULTILINE) == ["config.keep", "config.lora"]
    assert "    rank = 8 " in page
    assert main.main(["help", "config"]) == 0
    assert page.splitlines()[1] in capsys.readouterr().out


def test_help_comes_at_once_because_nothing_heavy_is_imported():
    program = (
        "import sys; from rlft_jax.main import main; main(['help'])\n"
        "heavy = {'jax', 'numpy', 'flax', 'transformers', 'datasets', 'ml_collections'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_compiled_programs_are_kept_in_a_folder_of_the_users_own(tmp_path):
    variables = {"XDG_CACHE_HOME": str(tmp_path)}
    environment.prepare_environment(variables)
    folder = tmp_path / "rlft_jax" / "xla"
    assert variables["JAX_COMPILATION_CACHE_DIR"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_folder_of_programs_that_others_can_write_to_is_refused(tmp_path):
    folder = tmp_path / "rlft_jax" / "xla"
    folder.mkdir(parents=True)
    folder.chmod(0o770)
    with pytest.raises(ValueError, match=r"Others can write to .*xla"):
        environment.prepare_environment({"XDG_CACHE_HOME": str(tmp_path)})


def test_without_a_place_for_programs_the_user_is_told_and_the_command_runs(tmp_path, capsys):
    (tmp_path / "rlft_jax").write_text("in the way")
    variables = {"XDG_CACHE_HOME": str(tmp_path)}
    environment.prepare_environment(variables)
    assert variables["JAX_COMPILATION_CACHE_DIR"] == ""
    assert "not kept for the next run" in capsys.readouterr().err


def test_choice_of_the_user_about_programs_stands():
    variables = {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": os.devnull}
    environment.prepare_environment(variables)
    assert variables["JAX_COMPILATION_CACHE_DIR"] == ""


def test_asking_for_the_same_bits_every_time_adds_a_flag_and_takes_none_away():
    variables = {"XLA_FLAGS": "--xla_dump_to=x"}
    environment.make_deterministic(variables)
    added = f"--xla_dump_to=x {environment.DETERMINISTIC}=true"
    assert variables["XLA_FLAGS"] == added
    environment.make_deterministic(variables)  # once is enough
    assert variables["XLA_FLAGS"] == added
    with pytest.raises(ValueError, match="contradicts XLA_FLAGS"):
        environment.make_deterministic({"XLA_FLAGS": f"{environment.DETERMINISTIC}=false"})


def test_training_sets_the_flag_before_it_reads_anything(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    with pytest.raises(ValueError, match=r"nowhere\.py"):
        train_command(config="nowhere.py", workdir="nowhere", deterministic=True)
    assert os.environ["XLA_FLAGS"].endswith(f"{environment.DETERMINISTIC}=true")


def test_the_installed_xla_knows_the_flag():
    options = {environment.DETERMINISTIC.removeprefix("--"): True}  # unknown ones are refused here
    assert jax.jit(lambda x: x + 1, compiler_options=options)(jnp.ones(())) == 2


def test_commands_that_compute_begin_again_once_with_huge_pages(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(os, "execve", lambda program, words, env: begun.append((words, env)))
    enabled = tmp_path / "enabled"
    monkeypatch.setattr(environment, "HUGE_PAGES", enabled)
    environment.use_huge_pages({})  # this Linux tells nothing
    for mode in ("[always] madvise never", "always madvise [never]"):
        enabled.write_text(mode)
        environment.use_huge_pages({})
    assert begun == []
    enabled.write_text("always [madvise] never\n")
    environment.use_huge_pages({"PATH": "x"})
    ((words, after),) = begun
    assert words == [sys.executable, *sys.orig_argv[1:]]
    assert after == {"PATH": "x", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    environment.use_huge_pages(after)  # which does not begin again
    environment.use_huge_pages({"GLIBC_TUNABLES": ""})  # the user's choice stands
    assert len(begun) == 1

"""What a config becomes, and what a user reads who got one wrong."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder, required_placeholder

from rlft_jax.config import binding as configs


def top(*, seed: int = 0, steps: int | None = None) -> None:
    """A run."""


def load(folder: str, *, init: str, dtype: Literal["float32", "bfloat16"] = "float32") -> None:
    """Loads a model.

    Args:
        init: A Hugging Face folder.
    """


def sft(model: object) -> None:
    """Imitates."""


def rloo(model: object, *, kl_weight: float = 0.0, clip_low: float = 0.2) -> None:
    """Reinforces.

    Args:
        kl_weight: Reward lost per nat.
    """


def advantages(*, normalise: bool = False, clip: float | None = None) -> None:
    """Advantages."""


def adapter(*, rank: int = 8, targets: tuple[str, ...] = ("q_proj",)) -> None:
    """An adapter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reward:
    """What a response is worth.

    Attributes:
        functions: Weights.
    """

    functions: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"verifier": 1.0})
    options: Mapping[str, Any] | None = None


SCHEMA = {
    "": top,
    "model": load,
    "objective": {"sft": sft, "rloo": rloo},
    "advantages": advantages,
    "lora": adapter,
    "reward": Reward,
}
PRESETS = {"objective": {"trl": {"objective.clip_low": 0.3, "advantages.normalise": True}}}


def experiment(**sections: object) -> ConfigDict:
    return ConfigDict({"model": {"init": "base"}, "objective": {"name": "rloo"}} | sections)


def resolve(config: ConfigDict, *overrides: tuple[str, str], **kwargs) -> dict:
    return configs.resolve(config, overrides, SCHEMA, presets=PRESETS, **kwargs)


def problems(config: ConfigDict, *overrides: tuple[str, str], **kwargs) -> list[str]:
    """What the user reads, a problem a line."""
    with pytest.raises(ValueError, match=r"^This config cannot run:\n- ") as error:
        resolve(config, *overrides, **kwargs)
    return str(error.value).splitlines()[1:]


def test_resolved_config_has_every_setting_of_every_section_there_is():
    assert resolve(experiment()) == {
        "seed": 0,
        "steps": None,
        "model": {"init": "base", "dtype": "float32"},
        "objective": {"name": "rloo", "preset": None, "kl_weight": 0.0, "clip_low": 0.2},
        "advantages": None,
        "lora": None,
        "reward": None,
    }


def test_nobody_below_sees_a_config_dict():
    resolved = resolve(experiment(lora={"rank": 4}))
    assert all(type(section) is not ConfigDict for section in resolved.values())
    assert type(resolved["lora"]["targets"]) is tuple


def test_override_wins_over_file_and_file_over_preset_and_preset_over_default():
    config = experiment(objective={"name": "rloo", "preset": "trl"})
    assert resolve(config)["objective"]["clip_low"] == 0.3
    assert resolve(config)["advantages"] == {"normalise": True, "clip": None}
    config.objective.clip_low = 0.4
    assert resolve(config)["objective"]["clip_low"] == 0.4
    assert resolve(config, ("objective.clip_low", "0.5"))["objective"]["clip_low"] == 0.5
    assert resolve(config, ("objective.preset", "none"))["advantages"] is None


def test_preset_can_be_chosen_on_the_command_line():
    resolved = resolve(experiment(), ("objective.preset", "trl"))
    assert resolved["objective"]["preset"] == "trl"
    assert resolved["advantages"]["normalise"] is True


def test_override_sets_what_the_file_left_out():
    resolved = resolve(experiment(), ("lora.rank", "16"), ("seed", "7"), ("steps", "none"))
    assert resolved["lora"]["rank"] == 16
    assert resolved["seed"] == 7


def test_float_settings_take_fractions_where_the_file_has_a_whole_number():
    config = experiment(objective={"name": "rloo", "kl_weight": 1})
    assert resolve(config, ("objective.kl_weight", "0.05"))["objective"]["kl_weight"] == 0.05
    assert type(resolve(config)["objective"]["kl_weight"]) is float


def test_override_can_set_one_entry_of_a_mapping():
    length, project = ("reward.functions.my.module:length", "-1"), ("reward.options.project", "x")
    assert resolve(experiment(), length, project)["reward"] == {
        "functions": {"verifier": 1.0, "my.module:length": -1.0},
        "options": {"project": "x"},
    }
    whole = ("reward.functions", "{'a': 1}")
    found = resolve(experiment(), length, whole)["reward"]["functions"]
    assert found == {"a": 1.0, "my.module:length": -1.0}
    assert problems(experiment(), ("reward.functions.verifier", "much")) == [
        "- config.reward.functions.verifier cannot be set: 'much' is not a number."
    ]
    (no_mapping,) = problems(experiment(), ("lora.rank.rank", "1"))
    assert no_mapping.startswith("- config.lora.rank.rank does not exist")


def test_names_with_dots_are_written_as_pairs_in_a_file():
    config = experiment(reward={"functions": [("verifier", 1), ("my.module:length", -1)]})
    assert resolve(config)["reward"]["functions"] == {"verifier": 1.0, "my.module:length": -1.0}


def test_defaults_that_a_factory_makes_are_not_shared():
    resolve(experiment(reward={}))["reward"]["functions"]["other"] = 2.0
    assert resolve(experiment(reward={}))["reward"]["functions"] == {"verifier": 1.0}


def test_override_can_remove_or_make_a_section():
    config = experiment(lora={"rank": 4})
    assert resolve(config, ("lora", "none"))["lora"] is None
    assert resolve(config, ("lora", "{}"))["lora"]["rank"] == 8
    assert problems(config, ("lora", "8")) == [
        "- config.lora is a section of settings, not 8. Set them one by one, as in"
        " --config.lora.SETTING=VALUE, or leave it out with --config.lora=none."
    ]


def test_sections_that_are_always_there_need_not_be_written():
    assert resolve(experiment(), always=["lora"])["lora"]["rank"] == 8


@pytest.mark.parametrize("hole", [placeholder(str), required_placeholder(str)])
def test_placeholders_count_as_not_written(hole):
    config = experiment(model={"init": hole, "dtype": hole})
    assert problems(config) == [
        "- config.model.init is missing (A Hugging Face folder). Set it in the file, or with"
        " --config.model.init=VALUE."
    ]
    assert resolve(config, ("model.init", "base"))["model"]["dtype"] == "float32"


def test_mistyped_setting_is_refused_with_the_nearest_name():
    assert problems(experiment(), ("objective.kl_wieght", "0.1")) == [
        f"- config.objective.kl_wieght does not exist: {__name__} has kl_weight, clip_low, name,"
        " preset. Did you mean config.objective.kl_weight?"
    ]


def test_mistyped_section_is_refused_with_the_nearest_name():
    (from_command_line,) = problems(experiment(), ("objectiv.kl_weight", "0.1"))
    assert from_command_line.endswith("Did you mean config.objective.kl_weight?")
    (from_file,) = problems(experiment(lorra={"rank": 8}))
    assert from_file.endswith("Did you mean config.lora?")


def test_setting_of_another_objective_is_refused():
    config = experiment(objective={"name": "sft", "clip_low": 0.1})
    assert problems(config) == [
        f"- config.objective.clip_low does not exist: {__name__} has name, preset."
    ]


def test_unknown_names_are_refused_with_the_choices():
    assert problems(experiment(objective={"name": "rlo"})) == [
        "- config.objective.name = 'rlo' does not exist: choose one of sft, rloo."
        " Did you mean rloo?"
    ]
    assert problems(experiment(objective={})) == [
        "- config.objective.name is missing: choose one of sft, rloo."
    ]
    (preset,) = problems(experiment(), ("objective.preset", "tlr"))
    assert preset.endswith("Did you mean trl?")


def test_everything_wrong_is_said_at_once():
    config = experiment(model={"dtype": "bf16"}, sed=1, lora=8)
    found = problems(
        config,
        ("lora.rank", "0.5"),
        ("steps", "many"),
        checks=[lambda resolved: ["The stars are wrong."]],
    )
    assert [line.split()[1] for line in found] == [
        "config.lora",
        "config.sed",
        "config.steps",
        "config.model.dtype",
        "config.model.init",
        "config.lora.rank",
        "The",
    ]
    assert "- config.lora.rank cannot be set: '0.5' is not a whole number." in found
    assert (
        "- config.model.dtype cannot be set: 'bf16' is not one of 'float32', 'bfloat16'." in found
    )


def test_check_that_needs_a_broken_setting_is_not_asked_further():
    def check(resolved):
        yield "First."
        yield f"rank {resolved['lora']['rank']}"

    found = problems(experiment(lora={"rank": 0.5}), checks=[check])
    assert [line.split()[1] for line in found] == ["config.lora.rank", "First."]


def test_broken_check_is_not_hidden():
    with pytest.raises(KeyError):
        resolve(experiment(), checks=[lambda resolved: [resolved["nothing"]]])


def test_bind_fills_in_a_section_and_leaves_the_rest_to_the_program():
    section = resolve(experiment())["objective"]
    assert configs.bind(rloo, section).keywords == {"kl_weight": 0.0, "clip_low": 0.2}
    with pytest.raises(ValueError, match=r"rank does not exist: .* has kl_weight, clip_low"):
        configs.bind(rloo, {"rank": 8})


def test_description_lists_every_setting_with_its_meaning():
    page = configs.describe(SCHEMA, PRESETS)
    assert "config.objective\n  preset = one of trl\n  name = sft: Imitates." in page
    assert "    kl_weight = 0.0               Reward lost per nat." in page
    assert "    init (required)               A Hugging Face folder." in page
    assert "    dtype = float32               One of 'float32', 'bfloat16'." in page


def test_config_file_is_read_with_its_argument(tmp_path: pathlib.Path):
    file = tmp_path / "a.py"
    file.write_text("def get_config(size='small'): return {'model': {'size': size}}")
    assert configs.read(str(file)).model.size == "small"
    assert configs.read(f"{file}:large").model.size == "large"


def test_missing_config_file_is_named_with_its_neighbour(tmp_path: pathlib.Path):
    (tmp_path / "countdown_sft.py").touch()
    with pytest.raises(ValueError, match=r"no config file .*slt\.py\. Did you mean .*_sft\.py\?"):
        configs.read(str(tmp_path / "countdown_slt.py"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 1", r"has no function get_config\(\)"),
        ("def get_config(:", r"a\.py, line 1: SyntaxError"),
        ("import nothing_of_the_kind", r"a\.py, line 1: ModuleNotFoundError: No module named"),
        ("def get_config():\n  return ConfigDict()", r"a\.py, line 2: NameError: name 'ConfigD"),
        ("def get_config(): pass", r"ValueError: get_config\(\) returned None"),
    ],
)
def test_config_file_that_does_not_run_is_explained(text, complaint, tmp_path):
    file = tmp_path / "a.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        configs.read(str(file))

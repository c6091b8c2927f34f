"""What counts as a setting, and which values and texts a setting takes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest
from jaxtyping import Array, Float, Key

from rlft_jax.config.settings import (
    argument_help,
    closest,
    describe_settings,
    describe_type,
    fit,
    parse,
    settings_of,
)
from rlft_jax.logprobs import token_scores


def tune(
    model: object,
    *,
    rate: float,
    steps: int | None = None,
    key: Key[Array, ""],
    reward: Callable | None = None,
    weights: Float[Array, " k"] | None = None,
) -> None:
    """Tunes.

    Args:
        model: Not a setting, because the program gives it.
        rate: How fast:
            in nats.

        steps (int, optional): How long.

    Returns:
        rate: Not an argument.
    """


def test_keyword_parameters_that_text_can_spell_are_settings():
    assert list(settings_of(tune)) == ["rate", "steps"]
    assert settings_of(tune)["rate"].is_required
    assert settings_of(tune)["steps"].default is None


def test_run_time_shape_checks_do_not_hide_a_signature():
    settings = settings_of(token_scores)  # wrapped by jaxtyping while testing
    assert settings["temperature"].annotation is float
    assert settings["temperature"].help == "Logits are divided by it, as when sampling."
    assert not settings.keys() & {"model", "batch"}


def test_annotations_may_be_strings():
    def later(*, rate: "float | None" = None) -> None: ...

    assert settings_of(later)["rate"].annotation == float | None


def test_help_is_read_from_the_docstring():
    assert settings_of(tune)["rate"].help == "How fast: in nats."
    assert settings_of(tune)["steps"].help == "How long."
    assert argument_help("Says nothing of its arguments.") == {}


def test_help_table_shows_name_default_and_meaning():
    lines = describe_settings(settings_of(tune).values(), prefix="--")
    assert [line.split() for line in lines] == [
        ["--rate", "(required)", "How", "fast:", "in", "nats."],
        ["--steps", "How", "long."],
    ]


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("3", int, 3),
        ("-1", int, -1),
        ("5e-6", float, 5e-6),
        ("1", float, 1.0),
        ("inf", float, float("inf")),
        ("true", bool, True),
        ("False", bool, False),
        ("0", bool, False),
        ("none", int | None, None),
        ("None", str | None, None),
        ("7", str | None, "7"),
        ("7", int | str, 7),
        ("", str, ""),
        ("b", Literal["a", "b"], "b"),
        ("2", Literal[1, 2], 2),
        ("none", Literal["none", "both"] | None, "none"),
        ("all-linear", str | Sequence[str], "all-linear"),
        ("q_proj,k_proj", str | Sequence[str], ("q_proj", "k_proj")),
        ("['q_proj']", str | Sequence[str], ("q_proj",)),
        ("1,2", tuple[int, int], (1, 2)),
        ("1,2", tuple[float, ...], (1.0, 2.0)),
        ("[1, 2]", list[int], [1, 2]),
        ("8", Sequence[int], (8,)),
        ("{'a': 1}", Mapping[str, float], {"a": 1.0}),
        ("{'a': [1]}", Any, {"a": [1]}),
        ("word", Any, "word"),
    ],
)
def test_text_spells_a_value_of_the_settings_type(text, annotation, value):
    parsed = parse(text, annotation)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation", "complaint"),
    [
        ("0.05", int, "'0.05' is not a whole number"),
        ("1e3", int, "'1e3' is not a whole number"),
        ("fast", float, "'fast' is not a number"),
        ("nan", float, "'nan' is not a number"),
        ("yes", bool, "'yes' is not true or false"),
        ("c", Literal["a", "b"], "'c' is not one of 'a', 'b'"),
        ("many", int | None, "'many' is not a whole number or none"),
        ("[1, 'a']", list[int], r"\"\[1, 'a'\]\" is not a list \(each a whole number\)"),
        ("[1, 2", Sequence[str], r"'\[1, 2' is not a list \(each text\)"),
        ("1,2,3", tuple[int, int], r"is not a list \(a whole number, a whole number\)"),
        ("{'a': 'b'}", Mapping[str, float], "is not a mapping from text to a number"),
        ("[" * 5000, list[int], "is not a list"),
    ],
)
def test_text_of_another_type_is_refused(text, annotation, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(text, annotation)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [(True, int), (1, bool), (0.5, int), ("1", float), ("ab", Sequence[str]), (1, Literal["1"])],
)
def test_values_of_a_file_are_not_reinterpreted(value, annotation):
    with pytest.raises(ValueError, match="is not"):
        fit(value, annotation)


def test_every_type_has_words():
    assert describe_type(Literal["a"] | None) == "one of 'a' or none"
    assert describe_type(tuple[int, ...]) == "a list (each a whole number)"


def test_only_names_that_look_alike_are_suggested():
    assert closest("kl_wieght", ["kl_weight", "clip_low"]) == "kl_weight"
    assert closest("zzz", ["kl_weight", "clip_low"]) is None

import numpy as np
import pytest

from rlft_jax import rewards
from rlft_jax.rewards import RewardError, checked, combined, load, verifier, weighted
from rlft_jax.tasks import countdown
from rlft_jax.tasks.problem import Problem

PROBLEMS = [countdown.problem({"nums": [3, 5, 8], "target": target}) for target in (16, 10, 0)]
RESPONSES = ["<answer>3+5+8</answer>", "<answer>3+5+8</answer>", "sixteen"]


def lengths(problems, responses):
    return [len(response) for response in responses]


def test_a_verifier_gives_the_scores_of_its_task():
    values = checked("verifier", verifier(task="countdown"), PROBLEMS, RESPONSES)
    np.testing.assert_array_equal(values, [1.0, 0.1, 0.0])
    power = countdown.problem({"nums": [2, 3], "target": 8})
    for scorer, expected in (("strict", 0.0), ("compat", 1.0)):
        reward = verifier(task="countdown", scorer=scorer)
        assert list(reward([power], ["<answer>2**3</answer>"])) == [expected]


def test_unknown_tasks_and_scorers_are_refused_with_the_names():
    with pytest.raises(ValueError, match=r"no task 'chess'\. Choose one of countdown, gsm8k"):
        verifier(task="chess")
    with pytest.raises(ValueError, match=r"no gsm8k scorer 'compat'\. Choose one of strict"):
        verifier(task="gsm8k", scorer="compat")


def test_a_weighted_sum_keeps_its_parts_unweighted():
    reward = weighted({"verifier": (verifier(task="countdown"), 2), "length": (lengths, -0.5)})
    total, parts = reward(PROBLEMS, RESPONSES)
    np.testing.assert_array_equal(parts["verifier"], [1.0, 0.1, 0.0])
    np.testing.assert_array_equal(parts["length"], [22, 22, 7])
    np.testing.assert_allclose(total, [2 - 11, 0.2 - 11, -3.5], rtol=1e-15)


def test_weights_are_checked_before_anything_runs():
    with pytest.raises(ValueError, match="at least one"):
        weighted({})
    with pytest.raises(ValueError, match="'b': nan"):
        weighted({"a": (lengths, 1.0), "b": (lengths, float("nan"))})


@pytest.mark.parametrize(
    "returned", [[1, 2.5, True], np.array([1, 2, 3], np.float16), (np.float32(1), np.array(2), 3)]
)
def test_any_three_numbers_are_three_rewards(returned):
    values = checked("any", lambda problems, responses: returned, PROBLEMS, RESPONSES)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, np.array([float(value) for value in returned]))


def test_an_array_of_jax_is_accepted():
    import jax.numpy as jnp

    for returned in (jnp.arange(3.0), list(jnp.arange(3.0))):
        values = checked("jax", lambda problems, responses, r=returned: r, PROBLEMS, RESPONSES)
        np.testing.assert_array_equal(values, [0, 1, 2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "1", 1j, 10**400, [1]])
def test_what_is_no_finite_number_names_reward_problem_and_response(bad):
    with pytest.raises(RewardError) as caught:
        checked("mine", lambda problems, responses: [0.0, bad, 1.0], PROBLEMS, RESPONSES)
    for part in ("'mine'", "response 1", "[3, 5, 8]", "equals 10", "<answer>3+5+8</answer>"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([1.0, 2.0], "2 values for 3 responses"),
        (np.zeros((3, 1)), r"an array of shape \(3, 1\)"),
        (0.5, r"returned 0.5 for 3 responses"),
        (None, r"returned None for 3 responses"),
    ],
)
def test_the_wrong_number_of_rewards_is_refused(returned, said):
    with pytest.raises(RewardError, match=said):
        checked("mine", lambda problems, responses: returned, PROBLEMS, RESPONSES)


def test_an_exception_is_traced_to_the_response_that_causes_it():
    def broken(problems, responses):
        return [1 / response.count("answer") for response in responses]

    with pytest.raises(RewardError, match=r"'broken'.*ZeroDivisionError.*response 2") as caught:
        weighted({"broken": (broken, 1.0)})(PROBLEMS, RESPONSES)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "'sixteen'" in str(caught.value)


def test_an_exception_of_the_whole_batch_is_said_to_be_one():
    def pairs(problems, responses):
        if len(responses) > 1:
            raise MemoryError("too many")
        return [0.0]

    with pytest.raises(RewardError, match="batch of 3 responses, though for none of them alone"):
        checked("pairs", pairs, PROBLEMS, RESPONSES)


def test_a_chat_problem_is_shown_by_its_last_turn():
    chat = Problem([{"role": "system", "content": "Hush."}, {"role": "user", "content": "Hi?"}], {})
    with pytest.raises(RewardError, match=r"'Hi\?'"):
        checked("none", lambda problems, responses: [None], [chat], ["x"])


def test_a_config_names_the_verifier_and_the_users_functions(user_code):
    alone, _ = combined("countdown")(PROBLEMS, RESPONSES)
    np.testing.assert_array_equal(alone, [1.0, 0.1, 0.0])
    place = "my_reward_package.scores:brevity"
    total, parts = combined("countdown", functions={"verifier": 1, place: 0.1})(PROBLEMS, RESPONSES)
    assert set(parts) == {"verifier", place}
    np.testing.assert_allclose(total, [1 - 2.2, 0.1 - 2.2, -0.7], rtol=1e-15)
    without_task, _ = combined(None, functions={place: 1})(PROBLEMS, RESPONSES)
    np.testing.assert_array_equal(without_task, [-22, -22, -7])
    with pytest.raises(ValueError, match=r"Set config\.data\.task"):
        combined(None)


@pytest.fixture
def user_code(tmp_path, monkeypatch):
    (tmp_path / "my_reward_package").mkdir()
    (tmp_path / "my_reward_package" / "__init__.py").touch()
    (tmp_path / "my_reward_package" / "scores.py").write_text(
        "CONSTANT = 3\ndef brevity(problems, responses):\n    return [-len(r) for r in responses]\n"
    )
    (tmp_path / "my_reward_package" / "broken.py").write_text("import no_such_library_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_users_reward_loads_from_a_module_or_a_file(user_code):
    file = user_code / "my_reward_package" / "scores.py"
    for path in (
        "my_reward_package.scores:brevity",
        "my_reward_package.scores.brevity",
        f"{file}:brevity",
    ):
        assert list(load(path)(PROBLEMS, RESPONSES)) == [-22, -22, -7]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("brevity", "names no reward"),
        ("scores.py:", "names no reward"),
        ("my_reward_package.scores:brevty", "Did you mean 'brevity'"),
        ("my_reward_package.scores:CONSTANT", "cannot be called"),
        ("my_reward_package.missing:brevity", "no module 'my_reward_package.missing'"),
        ("no_such_package.scores:brevity", "no module 'no_such_package'"),
        ("nowhere/reward.py:brevity", "no file .*nowhere/reward.py"),
    ],
)
def test_a_path_to_nothing_says_what_is_missing(user_code, path, said):
    with pytest.raises(ValueError, match=said):
        load(path)


def test_a_library_that_the_users_module_misses_is_not_hidden(user_code):
    with pytest.raises(ModuleNotFoundError, match="no_such_library_at_all"):
        load("my_reward_package.broken:brevity")


def test_rewards_need_no_jax():
    import subprocess
    import sys

    code = f"import sys, {rewards.__name__}; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reward_models_have_a_place_in_the_sum_before_they_are_loaded():
    planned = combined(None, models={"a": "runs/a", "b": "runs/b"}, functions={"a": 2.0, "b": 0.0})
    assert {name: part.model for name, part in planned.learned.items()} == {
        "a": "runs/a",
        "b": "runs/b",
    }
    fail = lambda problems, responses: [-1.0] * 3
    total, parts = planned.with_rewards({"a": lengths, "b": fail})(PROBLEMS, RESPONSES)
    np.testing.assert_array_equal(total, [44, 44, 14])
    np.testing.assert_array_equal(parts["b"], [-1, -1, -1])
    assert combined(None, models={"a": "runs/a"}).parts["a"][1] == 1.0


def test_a_reward_that_says_itself_what_is_wrong_is_asked_once():
    asked = []

    def reward(problems, responses):
        asked.append(len(responses))
        raise RewardError("not today")

    with pytest.raises(RewardError, match=r"^not today$"):
        checked("mine", reward, PROBLEMS, RESPONSES)
    assert asked == [3]

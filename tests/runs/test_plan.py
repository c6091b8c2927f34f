"""Facts about what is done before any weight is read."""

from rlft_jax.runs.plan import encoding


def test_each_data_set_is_encoded_with_a_bar_of_its_own(capsys):
    with encoding() as show:
        show(512, 1000)
        show(1000, 1000)
        show(512, 600)
        show(600, 600)
    counts = [line.split(" rows")[0] for line in capsys.readouterr().err.splitlines()]
    sets = ["512/1000", "1000/1000", "512/600", "600/600"]
    assert counts == [f"Encoding: {count}" for count in sets]

"""An export is there whole or not at all."""

import pytest

from rlft_jax.models.new_folder import new_folder


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "deep/export"
    with pytest.raises(FileExistsError), new_folder(out) as folder:  # noqa: PT012
        (folder / "a").mkdir()
        (folder / "a").mkdir()
    assert list(out.parent.iterdir()) == []
    with new_folder(out) as folder:
        (folder / "config.json").write_text("{}")
        assert not out.exists()
    assert (out / "config.json").read_text() == "{}"
    assert list(out.parent.iterdir()) == [out]


def test_a_full_folder_is_replaced_only_on_request(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious").write_text("mine")
    with pytest.raises(ValueError, match="is not an empty folder"), new_folder(tmp_path / "out"):
        pytest.fail("the block was entered")
    with new_folder(tmp_path / "out", replace=True) as folder:
        (folder / "new").touch()
        assert (tmp_path / "out/precious").read_text() == "mine"
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]

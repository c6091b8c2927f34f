"""A file is there whole or not at all."""

import pytest

from rlft_jax.files import written_whole


def test_a_file_appears_only_once_it_is_whole(tmp_path):
    path = tmp_path / "made" / "file.txt"
    with written_whole(path) as file:
        file.write("é\n")
        assert not path.exists()
    assert path.read_bytes() == "é\n".encode()


def test_a_failure_leaves_the_old_file_and_no_leftovers(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def interrupted():
        with written_whole(path) as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(IsADirectoryError), written_whole(tmp_path):
        pytest.fail("written")
    assert list(tmp_path.iterdir()) == []

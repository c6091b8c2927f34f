"""Facts about reading rows, and about what a person reads when that fails."""

import gzip
import json

import datasets
import pytest

from rlft_jax.data.readers import read_rows, split_holdout

ROWS = [{"prompt": "3", "completion": "é\u2028"}, {"prompt": "5", "completion": "8"}]


@pytest.fixture
def write(tmp_path):
    """Writes text to a file and returns its path."""

    def to(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return to


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_every_format_gives_the_same_rows(tmp_path, write):
    write("a.jsonl", lines(ROWS))
    write("b.json", json.dumps(ROWS))
    with gzip.open(tmp_path / "c.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\ufeff" + lines(ROWS) + "\n")
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "d.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert list(read_rows(path)) == ROWS, path
        assert list(read_rows(path, limit=1)) == ROWS[:1], path


def test_folders_that_datasets_wrote_are_read(tmp_path):
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=table, test=table.select([1])).save_to_disk(tmp_path / "several")
    assert list(read_rows(tmp_path / "one")) == ROWS
    assert list(read_rows(tmp_path / "several", split="test")) == ROWS[1:]
    with pytest.raises(ValueError, match=r"no split 'dev'; it has \['train', 'test'\]"):
        read_rows(tmp_path / "several", split="dev")


def test_folders_of_files_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text(lines(ROWS))
    assert list(read_rows(folder)) == ROWS


def test_a_bad_line_is_named(write):
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 3 is not JSON"):
        read_rows(write("bad.jsonl", '{"a": 1}\n\n{"a": \n'))
    with pytest.raises(ValueError, match=r"line 1 holds list instead of a row"):
        read_rows(write("list.jsonl", "[1]\n"))
    with pytest.raises(ValueError, match=r"line 1 is not JSON"):
        read_rows(write("deep.jsonl", "[" * 100_000))


def test_bad_files_are_refused(write, tmp_path):
    with pytest.raises(ValueError, match=r"unknown ending\. Known are \.jsonl"):
        read_rows(write("rows.csv", "a,b"))
    with pytest.raises(ValueError, match="cannot be read"):
        read_rows(write("fake.jsonl.gz", "no gzip"))
    with pytest.raises(ValueError, match="cannot be read"):
        read_rows(write("fake.parquet", "no parquet"))
    with pytest.raises(ValueError, match="not a list of rows"):
        read_rows(write("object.json", "{}"))
    with pytest.raises(ValueError, match="has no rows"):
        read_rows(write("empty.jsonl", "\n"))
    cut = gzip.compress(lines(ROWS).encode())[:-12]
    (tmp_path / "cut.jsonl.gz").write_bytes(cut)
    with pytest.raises(ValueError, match="cannot be read"):
        read_rows(tmp_path / "cut.jsonl.gz")
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(ValueError, match="cannot be read"):
        read_rows(tmp_path / "latin.jsonl")
    with pytest.raises(ValueError, match="is not a file or folder"):
        read_rows("./no/such/folder")
    with pytest.raises(ValueError, match="does not exist"):
        read_rows("data/train.jsonl")  # no hub name, though it looks like one


def test_a_hub_name_that_cannot_be_reached_is_told():
    with pytest.raises(ValueError, match=r"'no/such-set' with split 'train' cannot be read"):
        read_rows("no/such-set")


def test_held_out_rows_are_others_and_follow_the_seed():
    rows = [{"n": n} for n in range(100)]
    train, heldout = split_holdout(rows, 0.1, seed=3)
    assert len(heldout) == 10
    assert sorted(row["n"] for row in [*train, *heldout]) == list(range(100))
    assert list(train) == sorted(train, key=lambda row: row["n"])
    assert list(split_holdout(rows, 10, seed=3)[1]) == list(heldout)
    assert list(split_holdout(rows, 10, seed=4)[1]) != list(heldout)
    assert len(split_holdout(rows, 0, seed=3)[1]) == 0


@pytest.mark.parametrize("holdout", [100, 1000, -1, 2.5])
def test_a_holdout_that_leaves_nothing_or_is_no_number_of_rows_is_refused(holdout):
    with pytest.raises(ValueError, match=r"config\.data\.holdout"):
        split_holdout([{"n": n} for n in range(100)], holdout, seed=0)


def test_a_file_can_be_sliced_like_a_split(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"n": {n}}}\n' for n in range(6)))
    numbers = lambda **how: [row["n"] for row in read_rows(file, **how)]
    assert numbers(split="train[:4]") == [0, 1, 2, 3]
    assert numbers(split="train[4:]", limit=1) == [4]
    with pytest.raises(ValueError, match="no rows"):
        numbers(split="train[6:]")
    with pytest.raises(ValueError, match=r"has no split 'train\[:50%\]': it is a file"):
        numbers(split="train[:50%]")

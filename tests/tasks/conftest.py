"""Reads the rows of the real data sets."""

import gzip
import json

import pytest


@pytest.fixture
def shared_rows(shared_data):
    """Function from a file of the shared data to its rows."""

    def rows(name):
        path = shared_data / name
        with gzip.open(path) if path.suffix == ".gz" else path.open() as lines:
            return [json.loads(line) for line in lines]

    return rows

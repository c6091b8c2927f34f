"""Scripts to run by hand, some of them with another tool's Python; no tests."""

collect_ignore_glob = ["*.py"]

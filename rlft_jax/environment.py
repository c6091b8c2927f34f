"""Environment variables that libraries read, and the folder of compiled programs."""

import os
import pathlib
import stat
import sys
from collections.abc import Mapping, MutableMapping

DETERMINISTIC = "--xla_gpu_exclude_nondeterministic_ops"
HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def prepare_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what the libraries read when they are imported, unless the user has set it.

    Call it before they are imported. Compiled programs are kept between runs, in a folder of the
    user's own; where there can be none, a line on stderr says so.

    Raises:
        ValueError: If others can write to that folder: what is in there is run as it is.
    """
    environment.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses PyTorch, we do not
    if "JAX_COMPILATION_CACHE_DIR" not in environment:
        environment["JAX_COMPILATION_CACHE_DIR"] = _private(cache_folder(environment) / "xla")


def make_deterministic(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keeps GPUs from what gives other bits every time, such as sums in the order of arrival.

    Call it before JAX is imported. CPUs and TPUs have nothing of that kind. Which kernels a program
    has is chosen by timing them when it is compiled; the folder of compiled programs keeps that.

    Raises:
        ValueError: If XLA_FLAGS asks for the contrary.
    """
    flags = environment.get("XLA_FLAGS", "").split()
    said = [flag for flag in flags if flag.startswith(f"{DETERMINISTIC}=")]
    if any(flag != f"{DETERMINISTIC}=true" for flag in said):
        raise ValueError(f"--deterministic contradicts XLA_FLAGS, which say {said[-1]}.")
    if not said:
        environment["XLA_FLAGS"] = " ".join([*flags, f"{DETERMINISTIC}=true"])


def use_huge_pages(environment: Mapping[str, str] = os.environ) -> None:
    """Begins this process again with memory in huge pages, if Linux gives them and nobody has.

    A step on CPUs takes hundreds of megabytes and gives them back. In pages of 4 KiB that is a
    hundred thousand page faults, and an eighth of the step's time. glibc decides it when a process
    begins; a GLIBC_TUNABLES of the user's stays as it is.
    """
    if "GLIBC_TUNABLES" in environment or not HUGE_PAGES.is_file():
        return
    # Where they are always given there is nothing to ask for, and where never, nothing to get.
    if "[madvise]" in HUGE_PAGES.read_text() and "CS_GNU_LIBC_VERSION" in os.confstr_names:
        tuned = {**environment, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], tuned)


def cache_folder(environment: Mapping[str, str] = os.environ) -> pathlib.Path:
    """Where what can be made again is kept."""
    caches = environment.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(caches, "rlft_jax")


def _private(folder: pathlib.Path) -> str:
    """Makes a folder that only the user can write to; returns its path, or "" if it cannot be."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{folder}: {error.strerror}"
        print(f"Compiled programs are not kept for the next run ({reason}).", file=sys.stderr)
        return ""
    found = folder.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise ValueError(
            f"Others can write to {folder}, and could have you run programs of theirs. Delete it,"
            " or set JAX_COMPILATION_CACHE_DIR to a folder that only you can write to."
        )
    return str(folder)

"""A limit to the memory that some lines may take. The kernel keeps it, whoever allocates: Python, numpy or torch."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_USED = Path("/proc/self/statm")


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """Within it an allocation fails that takes the process beyond so much more than it has now."""
    if not _USED.exists():
        pytest.skip("the kernel tells nothing of a process's memory")
    used = int(_USED.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

"""Functions compiled to machine code, for loops over records and bytes that numpy cannot express."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function, compiled at its first call; kept on disk for the next start where there is a place to keep it.

    Other threads run meanwhile: a client fetches what comes next.
    """
    try:
        return cast(F, numba.njit(cache=True, error_model="numpy", nogil=True)(function))
    except RuntimeError:  # neither beside the code nor in a home
        return cast(F, numba.njit(error_model="numpy", nogil=True)(function))


def inlined(function: F) -> F:
    """The function, put into each compiled one that calls it: where a call costs as much as what is done in it."""
    return cast(F, numba.njit(inline="always", error_model="numpy")(function))

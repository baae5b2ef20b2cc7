"""Compiled functions whose disk cache knows every source that they were built from.

numba keeps machine code beside a function's file and makes it anew when that one file changes. But code of other files
is built in: what the function calls, and constants that it reads. So the cache is stamped with a hash of all of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

import numpy as np

from marl.compiling import listen

KernelFunction = TypeVar("KernelFunction", bound=Callable[..., Any])

CONSTANTS = (bool, int, float, str, slice, np.generic)


def jit(signatures: Sequence[str] = (), **options: Any) -> Callable[[KernelFunction], KernelFunction]:
    """``numba.njit(cache=True, **options)`` with a stamped cache.

    Args:
        signatures: what to compile at once; without any, a signature is compiled when it is first called.
        options: those of ``numba.njit``.
    """

    def decorate(function: KernelFunction) -> KernelFunction:
        import numba

        listen()
        kernel: Any = numba.njit(cache=True, **options)(function)
        cache_file = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
        if cache_file is not None:  # there is none where nothing can be written
            cache_file._source_stamp = stamp(function)
            # Read first: the rest may name classes that are gone.
            cache_file._version = f"{cache_file._version} {cache_file._source_stamp}"
        for signature in signatures:
            kernel.compile(signature)
        if signatures:
            kernel.disable_compile()
        return cast(KernelFunction, kernel)

    return decorate


def stamp(function: Callable[..., Any]) -> str:
    """A hash of the files, and the values of the constants, that a compiled function may be built from."""
    digest = hashlib.sha256()
    for path, names in sorted(sources(function).items()):
        digest.update(_file_hash(path).encode())
        for name, value in sorted(names.items()):
            if isinstance(value, CONSTANTS) and not name.startswith("__"):
                digest.update(f"{name}={value!r}\n".encode())
    return digest.hexdigest()


def sources(function: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """The files of a function and of all compiled functions that its file knows, each with its global names."""
    found: dict[str, dict[str, Any]] = {}
    waiting = [function]
    while waiting:
        current = waiting.pop()
        path = current.__code__.co_filename
        if path not in found:
            found[path] = current.__globals__
            waiting += _compiled_functions(current.__globals__)
    return found


def _compiled_functions(names: dict[str, Any]) -> Iterator[Callable[..., Any]]:
    """The Python functions behind compiled ones and behind numba's intrinsics."""
    for value in list(names.values()):
        python = getattr(value, "py_func", None)
        if python is None and type(value).__module__.startswith("numba."):
            python = getattr(value, "__wrapped__", None)
        if isinstance(python, FunctionType):
            yield python


@cache
def _file_hash(path: str) -> str:
    """Of what the file holds now; of its name if there is no such file."""
    file = Path(path)
    return hashlib.sha256(file.read_bytes() if file.is_file() else path.encode()).hexdigest()

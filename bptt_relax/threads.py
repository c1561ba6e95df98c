"""Threads for work that leaves Python's lock, such as compiled programs: as many as there are processors."""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Processors that this process may use."""
    return getattr(os, "process_cpu_count", os.cpu_count)() or 1


def on_every_core(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Map a function that leaves Python's lock over items, in as many threads as there are processors."""
    return list(_workers().map(function, items))


@functools.cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="worker")


def submit(function: Callable[..., Result], *arguments: Any) -> "Future[Result]":
    """Start a function in one of these threads."""
    return _workers().submit(function, *arguments)

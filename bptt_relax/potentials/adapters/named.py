"""A function that shows the signature of another."""

import inspect
from collections.abc import Callable


def with_names_of(call: Callable, function: Callable) -> Callable:
    """Let ``function(params, **inputs)`` ask for what ``call(...)`` asks for.

    Args:
        call: a module's bound ``__call__``.
        function: gets the parameters first and the inputs by name.
    """
    signature = inspect.signature(call)
    first = inspect.Parameter("params", inspect.Parameter.POSITIONAL_ONLY)
    inputs = [
        p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values() if p.kind not in _VARIADIC
    ]
    function.__signature__ = signature.replace(parameters=[first, *inputs])  # pyright: ignore[reportFunctionMemberAccess]
    return function


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

"""Look inside a network while it runs."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import translate
from typing import Any

from torch import nn


@contextmanager
def observe(module: nn.Module, *patterns: str) -> Iterator[dict[str, list[Any]]]:
    """Collect what the submodules that match a pattern return.

    Args:
        module: for example `codec.inter`.
        patterns: glob patterns of submodule names; `*` also matches dots.

    Yields:
        A dict from module name to the list of its outputs, one a call, filled while the body runs.

    Raises:
        ValueError: where a pattern matches no submodule.

    Example:
        >>> net = nn.Sequential(nn.Identity(), nn.ReLU())
        >>> with observe(net, "1") as seen:
        ...     _ = net(__import__("torch").tensor([-1.0, 2.0]))
        >>> seen["1"][0].tolist()
        [0.0, 2.0]
    """
    chosen: dict[str, nn.Module] = {}
    for pattern in patterns:
        matching = re.compile(translate(pattern))
        found = {name: part for name, part in module.named_modules() if name and matching.match(name)}
        if not found:
            known = ", ".join(name for name, _ in module.named_children())
            raise ValueError(f"no submodule matches {pattern!r}; the top-level ones are: {known}")
        chosen |= found
    seen: dict[str, list[Any]] = {name: [] for name in chosen}
    handles = [
        part.register_forward_hook(lambda _module, _inputs, output, name=name: seen[name].append(output))
        for name, part in chosen.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()

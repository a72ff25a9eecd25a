"""Names the extra of pyproject.toml to install where an optional module is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Around imports: where a module is missing, the error says which extra has it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        missing = f"{what} needs {package}: pip install 'adamlab[{extra}]'"
        raise ModuleNotFoundError(missing, name=error.name, path=error.path) from error

"""What to install where a module is missing that not everything needs: the extras of pyproject.toml."""

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

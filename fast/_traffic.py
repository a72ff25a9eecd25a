"""What a GPU graph that Inductor has written does to memory: read off its text, counted in bytes.

A wrapper allocates buffers and runs kernels. Each tl.load and tl.store of a kernel is one pass over the buffer behind its pointer:
a second pass over the same buffer is counted again, as if no cache kept it, whatever the number of blocks. So a count proves
how far the operations were fused and how many bytes they ask for. It says nothing about speed.
"""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import Any

ITEM = {
    "*fp64": 8, "*i64": 8, "*fp32": 4, "*i32": 4, "*u32": 4, "*bf16": 2, "*fp16": 2, "*i16": 2, "*i8": 1, "*u8": 1, "*i1": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Access:
    """One tl.load or tl.store: the kernel's pointer argument, and whether it has an index that runs over entries."""

    reads: bool
    pointer: str
    indexed: bool


@dataclass(frozen=True)
class KernelCode:
    """A Triton kernel as Inductor has written it: `source` is a module of its own."""

    name: str
    source: str
    accesses: tuple[Access, ...]
    arguments: tuple[str, ...]
    types: dict[str, str]


@dataclass(frozen=True)
class Traffic:
    """The counts of one call of a graph. Bytes of numbers that stand alone (scalars) are left out."""

    kernels: int
    launches: int
    read: int
    written: int
    temporaries: int  # buffers that the graph allocates
    temporary_bytes: int
    extern: tuple[str, ...]  # calls of anything that is not a generated kernel


def kernels_of(wrapper: str) -> list[KernelCode]:
    """Every kernel that the wrapper defines, as `name = async_compile.triton(name, source)`."""
    found = []
    for node in ast.walk(ast.parse(wrapper)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "triton":
            name, source = (ast.literal_eval(a) for a in node.args[:2])
            found.append(_kernel(name, source))
    return found


def _kernel(name: str, source: str) -> KernelCode:
    function = next(
        n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name.startswith("triton_")
    )
    types = re.search(r"'signature': (\{[^}]*\})", source)
    if types is None:
        raise ValueError(f"kernel {name} has no signature: this is not the code of the pinned version of torch")
    accesses = []
    for call in ast.walk(function):
        if not (isinstance(call, ast.Call) and ast.unparse(call.func) in ("tl.load", "tl.store", "tl.atomic_add")):
            continue
        pointer, index = call.args[0], ""
        while isinstance(pointer, ast.BinOp):
            index, pointer = index + " " + ast.unparse(pointer.right), pointer.left
        indexed = re.search(r"\b[xyzr]\w*\d", index) is not None
        accesses.append(Access(ast.unparse(call.func) == "tl.load", ast.unparse(pointer), indexed))
    arguments = tuple(a.arg for a in function.args.args)
    return KernelCode(name, source, tuple(accesses), arguments, ast.literal_eval(types.group(1)))


def traffic(wrapper: str, sizes: dict[str, int]) -> Traffic:
    """Counts one call of the graph. `sizes`: the numbers of entries of its inputs."""
    kernels = {k.name: k for k in kernels_of(wrapper)}
    sizes = dict(sizes)
    read = written = launches = temporaries = temporary_bytes = 0
    extern: list[str] = []
    for line in wrapper[wrapper.index("def call(") :].splitlines():
        line = line.strip()
        extern += re.findall(r"(?:extern_kernels|torch\.ops|aten)\.[\w.]+(?=\()|\w+\.copy_(?=\()", line)
        if m := re.match(r"assert_size_stride\((\w+), (\([^)]*\))", line):
            sizes[m[1]] = math.prod(ast.literal_eval(m[2]))
        elif m := re.match(r"(\w+) = empty_strided\w*\((\([^)]*\)), \([^)]*\), torch\.(\w+)", line):
            sizes[m[1]] = math.prod(ast.literal_eval(m[2]))
            temporaries += 1
            temporary_bytes += sizes[m[1]] * _width(m[3])
        elif m := re.match(r"(\w+) = (?:reinterpret_tensor\()?(\w+)(?:;|,|$)", line):
            if m[2] in sizes:
                sizes[m[1]] = sizes[m[2]]
        elif (m := re.match(r"(\w+)\.run\(", line)) and m[1] in kernels:
            launches += 1
            kernel = kernels[m[1]]
            given = dict(zip(kernel.arguments, _names(line), strict=False))
            for access in kernel.accesses:
                size = sizes[given[access.pointer]]
                if size > 1 and access.indexed:
                    moved = size * ITEM[kernel.types[access.pointer]]
                    read += moved * access.reads
                    written += moved * (not access.reads)
    return Traffic(len(kernels), launches, read, written, temporaries, temporary_bytes, tuple(extern))


def _width(dtype: str) -> int:
    bits = re.search(r"\d+$", dtype)
    return int(bits[0]) // 8 if bits else 1


def _names(call: str) -> list[str]:
    """The names of the buffers behind the arguments of `kernel.run(...)`."""
    (statement,) = ast.parse(call).body
    assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)

    def innermost(node: Any) -> str:
        while isinstance(node, ast.Call) and node.args:
            node = node.args[0]
        return node.id if isinstance(node, ast.Name) else ""

    return [innermost(a) for a in statement.value.args]

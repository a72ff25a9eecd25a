"""torch.compile as this package asks for it: on the CPU, Inductor's own code is called without the layers above it.

Those layers cost more than a small kernel, so each kind of tensors passes through them only once.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import itertools
import operator
import threading
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fast._kernels.update import Item

# Inductor stores an intermediate that depends on more than some loads, and each hyper-parameter counts as one: never do
INLINED: dict[str, Any] = dict.fromkeys(
    ("realize_opcount_threshold", "realize_reads_threshold", "realize_acc_reads_threshold"), 1000
)
CONTRACTED: dict[str, Any] = {"cpp.enable_floating_point_contract_flag": "fast"}
# what Inductor's code does besides calling its kernels: it lets go of its list and makes buffers
PLAIN = {"clear", "empty_strided_cpu", "torch", "float64", "float32", "bfloat16", "float16", "int64", "int32", "bool"}

# How many modes look at each operation of torch at this moment: Dynamo compiles nothing under them.
_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)

Run = Callable[[Tensor, Item], None]  # updates an item, with the scalars as one tensor


def compiled(
    function: Callable[..., Any], dynamic: bool, options: dict[str, Any] | None = None, backend: Any = "inductor"
) -> Callable[..., Any]:
    """With entries of its own in Dynamo's cache, and an error where it would recompile without end or fall back in silence."""
    renamed = _renamed(function)
    return torch.compile(renamed, backend=backend, dynamic=dynamic, fullgraph=True, options=options and known(options))


def known(options: dict[str, Any]) -> dict[str, Any]:
    """Those of Inductor's options that this version of it has; without the others its code is right, if not as fast.

    What is a word in one version may be a switch in another (contraction, before 2.7), and torch.compile asks for its type.
    """
    from torch._inductor import config, list_options

    here = {name: value for name, value in options.items() if name in list_options()}
    return {name: bool(v) if isinstance(operator.attrgetter(name)(config), bool) else v for name, v in here.items()}


def watched() -> bool:
    """Whether somebody looks at each operation (a TorchDispatchMode): then a step is taken one operation at a time."""
    return _modes() > 0


def vector_width() -> dict[str, Any]:
    """Inductor's option for vectors as wide as this processor's.

    Inductor makes them so by itself, but does not remember in its cache how wide they are: found by a processor with other
    vectors, on a shared disk, its code computes wrong results there, or does not compile. An option enters the cache's key.
    """
    asking_for_vectors().join()
    try:
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        return {"cpp.simdlen": pick_vec_isa().bit_width()}
    except (ImportError, AttributeError):
        widths = {"DEFAULT": 0, "AVX2": 256, "AVX512": 512}  # those of torch's own kernels
        width = widths.get(torch.backends.cpu.get_cpu_capability())
        return {} if width is None else {"cpp.simdlen": width}


def _renamed(function: Any) -> Callable[..., Any]:
    """The function with code of its own, by a name that no other has.

    Dynamo keeps what it compiles by the code, and counts it: the functions of one code would use up one limit. And it remembers
    by file, line and name which sizes have changed, and gives each of those a symbol of its own where it would see that some
    are equal: the code of a kernel would depend on those that were compiled before it.
    """
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_numbers)}")
    return types.FunctionType(code, function.__globals__, code.co_name, function.__defaults__, function.__closure__)


_numbers = itertools.count()


def vectors(item: Item) -> Item:
    """Contiguous tensors, as vectors."""
    return tuple(t.view(-1) for t in item)


def takes_addresses(code: Callable[..., Any]) -> bool:
    """Whether Inductor's code hands its tensors on to its kernels, which take their addresses, and asks them nothing.

    Sometimes it reads a size off one of them. Then, or if it does anything that is not known here, it must get vectors.
    """
    names = getattr(getattr(code, "__func__", code), "__code__", None)
    return names is not None and all(n in PLAIN or n.startswith("cpp_fused") for n in names.co_names)


class Direct:
    """A compiled function of (values, *item), for which Dynamo's guards are asked once for each kind of item.

    Guards and wrappers cost more than a small kernel. What they ask of tensors is their shapes, dtypes and strides; here all
    have the strides of the parameter. So the first item of a kind goes through Dynamo, and it is noted which code of Inductor's
    ran, and on which arguments; the next ones go there at once. Autograd does not see what these write: the caller tells it.
    """

    def __init__(
        self,
        function: Callable[..., None],
        contract: bool = False,
        of_vectors: bool = False,
        past_guards: bool = True,
    ) -> None:
        """`contract`: a product and a sum may be rounded once, together.

        `of_vectors`: it takes vectors, and an item's tensors for vectors, whatever their shape. Without `past_guards` each call
        goes through the guards.
        """
        self._of_vectors = of_vectors
        self._options = {**INLINED, "size_asserts": False} | (CONTRACTED if contract else {})
        if past_guards and importlib.util.find_spec("torch._inductor.compile_fx"):
            self._guarded = compiled(function, dynamic=True, backend=self._backend)
        else:
            self._guarded = compiled(function, dynamic=True, options={**self._options, **vector_width()})
        self._known: dict[Any, Run] = {}
        self._ran: list[tuple[Callable[..., Any], list[Any]]] = []

    def on(self, item: Item) -> Run:
        """What is to be called with (values, item) for this item, and for others of its shapes, dtypes and strides."""
        # the code is made for a number of threads, and whoever put another tensor into the state must not be misread
        key = torch.get_num_threads(), item[0].stride(), *[(t.shape, t.dtype) for t in item]
        return self._known.get(key) or partial(self._first, key)

    def _first(self, key: Any, values: Tensor, item: Item) -> None:
        # a view's guards would ask after what it is a view of
        tensors = tuple(t.detach() for t in (values, *(vectors(item) if self._of_vectors else item)))
        self._ran.clear()
        self._guarded(*tensors)
        if not self._ran:
            return
        code, arguments = self._ran.pop()  # which keeps no tensor alive
        places = {id(t): i for i, t in enumerate(tensors)}
        sizes = tuple(a for a in arguments if id(a) not in places)
        if not all(type(size) is int for size in sizes):
            return
        rest = iter(range(len(tensors), len(tensors) + len(sizes)))
        pick = operator.itemgetter(*[places[id(a)] if id(a) in places else next(rest) for a in arguments])

        def run(values: Tensor, item: Item) -> None:
            code([*pick((values, *item, *sizes))])

        views = self._of_vectors and not takes_addresses(code)
        self._known[key] = (lambda values, item: run(values, vectors(item))) if views else run

    def _backend(self, graph: torch.fx.GraphModule, examples: list[Any]) -> Callable[..., Any]:
        from torch._inductor.compile_fx import compile_fx

        patches = known({**self._options, **vector_width()})
        wrapped: Any = compile_fx(graph, examples, config_patches=patches)  # pyright: ignore[reportArgumentType]
        made: Any = inspect.unwrap(wrapped)  # Inductor's own, which writes in place: the wrappers only count versions

        def noted(*arguments: Any) -> Any:
            code = made.current_callable

            def noting(arguments: list[Any]) -> Any:
                taken = list(arguments)  # the code empties its list
                results = code(arguments)
                if not results:  # else the wrappers would have to write them somewhere
                    self._ran.append((code, taken))
                return results

            made.current_callable = noting
            try:
                return wrapped(*arguments)
            finally:
                made.current_callable = code

        return noted if hasattr(made, "current_callable") else wrapped


@functools.cache
def asking_for_vectors() -> threading.Thread:
    """Finds out in the background which vectors the processor has.

    Inductor builds and loads a library for each kind, in a new process, and waits for it: a second, in which its own modules
    can be imported.
    """
    cpu_vec_isa: Any = None
    with contextlib.suppress(ImportError):  # here, since two threads must not import one module
        from torch._inductor import codecache, cpp_builder, cpu_vec_isa  # noqa: F401

    def ask() -> None:
        with contextlib.suppress(Exception):  # it goes wrong again where it is asked for, and is told there
            cpu_vec_isa.valid_vec_isa_list()  # which keeps the answer

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread


# What an update's formula says to Inductor, without changing a number


def not_a_vector(x: Tensor) -> Tensor:
    """x, with nothing added to it in a way that keeps a CPU's compiler from making a loop over x alone a vector's.

    So the loop over x, one number for a row, is joined with the loops over what is in the rows, which is then read once; as a
    vector's it would stand alone, and so would they.
    """
    return x + (x != x).to(torch.int16) if for_a_cpu(x) else x


def single(x: Tensor) -> Tensor:
    """x, as a buffer: a CPU's compiler writes out any other value for each of its uses, of which each level has twice as many.

    A buffer that is used in the same loop alone is kept in a register.
    """
    return x.as_strided(x.shape, x.stride()) if for_a_cpu(x) else x


def for_a_cpu(x: Tensor) -> bool:
    """Whether this is compiled, for a CPU."""
    return torch.compiler.is_compiling() and x.device.type == "cpu"

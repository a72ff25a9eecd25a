"""Makes torch.compile write its GPU code on a machine without a GPU. Changes torch for the whole process: use a subprocess.

Inductor decides everything about its Triton kernels from a few properties of the device. `pretend` answers for an A100
(sm_80) or an H100 (sm_90); the tensors are FakeTensors, which have sizes and a device but no memory; and `generated_code`
stops the compiler before it would load what it wrote. Written for, and pinned to, the versions in VERSIONS.
"""

from __future__ import annotations

import logging
import os
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

VERSIONS = {"torch": "2.13.0", "triton": "3.7.1"}
# name, multiprocessors, shared memory a block may opt in to (bytes), L2 cache (MiB): from the vendor's data sheets
GPUS = {
    80: ("NVIDIA A100-SXM4-80GB", 108, 166_912, 40),
    90: ("NVIDIA H100 80GB HBM3", 132, 232_448, 50),
}


def found_versions() -> dict[str, str]:
    """The versions of torch and triton, without the local part; "none" for what is not installed."""
    try:
        import triton
    except ImportError:
        return {"torch": torch.__version__.partition("+")[0], "triton": "none"}
    return {"torch": torch.__version__.partition("+")[0], "triton": triton.__version__.partition("+")[0]}


def properties(arch: int) -> Any:
    """What torch.cuda.get_device_properties would say of the GPU of this architecture."""
    name, multiprocessors, shared, cache = GPUS[arch]
    return types.SimpleNamespace(
        name=name,
        major=arch // 10,
        minor=arch % 10,
        multi_processor_count=multiprocessors,
        warp_size=32,
        regs_per_multiprocessor=65_536,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        total_memory=80 << 30,
        shared_memory_per_block=49_152,
        shared_memory_per_block_optin=shared,
        shared_memory_per_multiprocessor=shared + 1024,
        L2_cache_size=cache << 20,
        gcnArchName="",
    )


def pretend(arch: int) -> None:
    """Makes torch and Triton believe in one GPU of this architecture, for the rest of the process."""
    import torch._inductor.fx_passes.joint_graph as joint_graph
    import torch._inductor.runtime.triton_helpers as triton_helpers
    import torch.fx.experimental.proxy_tensor as proxy_tensor
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import config
    from torch._subclasses.fake_tensor import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    gpu = properties(arch)
    for name in ("use_static_triton_launcher", "use_static_cuda_launcher"):
        if hasattr(config, name):
            setattr(config, name, False)
    config.compile_threads = 1
    config.force_disable_caches = True
    answers: dict[str, Any] = {
        "is_available": True,
        "is_bf16_supported": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_properties": gpu,
        "get_compute_capability": arch,
    }
    for name, value in answers.items():
        setattr(CudaInterface, name, staticmethod(_constant(value)))
    CudaInterface.Worker.get_device_properties = staticmethod(_constant(gpu))
    CudaInterface.Worker.current_device = staticmethod(_constant(0))
    # torch.cuda.is_available stays False on purpose: code for streams and random numbers is then skipped.
    torch.cuda.get_device_properties = _constant(gpu)
    torch.cuda.get_device_capability = _constant((arch // 10, arch % 10))
    torch.cuda.current_device = _constant(0)

    class Driver:
        """Code generation asks a driver for the target and for nothing else."""

        get_current_target = _constant(GPUTarget("cuda", arch, 32))
        get_current_device = _constant(0)
        get_active_torch_device = _constant(torch.device("cuda", 0))

    driver.set_active(Driver())  # pyright: ignore[reportArgumentType]
    triton_helpers.set_driver_to_gpu = lambda: None
    initialise = joint_graph.lazy_init  # it traces its patterns on real tensors
    joint_graph.lazy_init = lambda device=None: initialise(torch.device("cpu"))
    _fold_constants_on_the_cpu(joint_graph.UniformValueConstantFolder)
    proxy_tensor.CONSTANT_NUMEL_LIMIT = 0
    if torch.version.cuda is None:  # in a CPU build the binding of copy_ asks for a CUDA guard
        for cls in (FakeTensor, FunctionalTensor):
            setattr(cls, "copy_", lambda a, b, non_blocking=False: torch.ops.aten.copy_.default(a, b, non_blocking))  # noqa: B010


def _constant(value: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: value


def _fold_constants_on_the_cpu(folder: Any) -> None:
    """The folder evaluates aten.full([1], c) for real: let it do so on the CPU."""
    deduce, cpu = folder._deduce_value, torch.device("cpu")

    def on_cpu(self: Any, node: Any) -> Any:
        kwargs, args = node.kwargs, node.args
        if "device" in kwargs:
            node.kwargs = {**kwargs, "device": cpu}
        if node.target is torch.ops.prims.device_put.default:
            node.args = (args[0], cpu, *args[2:])
        try:
            return deduce(self, node)
        finally:
            node.args, node.kwargs = args, kwargs

    folder._deduce_value = on_cpu


class Generated(Exception):
    """Raised in the place of loading the code: carries Inductor's wrapper and the numbers of entries of its inputs.

    `order`: which of the tensors that were given to the compiled function each input is, where the caller has found out.
    """

    def __init__(self, wrapper: str, sizes: dict[str, int]) -> None:
        super().__init__("the code is written; there is no GPU to load it")
        self.wrapper, self.sizes = wrapper, sizes
        self.order: list[int] = []


@contextmanager
def collecting() -> Iterator[list[Generated]]:
    """Collects the code of every graph that is compiled inside; whoever called the compiled function sees an exception."""
    from torch._inductor.graph import GraphLowering

    made: list[Generated] = []

    def stop(self: Any) -> Any:
        wrapper, _ = self.codegen()
        made.append(Generated(wrapper.value, {n: int(self.get_numel(n)) for n in self.graph_inputs}))
        raise made[-1]

    with mock.patch.object(GraphLowering, "compile_to_module", stop), torch.no_grad():
        yield made

"""The GPU kernels of every optimizer, made and counted without a GPU: `python -m fast.gpu_codegen` (`--help` for the rest).

What torch.compile would run on an H100 or A100 for one step: kernels, launches, bytes a parameter read and written, temporaries,
calls of anything else, registers and spills. The graph is the one that fast/_graphs.py hands to the compiler, with the Update
objects of the optimizer. "CONTROL" is Grams with an opaque operation in its middle: fusion breaks, and the counts must show it.

Counts prove fusion and traffic. They say nothing about speed: times on a GPU are not run.
Needs Triton: pip install "adamlab[gpu-codegen]" (Linux). Written for the versions in fast/_pretend_gpu.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from fast._gpu_calls import CONTROL, OPTIMIZERS, generate, step_of
from fast._pretend_gpu import GPUS, VERSIONS, found_versions, pretend
from fast._traffic import kernels_of, traffic
from fast.bench import Shape, llama_60m

SHAPES = {
    "few": lambda: [(1024, 1024), (512, 1024), (1000, 777), (1024,)],
    "mixed": lambda: [
        (4096, 1024), (1024, 4096), (1024, 1024), (1024, 1024), (3072, 1024), (1000, 777), (50304, 512),
        (1024,), (4096,), (777,),
    ],
    "llama-60m": llama_60m,
}  # fmt: skip
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CASES = [*OPTIMIZERS, CONTROL]
# Bytes a parameter that no way of computing the update can do without, with the memory of a GPU between two kernels: each tensor is
# read once and written once. The Cautious scale counts a whole tensor's mask before the first entry can move, and a count needs
# grad and exp_avg once more; storing something in the first pass for the second only adds to that. Adams' W^T u needs all of a
# matrix before W v can begin: W once more; its rows are read once for W v and the update. (A step that summed up the next step's
# W^T u in the same pass would save that, as long as nobody else writes W; ours does not.) bfloat16 is of parameters and
# gradients, the averages stay float32; Adams writes its float32 weights and the parameters, and reads both twice, since
# somebody else may have written the parameters.
LEAST = {
    torch.float32: {"Grams": 28, "Lion": 20, "CautiousAdamW": 36, "CautiousLion": 28, "AdamMini": 20, "Adams": 32},
    torch.bfloat16: {"Grams": 22, "Lion": 14, "CautiousAdamW": 28, "CautiousLion": 20, "AdamMini": 14, "Adams": 36},
}


def count(
    name: str,
    shapes: Sequence[Shape],
    dtype: torch.dtype = torch.float32,
    *,
    capturable: bool = False,
    machine: bool = False,
) -> dict[str, Any]:
    """One row of the table: the sums over the graphs of a step. Bytes are a parameter; `machine` compiles to machine code too."""
    from fast._cubin import machine_code

    begin, parameters = time.perf_counter(), sum(torch.Size(s).numel() for s in shapes)
    step = step_of(name, shapes, dtype, capturable)
    graphs = [generate(call) for call in step.calls]
    counted = [traffic(code.wrapper, code.sizes) for code in graphs]
    row: dict[str, Any] = {
        "optimizer": name,
        "capturable": capturable,
        "dtype": str(dtype).removeprefix("torch."),
        "tensors": len(shapes),
        "parameters": parameters,
        "graphs": len(graphs),
        "kernels": sum(t.kernels for t in counted),
        "launches": sum(t.launches for t in counted),
        "read": sum(t.read for t in counted) / parameters,
        "written": sum(t.written for t in counted) / parameters,
        "temporaries": sum(t.temporaries for t in counted),
        "temporary": sum(t.temporary_bytes for t in counted) / parameters,
        "extern": sum(len(t.extern) for t in counted),
        "eager": len(step.eager),
        "least": LEAST[dtype].get(name),
    }
    if machine:
        row |= asdict(machine_code([k for code in graphs for k in kernels_of(code.wrapper)]))
    return row | {"seconds": time.perf_counter() - begin}


def missing() -> str | None:
    """What to do where this cannot run, or None."""
    if not sys.platform.startswith("linux"):
        return "Triton runs on Linux alone"
    if found_versions()["triton"] == "none":
        return 'Triton is not installed: pip install "adamlab[gpu-codegen]"'
    return None


def lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield (
        f"{'':15}{'dtype':9}{'capt.':>6}{'kernels':>8}{'launches':>9}{'eager':>6}{'B read':>8}{'written':>8}{'sum':>7}{'least':>6}"
        f"{'temps':>7}{'B':>8}{'extern':>7}{'regs':>6}{'spills':>7}"
    )
    for row in rows:
        yield (
            f"{row['optimizer']:15}{row['dtype']:9}{'yes' if row['capturable'] else 'no':>6}{row['kernels']:8}{row['launches']:9}"
            f"{row['eager']:6}"
            f"{row['read']:8.2f}{row['written']:8.2f}{row['read'] + row['written']:7.2f}{row['least'] or '':>6}"
            f"{row['temporaries']:7}{row['temporary']:8.3f}{row['extern']:7}"
            f"{row.get('registers', ''):>6}{row.get('spilled', ''):>7}"
        )


def _arch(text: str) -> int:
    return int(text.removeprefix("sm_"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fast.gpu_codegen", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--optimizers", nargs="+", choices=CASES, default=CASES)
    parser.add_argument(
        "--arch", type=_arch, choices=GPUS, default=90, metavar="{sm_80,sm_90}", help="sm_80: A100; sm_90: H100"
    )
    parser.add_argument(
        "--dtype", nargs="+", choices=DTYPES, default=["float32"], help="of parameters and gradients; state is float32"
    )
    parser.add_argument("--capturable", choices=["no", "yes", "both"], default="no")
    parser.add_argument(
        "--no-machine-code", action="store_true", help="leave out registers and spills (most of the time)"
    )
    parser.add_argument("--json", metavar="FILE", help='write the rows there as well; "-": to standard output, alone')
    given = parser.parse_args(arguments)
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")  # Inductor's own, about the GPU that it believes in
    alone = given.json == "-"
    versions = found_versions()
    if versions != VERSIONS:
        print(f"written for {VERSIONS}, found {versions}: it may fail", file=sys.stderr)
    pretend(given.arch)
    result: dict[str, Any] = {"versions": versions, "arch": f"sm_{given.arch}", "sets": {}}
    for name in given.sets:
        shapes = SHAPES[name]()
        result["sets"][name] = rows = [
            count(optimizer, shapes, DTYPES[dtype], capturable=capturable, machine=not given.no_machine_code)
            for optimizer in given.optimizers
            for dtype in given.dtype
            for capturable in {"no": [False], "yes": [True], "both": [False, True]}[given.capturable]
        ]
        if not alone:
            print(f"\n{name} on a pretended {GPUS[given.arch][0]}; torch {versions['torch']}")
            print("\n".join(lines(rows)))
    if alone:
        print(json.dumps(result))
    else:
        print("\nCounts prove fusion and traffic; they say nothing about speed. Times on a GPU: not run.")
        if given.json:
            with open(given.json, "w") as file:
                json.dump(result, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

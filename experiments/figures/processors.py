"""The notebooks and their figures as other processors would compute them: python -m experiments.figures.processors

A processor is imitated by switches of the libraries that choose their code by it: the widest vectors that torch, MKL, oneDNN
and NumPy use, OpenBLAS's kernels, the vector width of Inductor's code, the number of threads. Each setting runs all
notebooks under nbval in processes of its own, with a compiler cache of its own (a cache shared by two vector widths gives
wrong steps), and compares what they print and draw with what is kept. Before, it asks the libraries whether they obey: a
setting that this processor cannot do is reported, not passed. The table shows all of it; exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from experiments.figures import numbers as figure_numbers

ROOT = Path(__file__).resolve().parents[2]
BASELINE = "all above its baseline"  # stands for the names that NumPy knows here
TORCH = {  # the switches of torch's own code, of MKL and of oneDNN, at one width
    "default": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
    },
}
# OpenBLAS names kernels by the first of the processors that share them, and not every build has kernels of Zen's own.
OPENBLAS = {
    "Haswell": ["Haswell"],
    "SkylakeX": ["SkylakeX"],
    "Zen": ["Zen", "Haswell"],
    "Prescott": ["Prescott", "Katmai"],
}
SWITCHES = {"NPY_DISABLE_CPU_FEATURES", "OPENBLAS_CORETYPE"}.union(*TORCH.values())
# What the libraries say of themselves, in a process with the switches set. MKL says it only of calls, and only in print.
PROBE = """
import json, os, sys
import numpy as np, scipy.linalg, torch
from threadpoolctl import threadpool_info
from torch._inductor import config, cpu_vec_isa
if sys.argv[1]:
    config.cpp.simdlen = int(sys.argv[1])
blas = [x["architecture"] for x in threadpool_info() if x["internal_api"] == "openblas"]
with torch.backends.mkl.verbose(torch.backends.mkl.VERBOSE_ON):
    torch.ones(64, 64, dtype=torch.float64) @ torch.ones(64, 64, dtype=torch.float64)
sys.stdout.flush()
isa = cpu_vec_isa.pick_vec_isa()
print("PROBE" + json.dumps({
    "torch": torch.backends.cpu.get_cpu_capability().lower(),
    "numpy": np.show_config(mode="dicts")["SIMD Extensions"].get("found", []),
    "openblas": blas,
    "inductor": isa.bit_width() if isa else 0,
    "threads": torch.get_num_threads(),
}))
"""


@dataclass(frozen=True)
class Setting:
    """`env`: the switches. `simdlen`: of Inductor, None as it chooses. `expected`: what the probe must answer, so that it holds."""

    name: str
    env: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    simdlen: int | None = None
    expected: dict[str, object] = field(default_factory=dict)


def settings() -> list[Setting]:
    """One switch after another, and two whole processors: one without any vectors to choose, one with AVX2."""
    numpy = {"NPY_DISABLE_CPU_FEATURES": BASELINE}
    found = [Setting("as it is")]
    found += [Setting(f"torch {x}", env, expected={"torch": x}) for x, env in TORCH.items()]
    found += [Setting("NumPy's baseline", numpy, expected={"numpy": []})]
    for kernels in OPENBLAS:
        found.append(Setting(f"OpenBLAS {kernels}", {"OPENBLAS_CORETYPE": kernels}))
    found += [Setting(f"Inductor {bits}", simdlen=bits, expected={"inductor": bits}) for bits in (0, 256, 512)]
    found += [Setting("two threads", threads=2, expected={"threads": 2})]
    for name, width, kernels in (("an old one", "default", "Prescott"), ("one with AVX2", "avx2", "Haswell")):
        env = TORCH[width] | numpy | {"OPENBLAS_CORETYPE": kernels}
        found.append(Setting(name, env, expected={"torch": width, "numpy": []}))
    return found


def environment(setting: Setting, folder: Path) -> dict[str, str]:
    """The process environment of a setting, without what the caller's own may choose; makes what it needs in `folder`."""
    env = {k: v for k, v in os.environ.items() if k not in SWITCHES and not k.startswith("TORCHINDUCTOR_")}
    env |= setting.env
    if env.get("NPY_DISABLE_CPU_FEATURES") == BASELINE:
        simd = np.show_config(mode="dicts")["SIMD Extensions"]  # the names differ between versions of NumPy
        env["NPY_DISABLE_CPU_FEATURES"] = " ".join(simd.get("found", []))
    env |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(setting.threads))
    env |= {"ADAMLAB_FIGURES": str(folder / "figures"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    if (
        setting.simdlen is not None
    ):  # Inductor reads it from no variable: IPython runs this file before a notebook's first cell
        start = folder / "ipython" / "profile_default" / "startup" / "simdlen.py"
        start.parent.mkdir(parents=True, exist_ok=True)
        start.write_text(f"from torch._inductor import config\nconfig.cpp.simdlen = {setting.simdlen}\ndel config\n")
        env["IPYTHONDIR"] = str(folder / "ipython")
    return env


def obeyed(setting: Setting, env: dict[str, str]) -> tuple[str, str]:
    """What the libraries do instead of what the setting says, "" if they obey; and what they are silent about."""
    simdlen = "" if setting.simdlen is None else str(setting.simdlen)
    ran = subprocess.run([sys.executable, "-c", PROBE, simdlen], env=env, capture_output=True, text=True, check=False)
    answer = next((line[5:] for line in ran.stdout.splitlines() if line.startswith("PROBE")), None)
    if answer is None:
        raise RuntimeError(
            f"{setting.name}: the libraries do not load: {' '.join(ran.stderr.strip().splitlines()[-1:])}"
        )
    said = json.loads(answer)
    other = [f"{k} says {said[k]}, not {v}" for k, v in setting.expected.items() if said[k] != v]
    if (kernels := env.get("OPENBLAS_CORETYPE")) and not set(said["openblas"]) <= set(OPENBLAS[kernels]):
        other.append(f"OpenBLAS has kernels of {said['openblas']}, not {kernels}")
    if "MKL_CBWR" in env and "MKL_VERBOSE" in ran.stdout and f"CNR:{env['MKL_CBWR']}" not in ran.stdout:
        other.append(f"MKL does not take MKL_CBWR={env['MKL_CBWR']}")
    # on an Intel processor MKL's first line ends: "... (Intel(R) AVX2) enabled processors"; on others it has one code for all
    one_code = "MKL_ENABLE_INSTRUCTIONS" in env and "enabled processors" not in ran.stdout
    return "; ".join(other), "MKL has one code for all vectors here" if one_code else ""


@dataclass(frozen=True)
class Result:
    """`failed`: a notebook's name to the first cell of it that failed. `differ`: a figure's name to how (figures.numbers)."""

    failed: dict[str, str]
    differ: dict[str, str]
    seconds: float


def run(notebooks: Sequence[Path], setting: Setting, env: dict[str, str], folder: Path) -> Result:
    """All `notebooks` under one setting. RuntimeError if pytest itself does not get through."""
    start, report = time.perf_counter(), folder / "report.xml"
    processes = max(1, (os.cpu_count() or 1) // setting.threads)
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(processes), "--dist", "loadfile", *map(str, notebooks)]
    command += ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=1200", "--nbval-kernel-startup-timeout=300"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}", "-o", "junit_family=xunit1", "--timeout=3600"]
    ran = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode not in (0, 1):
        raise RuntimeError(
            f"{setting.name}: pytest ended with {ran.returncode}:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}"
        )
    failed: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed.setdefault(Path(case.get("file", "")).stem, f"{case.get('name')}, see {report}")
    numbers = tuple(path.stem[:2] for path in notebooks)
    found = figure_numbers.compare(folder / "figures", ROOT / "figures")
    differ = {name: how for name, how in found.items() if name.startswith(numbers)}
    return Result(failed, differ, time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.figures.processors", description=(__doc__ or "").split("\n")[0]
    )
    known = settings()
    parser.add_argument("--only", nargs="+", metavar="SETTING", help=f"of: {', '.join(s.name for s in known)}")
    parser.add_argument("--notebooks", type=Path, nargs="+", default=sorted((ROOT / "notebooks").glob("*.ipynb")))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "processors", help="default: %(default)s")
    given = parser.parse_args(arguments)
    if unknown := {*(given.only or ())} - {s.name for s in known}:
        parser.error(f"no such setting: {', '.join(unknown)}; known are {', '.join(s.name for s in known)}")
    notebooks, wrong = [path.resolve() for path in given.notebooks], False
    print(f"{'setting':<20}{'notebooks':>10}{'figures that differ':>21}{'seconds':>9}", flush=True)
    for setting in known:
        if given.only and setting.name not in given.only:
            continue
        folder = given.folder.resolve() / setting.name.replace(" ", "_").replace("'", "")
        folder.mkdir(parents=True, exist_ok=True)
        for old in [*folder.glob("figures/*.svg"), *folder.glob("figures/data/*.json")]:
            old.unlink()
        env = environment(setting, folder)
        why, silent = obeyed(setting, env)
        if why:
            print(f"{setting.name:<20}  not here: {why}", flush=True)
            continue
        result = run(notebooks, setting, env, folder)
        passed = f"{len(notebooks) - len(result.failed)}/{len(notebooks)}"
        print(
            f"{setting.name:<20}{passed:>10}{len(result.differ):>21}{result.seconds:>9.0f}  {silent}".rstrip(),
            flush=True,
        )
        for name, how in [*result.failed.items(), *((f"{n}.json", how) for n, how in result.differ.items())]:
            print(f"    {name}: {how}", flush=True)
        wrong = wrong or bool(result.failed or result.differ)
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main())

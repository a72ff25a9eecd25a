"""The numbers of `python -m experiments.gpu` as lines of text, each goal beside what it is held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.gpu.cases import goals, numerics_goal

HEAD = (
    f"  {'':18}{'ms':>8}{'quartiles':>16}{'ratio':>7}{'quartiles':>13}{'alone':>7}{'B':>4}{'GB/s':>6}{'copy':>7}"
    f"{'launches':>9}{'first step':>11}{'peaks B':>11}"
)


def verdict(reached: bool, dry: bool) -> str:
    return "not judged" if dry else "reached" if reached else "MISSED"


def lines(results: Mapping[str, Any]) -> Iterator[str]:
    """Everything that was found; what was planned and is not there is `not run`."""
    machine = results["machine"]
    said = ", ".join(f"{name} {value}" for name, value in machine.items() if value is not None)
    yield f"{'DRY, ON A CPU: NO NUMBER HERE SAYS ANYTHING ABOUT A GPU. ' if results['dry'] else ''}{said}"
    yield from numerics_lines(results["numerics"], results["dry"])
    batches: dict[str, list[str]] = {}
    for key in dict.fromkeys([*results["planned"], *results["rows"]]):
        batches.setdefault(key.rpartition("/")[0], []).append(key)
    for batch, keys in batches.items():
        yield from batch_lines(batch, {key: results["rows"].get(key) for key in keys}, results["dry"])
    if results["first_steps"]:
        yield "\nfirst step on Llama-60M's tensors, with nobody beside it"
        for label, row in results["first_steps"].items():
            times = ", ".join(f"{name} {_seconds(row.get(name))}" for name in ("cold", "warm"))
            yield f"  {label:18}{times}"


def numerics_lines(numerics: Mapping[str, Any], dry: bool) -> Iterator[str]:
    if not numerics:
        yield "numerics: not run"
        return
    missing = numerics["without_a_result"]
    yield (
        f"numerics: {numerics['passed']} passed, {numerics['failed']} failed, {numerics['skipped']} skipped,"
        f" {len(missing)} without a result, of {numerics['tests']} tests, in {numerics['seconds']:.0f} s;"
        f" goal, all pass: {verdict(numerics_goal(numerics), dry)}"
    )
    yield from (f"  failed   {one['test']}\n           {one['error'][:160]}" for one in numerics["failures"])
    yield from (f"  no result {test}" for test in missing[:10])
    yield from (f"  process  {ended}" for ended in numerics["processes"])
    yield from (f"  skipped  {count}: {reason}" for reason, count in numerics["skipped_because"].items())
    yield from (f"  warned   {count} times: {text}" for text, count in list(numerics["warnings"].items())[:5])


def batch_lines(batch: str, rows: Mapping[str, Mapping[str, Any] | None], dry: bool) -> Iterator[str]:
    """One set in one dtype. ratio: to fused AdamW's time; alone: the same from an idle device, with what the host does."""
    measured = next((row for row in rows.values() if row and "parameters" in row), None)
    what = f": {measured['parameters']:,} parameters in {measured['tensors']} tensors" if measured else ""
    yield f"\n{batch}{what}"
    yield HEAD
    for key, row in rows.items():
        label = key.rpartition("/")[2]
        if not row:
            yield f"  {label:18}not run"
        elif "ms" not in row:
            yield f"  {label:18}{failure(row)}"
        else:
            yield f"  {label:18}{numbers(row)}"
            if "over_s" in row or "status" in row or "error" in row:
                yield f"  {'':18}then: {failure(row)}"
            for text, reached in goals(key, row):
                yield f"  {'':18}goal {text}: {verdict(reached, dry)}"


def failure(row: Mapping[str, Any]) -> str:
    """Why a row has no times."""
    if "absent" in row:
        return f"not installed ({row['absent']})"
    if "over_s" in row:
        return f"over {row['over_s']:.0f} s ({row['during']}), and killed"
    if "error" in row or "status" in row:
        return f"failed: {row.get('error') or row['last_words'] or 'no words'} (status {row.get('status')})"
    return f"first step {_seconds(row.get('first_step_s'))}; not measured"


def numbers(row: Mapping[str, Any]) -> str:
    low, high = row["ms_quartiles"]
    under, over = row["ratio_quartiles"]
    share = row["percent_of_copy"]
    launches = row.get("profiled_kernels", "-")
    written = f"/{row['launches_counted']}" if "launches_counted" in row else ""
    late = f"  {row['late']:.0%} of the steps waited for the host" if row["late"] else ""
    return (
        f"{row['ms']:8.3f} {low:7.3f}{high:8.3f}{row['ratio']:7.2f} {under:6.2f}{over:6.2f}{row['alone_ratio']:7.2f}"
        f"{row['bytes_a_parameter']:4}{row['gb_s']:6.0f}{'-' if share is None else f'{share:.0f} %':>7}"
        f"{f'{launches}{written}':>9}{_seconds(row.get('first_step_s')):>11}{_bytes(row):>11}{late}"
    )


def _seconds(value: Any) -> str:
    return f"{value:.1f} s" if isinstance(value, int | float) else str(value or "not run")


def _bytes(row: Mapping[str, Any]) -> str:
    """The most that the first step held beyond what was there, and a later one, in bytes a parameter."""
    first, later = row.get("first_peak_bytes"), row.get("later_peak_bytes")
    return "-" if first is None or later is None else f"{first:.1f}/{later:.2f}"

"""`python -m experiments.bench`: its ledger adds up, its files hold what it prints, and nobody is faster than the memory limit."""

from __future__ import annotations

import json

import pytest
import torch

from experiments import bench
from fast._kernels import shortcuts

WALK = pytest.mark.parametrize("label", bench.CONTESTANTS)
SMALL = [(96, 64), (64,), (3, 40, 24), (1, 50), *[(48,)] * 9]  # matrices, stacks, vectors; the last ones make a pack


@WALK
def test_the_ledger_predicts_what_is_allocated(label) -> None:
    (entry,) = bench.ledger(SMALL, [label])
    assert entry.parameters == 96 * 64 + 64 + 3 * 40 * 24 + 50 + 9 * 48
    assert entry.measured == entry.predicted
    # Adams keeps W v, v and sqrt(M) of each matrix between two steps, which are no state
    work = 4 * (96 + 64 + 1 + 3 * (40 + 24) + 1) if label == "Adams" else 0
    assert entry.held == pytest.approx(entry.predicted + work, rel=1e-2)


def test_convolutions_are_in_the_ledger() -> None:
    for entry in bench.ledger([(16, 8, 3, 3), (16, 8, 1, 1), (16,)], ["Grams", "AdamMini", "Adams"]):
        assert entry.measured == entry.predicted, entry.optimizer


def test_adam_mini_keeps_little_on_llama_60m() -> None:
    state = bench.CONTESTANTS["AdamMini"].state
    shapes = bench.llama_60m()
    assert state(shapes) <= 4.05 * sum(torch.Size(s).numel() for s in shapes)
    optimizer = bench.adam_mini([torch.nn.Parameter(torch.empty(s, device="meta")) for s in shapes])
    blocks = [optimizer._blocks(group, p).count for group in optimizer.param_groups for p in group["params"]]
    assert state(shapes) == 4 * sum(torch.Size(s).numel() + n + 1 for s, n in zip(shapes, blocks, strict=True))
    for few in ([(4, 512)], [(4, 512), (8, 4, 3, 3), (7,)]):
        (entry,) = bench.ledger(few, ["AdamMini"])
        assert entry.measured == state(few)


def test_a_storage_counts_once_and_a_parameter_not_at_all() -> None:
    param = torch.nn.Parameter(torch.zeros(100))
    optimizer = torch.optim.SGD([param])
    whole = torch.zeros(30)
    optimizer.state[param] = {"first": whole[:10], "second": whole[10:], "master": param.detach().view(10, 10)}
    assert bench.state_bytes(optimizer) == 4 * 30


def test_what_is_kept_and_the_peak_are_told_apart() -> None:
    def call() -> torch.Tensor:
        passing = torch.zeros(3000)
        return passing[:1000] + 1.0

    kept, peak = bench.kept_and_peak_bytes(call)
    assert kept == 4 * 1000 and 0 <= peak - 4 * 4000 < 100  # and some scalars


def test_every_large_set_is_what_it_is_called() -> None:
    counts = {name: sum(torch.Size(s).numel() for s in bench.SETS[name]()) for name in bench.LARGE}
    assert counts == {"llama-60m": 58_073_600, "wide-resnet-50-2": 66_854_730, "small-2000": 2_000_000}


@pytest.fixture(scope="module")
def times() -> dict:
    """4.2 million parameters: with their state more than a cache holds."""
    return bench.measure([(1024, 1024)] * 4, 5, ["Grams", "Lion", "AdamMini", "Adams"])


def test_nobody_is_faster_than_the_memory_limit(times) -> None:
    kernels = times["limit"]["kernels"]
    fastest = kernels[times["limit"]["fastest"]]
    assert fastest["gb_s"] == max(kernel["gb_s"] for kernel in kernels.values())
    reached = {label: row["gb_s"] for label, row in times["optimizers"].items()}
    assert len(reached) == 6 and max(reached.values()) <= 1.3 * fastest["best_gb_s"], reached


def test_bandwidth_is_bytes_over_time(times) -> None:
    for label, row in times["optimizers"].items():
        moved = 28 if label == bench.LIMIT else bench.CONTESTANTS[label].traffic
        assert row["bytes_a_parameter"] == moved
        assert row["gb_s"] == pytest.approx(moved * times["parameters"] / row["ms"] / 1e6)
        assert row["ms_quartiles"][0] <= row["ms"] <= row["ms_quartiles"][1]
    assert times["optimizers"][bench.BASE]["ratio"] == 1.0
    assert times["optimizers"][bench.LIMIT]["share_of_limit"] == pytest.approx(1.0)


def test_streams_move_what_they_say() -> None:
    """Each kernel changes as many vectors as it writes; the others are read."""
    streams = bench.Streams(1000)
    for name, moved in streams.names.items():
        before = [t.clone() for t in streams.vectors]
        assert streams.rate(name) > 0
        written = sum(not torch.equal(t, old) for t, old in zip(streams.vectors, before, strict=True))
        names = {word for word in name.replace(",", " ").split() if word in "abcd"}
        assert moved == 4 * (len(names) + written), name


def test_the_command_keeps_what_it_measured_before(tmp_path, capfd) -> None:
    file = tmp_path / "bench.json"
    arguments = ["--optimizers", "Lion", "--json", str(file)]
    bench.main(["--memory", "--sets", "one-of-each", *arguments])
    bench.main(["--times", "--sets", "one-of-each", "--rounds", "2", *arguments])
    out = capfd.readouterr().out
    kept = json.loads(file.read_text())
    (entry,) = kept["memory"]["one-of-each"]["entries"]
    assert entry["optimizer"] == "Lion" and entry["measured"] == entry["predicted"] == 57_308
    assert f"{57_308 / 14_311:.4f}" in out
    row = kept["times"]["one-of-each"]["optimizers"]["Lion"]
    assert f"{row['ms']:.1f}" in out and row["bytes_a_parameter"] == 20
    assert kept["compile"] == {} and kept["times"]["one-of-each"]["machine"]["torch"] == torch.__version__


def test_a_shortcut_is_measured_with_and_without_and_is_on_afterwards(tmp_path, capfd) -> None:
    found = tmp_path / "bench.json"
    options = ["--sets", "one-of-each", "--optimizers", "Grams", "AdamW fused", "--rounds", "3", "--json", str(found)]
    bench.main([*options, "--without", "PACKS", "VIEWS"])
    rows = json.loads(found.read_text())["shortcuts"]["one-of-each"]["Grams"]
    assert rows.keys() == {"PACKS", "VIEWS"} and shortcuts.PACKS and shortcuts.VIEWS
    for row in rows.values():
        assert row["ratio_quartiles"][0] <= row["ratio"] <= row["ratio_quartiles"][1] and row["rounds"] == 3
    assert "without PACKS" in capfd.readouterr().out


def test_too_few_rounds_are_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--rounds", "1"])
    assert "--rounds must be at least 2, got 1" in capsys.readouterr().err


def test_the_line_of_compilation_says_what_was_compiled_on_what() -> None:
    line = bench.compile_line("Lion", {"set": "one-layer", "recompilations": 0, "cold_s": 9.0, "warm_s": 3.0})
    first, schedule = line.split(", ", 1)
    assert "warm on one-layer" in first and schedule.endswith(
        "0 recompilations in 1,000 steps of a schedule on 64x32, 64, 33"
    )


@pytest.mark.compiler
def test_no_step_of_a_schedule_compiles_anew() -> None:
    assert bench.recompilations("Lion", steps=30) == 0


@pytest.mark.compiler
@pytest.mark.slow
@pytest.mark.parametrize("label", bench.COMPILED)
def test_a_thousand_steps_of_a_schedule_compile_nothing(label) -> None:
    assert bench.recompilations(label) == 0

"""What fast.Monitor gives away: columns, JSON, TensorBoard, pictures; its refusals; and steps that nobody can watch."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from twin import give, gradients, parameters, train

import fast
from fast import Monitor


def watched(steps: int = 5, **options: Any) -> Monitor:
    """Adams in two groups: all quantities there are."""
    params = parameters([(4, 3), (5,)])
    optimizer = fast.Adams([{"params": [("weight", params[0])]}, {"params": [("bias", params[1])]}], compile=False)
    with Monitor(optimizer, loss_star=0.0, names=True, **options) as monitor:
        for i in range(steps):
            monitor.loss(10.0 - i)
            train(optimizer, params, [i])
    return monitor


QUANTITIES = ["alignment", "decrease", "update_ratio", "grad_norm", "disagreement"]


def test_columns_have_all_names_and_one_length() -> None:
    monitor = watched()
    columns = monitor.columns()
    total = ["step", *QUANTITIES, "sigma", "loss", "pl_ratio"]
    matrix, vector = ["group0", "param/weight"], ["group1", "param/bias"]
    parts = [f"{p}/{q}" for p in matrix + vector for q in [*QUANTITIES, *(["sigma"] if p in matrix else [])]]
    assert sorted(columns) == sorted(total + parts)
    assert all(len(column) == 5 for column in columns.values())
    assert all(type(x) in (int, float) for column in columns.values() for x in column)
    assert columns["loss"] == [10.0, 9.0, 8.0, 7.0, 6.0]
    assert columns["group0/grad_norm"] == columns["param/weight/grad_norm"]
    assert columns["sigma"] == columns["group0/sigma"]
    assert columns["decrease"] == pytest.approx(
        [a + b for a, b in zip(columns["group0/decrease"], columns["group1/decrease"], strict=True)]
    )


def test_a_group_added_later_and_columns_with_gaps() -> None:
    params = parameters([(4,), (5,)])
    optimizer = fast.Grams(params[:1], lr=0.1, compile=False)
    monitor = Monitor(optimizer, names={"first": params[0]})
    train(optimizer, params[:1], [0])
    assert not [key for key in monitor.records[0] if key.startswith("group")]
    optimizer.add_param_group({"params": params[1:]})
    train(optimizer, params, [1])
    columns = monitor.columns()
    assert math.isnan(columns["group1/alignment"][0]) and columns["group1/alignment"][1] > 0
    assert "param/first/alignment" in columns and not [key for key in columns if key.startswith("param/group")]


def test_groups_that_maximize_and_groups_that_do_not() -> None:
    """Each group is told in its own direction, though the tensors of both are measured together."""
    params = parameters([(5,), (5,)])
    optimizer = fast.Grams([{"params": params[:1]}, {"params": params[1:], "maximize": True}], lr=0.1, compile=False)
    with Monitor(optimizer) as monitor:
        for _ in range(3):
            give(params, [torch.ones(5)] * 2)
            optimizer.step()
    for group in ("group0", "group1"):
        assert monitor.columns()[f"{group}/alignment"] == pytest.approx([5.0] * 3, rel=1e-5)
        assert monitor.columns()[f"{group}/disagreement"] == [0.0] * 3


def test_json(tmp_path: Path) -> None:
    monitor = watched(every=2, sample=77, seed=3)
    monitor.records[0]["alignment"] = math.nan
    monitor.to_json(tmp_path / "run.json")
    found = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    records = found.pop("records")
    assert found == {"optimizer": "Adams", "every": 2, "sample": 77, "loss_star": 0.0, "seed": 3}
    assert [r["step"] for r in records] == [1, 3, 5]
    assert records[0]["alignment"] is None and records[1] == monitor.records[1]


class FakeWriter:
    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.scalars.append((tag, scalar_value, global_step))


def test_writers_get_each_record_as_it_is_made_and_all_afterwards() -> None:
    live, later = FakeWriter(), FakeWriter()
    monitor = watched(3, writer=live)
    monitor.to_tensorboard(later)
    assert live.scalars == later.scalars
    assert {tag for tag, _, _ in live.scalars} == {"optimizer/" + key for key in monitor.columns() if key != "step"}
    losses = [(value, step) for tag, value, step in live.scalars if tag == "optimizer/loss"]
    assert losses == [(10.0, 1), (9.0, 2), (8.0, 3)]
    monitor.to_tensorboard(later, prefix="a/")
    assert later.scalars[-1][0].startswith("a/")


def test_tensorboard_itself(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        monitor = watched(3, writer=writer)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = events.Scalars("optimizer/group0/sigma")
    assert [e.step for e in found] == [1, 2, 3]
    assert [e.value for e in found] == pytest.approx(monitor.columns()["group0/sigma"], rel=1e-6)


def test_the_picture_has_a_labelled_panel_for_each_quantity() -> None:
    monitor = watched()
    figure = monitor.plot()
    assert len(figure.axes) == 8
    for axes in figure.axes:
        assert axes.get_title(loc="left") and axes.get_xlabel() == "step" and axes.get_ylabel()
    (all_of_them,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "all"]
    assert list(all_of_them.get_ydata()) == monitor.columns()["alignment"]  # pyright: ignore[reportArgumentType]
    labels = [line.get_label() for line in figure.axes[0].get_lines()]
    assert {"group 0", "group 1"} < set(labels)
    params = parameters([(3,)])
    with Monitor(torch.optim.SGD(params, lr=0.1)) as monitor:
        train(monitor.optimizer, params, range(1))
    assert len(monitor.plot().axes) == 4


def test_a_wide_range_is_drawn_on_a_log_scale_and_zero_within_one_as_a_line() -> None:
    monitor = Monitor(torch.optim.SGD(parameters([(3,)]), lr=0.1))
    for a, b, scale, lines in ((1, 30, "log", 1), (1, 19, "linear", 1), (-1, 2, "linear", 2), (-2, -1, "linear", 1)):
        monitor.records = [{"step": 1, "loss": a}, {"step": 2, "loss": b}]
        (axes,) = monitor.plot().axes
        assert (axes.get_yscale(), len(axes.get_lines())) == (scale, lines)


def test_live_redraws_one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.core.getipython
    import IPython.display

    shown: list[str] = []

    class Handle:
        def update(self, image: Any) -> None:
            assert image.data[:4] == b"\x89PNG"
            shown.append("again")

    def display(image: Any, *, display_id: bool) -> Handle:
        assert image.data[:4] == b"\x89PNG" and display_id
        shown.append("first")
        return Handle()

    monkeypatch.setattr(IPython.core.getipython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", display)
    params = parameters([(3,)])
    optimizer = fast.Lion(params, compile=False)
    with Monitor(optimizer) as monitor:
        monitor.live(every=2)
        train(optimizer, params, range(3))
        assert shown == ["first"]
        train(optimizer, params, range(2))
        assert shown == ["first", "again"]
    assert shown == ["first", "again", "again"]  # the end of the run


def test_live_says_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = watched()
    with pytest.raises(RuntimeError, match=r"this is not Jupyter: use plot\(\)"):
        monitor.live()
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ImportError, match=r"pip install 'adamlab\[notebooks\]'"):
        monitor.live()


def test_the_library_imports_no_matplotlib_and_no_ipython() -> None:
    code = "import sys, fast; print([m for m in ('matplotlib', 'IPython', 'tensorboard') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"every": 0}, ValueError, "every must be an integer >= 1, got 0"),
        ({"every": 2.0}, TypeError, "every must be an integer"),
        ({"every": True}, TypeError, "every must be an integer"),
        ({"sample": 0}, ValueError, "sample must be an integer >= 1"),
        ({"sample": "all"}, TypeError, "sample must be an integer"),
        ({"start": -1}, ValueError, "start must be an integer >= 0"),
        ({"seed": None}, TypeError, "seed must be an integer"),
        ({"loss_star": math.inf}, ValueError, "loss_star must be a finite number"),
        ({"loss_star": "0"}, TypeError, "loss_star must be a number"),
        ({"names": "weight"}, TypeError, "names must be True, a list of names or a mapping"),
        ({"names": ["wieght"]}, ValueError, "no parameter is named 'wieght'; there are 'weight'"),
        ({"names": {"other": torch.ones(3)}}, ValueError, "'other'"),
        ({"writer": print}, TypeError, "writer must have add_scalar"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_before_anything_is_hooked(options: Any, error: Any, words: str) -> None:
    optimizer = fast.Grams([("weight", parameters([(3,)])[0])], compile=False)
    with pytest.raises(error, match=words):
        Monitor(optimizer, **options)
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_other_refusals() -> None:
    monitor = watched()
    not_an_optimizer: Any = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer, got Linear"):
        Monitor(not_an_optimizer)
    wrapper: Any = object.__new__(type("AcceleratedOptimizer", (torch.optim.Optimizer,), {}))  # never initialised
    with pytest.raises(TypeError, match=r"got AcceleratedOptimizer: of a wrapper, give what it wraps"):
        Monitor(wrapper)
    with pytest.raises(ValueError, match=r"one real number, got a torch.float32 tensor of shape \(3,\): take its mean"):
        monitor.loss(torch.ones(3))
    with pytest.raises(TypeError, match="a loss must be a number, got None"):
        monitor.loss(None)
    with pytest.raises(TypeError, match="add_scalar"):
        monitor.to_tensorboard(not_an_optimizer)
    with pytest.raises(ValueError, match="no step has been recorded"):
        Monitor(monitor.optimizer).plot()


def test_steps_inside_torch_compile_are_not_seen_and_not_disturbed() -> None:
    runs = []
    for seen in (False, True):
        torch._dynamo.reset()
        params = parameters([(40, 30)])
        optimizer = fast.Grams(params, lr=0.1)
        monitor = Monitor(optimizer) if seen else None
        step = torch.compile(optimizer.step, fullgraph=True, backend="eager")
        for i in range(2):
            give(params, gradients(params, i))
            step()
        assert monitor is None or monitor.records == []
        train(optimizer, params, [2])  # uncompiled again
        assert monitor is None or [record["step"] for record in monitor.records] == [1]
        runs.append(params[0].detach())
    assert torch.equal(*runs)

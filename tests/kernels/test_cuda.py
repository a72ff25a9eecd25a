"""What needs a CUDA device: skipped, visibly, where there is none."""

from __future__ import annotations

import statistics

import pytest
import torch
from optimizers import IDS, OPTIMIZERS

from experiments.bench import by_rows, llama_60m
from fast._kernels.gpu import launch

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SHAPES = [(64, 48), (48, 64), (7, 1100), (300,), (64, 48), (11,)]
DEVICE = "cuda"


def make(row, shapes=SHAPES, seed=0, devices=1, **options):
    generator = torch.Generator().manual_seed(seed)
    places = [DEVICE] if devices == 1 else [f"{DEVICE}:{i}" for i in range(devices)]
    params = [
        torch.nn.Parameter(torch.randn(s, generator=generator).to(places[i % devices])) for i, s in enumerate(shapes)
    ]
    if row.name == "AdamMini":
        options["partition"] = by_rows
    return params, row.make(params, **options)


def draw(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        grad = torch.randn(param.shape, generator=generator).to(param.device)
        if param.grad is None:
            param.grad = grad
        else:
            param.grad.copy_(grad)  # the address must stay for a CUDA graph


def expected(row, params, steps, **hyper):
    """`reference` in float64 on the same numbers."""
    weights = [p.detach().cpu().double().numpy().copy() for p in params]
    states = [row.rule.init(w) for w in weights]
    given = {k: v for k, v in hyper.items() if k != "betas"}
    given["beta1"], given["beta2"] = hyper["betas"]
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for i, param in enumerate(params):
            grad = torch.randn(param.shape, generator=generator).double().numpy()
            extra = {} if row.name == "AdamMini" else row.extra(param)
            if row.name == "AdamMini":
                extra["blocks"] = "rows" if param.ndim > 1 else "tensor"
            weights[i], states[i] = row.rule.step(weights[i], grad, states[i], **given, **extra)
    return weights


def worst(params, weights):
    pairs = [(p.detach().cpu().double().numpy(), w) for p, w in zip(params, weights, strict=True)]
    return max(abs(a - b).max() / abs(b).max() for a, b in pairs)


HYPER = {"lr": 1e-2, "betas": (0.8, 0.9), "weight_decay": 0.1}


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_agrees_with_the_reference(row, compile, capturable):
    params, optimizer = make(row, compile=compile, capturable=capturable, **HYPER)
    weights = expected(row, params, range(10), **HYPER)
    for step in range(10):
        draw(params, step)
        optimizer.step()
    assert worst(params, weights) < 2 * row.fp32  # a sum in another order, and the GPU's own atan2


@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_a_captured_step_agrees_with_the_reference(row):
    params, optimizer = make(row, capturable=True, **HYPER)
    weights = expected(row, params, range(8), **HYPER)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for step in range(3):  # compilation and state, before the capture
            draw(params, step)
            optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # records, and does not run
        optimizer.step()
    for step in range(3, 8):
        draw(params, step)
        graph.replay()
    assert worst(params, weights) < 2 * row.fp32
    assert {int(optimizer.state[p]["step"]) for p in params} == {8}


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_a_capturable_step_takes_its_lr_from_a_tensor_on_the_device(row, compile):
    params, optimizer = make(row, compile=compile, capturable=True, **HYPER)
    lr = torch.tensor(HYPER["lr"], device=DEVICE)
    for group in optimizer.param_groups:
        group["lr"] = lr
    weights = expected(row, params, range(5), **HYPER)
    for step in range(5):
        draw(params, step)
        optimizer.step()
    assert worst(params, weights) < 2 * row.fp32
    before = [p.detach().clone() for p in params]
    lr.zero_()  # no step and no decay, and no new graph
    draw(params, 5)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_a_grad_scaler_skips_the_step_with_an_overflow(row, capturable):
    params, optimizer = make(row, capturable=capturable, **HYPER)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=1024.0)  # a power of 2: scaling and its undoing are exact
    weights = expected(row, params, [0, 2, 3], **HYPER)
    for step in range(4):
        draw(params, step)
        scaler.scale(torch.zeros((), device=DEVICE))  # the scaler makes its scale in the first call
        gradients = [param.grad for param in params if param.grad is not None]
        for grad in gradients:
            grad.mul_(scaler.get_scale())
        if step == 1:
            gradients[0].view(-1)[3] = torch.inf
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 512.0
    assert worst(params, weights) < 2 * row.fp32
    assert {int(optimizer.state[p]["step"]) for p in params} == {3}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device, or none")
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_a_model_on_two_devices_agrees_with_the_reference(row, capturable):
    params, optimizer = make(row, devices=2, capturable=capturable, **HYPER)
    weights = expected(row, params, range(5), **HYPER)
    for step in range(5):
        draw(params, step)
        optimizer.step()
    assert worst(params, weights) < 2 * row.fp32
    state = {t.device for p in params for k, t in optimizer.state[p].items() if k != "step"}
    assert state == {p.device for p in params}


# torch says so of the mode itself, once a process
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_a_step_does_not_wait_for_the_device(row, capturable):
    params, optimizer = make(row, capturable=capturable, **HYPER)
    for step in range(3):
        draw(params, step)
        optimizer.step()
    draw(params, 3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_a_step_allocates_little(row):
    """No copy of the model: neither in the first step, which compiles, beyond the state, nor in any other."""
    params, optimizer = make(row, [(4096, 1024)] * 4, **HYPER)
    size = sum(p.numel() * 4 for p in params)
    for step in range(2):
        draw(params, step)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        optimizer.step()
        state = sum(t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values() if t.is_cuda)
        allowed = 0.05 * size + (state if step == 0 else 0)
        assert torch.cuda.max_memory_allocated() - before < allowed


@pytest.fixture
def compilations(monkeypatch):
    """The kernels that are compiled from here on."""
    from triton.runtime.jit import JITFunction

    made, compiled = [], JITFunction._do_compile

    def noted(self, *arguments, **options):
        made.append(self.fn.__name__)
        return compiled(self, *arguments, **options)

    monkeypatch.setattr(JITFunction, "_do_compile", noted)
    return made


@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_gradients_that_come_and_go_compile_nothing(row, compilations):
    params, optimizer = make(row, [(64, 48)] * 12, **HYPER)
    for step in range(12):
        draw(params, step)
        for i, param in enumerate(params):
            if (i * 7 + step) % 5 == 0:
                param.grad = None
        optimizer.step()
        if step == 0:
            compilations.clear()
    assert not compilations


@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_schedules_and_other_models_compile_nothing(row, compilations):
    params, optimizer = make(row, **HYPER)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    draw(params, 0)
    optimizer.step()
    compilations.clear()
    for step in range(1, 20):
        draw(params, step)
        optimizer.step()
        schedule.step()
    params, optimizer = make(row, [(48, 64), *SHAPES, (299,)], **HYPER)
    draw(params, 0)
    optimizer.step()
    assert not compilations


@pytest.mark.parametrize("name", ["Grams", "Lion", "CautiousAdamW", "CautiousLion", "AdamMini", "Adams"])
def test_kernels_and_single_operations_round_alike(name, monkeypatch):
    """An elementwise step has the same bits either way; a sum goes in another order, and torch divides by way of a reciprocal.

    Operations of lists round a product and a sum once.
    """
    row = OPTIMIZERS[IDS.index(name)]
    found = []
    for compile, lists in ((None, True), (False, False), (False, True)):
        with monkeypatch.context() as patch:
            if not lists:
                patch.setattr(launch, "lists_of", lambda *_: None)
            params, optimizer = make(row, compile=compile, **HYPER)
            for step in range(5):
                draw(params, step)
                optimizer.step()
        found.append([p.detach() for p in params])
    kernels, singly, by_lists = found
    if name in ("Grams", "Lion"):
        assert all(torch.equal(a, b) for a, b in zip(kernels, singly, strict=True))
    for other in (singly, by_lists):
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(kernels, other, strict=True))


@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_what_is_no_number_goes_the_same_way_without_a_compiler(row, monkeypatch):
    """torch's sign of a NaN is 0, and its maximum keeps one: lists rely on both."""
    found = []
    for lists in (True, False):
        with monkeypatch.context() as patch:
            if not lists:
                patch.setattr(launch, "lists_of", lambda *_: None)
            params, optimizer = make(row, compile=False, **HYPER)
            for param in params:
                param.grad = torch.ones_like(param)
                param.grad.view(-1)[:4] = torch.tensor([float("nan"), float("inf"), 0.0, -0.0])
            optimizer.step()
        found.append([p.detach() for p in params])
    assert all(
        torch.equal(a.isnan(), b.isnan()) and torch.equal(a.isinf(), b.isinf()) for a, b in zip(*found, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_time_against_fused_adamw(row, record_property):
    """Interleaved steps on Llama-60M's tensors, by CUDA events; the bound is the bytes' ratio with a fifth on top."""
    bytes_a_parameter = {
        "Grams": 28,
        "Lion": 20,
        "CautiousAdamW": 36,
        "CautiousLion": 28,
        "AdamMini": 20.5,
        "Adams": 32.6,
    }
    params, optimizer = make(row, llama_60m())
    base = torch.optim.AdamW(make(row, llama_60m())[0], fused=True)  # on parameters of its own
    draw(params, 0)
    draw(base.param_groups[0]["params"], 0)
    times = {optimizer: [], base: []}
    for i in range(40):
        for one, list_ in times.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            one.step()
            end.record()
            end.synchronize()
            if i >= 10:
                list_.append(begin.elapsed_time(end))
    ratio = statistics.median(times[optimizer]) / statistics.median(times[base])
    record_property("ratio to AdamW fused", ratio)
    assert ratio < 1.2 * bytes_a_parameter[row.name] / 28

"""Which matrices Adams decays as such: the attribute `use_spectral_decay`, what the state keeps of it, and the warning."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from twin import same

import fast


def gradients(params: Iterable[Tensor]) -> None:
    for p in params:
        p.grad = torch.zeros_like(p)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("shape", [(9, 4), (2, 9, 4)], ids=str)
def test_a_matrix_may_be_exempted_and_taken_back_between_steps(shape: tuple[int, ...], capturable: bool) -> None:
    """The attribute holds from the next step on, and a copied pair, which has lost it, goes on alike."""
    p = nn.Parameter(torch.ones(shape))
    optimizer = fast.Adams(
        [p], 0.1, weight_decay=1.0, scalar_vector_weight_decay=0.5, compile=False, capturable=capturable
    )
    expected = 1.0
    for spectral, factor in ((None, 0.7), (False, 0.95), (True, 0.7), (False, 0.95)):
        if spectral is not None:
            vars(p)["use_spectral_decay"] = spectral
        for _ in range(2):
            gradients([p])
            optimizer.step()
            expected *= factor
        torch.testing.assert_close(p.detach(), torch.full(shape, expected))
        assert ("u" in optimizer.state[p]) == ("sigma" in optimizer.state[p]) == (spectral is not False)
        q, other = copy.deepcopy((p, optimizer))
        gradients([q])
        other.step()
        torch.testing.assert_close(q.detach(), torch.full(shape, expected * factor))
        third = fast.Adams([p], compile=False)
        third.load_state_dict(optimizer.state_dict())
        assert same(third.state_dict()["state"], optimizer.state_dict()["state"])


def test_who_follows_the_warning_ends_the_growth() -> None:
    p = nn.Parameter(torch.ones(9, 4))
    optimizer = fast.Adams([p], lr=1.0, weight_decay=1.0, compile=False)
    with pytest.warns(RuntimeWarning, match=r"below 0\.667, or set use_spectral_decay = False"):
        for _ in range(3):
            gradients([p])
            optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((9, 4), -8.0))
    vars(p)["use_spectral_decay"] = False
    for i in range(1, 4):
        gradients([p])
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.full((9, 4), -8 * 0.9**i))


@pytest.mark.parametrize("shape", [(4, 3, 1, 1), (1, 4, 3)], ids=str)
def test_a_flattened_kernel_of_one_pixel_and_a_stack_of_one_are_matrices(shape: tuple[int, ...]) -> None:
    p = nn.Parameter(torch.ones(shape))
    optimizer = fast.Adams([p], lr=0.1, weight_decay=0.5, flatten_kernels=True, compile=False)
    for i in range(1, 4):
        gradients([p])
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.full(shape, (1 - 0.05 * 4**0.5) ** i))
    assert optimizer.state[p]["u"].numel() == 4


def test_the_warning_is_of_what_the_step_decays_and_comes_once_for_each_size() -> None:
    exempt, idle, small, large = (nn.Parameter(torch.ones(rows, 4)) for rows in (100, 100, 9, 16))
    vars(exempt)["use_spectral_decay"] = False
    optimizer = fast.Adams([exempt, idle, small], lr=0.5, weight_decay=1.0, compile=False)
    gradients([exempt, small])
    optimizer.step()
    (exempt, idle, small), optimizer = copy.deepcopy(([exempt, idle, small], optimizer))
    optimizer.add_param_group({"params": [large]})
    for group in optimizer.param_groups:
        group["weight_decay"] = 1.2  # 1.8 of 9 rows
    with pytest.warns(RuntimeWarning, match="16 rows") as heard:
        for step in range(10):
            for group in optimizer.param_groups:
                group["lr"] = 0.5 + 0.001 * step
            gradients([exempt, small, large])
            optimizer.step()
    assert len(heard) == 1


def test_a_copied_optimizer_keeps_what_was_decided_of_a_matrix() -> None:
    """copy.deepcopy drops the attributes of parameters."""
    params = [nn.Parameter(torch.randn(4, 3)) for _ in range(2)]
    params[0].use_spectral_decay = False  # pyright: ignore[reportAttributeAccessIssue]
    optimizer = fast.Adams(params, lr=0.1, weight_decay=0.5, compile=False)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        copies = other.param_groups[0]["params"]
        for q in copies:
            q.grad = torch.ones_like(q)
        other.step()
        assert ["u" in other.state[q] for q in copies] == [False, True]
    optimizer.step()
    assert all(map(torch.equal, params, copies))


def test_exempt_parameters_of_a_copied_model_are_asked_for() -> None:
    param = nn.Parameter(torch.randn(4, 3))
    param.use_spectral_decay = False  # pyright: ignore[reportAttributeAccessIssue]
    optimizer = fast.Adams([param], compile=False)
    param.grad = torch.ones_like(param)
    optimizer.step()
    with pytest.raises(ValueError, match="use_spectral_decay = False on it again"):
        fast.Adams([copy.deepcopy(param)], compile=False).load_state_dict(optimizer.state_dict())


def test_a_group_is_exempt_whatever_becomes_of_its_parameters() -> None:
    """`to_empty` and `load_state_dict(assign=True)` make new parameters, without the attributes of the old ones."""
    with torch.device("meta"):
        model = nn.ModuleDict({name: nn.Linear(4, 9, bias=False) for name in ("body", "head", "taken")})
    model.to_empty(device="cpu")
    model.load_state_dict({f"{name}.weight": torch.ones(9, 4) for name in model}, assign=True)
    body, head, taken = model.parameters()
    vars(taken)["use_spectral_decay"] = True
    groups = [{"params": [body]}, {"params": [head, taken], "use_spectral_decay": False}]
    optimizer = fast.Adams(groups, lr=0.1, weight_decay=1.0, scalar_vector_weight_decay=0.5, compile=False)
    for _ in range(2):
        gradients([body, head, taken])
        optimizer.step()
    for p, factor in ((body, 0.7), (head, 0.95), (taken, 0.7)):
        torch.testing.assert_close(p.detach(), torch.full((9, 4), factor**2))
    assert ["u" in optimizer.state[p] for p in (body, head, taken)] == [True, False, True]
    optimizer.param_groups[0]["use_spectral_decay"] = False
    gradients([body])
    optimizer.step()
    torch.testing.assert_close(body.detach(), torch.full((9, 4), 0.7**2 * 0.95))


@pytest.mark.parametrize("exempt", [False, True])
def test_a_checkpoint_that_knows_no_exempt_groups_loads(exempt: bool) -> None:
    """The group's own value stays; a checkpoint that has one brings it."""
    p, q = (nn.Parameter(torch.ones(9, 4)) for _ in range(2))
    optimizer = fast.Adams([p], use_spectral_decay=not exempt, compile=False)
    gradients([p])
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    fresh = fast.Adams([q], compile=False)
    fresh.load_state_dict(saved)
    assert same(fresh.state_dict(), saved)
    del saved["param_groups"][0]["use_spectral_decay"]
    other = fast.Adams([{"params": [q], "use_spectral_decay": not exempt}], compile=False)
    other.load_state_dict(saved)
    assert same(other.state_dict(), optimizer.state_dict())

"""Same update as reference/adams.py (with its `reseed=True`), in place and compiled.

reference    here
w, g         param (for half types: master_param), grad
m, v         exp_avg, exp_avg_sq
u, sigma     u, sigma
beta1,beta2  betas
t            step

A u that is 0 or no number starts again from ones. One that only shrank, because W fell below
the floor of normalize (1e-12), is not restarted: it recovers within some steps of W's return.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fast._engine.calls import Call
from fast._engine.checks import Group, number
from fast._engine.moments import Average, New, Numbers, Variants, weights
from fast._engine.optimizer import FusedOptimizer, Options, hyper_parameters
from fast._engine.shards import shards_of
from fast._engine.storage import rounds
from fast._kernels.direct import not_a_vector, single
from fast._kernels.tensors import State, flat, is_dtensor, local, state_dtype, zeros_like
from fast._kernels.update import Update
from fast.adams.angle import angle
from fast.adams.master import follow, half, trained
from fast.adams.power_iteration import LEFT, LEFT_RELEASED, right, right_and_product, shared_iteration, stages, unit
from fast.adams.spectral import EMPTY, iteration, matrix_shape, settled, spectral, warn_of_growth


def _moved(first: Average, second: Average, numbers: Numbers, weight: Tensor, *tensors: Tensor) -> New:
    step_size, stretch, *_ = numbers
    grad, exp_avg, exp_avg_sq = tensors
    exp_avg, exp_avg_sq = first(exp_avg, grad), second(exp_avg_sq, grad * grad)
    return weight - step_size * angle(stretch * exp_avg, exp_avg_sq.sqrt()), exp_avg, exp_avg_sq


def _vector(first: Average, second: Average, numbers: Numbers, *tensors: Tensor) -> New:
    param, grad, exp_avg, exp_avg_sq, *master = tensors
    weight = trained(param, master[0]) if master else param
    moved = _moved(first, second, numbers, weight - numbers[2] * weight, grad, exp_avg, exp_avg_sq)
    return *moved, *(moved[:1] if master else ())


def _decayed(pull: Any, weight: Tensor, wv: Tensor, v: Tensor) -> Tensor:
    # u sigma = W v where |W v| >= 1e-12: no norm, so that a row is decayed in the loop that multiplies it by v
    return weight - (pull * wv).unsqueeze(-1) * v.unsqueeze(-2)


def _matrix(first: Average, second: Average, numbers: Numbers, *tensors: Tensor) -> New:
    param, grad, exp_avg, exp_avg_sq, *master, _, v, root, _, _ = tensors
    weight = trained(param, master[0]) if master else param
    v = single(unit(v))
    wv = (weight * v.unsqueeze(-2)).sum(-1)
    # root = sqrt(M), a tensor: the compiler would take a power of M anew for each entry
    weight = _decayed(numbers[3] * root, weight, wv, v)
    moved = _moved(first, second, numbers, weight, grad, exp_avg, exp_avg_sq)
    return *moved, *(moved[:1] if master else ()), not_a_vector(wv)


def _matrices(first: Average, second: Average, numbers: Numbers, *tensors: Tensor) -> New:
    """A batch: W v is the prologue's, since the compiler fails on it here; these matrices are small and stay in the cache."""
    param, grad, exp_avg, exp_avg_sq, *master, wv, v, root, _, _ = tensors
    weight = _decayed(numbers[3] * root, trained(param, master[0]) if master else param, wv, v)
    moved = _moved(first, second, numbers, weight, grad, exp_avg, exp_avg_sq)
    return *moved, *(moved[:1] if master else ())


_roots: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}


def _root(rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """sqrt(M), once for all matrices of so many rows: on a GPU to fill one is a launch."""
    key = rows, dtype, device
    if torch.compiler.is_compiling() or key not in _roots:
        made = torch.full((1,), rows**0.5, dtype=dtype, device=device)
        if torch.compiler.is_compiling() or type(made) is not Tensor:
            return made
        _roots[key] = made
    return _roots[key]


def _either(batched: bool, *given: Any) -> New:
    """On the CPU a batch has its product already; a GPU's kernels take its matrices one by one."""
    by_kernels = hasattr(given[3], "entry_index")
    return _matrices(*given) if batched and not by_kernels else _matrix(*given)


_variants = partial(Variants, as_stored=True, contract=True)
VECTOR, VECTOR_MASTER = (_variants(_vector, "N N N N" + m, elementwise=True) for m in ("", " N"))


def _of_matrices(batched: bool, master: bool, function: Callable[..., New], **options: Any) -> Variants:
    shapes = ["BRC" if batched else "RC"] * (5 if master else 4)
    shapes += ["BR", "BC", "1", "BR", "B"] if batched else ["R", "C", "1", "R", "1"]
    return _variants(function, " ".join(shapes), line="R", batch="B" * batched, **options)


def _of_whole_matrices(batched: bool, master: bool, released: bool) -> Variants:
    before, after = stages(batched, master, not released)
    function = partial(_either, batched)
    prologue, epilogue = right_and_product if batched else right, LEFT_RELEASED if released else LEFT
    return _of_matrices(
        batched, master, function, prologue=prologue, epilogue=epilogue, before=(before,), after=(after,)
    )


MATRIX = {
    (batched, master, released): _of_whole_matrices(batched, master, released)
    for batched in (False, True)
    for master in (False, True)
    for released in (False, True)
}
SHARDED = {
    (batched, master): _of_matrices(batched, master, _matrices) for batched in (False, True) for master in (False, True)
}


class Adams(FusedOptimizer):
    """Adams: a step bounded by an arctangent, and a decay of each matrix's largest singular value alone.

        u, sigma, v = one power iteration on param, from the last u                       (matrices)
        param      -= lr weight_decay sqrt(M) u sigma v^T                                 (matrices, M rows)
        param      -= lr scalar_vector_weight_decay param                                 (everything else)
        exp_avg     = beta1 exp_avg + (1 - beta1) grad
        exp_avg_sq  = beta2 exp_avg_sq + (1 - beta2) grad^2
        param      -= lr atan2(exp_avg / (1 - beta1^step), sqrt(exp_avg_sq / (1 - beta2^step)))

    Args:
        params: parameters, (name, parameter) pairs or parameter groups (dicts), as in torch.optim.
        lr: step length per coordinate in units of the angle, at most pi/2 lr; near pi/4 lr for a steady gradient.
        betas: decay rates of the two averages, each in [0, 1).
        weight_decay: of matrices. lr weight_decay sqrt(M) > 2 makes the largest singular value grow; a warning says so.
        scalar_vector_weight_decay: of scalars, vectors, matrices with a dimension of 1 and what was exempted. The two are
            independent of each other.
        use_spectral_decay: False, say of a group of embeddings and output heads: its matrices decay as vectors do. A
            parameter's attribute of that name, where set, wins, but is lost where others put a new parameter in its place
            (fully_shard, parallelize_module, to_empty, load_state_dict(assign=True)): a group's value is not.
        flatten_kernels: a tensor of four or more dimensions is one matrix of shape[0] rows, which suits convolutions. False
            takes the leading dimensions as a batch of matrices, as the pseudocode does; three dimensions always are that.
        as_released: the package `adams-torch` 0.0.1: lr / (1 - beta1^step) atan2(exp_avg, ...), which is 0.997 lr in the first
            step where the pseudocode has pi/4 lr; no decay of vectors where weight_decay is 0; a zero matrix never decays.
        stochastic_rounding: as in `fast.Grams`; bfloat16 parameters then have no master, 4 bytes a parameter less.
        rounding_seed, exp_avg_dtype, maximize, compile, capturable: as in `fast.Grams`.

    State: exp_avg, exp_avg_sq; for matrices u (..., M), of a sharded one cut as its rows are, and sigma (...), an estimate of
    the largest singular value (good from 1e-12 to 1e18); for half types master_param in float32, which is trained and follows
    whoever else writes the parameter. u starts at ones, anew where W v is 0 or no number: a zero matrix recovers, one whose
    columns sum to 0 has sigma = 0. Where somebody takes rows out of a parameter and its averages, or puts some in, u, sigma and
    master_param begin anew. The attribute `use_spectral_decay`, and False of a group, hold from the next step on. For the rest
    the first step decides for good: copies of an optimizer go on alike, although copy.deepcopy drops the attribute.
    Of the shards that several processes share it takes FSDP2's; flat ones (FSDP1, DeepSpeed ZeRO), which have lost what a
    matrix is, are refused where they can be recognised.
    Source: repository imoneoi/Adams; `reference/adams.py` has the pseudocode line by line.
    """

    _contiguous = True
    _options = ("as_released",)
    _follows = True
    _optional = ("master_param", *FusedOptimizer._optional)  # of a run without one: the parameter is then the weight
    _warned: frozenset[tuple[int, int]] = frozenset()  # which groups and sizes of matrices were warned of

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        scalar_vector_weight_decay: float = 0.1,
        *,
        use_spectral_decay: bool = True,
        flatten_kernels: bool = False,
        as_released: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, hyper_parameters(locals()))

    def _check(self, group: Group) -> None:
        number("scalar_vector_weight_decay", group["scalar_vector_weight_decay"], 0.0)
        for name in ("use_spectral_decay", "flatten_kernels", "as_released"):
            if not isinstance(group[name], bool):
                raise TypeError(f"{name} must be True or False, got {group[name]!r}")

    def _needs_whole(self, group: Group, param: Tensor) -> bool:
        same = group["as_released"] or group["scalar_vector_weight_decay"] == 0  # vectors decay no more than matrices
        return spectral(group, param) and not (group["weight_decay"] == 0 and same)

    def _views_depend_on(self, group: Group) -> tuple[Any, ...]:
        return *super()._views_depend_on(group), group["as_released"] and group["weight_decay"] == 0

    def _packed_update(self, group: Group, param: Tensor) -> Update | None:
        return None  # torch's atan2 rounds by where an entry lies in a vector: a resumed run would differ

    def _init_state(self, group: Group, param: Tensor, device: Any = None) -> State:
        state = {name: zeros_like(param, device, torch.contiguous_format) for name in ("exp_avg", "exp_avg_sq")}
        if shape := matrix_shape(group, param):
            state.update(iteration(param, shape, device))
        if half(param) and not rounds(group, param):
            master = param.detach().to(device or param.device, state_dtype(param))
            state["master_param"] = master.contiguous()
        return state

    def _scalars(self, group: Group, lr: Any, step: Any) -> tuple[Any, ...]:
        (beta1, beta2), released = group["betas"], group["as_released"]
        # atan2(m / b, sqrt(v / c)) = atan2(m sqrt(c) / b, sqrt(v)) with b = 1 - beta1^t, c = 1 - beta2^t
        stretch, correction = (1 - beta2**step) ** 0.5, 1 / (1 - beta1**step)
        moved = (lr * correction, stretch) if released else (lr, stretch * correction)
        vectors = 0.0 if released and group["weight_decay"] == 0 else group["scalar_vector_weight_decay"]
        return *weights((beta1, beta2)), *moved, lr * vectors, lr * group["weight_decay"]

    def _calls(self, group: Group, param: Tensor, work: Tensor, values: State) -> Iterable[Call]:
        master = []
        if half(work) and not rounds(group, work):
            weight = values.get("master_param")
            if (
                weight is None or weight.shape != work.shape
            ):  # the model became half since, or somebody has taken rows out of it
                new = (param if is_dtensor(param) else work).detach().to(state_dtype(work))
                self.state[param]["master_param"], weight = new, local(new)
            master = [weight]
        moments = [values["exp_avg"], values["exp_avg_sq"], *master]
        matrix = settled(group, param, self.state[param], values)
        if not matrix or (group["as_released"] and group["weight_decay"] == 0):  # the package decays nothing then
            update = VECTOR_MASTER if master else VECTOR
            yield Call(update(group["betas"]), flat, tuple(flat(t) for t in moments))
            return
        u = values["u"]
        axis, shards, reseed = u.ndim - 1, shards_of(param), not group["as_released"]  # axis: of the rows
        batch, rows, columns = math.prod(u.shape[:-1]), u.shape[-1], math.prod(work.shape[axis + 1 :])
        batched = batch != 1
        size = (batch, rows, columns) if batched else (rows, columns)

        def view(t: Tensor) -> Tensor:
            return t.view(size)

        wv, root = u.new_empty(size[:-1]), _root(param.shape[axis], u.dtype, u.device)
        v = u.new_empty((*size[:-2], columns))
        u, sigma = u.view(size[:-1]), values["sigma"].view(batch)
        states = (*(view(t) for t in moments), wv, v, root, u, sigma)
        if shards:
            shared = partial(shared_iteration, shards, reseed, axis, states)
            yield Call(SHARDED[batched, bool(master)](group["betas"]), view, states, shared)
        else:
            yield Call(MATRIX[batched, bool(master), not reseed](group["betas"]), view, states)

    def _follow(self, param: Tensor, state: State) -> None:
        if "master_param" in state and half(param):
            follow(local(param), local(state["master_param"]))

    def _checked_state(self, group: Group, param: Tensor, key: Any, state: Mapping[str, Any]) -> State:
        if "u" not in state and "exp_avg" in state and matrix_shape(group, param):
            raise ValueError(
                f"the state of parameter {key}, a matrix, has no 'u': it is of another optimizer than Adams, or the parameter was"
                " exempt; then set use_spectral_decay = False on it again, which a copied model has lost, or in its group"
            )
        return super()._checked_state(group, param, key, state)

    def _before(self, group: Group) -> None:
        """Lets go of the views of what is decided anew, and warns of a decay that diverges: once for each size in a group."""
        params, known = group["params"], self._caches.asked
        said = [getattr(param, "use_spectral_decay", None) for param in params]
        asked = group["use_spectral_decay"], group["flatten_kernels"], said
        if known.get(id(group), ((),))[0] != asked:
            known[id(group)] = asked, [self._rows(group, param) for param in params]
        _, rows = known[id(group)]
        lr = group["lr"]
        if isinstance(lr, Tensor) and lr.device.type != "cpu":
            return  # not read back to the host
        pull = float(lr) * group["weight_decay"]
        if pull * max(rows, default=0) ** 0.5 > 2:
            rows = max((n for n, param in zip(rows, params, strict=True) if param.grad is not None), default=0)
            if pull * rows**0.5 <= 2:
                return
            which = next(i for i, each in enumerate(self.param_groups) if each is group), rows
            if which not in self._warned:
                self._warned |= {which}
                warn_of_growth(pull, rows)

    def _rows(self, group: Group, param: Tensor) -> int:
        """Those of a matrix, 0 of what decays as a vector; lets go of the views where that has changed."""
        state = self.state.get(param, EMPTY)
        shape = matrix_shape(group, param, state)
        if state and (shape is None) == ("u" in state):
            self._caches.forget(param)
        return shape[-2] if shape else 0

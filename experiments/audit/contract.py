"""The contract of a torch.optim.Optimizer, each term five lines that break where an optimizer breaks it.

    outcomes = check(Subject("torch.optim:AdamW", {"fused": True}))        an Outcome for each of TERMS
    print(outcomes[0].reproducer)                                         the five lines, as they were run

A term is its own reproducer: what is run here is what is printed for the author of an optimizer to run. Nothing else decides.
"""

# ruff: noqa: E501 (a line of a term is a line of its reproducer)

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HOLDS, BREAKS, NOT_ASKED = "holds", "breaks", "not asked"
OF_TORCH = "torch.optim.Optimizer"  # torch's schedulers take nothing else


@dataclass(frozen=True)
class Term:
    """`lines`: three, after the two that import the class and define `make`. `asks`: arguments without which it is not asked."""

    name: str
    says: str
    lines: tuple[str, str, str]
    asks: tuple[str, ...] = ()


PARAM = "p = torch.nn.Parameter(torch.linspace(-1, 2, 6))"
TRAIN = "train = lambda o, p, steps: [(setattr(p, 'grad', torch.sin(7 * p.detach() + i)), o.step()) for i in steps]"
START = f"{PARAM}; o = make([p]); {TRAIN}"
HALF = START.replace("torch.linspace(-1, 2, 6)", "torch.linspace(-1, 2, 6).bfloat16()")
GOES_ON = "torch.manual_seed(0); train(o, p, range(3, 6)); torch.manual_seed(0); train(other, q, range(3, 6))"
FILE = "f = io.BytesIO(); torch.save(o.state_dict(), f); f.seek(0)"
LOADED = "q = torch.nn.Parameter(p.detach().clone()); other = make([q]); other.load_state_dict(torch.load(f, weights_only=True))"
DIFFER = "'the copy goes on to ' + str(q.tolist()) + ', the original to ' + str(p.tolist())"
TERMS = (
    Term(
        "gradient unchanged",
        "A step leaves the gradients as they are: clipping, logging and accumulation read them afterwards.",
        (
            f"{PARAM}; p.grad = torch.linspace(-2, 1, 6); before = p.grad.clone()",
            "make([p]).step()",
            "assert p.grad is not None and torch.equal(p.grad, before), f'{before.tolist()} became {p.grad}'",
        ),
    ),
    Term(
        "gradient unchanged by maximize",
        "maximize=True leaves them as they are too.",
        (
            f"{PARAM}; p.grad = torch.linspace(-2, 1, 6); before = p.grad.clone()",
            "make([p], maximize=True).step()",
            "assert p.grad is not None and torch.equal(p.grad, before), f'{before.tolist()} became {p.grad}'",
        ),
        ("maximize",),
    ),
    Term(
        "maximize",
        "maximize=True is a step down the negative gradient.",
        (
            f"{PARAM}; q = torch.nn.Parameter(p.detach().clone()); p.grad = torch.linspace(-2, 1, 6); q.grad = -p.grad",
            "make([p], maximize=True).step(); make([q]).step()",
            "assert torch.allclose(p, q), f'{p.tolist()} with maximize, {q.tolist()} down the negative gradient'",
        ),
        ("maximize",),
    ),
    Term(
        "closure",
        "step(closure) runs the closure with gradients enabled and returns its loss.",
        (
            f"{PARAM}; o = make([p]); closure = lambda: [o.zero_grad(), (loss := (p * p).sum()), loss.backward()][1]",
            "expected = float((p * p).sum()); loss = o.step(closure)",
            "assert float(loss) == expected, f'the loss is {expected}, step returned {loss}'",
        ),
    ),
    Term(
        "float32 state",
        "bfloat16 parameters have averages in float32: 0.999 v rounds back to v in bfloat16.",
        (
            "p = torch.nn.Parameter(torch.ones(8, 8, dtype=torch.bfloat16)); p.grad = torch.full_like(p, 0.1)",
            "o = make([p]); o.step(); state = {k: v for k, v in o.state[p].items() if isinstance(v, torch.Tensor)}",
            "assert not (low := [k for k, v in state.items() if v.dtype == torch.bfloat16]), f'in bfloat16: {low}'",
        ),
    ),
    Term(
        "state_dict",
        "What torch.save keeps, torch.load(weights_only=True) reads; a run that loads it goes on bitwise.",
        (START, f"train(o, p, range(3)); {FILE}; {LOADED}; {GOES_ON}", f"assert torch.equal(p, q), {DIFFER}"),
    ),
    Term(
        "state_dict of bfloat16",
        "The same for bfloat16 parameters, whose float32 state torch's own load_state_dict would round.",
        (HALF, f"train(o, p, range(3)); {FILE}; {LOADED}; {GOES_ON}", f"assert torch.equal(p, q), {DIFFER}"),
    ),
    Term(
        "deepcopy",
        "A deep copy of parameter and optimizer goes on bitwise.",
        (
            START,
            f"train(o, p, range(3)); other, q = copy.deepcopy((o, p)); {GOES_ON}",
            f"assert torch.equal(p, q), {DIFFER}",
        ),
    ),
    Term(
        "pickle",
        "So does what pickle makes of them.",
        (
            START,
            f"train(o, p, range(3)); other, q = pickle.loads(pickle.dumps((o, p))); {GOES_ON}",
            f"assert torch.equal(p, q), {DIFFER}",
        ),
    ),
    Term(
        "add_param_group",
        "A group that comes later is stepped with its own lr.",
        (
            f"{START}; q = torch.nn.Parameter(torch.ones(6)); r = torch.nn.Parameter(torch.ones(6)); train(o, p, range(2))",
            "[o.add_param_group({**entry([x]), {lr!r}: rate}) for x, rate in ((q, 0.0), (r, 0.1))]; train(o, q, [2]); train(o, r, [2])",
            "assert torch.equal(q, torch.ones(6)) and not torch.equal(r, torch.ones(6)), f'lr 0: {q.tolist()}, lr 0.1: {r.tolist()}'",
        ),
    ),
    Term(
        "scheduler",
        "A scheduler's lr is the next step's: with lr 0 nothing moves.",
        (
            f"{START}; s = torch.optim.lr_scheduler.LambdaLR(o, lambda i: float(i == 0)); train(o, p, [0]); s.step()",
            "before = p.detach().clone(); train(o, p, [1])",
            "assert torch.equal(p, before), f'with lr 0 {before.tolist()} became {p.tolist()}'",
        ),
        (OF_TORCH,),
    ),
    Term(
        "OneCycleLR",
        "torch's one-cycle schedule, which also writes the betas, drives it.",
        (
            f"{START}; s = torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=10); before = p.detach().clone()",
            "[(train(o, p, [i]), s.step()) for i in range(9)]",
            "assert p.isfinite().all() and not torch.equal(p, before), f'{before.tolist()} became {p.tolist()}'",
        ),
        (OF_TORCH,),
    ),
    Term(
        "missing gradient",
        "A parameter without a gradient stays where it is, undecayed, and costs no error.",
        (
            f"{PARAM}; q = torch.nn.Parameter(torch.ones(6)); o = make([p, q]{{decay}})",
            "[(setattr(p, 'grad', torch.ones(6)), o.step()) for _ in range(3)]",
            "assert torch.equal(q, torch.ones(6)), f'without a gradient 1.0 became {q.tolist()}'",
        ),
    ),
    Term(
        "late gradient",
        "The first step of a parameter whose first gradient comes late is a first step: each has its own count.",
        (
            f"{PARAM}; q, r = (torch.nn.Parameter(torch.ones(6)) for _ in range(2)); o = make([p, q]); fresh = make([r]); {TRAIN}",
            "train(o, p, range(5)); p.grad = None; train(o, q, [0]); train(fresh, r, [0])",
            "assert torch.allclose(q, r), f'late {q.tolist()}, at once {r.tolist()}'",
        ),
    ),
    Term(
        "sparse gradient",
        "A sparse gradient is refused before anything changes, or is taken for what it is.",
        (
            "p, q = (torch.nn.Parameter(torch.ones(5, 3)) for _ in range(2)); q.grad = torch.ones(5, 3) * torch.tensor([[1.0], [0], [1], [0], [0]]); p.grad = q.grad.to_sparse(1); o, done = make([p]), None; make([q]).step()",
            "with contextlib.suppress(Exception): done = [o.step()]",
            'assert torch.allclose(p, q) if done else torch.equal(p, torch.ones(5, 3)), f\'{"taken" if done else "refused"}, and the parameter is {p.tolist()}\'',
        ),
    ),
    Term(
        "complex",
        "A complex parameter is refused before anything changes, or moves by finite numbers.",
        (
            "p = torch.nn.Parameter(torch.tensor([1 + 2j, -1 + 0.5j])); p.grad = torch.tensor([1j, 2 - 1j]); before = p.detach().clone(); done = None",
            "with contextlib.suppress(Exception): o = make([p]); done = [o.step()]",
            "assert (p.isfinite().all() and not torch.equal(p, before)) if done else torch.equal(p, before), f'{before.tolist()} became {p.tolist()}'",
        ),
    ),
    Term(
        "no decay is none",
        "With weight_decay 0 and gradients of 0 nothing moves, not by a bit.",
        (
            f"{PARAM}; o = make([p]{{none}}); before = p.detach().clone()",
            "[(setattr(p, 'grad', torch.zeros(6)), o.step()) for _ in range(3)]",
            "assert torch.equal(p, before), f'{before.tolist()} became {p.tolist()}'",
        ),
        ("weight_decay",),
    ),
    Term(
        "strides",
        "A gradient that lies in memory otherwise than its parameter, as autograd may hand it over, is the same gradient.",
        (
            "p, q = (torch.nn.Parameter(torch.linspace(-1, 2, 6).reshape(3, 2)) for _ in range(2)); g = torch.linspace(-2, 1, 6).reshape(3, 2); p.grad, q.grad = g, g.t().contiguous().t()",
            "make([p]).step(); make([q]).step()",
            "assert torch.allclose(p, q), f'{p.tolist()}, and with the other strides {q.tolist()}'",
        ),
    ),
    Term(
        "version counter",
        "A step counts as a change of the parameter, so that autograd refuses a backward pass through what it overwrote.",
        (
            f"{PARAM}; p.grad = torch.ones(6); o = make([p]); before = p._version",
            "o.step()",
            "assert p._version > before, f'it stays {before}'",
        ),
    ),
    Term(
        "scalars and empty tensors",
        "Tensors of no dimension, one entry and none are stepped like others.",
        (
            "ps = [torch.nn.Parameter(torch.ones(s)) for s in ((), (1,), (1, 1), (0,))]; o = make(ps)",
            "[setattr(p, 'grad', torch.ones_like(p)) for p in ps]; o.step()",
            "assert all(p.isfinite().all() and not (p == 1).any() for p in ps), f'{[p.tolist() for p in ps]}'",
        ),
    ),
    Term(
        "lr as a tensor",
        "An lr that is a tensor, as compiled loops need it, is the same lr.",
        (
            f"p, q = (torch.nn.Parameter(torch.linspace(-1, 2, 6)) for _ in range(2)); {TRAIN}; o, other = make([p]), make([q], {{lr}}=torch.tensor(0.1))",
            "train(o, p, range(3)); train(other, q, range(3))",
            "assert torch.allclose(p, q), f'{p.tolist()} with a float, {q.tolist()} with a tensor'",
        ),
    ),
    Term(
        "silent",
        "Nothing is printed.",
        (
            f"{PARAM}; p.grad = torch.ones(6); said = io.StringIO()",
            "with contextlib.redirect_stdout(said): o = make([p]); o.step()",
            "assert not said.getvalue(), said.getvalue().splitlines()[0]",
        ),
    ),
    Term(
        "the caller's torch",
        "Random numbers, default dtype and grad mode are after a step what they were before.",
        (
            f"{PARAM}; p.grad = torch.ones(6); now = lambda: (torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.is_grad_enabled())",
            "before = now(); make([p]).step()",
            "assert now() == before, [a for a, b in zip(('random state', 'default dtype', 'grad mode'), zip(before, now())) if b[0] != b[1]]",
        ),
    ),
    Term(
        "no recompilation",
        "A schedule compiles nothing after the first steps.",
        (
            f"from torch._dynamo.utils import counters; {START}; s = torch.optim.lr_scheduler.CosineAnnealingLR(o, 30); [(train(o, p, [i]), s.step()) for i in range(3)]",
            "before = counters['stats']['unique_graphs']; [(train(o, p, [i]), s.step()) for i in range(12)]",
            "assert counters['stats']['unique_graphs'] == before, f\"{counters['stats']['unique_graphs'] - before} graphs more in 12 steps\"",
        ),
        (OF_TORCH,),
    ),
)


@dataclass(frozen=True)
class Subject:
    """A class with its options; `names` ours to its own, `kind` what it is given (see `adapters.Contestant`)."""

    target: str
    options: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "params"
    lr: float = 0.1

    def name(self, ours: str) -> str | None:
        found = self.names.get(ours, ours)
        return found if found is None else str(found)

    @property
    def made(self) -> Any:
        """The class, or function."""
        module, _, name = self.target.partition(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found

    @property
    def arguments(self) -> frozenset[str] | None:
        """The names of its constructor's arguments, and of its defaults where it takes any; None where nothing tells."""
        try:
            parameters = inspect.signature(self.made).parameters.values()
        except (TypeError, ValueError):
            return None
        names = {p.name for p in parameters}
        if any(p.kind == p.VAR_KEYWORD for p in parameters):
            import torch

            space: dict[str, Any] = {}
            with contextlib.suppress(Exception), kept(), contextlib.redirect_stdout(io.StringIO()):
                exec("\n".join(self.head()), space)
                names |= set(space["make"]([torch.nn.Parameter(torch.ones(1))]).defaults)
        return frozenset(names)

    def asked(self, term: Term) -> bool:
        """Whether it has the arguments that the term is about."""
        from torch.optim import Optimizer

        if OF_TORCH in term.asks and isinstance(self.made, type) and not issubclass(self.made, Optimizer):
            return False
        asks, has = [x for x in term.asks if x != OF_TORCH], self.arguments
        return has is None or all(self.name(x) in has or (self.kind == "group" and x == "weight_decay") for x in asks)

    def head(self) -> list[str]:
        """The two lines that import the class and define `make`."""
        module, _, name = self.target.partition(":")
        top, *rest = name.split(".")
        given = {
            "params": "list(ps)",
            "named": "[(f'norm{i}.weight', p) for i, p in enumerate(ps)]",
            "model": "torch.nn.ParameterList(ps)",
            "group": "[{'params': list(ps), **entry_options}]",
        }[self.kind]
        options = {str(self.name("lr")): self.lr, **self.options}
        entry = "entry = lambda ps: {'params': list(ps)}"
        if self.kind == "named":
            entry = "entry = lambda ps: {'params': [(f'norm{id(p)}.weight', p) for p in ps]}"
        call = f"{'.'.join([top, *rest])}({given}, **{{**{options!r}, **o}})"
        if self.kind == "group":
            entry = f"entry = lambda ps: {{'params': list(ps), **{options!r}}}"
            call = f"{'.'.join([top, *rest])}([{{**entry(ps), **o}}])"
        return [
            f"import contextlib, copy, io, pickle, torch; from {module} import {top}",
            f"make = lambda ps, **o: {call}; {entry}",
        ]

    def lines(self, term: Term) -> list[str]:
        decay, lr = self.name("weight_decay"), str(self.name("lr"))
        has = self.arguments
        known = decay is not None and (has is None or decay in has or self.kind == "group")
        put = {
            "{decay}": f", {decay}=0.1" if known else "",
            "{none}": f", {decay}=0.0" if known else "",
            "{lr!r}": repr(lr),
            "{lr}": lr,
        }
        out = self.head()
        for line in term.lines:
            for place, text in put.items():
                line = line.replace(place, text)
            out.append(line)
        return out


@dataclass(frozen=True)
class Outcome:
    """What became of one term. `said`: the assertion's message or the error; `reproducer`: the five lines."""

    term: str
    status: str
    said: str = ""
    reproducer: str = ""


def check(subject: Subject, terms: Sequence[Term] = TERMS) -> list[Outcome]:
    return [_one(subject, term) for term in terms]


def _one(subject: Subject, term: Term) -> Outcome:
    if not subject.asked(term):
        return Outcome(term.name, NOT_ASKED, f"is or takes no {', '.join(term.asks)}")
    text = "\n".join(subject.lines(term))
    try:
        with kept(), contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, f"<{term.name}>", "exec"), {"__name__": "reproducer"})
    except AssertionError as error:
        return Outcome(term.name, BREAKS, str(error)[:300] or "AssertionError", text)
    except Exception as error:  # whatever an optimizer may raise
        said = (str(error).strip().splitlines() or [""])[0][:250]
        return Outcome(term.name, BREAKS, f"{type(error).__name__}: {said}", text)
    return Outcome(term.name, HOLDS)


@contextlib.contextmanager
def kept() -> Any:
    """What an optimizer may leave changed is put back: random numbers, default dtype, grad mode. Warnings are not errors here."""
    import torch

    before = torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        torch.set_rng_state(before[0])
        torch.set_default_dtype(before[1])
        torch.set_grad_enabled(before[2])

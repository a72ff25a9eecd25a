"""CartPole by advantage actor-critic (A2C, arXiv 1602.01783): the data depend on what was learnt before."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fast.partition.extras import needs

with needs("trials", __name__):
    import gymnasium
    from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

LONGEST = 500  # steps after which an episode of CartPole-v1 counts as solved


class ActorCritic(nn.Module):
    """Two tanh layers; the head has the two actions' logits and the value."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return out[..., :2], out[..., 2]


class Carts:
    """`count` carts side by side, and where each is: what a checkpoint keeps. Actions are drawn from a generator of its own."""

    def __init__(self, count: int, seed: int) -> None:
        self.env = CartPoleVectorEnv(num_envs=count, max_episode_steps=LONGEST)
        self.seen, _ = self.env.reset(seed=seed)
        self.generator = np.random.default_rng([seed, 2])

    def act(self, logits: Tensor) -> np.ndarray:
        """One action for each cart, (count,) of 0 and 1."""
        right = torch.softmax(logits.double(), -1)[:, 1].numpy()
        return (self.generator.random(len(right)) < right).astype(np.int64)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rewards and whether the episode ended, (count,) each; a new episode begins in the step after its end."""
        self.seen, reward, terminated, truncated, _ = self.env.step(action)
        return reward, terminated | truncated

    def state_dict(self) -> dict[str, Any]:
        env = self.env
        arrays = {"state": env.state, "steps": env.steps, "over": env.prev_done, "seen": self.seen}
        rngs = {"env": env.np_random.bit_generator.state, "own": self.generator.bit_generator.state}
        return {"arrays": {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}, "rngs": rngs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        arrays = {k: v.numpy() for k, v in state["arrays"].items()}
        self.env.state, self.env.steps, self.env.prev_done = arrays["state"], arrays["steps"], arrays["over"]
        self.seen = arrays["seen"]
        self.env.np_random.bit_generator.state = state["rngs"]["env"]
        self.generator.bit_generator.state = state["rngs"]["own"]


class Control:
    """`rollout` steps of each cart, then one update. val_loss and test_loss: the steps that an episode lacks of 500, on the
    mean of `held` episodes each, by actions drawn from the policy."""

    name = "control"

    def __init__(self, *, hidden: int = 64, rollout: int = 16, held: int = 32) -> None:
        self.size: dict[str, Any] = {"hidden": hidden, "rollout": rollout, "held": held}
        self.facts: dict[str, int | str] = {"environment": "CartPole-v1", "gymnasium": gymnasium.__version__}

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return ActorCritic(self.size["hidden"])

    def source(self, batch: int, seed: int) -> Carts:
        return Carts(batch, seed)

    def loss(self, model: nn.Module, source: Carts, step: int) -> Tensor:
        """Policy gradient with the advantage, half the squared error of the value, less 0.01 of the entropy.

        The step after an episode's end is the environment's reset, whose action does nothing: it is left out.
        """
        logits, values, actions, rewards, over, counted = [], [], [], [], [], []
        reset = np.array(source.env.prev_done)
        for _ in range(self.size["rollout"]):
            score, value = model(torch.from_numpy(source.seen))
            action = source.act(score.detach())
            reward, done = source.step(action)
            for held, new in ((logits, score), (values, value), (actions, torch.from_numpy(action))):
                held.append(new)
            rewards.append(torch.from_numpy(reward).float())
            over.append(torch.from_numpy(done).float())
            counted.append(torch.from_numpy(~reset).float())
            reset = done
        with torch.no_grad():
            future = model(torch.from_numpy(source.seen))[1]
        returns = []
        for reward, done, counts in zip(reversed(rewards), reversed(over), reversed(counted), strict=True):
            future = torch.where(counts > 0, reward + 0.99 * (1 - done) * future, 0.0)
            returns.append(future)
        target, value, used = torch.stack(returns[::-1]), torch.stack(values), torch.stack(counted)
        log = F.log_softmax(torch.stack(logits), -1)
        chosen = log.gather(-1, torch.stack(actions)[..., None])[..., 0]
        advantage = target - value
        entropy = -(log.exp() * log).sum(-1)
        return (used * (0.5 * advantage.square() - advantage.detach() * chosen - 0.01 * entropy)).sum() / used.sum()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, seed: int) -> dict[str, float]:
        """Each side has carts of its own, other ones for each seed; the training's carts are left as they are."""
        found = {}
        for number, side in enumerate(("val", "test")):
            carts = Carts(self.size["held"], 1_000_000 + 2 * seed + number)
            alive, lasted = np.ones(self.size["held"], dtype=bool), np.zeros(self.size["held"])
            for _ in range(LONGEST):
                _, over = carts.step(carts.act(model(torch.from_numpy(carts.seen))[0]))
                lasted += alive
                alive &= ~over
                if not alive.any():
                    break
            found[f"{side}_loss"] = float(LONGEST - lasted.mean())
        return found

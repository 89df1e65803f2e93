"""Deep Q-learning balances a pole on a cart.

A network says what each push is worth; it learns from a memory of what happened, towards its own slower copy (V. Mnih et al.,
Human-Level Control through Deep Reinforcement Learning, Nature 518, 2015; the push is chosen by the network and valued by the copy,
H. van Hasselt et al., Double Q-Learning, AAAI 2016). Every 1,000 steps it plays without chance, and the best player so far is kept.

Data: `examples/cartpole.py`, plain Python; an episode is at most 500 steps long.
Expected: mean return of the best player in 20 new episodes, at least 450 (small: 150; pushing at random: 22).
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import kiln
import kiln.nn.functional as F
from kiln import Tensor, nn

from .cartpole import CartPole

GAMMA, BATCH, SLOWLY = 0.99, 64, 0.01


class Memory:
    """What happened last: rows of state, action, reward, next state and whether the pole fell."""

    def __init__(self, room: int) -> None:
        self.rows = kiln.zeros(room, 11)
        self.count = 0

    def add(self, row: list[float]) -> None:
        self.rows[self.count % len(self.rows)] = kiln.tensor(row)
        self.count += 1

    def draw(self) -> Tensor:
        """f32[BATCH, 11], with equal chances."""
        return self.rows[kiln.randint(0, min(self.count, len(self.rows)), (BATCH,))]


def play(model: nn.Module, seed: int, episodes: int) -> list[int]:
    """Lengths of episodes with the push that is worth most."""
    env, lengths = CartPole(seed), []
    with kiln.no_grad():
        for _ in range(episodes):
            x, over = env.reset(), False
            while not over:
                x, _, terminated, truncated = env.step(int(model(kiln.tensor(x)).argmax()))
                over = terminated or truncated
            lengths.append(env.steps)
    return lengths


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw."""
    kiln.manual_seed(0)
    chance = random.Random(0)
    steps = 12_000 if small else 50_000
    model = nn.Sequential(
        nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    )
    slow, best = copy.deepcopy(model), copy.deepcopy(model)
    optimizer = kiln.optim.Adam(model.parameters(), lr=1e-3)
    memory, env = Memory(20_000), CartPole(seed=0)

    @kiln.compile
    def learn(rows: Tensor) -> Tensor:
        state, action, reward = rows[:, :4], rows[:, 4:5].long(), rows[:, 5]
        after, fell = rows[:, 6:10], rows[:, 10]
        with kiln.no_grad():
            chosen = model(after).argmax(1, keepdim=True)
            worth = reward + GAMMA * (1 - fell) * slow(after).gather(1, chosen)[:, 0]
        optimizer.zero_grad()
        loss = F.smooth_l1_loss(model(state).gather(1, action)[:, 0], worth)
        loss.backward()
        optimizer.step()
        with kiln.no_grad():
            for p, q in zip(slow.parameters(), model.parameters(), strict=True):
                p.lerp_(q, SLOWLY)
        return loss

    x, lengths, scores, top = env.reset(), [], [], 0.0
    for step in range(1, steps + 1):
        if chance.random() < max(0.05, 1 - step / 3000):
            action = chance.randrange(2)
        else:
            with kiln.no_grad():
                action = int(model(kiln.tensor(x)).argmax())
        after, reward, terminated, truncated = env.step(action)
        memory.add([*x, action, reward, *after, terminated])
        x = after
        if terminated or truncated:
            lengths.append((step, env.steps))
            x = env.reset()
        if step > 500:
            learn(memory.draw())
        if step % 1000 == 0:
            score = sum(play(model, seed=step, episodes=5)) / 5
            scores.append((step, score))
            print(f"step {step}: {score:.0f} of 500 without chance")
            if score >= top:
                top = score
                best.load_state_dict(model.state_dict())
            if [score for _, score in scores[-2:]] == [500, 500]:
                break
    returns = play(best, seed=-1, episodes=20)
    return {
        "metric": "mean return", "value": sum(returns) / 20, "expected": 150 if small else 450,
        "higher": True, "pictures": [draw(out / "dqn_cartpole.png", lengths, scores)],
    }  # fmt: skip


def draw(path: Path, lengths: list[tuple[int, int]], scores: list[tuple[int, float]]) -> Path:
    """How long each episode lasted."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5))
    axes.plot(*zip(*lengths, strict=True), ".", markersize=3, label="with chance, while it learns")
    axes.plot(*zip(*scores, strict=True), "o-", label="without chance, mean of 5")
    axes.set_xlabel("step")
    axes.set_ylabel("length of the episode")
    axes.legend()
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    return path

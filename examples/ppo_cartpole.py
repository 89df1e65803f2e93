"""Proximal policy optimization balances a pole on a cart.

Eight carts are driven at once; from what happened a policy and a value function learn in a few passes, by steps that are clipped
where they would change the policy much (J. Schulman et al., Proximal Policy Optimization Algorithms, 2017), with generalized advantage
estimation.

Data: `examples/cartpole.py`, plain Python; an episode is at most 500 steps long.
Expected: mean return of 20 new episodes with the likeliest push, at least 450 (small: 150; pushing at random: 22).
"""

from __future__ import annotations

from pathlib import Path

import kiln
from kiln import Tensor, nn
from kiln.distributions import Categorical

from .cartpole import CartPole

CARTS, STEPS, GAMMA, LAMBDA, CLIP = 8, 128, 0.99, 0.95, 0.2


class Actor(nn.Module):
    """From observations f32[..., 4] to logits of the pushes f32[..., 2] and the values f32[...] of where one is."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()

        def perceptron(outputs: int, gain: float) -> nn.Sequential:
            layers = nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, outputs)
            for layer, g in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
                nn.init.orthogonal_(layer.weight, g)
                nn.init.zeros_(layer.bias)
            return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])

        self.policy, self.value = perceptron(2, 0.01), perceptron(1, 1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy(x), self.value(x)[..., 0]


def advantages(rewards: Tensor, values: Tensor, last: Tensor, over: Tensor) -> Tensor:
    """How much better than expected what came was, f32[STEPS, CARTS]; nothing is expected after an episode is over."""
    out, ahead = [], kiln.zeros(CARTS)
    for t in reversed(range(STEPS)):
        go_on = 1 - over[t]
        surprise = (
            rewards[t] + GAMMA * go_on * (last if t == STEPS - 1 else values[t + 1]) - values[t]
        )
        ahead = surprise + GAMMA * LAMBDA * go_on * ahead
        out.append(ahead)
    return kiln.stack(out[::-1])


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw."""
    kiln.manual_seed(0)
    updates = 20 if small else 80
    model = Actor()
    optimizer = kiln.optim.Adam(model.parameters(), lr=2.5e-3, eps=1e-5)
    decay = kiln.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, updates)

    @kiln.compile
    def learn(
        state: Tensor, action: Tensor, before: Tensor, better: Tensor, wanted: Tensor
    ) -> Tensor:
        optimizer.zero_grad()
        logits, value = model(state)
        log_p = logits.log_softmax(-1)
        ratio = (log_p.gather(1, action[:, None])[:, 0] - before).exp()
        better = (better - better.mean()) / (better.std() + 1e-8)
        gain = kiln.minimum(ratio * better, ratio.clamp(1 - CLIP, 1 + CLIP) * better).mean()
        entropy = -(log_p.exp() * log_p).sum(-1).mean()
        loss = 0.5 * (value - wanted).square().mean() - gain - 0.01 * entropy
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return loss

    carts = [CartPole(seed) for seed in range(CARTS)]
    x = kiln.tensor([cart.reset() for cart in carts])
    lengths: list[tuple[int, int]] = []
    for update in range(updates):
        kept: list[list[Tensor]] = [[] for _ in range(6)]
        for t in range(STEPS):
            with kiln.no_grad():
                logits, value = model(x)
                choice = Categorical(logits=logits)
                action = choice.sample()
            after, rewards, over = [], [], []
            for cart, push in zip(carts, action.tolist(), strict=True):
                y, reward, terminated, truncated = cart.step(push)
                if truncated and not terminated:  # it would have gone on: what that is worth
                    with kiln.no_grad():
                        reward += GAMMA * model(kiln.tensor(y))[1].item()
                if terminated or truncated:
                    lengths.append((((update * STEPS) + t) * CARTS, cart.steps))
                    y = cart.reset()
                after.append(y)
                rewards.append(reward)
                over.append(float(terminated or truncated))
            new = x, action, choice.log_prob(action), value, kiln.tensor(rewards), kiln.tensor(over)
            for column, tensor in zip(kept, new, strict=True):
                column.append(tensor)
            x = kiln.tensor(after)
        state, action, before, value, reward, over = (kiln.stack(column) for column in kept)
        with kiln.no_grad():
            better = advantages(reward, value, model(x)[1], over)
        rows = [v.flatten(0, 1) for v in (state, action, before, better, better + value)]
        for _ in range(4):
            for i in kiln.randperm(STEPS * CARTS).split(256):
                learn(*(v[i] for v in rows))
        decay.step()
        if (update + 1) % 5 == 0:
            last = [n for _, n in lengths[-20:]]
            print(
                f"{(update + 1) * STEPS * CARTS} steps: the last 20 episodes lasted {sum(last) / len(last):.0f}"
            )

    env, returns = CartPole(seed=-1), []
    for _ in range(20):
        y, ended = env.reset(), False
        while not ended:
            with kiln.no_grad():
                y, _, terminated, truncated = env.step(int(model(kiln.tensor(y))[0].argmax()))
            ended = terminated or truncated
        returns.append(env.steps)
    return {
        "metric": "mean return", "value": sum(returns) / 20, "expected": 150 if small else 450,
        "higher": True, "pictures": [draw(out / "ppo_cartpole.png", lengths)],
    }  # fmt: skip


def draw(path: Path, lengths: list[tuple[int, int]]) -> Path:
    """How long each episode lasted while it learned."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5))
    axes.plot(*zip(*lengths, strict=True), ".", markersize=3)
    axes.set_xlabel("step")
    axes.set_ylabel("length of the episode")
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    return path

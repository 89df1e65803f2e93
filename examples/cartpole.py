"""A cart that balances a pole, in plain Python.

A. Barto, R. Sutton, C. Anderson, Neuronlike Adaptive Elements That Can Solve Difficult Learning Control Problems,
IEEE Trans. Systems, Man, and Cybernetics 13 (1983).
"""

from __future__ import annotations

import math
import random


class CartPole:
    """An observation is (position, velocity, angle, angular velocity); action 0 pushes to the left, 1 to the right.

    Each step is rewarded with 1. An episode ends when the cart is 2.4 away from the middle or the pole 12 degrees from
    upright (`terminated`), or after `limit` steps (`truncated`): Gymnasium's CartPole-v1, without it.

    >>> env = CartPole(seed=0)
    >>> x = env.reset()
    >>> x, reward, terminated, truncated = env.step(1)
    """

    observations, actions = 4, 2
    gravity, cart, pole, half_length, force, dt = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
    far, steep = 2.4, math.radians(12)

    def __init__(self, seed: int | None = None, limit: int = 500) -> None:
        self.random, self.limit = random.Random(seed), limit
        self.state, self.steps = (0.0, 0.0, 0.0, 0.0), 0

    def reset(self) -> tuple[float, ...]:
        """Begin an episode, near the balance."""
        self.state = tuple(self.random.uniform(-0.05, 0.05) for _ in range(4))
        self.steps = 0
        return self.state

    def step(self, action: int) -> tuple[tuple[float, ...], float, bool, bool]:
        """Push for a fiftieth of a second: (observation, reward, terminated, truncated)."""
        x, v, angle, spin = self.state
        sin, cos, total = math.sin(angle), math.cos(angle), self.cart + self.pole
        push = self.force if action else -self.force
        pull = (push + self.pole * self.half_length * spin * spin * sin) / total
        inertia = self.half_length * (4 / 3 - self.pole * cos * cos / total)
        turn = (self.gravity * sin - cos * pull) / inertia
        speed_up = pull - self.pole * self.half_length * turn * cos / total
        dt = self.dt  # Euler's method, positions first
        self.state = (x + dt * v, v + dt * speed_up, angle + dt * spin, spin + dt * turn)
        self.steps += 1
        terminated = abs(self.state[0]) > self.far or abs(self.state[2]) > self.steep
        return self.state, 1.0, terminated, self.steps >= self.limit

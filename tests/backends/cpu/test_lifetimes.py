"""What launches hold, kept up to date through a search for less memory, is what counting anew finds."""

import numpy as np
from tests.compile.test_memory import cnn, gpt, mlp, trained
from tests.turns import in_turn

from kiln.backends.cpu import recipe
from kiln.backends.cpu.recompute import Recomputation
from kiln.errors import KilnMemoryError
from kiln.runtime import arena


@in_turn("part", [0.7, 0.1], pauses=1, make=[cnn, gpt, mlp])
def test_bytes_held_are_right_after_every_step(make, part, monkeypatch):
    steps = []
    step = Recomputation.step

    def checked(self, target):
        done = step(self, target)
        numbers = [i for i, _ in self.lives.numbers()]
        quiet = sum(1 for _ in self.lives.numbers(0, self.quiet))
        m = self.memory([self.lives.launches[i] for i in numbers], quiet)
        want = arena.held([*m.lives.values(), *m.scratch.values()])[: len(numbers)]
        np.testing.assert_array_equal(self.lives.live[self.lives.at[numbers]], want)
        assert self.lives.live.max() == want.max()
        steps.append(done)
        return done

    monkeypatch.setattr(Recomputation, "step", checked)
    monkeypatch.setattr(recipe, "fetch", lambda key: None)  # programs are laid out anew
    _, whole, _ = trained(make, steps=1)
    try:
        trained(make, int(whole * part), steps=1)
    except KilnMemoryError:
        assert part == 0.1
    assert any(steps)

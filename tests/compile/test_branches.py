"""Python that looks at values: branches become paths, everything else is a clear error."""

import numpy as np
import pytest

import kiln
from kiln.config import context
from kiln.errors import CaptureError

STORED = None


def test_both_sides():
    @kiln.compile
    def run(x):
        if x.sum() > 0:
            return x * 2
        return x - 1

    x = kiln.ones(3)
    for sign in (1, -1, 1, -1):
        want = x * 2 if sign > 0 else -x - 1
        np.testing.assert_array_equal(run(x * sign).numpy(), want.numpy())
    assert run.captures == 3  # the branch, and each side


def test_loops_until_a_value():
    def fn(x):
        n = 0
        while x.sum() > 1:
            x = x / 2
            n += 1
        return x, n

    run = kiln.compile(fn)
    for start in (1.0, 8.0, 3.0, 0.1, 8.0):
        got, want = run(kiln.full((2,), start)), fn(kiln.full((2,), start))
        np.testing.assert_array_equal(got[0].numpy(), want[0].numpy())
        assert got[1] == want[1]
    with (
        context(max_paths=6),
        pytest.raises(CaptureError, match=r"test_branches.py:\d+ in fn") as e,
    ):
        run(kiln.full((2,), 1e6))
    assert "kiln.where" in str(e.value)


def test_branches_see_what_was_written_before_them():
    count = kiln.zeros(())

    @kiln.compile
    def run(x):
        count.add_(1)
        return x * 10 if count > 2 else x

    assert [run(kiln.ones(1)).item() for _ in range(4)] == [1, 1, 10, 10]
    assert count.item() == 4


def test_and_or_not_assert():
    @kiln.compile
    def run(x, y):
        if (x > 0).all() and not (y > 0).any():
            return x
        return y if x.max() > 5 or y.min() > 5 else x + y

    for a, b in ((1.0, -1.0), (9.0, 1.0), (1.0, 9.0), (1.0, 1.0)):
        x, y = kiln.full((2,), a), kiln.full((2,), b)
        assert run(x, y)[0].item() == run.fn(x, y)[0].item()


def test_a_users_except_does_not_swallow_a_branch_or_freeze_a_value():
    @kiln.compile
    def branch(x):
        try:
            if x.sum() > 0:
                return x * 2
        except Exception:
            return x * 100
        return x * 3

    assert branch(kiln.ones(1)).item() == 2
    assert branch(-kiln.ones(1)).item() == -3

    def freeze(x):
        try:
            v = x.sum().item()
        except Exception:
            v = 0.0
        return x * v

    with pytest.raises(CaptureError, match="item"):
        kiln.compile(freeze)(kiln.ones(2))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.item(),
        float,
        int,
        lambda x: x.numpy(),
        lambda x: x.tolist(),
        np.asarray,
        lambda x: [0, 1, 2][x.long()],
        lambda x: f"{x.item():.2f}",
    ],
)
@pytest.mark.parametrize("closure", [False, True])
def test_reads_of_values_name_the_line(read, closure):
    state = kiln.ones(())

    def fn(x):
        return x * read(state if closure else x)

    with pytest.raises(CaptureError) as e:
        kiln.compile(fn)(kiln.ones(()))
    lines = str(e.value).splitlines()
    assert len(lines) == 3
    assert "test_branches.py:" in lines[1]
    assert lines[2].startswith("help: return the tensor")


def test_printing_a_tensor_shows_what_is_known_of_it(capsys):
    def fn(x):
        print(x)
        return x * 2

    kiln.compile(fn)(kiln.ones(2))
    assert "captured f32[2]" in capsys.readouterr().out


def test_truth_of_many_elements():
    with pytest.raises(RuntimeError, match="ambiguous"):
        kiln.compile(lambda x: x if x else -x)(kiln.ones(2))


def test_data_dependent_shapes():
    for fn in (lambda x: x[x > 0], lambda x: x.nonzero(), kiln.unique):
        with pytest.raises(RuntimeError, match=r"can't be captured|captured"):
            kiln.compile(fn)(kiln.ones(3))


def test_a_tensor_that_escapes_tells_why_it_is_empty():
    class Box:
        pass

    box, kept = Box(), []

    def fn(x):
        global STORED
        STORED = box.last = x * 2
        return x + 1

    kiln.compile(fn)(kiln.ones(2))
    kept.append(STORED)
    for use in (
        lambda t: t + 1,
        lambda t: kiln.ones(2) * t,
        lambda t: t.numpy(),
        lambda t: t.item() if t.numel() == 1 else t.tolist(),
        lambda t: kiln.compile(lambda x: x + t)(kiln.ones(2)),
        lambda t: t.add_(1),
        lambda t: kiln.ones(2).copy_(t),
        lambda t: kiln.cat([t, t]),
    ):
        for t in (STORED, box.last):
            with pytest.raises(CaptureError, match="return it from the function"):
                use(t)
    assert "captured" in repr(STORED)

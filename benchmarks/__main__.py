"""What can be measured here, one command each: `python -m benchmarks`."""

from __future__ import annotations

COMMANDS = {
    "eager": "a + b, with grad, and Linear forward + backward on small tensors, against torch",
    "steps": "training steps: Kiln eager, Kiln compiled and torch eager, at 1 and 2 threads",
    "matmul": "compiled fp32 matmul in its four forms on one thread, against torch.mm",
    "startup": "import time and what it imports, installed size, first step from a cold and a warm cache",
    "kernels": "the bare matmul kernels over sizes, against torch.mm",
}


def main() -> None:
    """Print the list."""
    for name, what in COMMANDS.items():
        print(f"python -m benchmarks.{name:8} {what}")
    print("\nEach takes about a minute. Peers that are not installed are skipped:")
    print("pip install -e '.[demo,peers]' brings all. Results as measured: docs/benchmarks.md")


if __name__ == "__main__":
    main()

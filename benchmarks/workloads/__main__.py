"""`python -m benchmarks.workloads`: the same as `kiln bench`."""

from __future__ import annotations

import argparse

from kiln.cli import bench


def main() -> None:
    """Run `kiln bench` under this name."""
    cli = argparse.ArgumentParser(prog="python -m benchmarks.workloads", description=bench.__doc__)
    bench.add_arguments(cli)
    raise SystemExit(bench.run(cli.parse_args()))


if __name__ == "__main__":
    main()

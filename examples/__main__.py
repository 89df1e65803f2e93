"""Run examples: `python -m examples NAME`, or `python -m examples --all --out gallery`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import gallery


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names; 1 where a metric falls short of what is expected."""
    names = gallery.names()
    p = argparse.ArgumentParser(prog="python -m examples", description=__doc__)
    p.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    p.add_argument("--all", action="store_true", help="every example")
    p.add_argument("--small", action="store_true", help="the form that ends within a minute")
    p.add_argument("--out", type=Path, default=Path("gallery"), help="folder of pictures and page")
    p.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="options of the example"
    )
    given = p.parse_args(arguments)
    chosen = names if given.all else given.names
    unknown = sorted(set(chosen) - set(names))
    if unknown or not chosen:
        p.error(
            f"no such example: {', '.join(unknown)}" if unknown else "name an example, or --all"
        )
    if not all("=" in s for s in given.set):
        p.error("--set takes KEY=VALUE")
    options = dict(s.split("=", 1) for s in given.set)
    results = []
    for name in chosen:
        print(f"{name}: {gallery.title(name)}", flush=True)
        results.append(gallery.run(name, given.small, given.out, **options))
        print(f"  {results[-1]}", flush=True)
        gallery.write_page(results, given.out)  # after each, so that a later failure loses nothing
    print(f"pictures: {given.out / 'index.html'}")
    return 0 if all(r.reached for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())

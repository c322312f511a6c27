"""`python -m tests.golden [--rewrite]`: see formats.py."""

from __future__ import annotations

import argparse
import sys

from tests.golden.formats import DIRECTORY, examples, read_golden, rewrite


def main() -> int:
    """Compare, or rewrite; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tests.golden", description=__doc__)
    parser.add_argument("--rewrite", action="store_true", help="write the files from today's encoders")
    if parser.parse_args().rewrite:
        rewrite()
        sys.stdout.write(
            f"wrote {DIRECTORY}/*.hex; say in docs/formats.md what changed, and why old bytes are still read\n"
        )
        return 0
    different = [each for each in examples() if read_golden(each.format).get(each.name) != each.encode(each.value)]
    for example in different:
        sys.stdout.write(f"{example.format}.hex: {example.name}: today's encoder makes other bytes\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())

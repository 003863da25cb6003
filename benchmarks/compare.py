"""What has changed between two runs of the benchmarks: ratios to peers, fractions of floors.

    python benchmarks/compare.py OLD NEW [--threshold 0.1]

OLD and NEW are results files or folders of them. Seconds of two days say little, as the machine may
have been busy: a ratio is of two sides that took turns, a fraction of a floor measured in the same
run. A change counts when it is larger than the threshold and the ranges between the quartiles do
not meet; times of a single run have no range, and a larger change of these is called "unsure". The
exit code is 1 if anything has become worse, and 2 if there is nothing to compare.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import claims
import harness
import performance

QUANTITIES = ("ratio", "fraction")


class Change(NamedTuple):
    """How one quantity of one claim has changed.

    Attributes:
      name: of the claim.
      quantity: "ratio" or "fraction"; larger is better.
      old: before.
      new: after.
      verdict: "worse", "better", "unsure" or "same".
    """

    name: str
    quantity: str
    old: float
    new: float
    verdict: str


def verdict(
    old: float,
    new: float,
    old_range: tuple[float, float],
    new_range: tuple[float, float],
    threshold: float,
) -> str:
    """Whether a quantity, of which more is better, has changed by more than chance."""
    if new < old * (1 - threshold) and new_range[1] < old_range[0]:
        return "worse"
    if new > old / (1 - threshold) and new_range[0] > old_range[1]:
        return "better"
    return "same"


def timed_once(claim: Mapping[str, Any], quantity: str) -> bool:
    """Whether a time behind the quantity is of a single run, whose chance nobody knows."""
    sides = (claim["ours"], claim["theirs"]) if quantity == "ratio" else (claim["ours"],)
    return claim["unit"] == "s" and any(side["samples"] == 1 for side in sides)


def changes(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], *, threshold: float
) -> list[Change]:
    """All quantities of the claims that both have."""
    by_name = {claim["name"]: claim for claim in new}
    found = []
    for before in old:
        after = by_name.get(before["name"])
        for quantity in QUANTITIES:
            if after is None or before[quantity] is None or after[quantity] is None:
                continue
            pair = before[quantity], after[quantity]
            ranges = claims.spread(before, quantity), claims.spread(after, quantity)
            word = verdict(*pair, *ranges, threshold)
            if word != "same" and any(timed_once(claim, quantity) for claim in (before, after)):
                word = "unsure"
            found.append(Change(before["name"], quantity, *pair, word))
    return found


def only_in(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the claims of the first that the second lacks."""
    names = {claim["name"] for claim in second}
    return [claim["name"] for claim in first if claim["name"] not in names]


def table(found: Sequence[Change]) -> str:
    """Markdown: what is worse, what is better, what may be, then the rest."""
    order = ("worse", "better", "unsure", "same")

    def share(change: Change) -> str:
        return f"{change.new / change.old - 1:+.0%}" if change.old else ""

    rows = [
        [c.verdict, c.name, c.quantity, f"{c.old:.3g}", f"{c.new:.3g}", share(c)]
        for c in sorted(found, key=lambda change: order.index(change.verdict))
    ]
    return harness.markdown(("", "claim", "quantity", "old", "new", "change"), rows)


def main(words: Sequence[str] | None = None) -> int:
    """Compare, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--threshold", type=float, default=0.1, help="share below which all is same"
    )
    options = parser.parse_args(words)
    old, new = performance.read(options.old), performance.read(options.new)
    found = changes(old, new, threshold=options.threshold)
    print(table(found))
    for path, names in ((options.old, only_in(old, new)), (options.new, only_in(new, old))):
        for name in names:
            print(f"Only in {path}: {name}")
    if not found:
        print("Nothing is in both.")
        return 2
    return int(any(change.verdict == "worse" for change in found))


if __name__ == "__main__":
    sys.exit(main())

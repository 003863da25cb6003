"""The table of docs/performance.md, from the claims in the results."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import claims
import harness

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- begin: written by benchmarks/run.py -->", "<!-- end -->"
AREAS = (
    "Adaptation",
    "Kernels",
    "Diffusion",
    "Selection",
    "Uncertainty",
    "Training",
    "Images",
    "Checkpoints",
    "Memory",
)
COLUMNS = ("what", "ours", "peer", "its", "ratio", "floor", "fraction", "first result", "run")
UNITS = ((1, "s", 1), (1e-3, "ms", 1e3), (0, "µs", 1e6))


def read(folder: Path) -> list[dict[str, Any]]:
    """All claims of a folder of results, or of one file, each with the run that it comes from."""
    paths = [folder] if folder.is_file() else sorted(folder.glob("*.json"))
    found = []
    for path in paths:
        content = json.loads(path.read_text())
        run = {"date": content["date"], "load": content["machine"]["load_1min"]}
        found += [
            {**claim, "run": run, "rates_date": content["rates"]["date"]}
            for claim in content.get("claims", [])
        ]
    return found


def amount(value: float | None, unit: str = "s") -> str:
    """A number of seconds, bytes or kills, in three digits."""
    if value is None:
        return ""
    if unit == "bytes":
        return f"{value / 1e6:,.3g} MB" if value < 1e9 else f"{value / 1e6:,.0f} MB"
    if unit != "s":
        return f"{value:.0f}"
    _, name, factor = next(each for each in UNITS if value >= each[0])
    scaled = factor * value
    return f"{scaled:,.0f} {name}" if scaled >= 1000 else f"{scaled:.3g} {name}"


def row(claim: Mapping[str, Any]) -> list[str]:
    unit, ours, theirs = claim["unit"], claim["ours"], claim["theirs"]
    clock = " (wall)" if unit == "s" and claim["clock"] == "wall" else ""
    floor = claim["no_floor"]
    if claim["floor"] is not None:
        # Floors of an old run by the rates of another day are marked.
        other_day = "" if claim["rates_date"] == claim["run"]["date"] else " †"
        floor = f"{amount(claim['floor'], unit)}, {claim['bound']}{other_day}"
    return [
        claim["name"],
        amount(ours["median"], unit) + clock,
        claim["peer"] or "",
        "" if theirs is None else amount(theirs["median"], unit),
        "" if claim["ratio"] is None else f"{claim['ratio']:.3g}",
        floor,
        "" if claim["fraction"] is None else f"{claim['fraction']:.2g}",
        amount(claim["first"]),
        f"{claim['run']['date'][5:]}, load {claim['run']['load']:.1f}",
    ]


def tables(found: list[dict[str, Any]]) -> str:
    """A table for each area, and the claims that are furthest from their floors."""
    parts = []
    for area in AREAS:
        mine = [claim for claim in found if claim["area"] == area]
        if mine:
            rows = [row(claim) for claim in mine]
            parts.append(f"### {area}\n\n{harness.markdown(COLUMNS, rows)}")
    lines = [
        [claim["name"], f"{claim['fraction']:.2g}", claim["bound"]]
        for claim in claims.worst(found, 8)
    ]
    furthest = harness.markdown(("what", "fraction", "floor by"), lines)
    parts.append(f"### Furthest from the floor\n\n{furthest}")
    return "\n\n".join(parts)


def page(text: str, found: list[dict[str, Any]]) -> str:
    """The page with its generated part written anew.

    Raises:
      ValueError: the marks between which it stands are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"The page needs the marks {BEGIN!r} and {END!r}.")
    return f"{before}{BEGIN}\n\n{tables(found)}\n\n{END}{after}"


def write() -> None:
    """Write the page of the project from its results."""
    PAGE.write_text(page(PAGE.read_text(), read(harness.RESULTS)))

"""What the programs print: tables as CSV, progress, plain text outside of a terminal."""

import csv
import io
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from entropax.distributed import is_lead


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV with a column for every name that occurs; six digits, nothing for NaN."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _rounded(value) for name, value in row.items()})
    return out.getvalue()


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if np.isnan(value) else f"{value:.6g}"


def with_interval(
    estimate: tuple[float, float, float],
    *,
    scale: float = 1,
    digits: int = 2,
    sign: str = "",
    between: str = " ",
) -> str:
    """`value [lower, upper]` for a table of rich; what there is none of is left out."""
    value, lower, upper = (scale * number for number in estimate)
    if np.isnan(value):
        return "-"
    form = f"{sign}.{digits}f"
    if np.isnan(lower) or np.isnan(upper):
        return f"{value:{form}}"
    return f"{value:{form}}{between}\\[{lower:{form}}, {upper:{form}}]"


def make_console(*, stderr: bool = False) -> Console:
    """Plain text in a notebook as well: rich's way of showing progress there needs ipywidgets.

    Of several processes only the first one prints.
    """
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr,
        width=None if terminal else 118,
        force_terminal=terminal,
        force_jupyter=False,
        quiet=not is_lead(),
    )


def make_progress() -> Progress:
    """A bar on stderr with what is done, how much of it, and the time it will take.

    Of several processes only the first one has it; what the others print is left as it is.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = make_console(stderr=True)
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not is_lead())

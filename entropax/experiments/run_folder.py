"""The folder of a run: its settings, its metrics line by line, and how it is taken up again.

Of several processes the first one writes, and the others read what it has read.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entropax.distributed import check_same, check_shared_folder, from_lead, is_lead
from entropax.experiments.stopwatch import stopwatch


@dataclass(frozen=True)
class RunFolder:
    """A folder with `config.json` and `metrics.jsonl`; make one with `open_run`."""

    path: Path

    @property
    def metrics_file(self) -> Path:
        """Where `append` writes."""
        return self.path / "metrics.jsonl"

    def records(self) -> list[dict[str, Any]]:
        """What has been appended so far; a line cut short by a kill is not among it."""
        return from_lead(self._read() if is_lead() else None)

    def _read(self) -> list[dict[str, Any]]:
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record and wait until it is on disk.

        Raises:
          ValueError: a value that JSON cannot hold, such as NaN.
        """
        line = json.dumps(record, allow_nan=False) + "\n"
        if not is_lead():
            return
        with self.metrics_file.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        stopwatch.result()

    def write(self, name: str, content: str) -> Path:
        """Write a whole text file, or, if interrupted, nothing."""
        with self.replacing(name) as partial:
            partial.write_text(content)
        return self.path / name

    def listing(self) -> str:
        """The folder and what is in it, for the last line of a program."""
        names = sorted(file.name for file in self.path.iterdir())
        return f"{self.path}: {', '.join(names)}"

    def replacing(self, name: str) -> "_Replacing":
        """Context with a temporary path that takes the place of `name` when it ends well."""
        return _Replacing(self.path / name)


@dataclass
class _Replacing:
    final: Path

    def __enter__(self) -> Path:
        if is_lead():
            self.partial = self.final.with_name(f".partial-{self.final.name}")
        else:
            # What the others make is thrown away, and should not pass through the disk they share.
            self.partial = Path(tempfile.mkdtemp()) / self.final.name
        return self.partial

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not is_lead():
            shutil.rmtree(self.partial.parent)
        elif kind is None:
            self.partial.replace(self.final)
        else:
            self.partial.unlink(missing_ok=True)


def open_run(path: Path, settings: Mapping[str, Any]) -> RunFolder:
    """Begin a run in a new folder, or take up the one that is there.

    Args:
      path: the folder, made if need be; a leading `~` is the home of the user.
      settings: everything that the results depend on, as JSON values.

    Raises:
      OSError: the processes of a job do not share the folder.
      ValueError: the folder holds a run with other settings; the message names them. The processes
        of a job have different settings.
    """
    path = path.expanduser()
    settings = json.loads(json.dumps(settings, default=str))
    check_same(settings)
    check_shared_folder(path)
    folder = RunFolder(path)
    config_file = path / "config.json"
    found = json.loads(config_file.read_text()) if is_lead() and config_file.exists() else None
    found = from_lead(found)
    if found is None:
        folder.write("config.json", json.dumps(settings, indent=2) + "\n")
        return folder
    changed = [
        f"{key} was {found.get(key)!r} and is now {settings.get(key)!r}"
        for key in sorted(found.keys() | settings.keys())
        if found.get(key) != settings.get(key)
    ]
    if changed:
        raise ValueError(
            f"{path} holds a run with other settings ({'; '.join(changed)}). Pass another "
            "--run-dir, or remove that one."
        )
    # A kill may have cut the last line short: forget it, so that the next one starts afresh.
    if from_lead(folder.metrics_file.exists()):
        kept = [json.dumps(record) + "\n" for record in folder.records()]
        folder.write(folder.metrics_file.name, "".join(kept))
    return folder

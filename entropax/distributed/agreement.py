"""What has to be the same for all processes: the configuration, replicated values, the disk."""

import hashlib
import json
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

_HOST_BYTES = 64


def all_processes(values: np.ndarray) -> np.ndarray:
    """The array of every process, `[processes, ...]`, on each of them.

    Args:
      values: of this process; of the same shape and dtype in all.
    """
    if jax.process_count() == 1:
        return values[None]
    # Bytes, since JAX would make 64 bits 32.
    raw = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(raw))
    return gathered.reshape(-1).view(values.dtype).reshape(-1, *values.shape)


def from_lead(value: Any) -> Any:
    """What the first process gives, as the JSON value that it is, in every process.

    Args:
      value: anything that JSON can hold; of the other processes it does not count.

    >>> from_lead({"done": [1, 2]})
    {'done': [1, 2]}
    """
    words = json.dumps(value).encode()
    length = int(all_processes(np.array(len(words)))[0])
    padded = np.frombuffer(words[:length].ljust(length), np.uint8)
    return json.loads(all_processes(padded)[0].tobytes())


def check_same(configuration: Mapping[str, Any]) -> None:
    """Raise an error in all processes unless all of them have the same configuration.

    Processes that run different programs do not always fail: they exchange numbers that mean
    different things. A job asks this once, at its start.

    Args:
      configuration: JSON values, or what `str` tells apart.

    Raises:
      ValueError: it differs; the message names the entries, the processes and their machines.

    >>> check_same({"learning_rate": 0.1})
    """
    found = _differences(configuration)
    if found is not None:
        what, where = found
        raise ValueError(
            f"The processes do not run the same configuration: {what} differs from process 0 in "
            f"{where}. Start all of them with the same command and the same files."
        )


def check_same_arrays(tree: PyTree[np.ndarray]) -> None:
    """Raise an error in all processes unless all of them have the same arrays, bit by bit.

    Raises:
      ValueError: they differ; the message names the arrays and the processes.
    """
    found = _differences(
        {
            jax.tree_util.keystr(path, simple=True, separator="/") or "the array": (
                f"{leaf.dtype}{list(leaf.shape)} {hashlib.sha256(leaf.tobytes()).hexdigest()[:12]}"
            )
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
    )
    if found is not None:
        what, where = found
        raise ValueError(
            f"The processes do not have the same arrays: {what} differs from process 0 in {where}. "
            "Compute them from the same key and files, or take those of the first process "
            "(`jax.experimental.multihost_utils.broadcast_one_to_all`)."
        )


def check_shared_folder(path: str | Path, *, timeout: float = 20) -> None:
    """Raise an error in all processes unless the folder is the same place for all of them.

    Checkpoints are written together. Where each machine has a folder of its own, orbax waits for
    files that never appear. The folder is made if need be; the probe is removed again.

    Args:
      path: the folder.
      timeout: seconds that a network file system may take to show a file of another machine.

    Raises:
      OSError: a process does not see what the first one wrote there; the message names it.
    """
    path = Path(path).expanduser().absolute()
    if jax.process_count() == 1:
        path.mkdir(parents=True, exist_ok=True)
        return
    nonce = np.frombuffer(secrets.token_bytes(16), np.uint8)
    nonce = np.asarray(multihost_utils.broadcast_one_to_all(nonce))
    probe = path / f".probe-{nonce.tobytes().hex()}"
    written = True
    if jax.process_index() == 0:
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe.touch()
        except OSError:
            written = False
    if not all_processes(np.array(written))[0]:
        raise OSError(f"Process 0 on {socket.gethostname()} cannot write to {path}.")
    end = time.monotonic() + timeout
    while not (seen := probe.exists()) and time.monotonic() < end:
        time.sleep(0.1)
    blind = np.flatnonzero(~all_processes(np.array(seen))).tolist()
    if jax.process_index() == 0:
        probe.unlink()
    if blind:
        raise OSError(
            f"{path} is not the same folder for all processes: what process 0 writes there is not "
            f"seen by {_named(blind)}. Take a folder on a disk that all machines share."
        )


def _differences(configuration: Mapping[str, Any]) -> tuple[str, str] | None:
    """What differs between processes, and in which of them; all processes have to ask."""
    names = sorted(configuration)
    words = [json.dumps(configuration[name], sort_keys=True, default=str) for name in names]
    whole = _digest(json.dumps([names, words]).encode())
    differing = _differing(all_processes(whole))
    if not differing:
        return None
    if _differing(all_processes(_digest(json.dumps(names).encode()))):
        what = "the names of its entries"
    else:
        entries = all_processes(np.stack([_digest(word.encode()) for word in words]))
        what = ", ".join(
            f"{name} (here {word})"
            for i, (name, word) in enumerate(zip(names, words, strict=True))
            if _differing(entries[:, i])
        )
    return what, _named(differing)


def _digest(data: bytes) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(data).digest(), np.uint8)


def _differing(rows: np.ndarray) -> list[int]:
    """Which rows are not as the first."""
    return np.flatnonzero(np.any(rows != rows[0], axis=1)).tolist()


def _named(processes: list[int]) -> str:
    """Numbers of processes with the names of their machines; all processes have to ask."""
    name = np.zeros(_HOST_BYTES, np.uint8)
    own = socket.gethostname().encode()[:_HOST_BYTES]
    name[: len(own)] = np.frombuffer(own, np.uint8)
    hosts = [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in all_processes(name)]
    return ", ".join(f"process {i} on {hosts[i]}" for i in processes)

"""A process that saves a better checkpoint after the other until it is killed.

`python saver.py DIRECTORY` goes on from what it finds there.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from entropax.checkpoint import EntropyCheckpointer

SIZE = 200_000


def state_of(step):
    """Different in every bit of interest from one step to the next."""
    bits = np.arange(SIZE, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(step)
    return {"bits": jnp.asarray(bits), "host": bits[::-1].copy(), "key": jax.random.key(step)}


def main():
    with EntropyCheckpointer(sys.argv[1], async_save=True) as keeper:
        first = keeper.best.step + 1 if keeper.best else 0
        for step in range(first, first + 10_000):
            assert keeper.step(step, state_of(step), step / 1e4).saved
            # The one before is complete: two are never written at the same time.
            print(step - 1, flush=True)


if __name__ == "__main__":
    main()

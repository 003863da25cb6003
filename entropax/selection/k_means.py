"""K-means: the examples nearest to the centres of as many clusters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from entropax.selection.base import Agent, Info, State, empty, example_of, mask_chosen
from entropax.selection.checks import check_examples
from entropax.types import Array


class _Memory(NamedTuple):
    centres: Float[Array, "n d"]
    objective: Float[Array, ""]
    settled: Bool[Array, ""]


def _rows(pool: Shaped[Array, "m *shape"]) -> Float[Array, "m d"]:
    rows = pool.reshape(len(pool), -1)
    rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
    # Distances come from squares: the less common offset they hold, the less they cancel.
    return rows - jnp.mean(rows, axis=0)


def _squared_distances(x: Float[Array, "m d"], y: Float[Array, "n d"]) -> Float[Array, "m n"]:
    products = jnp.matmul(x, y.T, precision="highest")
    norms = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)
    return jnp.maximum(norms - 2 * products, 0)


def _spread_out(key: Array, x: Float[Array, "m d"], n: int) -> Float[Array, "n d"]:
    """K-means++: centres drawn one after the other with probability of their squared distance."""
    keys = jax.random.split(key, n)
    first = example_of(x, jax.random.randint(keys[0], (), 0, len(x)))

    def add(distances: Float[Array, " m"], key: Array) -> tuple[Array, Array]:
        # Where all examples are centres already, any of them is as good.
        logits = jnp.where(jnp.any(distances > 0), jnp.log(distances), 0)
        centre = example_of(x, jax.random.categorical(key, logits))
        return jnp.minimum(distances, _squared_distances(x, centre[None])[:, 0]), centre

    _, others = jax.lax.scan(add, _squared_distances(x, first[None])[:, 0], keys[1:])
    return jnp.concatenate([first[None], others])


def _nearest(distances: Float[Array, "m n"]) -> Int[Array, " n"]:
    """The example nearest to each centre among those that no centre before it has taken."""
    n = distances.shape[1]

    def take(i: Array, indices: Int[Array, " n"]) -> Int[Array, " n"]:
        index = jnp.argmax(mask_chosen(indices, -distances[:, i]))
        return indices.at[i].set(index.astype(jnp.int32))

    return jax.lax.fori_loop(0, n, take, empty(n))


def k_means(*, iterations: int = 50) -> Agent:
    r"""One example for each of `n` clusters, the one nearest to its centre.

    Lloyd's algorithm from a k-means++ start minimises

    $$\frac1m \sum_{i=1}^m \min_k \|x_i - c_k\|^2.$$

    The objective is minus this mean, with the centres as a step finds them. A cluster that loses
    all its examples keeps its centre. Centres that share their nearest example get the next one, so
    that indices are distinct. A step needs `m n` numbers of memory.

    Args:
      iterations: steps at most; once no centre moves, later steps change nothing and `Info.done`
        says so.

    Raises:
      ValueError: `iterations` is below 1.

    Reference: D. Arthur and S. Vassilvitskii, "k-means++: the advantages of careful seeding"
    (2007), section 2.2.

    >>> from entropax.selection.base import select
    >>> features = jnp.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]])
    >>> sorted(select(jax.random.key(0), k_means(), features, 2).indices.tolist())
    [1, 4]
    """
    if iterations < 1:
        raise ValueError(f"`iterations` must be at least 1, got {iterations}.")

    def init(key: Array, pool: Shaped[Array, "m *shape"], n: int) -> State:
        x = _rows(pool)
        centres = _spread_out(key, x, n)
        objective = -jnp.mean(jnp.min(_squared_distances(x, centres), axis=1))
        return State(empty(n), _Memory(centres, objective, jnp.zeros((), bool)))

    def step(state: State, pool: Shaped[Array, "m *shape"]) -> tuple[State, Info]:
        centres, before, _ = state.memory
        x = _rows(pool)
        members = jax.nn.one_hot(
            jnp.argmin(_squared_distances(x, centres), axis=1), len(centres), dtype=x.dtype
        )
        sizes = jnp.sum(members, axis=0)[:, None]
        sums = jnp.matmul(members.T, x, precision="highest")
        moved = jnp.where(sizes > 0, sums / jnp.maximum(sizes, 1), centres)
        distances = _squared_distances(x, moved)
        objective = -jnp.mean(jnp.min(distances, axis=1))
        indices = _nearest(distances)
        settled = jnp.all(moved == centres)
        changed = jnp.any(indices != state.indices)
        info = Info(objective, objective - before, changed, settled)
        return State(indices, _Memory(moved, objective, settled)), info

    return Agent(init, step, lambda n: iterations, check_examples)

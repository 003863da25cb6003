"""Kernels, entropies and selections on a mesh; each returns arrays that every process has."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from entropax import diffusion, distributed, kernels, selection, spectra
from entropax.types import fill_padding

N, REAL = 48, 45  # examples, of which the last three only fill up the shape


def linear(params, x):
    return x.reshape(len(x), -1) @ params


def network(params, x):
    """A convolution, a dense layer and three outputs."""
    x = jax.lax.conv_general_dilated(
        x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jnp.tanh(x[:, ::2, ::2]).reshape(len(x), -1)
    return jnp.tanh(x @ params["dense"]) @ params["head"]


def pool(seed=0, n=N):
    """Parameters and examples, on the host; what fills up must not matter."""
    rng = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 1, 4), "dense": (36, 8), "head": (8, 3)}
    params = {name: rng.standard_normal(shape, np.float32) / 3 for name, shape in shapes.items()}
    x = rng.standard_normal((n, 6, 6, 1), np.float32)
    x[REAL:N] = np.nan
    return params, x, np.arange(n) % N < REAL


def placed(mesh, seed=0, n=N):
    params, x, where = pool(seed, n)
    (x, where), _ = distributed.shard_rows((x, where), mesh)
    return distributed.replicate(params, mesh), x, where


def everywhere(f, mesh):
    """Compiled, with results that are whole on every device."""
    return jax.jit(f, out_shardings=distributed.replicated_sharding(mesh))


def pool_kernel(mesh):
    """The tangent kernel, as a mean over outputs and of all pairs, and a kernel of examples."""
    params, x, where = placed(mesh)
    found = {}
    for name, kernel_fn in {
        "structured": kernels.ntk(network),
        "contraction": kernels.ntk(network, method="contraction"),
        "full": kernels.ntk(network, outputs="full"),
        "examples": lambda params, x1, x2=None: linear(jnp.eye(36), x1) @ linear(jnp.eye(36), x2).T,
    }.items():
        kernel = partial(kernels.pool_kernel, kernel_fn, mesh=mesh)
        found[name] = everywhere(lambda *xs, kernel=kernel: kernel(*xs[:2], where=xs[2]), mesh)(
            params, x, where
        )
    found["gram"] = kernels.gram(kernels.ntk(network), params, fill_padding(x, where), tile_size=20)
    return found


def tangent_entropy(mesh):
    """The entropy of the tangent kernel: from the stored kernel, and from products with it."""
    params, x, where = placed(mesh)
    key = distributed.replicate(jax.random.key(1), mesh)
    kernel_fn = kernels.ntk(network)
    options = {"num_probes": 4, "num_deflated": 4, "num_steps": 12}

    def stored(key, params, x, where):
        kernel = kernels.pool_kernel(kernel_fn, params, x, where=where)
        return spectra.kernel_entropy(key, kernel, **options)

    def matrix_free(key, params, x, where):
        matvec = kernels.ntk_vector_product(network, params, x, batch_size=4, where=where)
        squares = jnp.where(where, kernels.diagonal(kernel_fn, params, x), 0)
        return spectra.lanczos_entropy(key, matvec, N, trace=jnp.sum(squares), **options)

    return {
        f"{name} {part}": value
        for name, estimate in {"stored": stored, "matrix free": matrix_free}.items()
        for part, value in everywhere(estimate, mesh)(key, params, x, where)._asdict().items()
    }


def diffusion_entropies(mesh):
    """Entropies of points that are split, exact and sampled, without a word of the mesh."""
    rng = np.random.default_rng(5)
    points = rng.standard_normal((96, 5), np.float32) + np.repeat(np.eye(5) * 4, 20, axis=0)[:96]
    x, _ = distributed.shard_rows(points.astype(np.float32), mesh)
    widths, _ = distributed.shard_rows(rng.random(96, np.float32) + 1, mesh)
    settings = diffusion.Lanczos(num_probes=8, num_deflated=8, num_steps=12, block_size=20)
    stored, free = (settings._replace(storage=name) for name in ("stored", "matrix_free"))
    found = {
        "exact": diffusion.dse(x, sigma="knn", alpha=0.5),
        "widths": diffusion.dse(x, sigma=widths),
        "stored": diffusion.dse(x, sigma=2.0, method=stored),
        "matrix free": diffusion.dse(x, sigma=2.0, alpha=0.5, method=free),
        "collision": diffusion.collision_entropy(x, sigma=2.0),
        "kernel": diffusion.adjacency_entropy(x, sigma=2.0, method=free),
    }
    v = rng.standard_normal((3, 96), np.float32)

    def compiled(x, v):
        made = kernels.diffusion_products(x, sigma=2.0, alpha=0.5, block_size=20)
        return {
            "products": jax.vmap(made.matvec)(v),
            "trace": made.trace,
            "squares": made.squares,
            "degrees": made.degrees,
            "collision in blocks": diffusion.collision_entropy(x, sigma=2.0, memory=1),
            "exact under jit": diffusion.dse(x, sigma=2.0),
        }

    return found | everywhere(compiled, mesh)(x, v)


AGENTS = {
    "greedy entropy": (selection.greedy_entropy(), True),
    "greedy entropy of order 2": (selection.greedy_entropy(order=2), True),
    "greedy determinant": (selection.greedy_determinant(), True),
    "kernel herding": (selection.kernel_herding(), True),
    "local search": (selection.local_search(selection.random(), rounds=2), True),
    "approximate entropy": (selection.approximate_entropy(40, batch=16), True),
    "random": (selection.random(), False),
    "class balanced": (selection.class_balanced(np.arange(N) % 5), False),
    "k-means": (selection.k_means(iterations=5), False),
    "distillation": (
        selection.distillation(
            linear,
            linear,
            np.linspace(-1, 1, 36 * 2, dtype=np.float32).reshape(36, 2),
            np.zeros((36, 2), np.float32),
            optax.sgd(0.01),
            training_steps=3,
            batch_size=5,
        ),
        False,
    ),
}


def selections(mesh):
    """What every agent selects from a pool that is split, and its objective."""
    params, x, _ = placed(mesh)
    x = x.at[REAL:].set(x[: N - REAL] / 2)
    kernel = kernels.pool_kernel(kernels.ntk(network), params, x)
    found = {}
    for name, (agent, on_kernel) in AGENTS.items():
        chosen = selection.select(jax.random.key(2), agent, kernel if on_kernel else x, 6)
        found |= {f"{name} indices": chosen.indices, f"{name}": chosen.infos.objective}
    return found


COMPUTATIONS = {
    "pool kernel": pool_kernel,
    "tangent entropy": tangent_entropy,
    "diffusion entropies": diffusion_entropies,
    "selections": selections,
}

"""Adaptation, flips and accumulators on a mesh; each returns arrays that every process has."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from entropax import distributed, tta
from entropax.models import batch_statistics
from entropax.tta.cotta import cotta
from entropax.tta.eata import Limits
from entropax.tta.sar import sar
from entropax.types import Batch
from entropax.uncertainty.accumulators import ranking_accumulator
from entropax.uncertainty.histogram import histogram_accumulator
from entropax.uncertainty.risk_coverage import aurc
from entropax.uncertainty.roc import auroc
from entropax.uncertainty.running_means import calibration_accumulator

STEPS, ROWS, REAL = 6, 24, 21  # the last three rows of every batch only fill it up


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), (2, 2), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(5)(x.reshape(len(x), -1))


def _network():
    module = Net()
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    rng = np.random.default_rng(1)

    def leaf(path, shape):
        if path[-1].key in ("scale", "var"):
            return np.ones(shape.shape, np.float32)
        return rng.standard_normal(shape.shape, np.float32) * (0.4 if len(shape.shape) > 1 else 0)

    return batch_statistics(module), jax.tree_util.tree_map_with_path(leaf, shapes)


def _batches():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((STEPS, ROWS, 8, 8, 1), np.float32)
    x[2] = 0  # all alike: nothing to learn from
    x[:, REAL:] = 1e3  # what fills up must not matter
    return x, np.broadcast_to(np.arange(ROWS) < REAL, (STEPS, ROWS))


def _adapter(name, apply_fn):
    sgd = optax.sgd(0.1, momentum=0.9)
    match name:
        case "tent":
            return tta.tent(apply_fn, sgd)
        case "rdumb":
            limits = Limits(entropy=1.2, cosine=0.9)
            return tta.rdumb(apply_fn, sgd, num_classes=5, period=4, limits=limits)
        case "sar":
            return sar(apply_fn, sgd, num_classes=5)
        case "cotta":
            # Draws noise for every image, and which weights go back.
            return cotta(
                jax.random.key(3),
                apply_fn,
                sgd,
                threshold=1.0,
                augment=lambda key, x: x + 0.1 * jax.random.normal(key, x.shape),
                num_augmentations=3,
                restore_rate=0.1,
            )


def adaptation(name, mesh):
    """Losses, counts, logits and label flips of a stream."""
    apply_fn, variables = _network()
    adapter = _adapter(name, apply_fn)

    def run(variables, x, where):
        batches = Batch(*(distributed.split_rows(a, mesh, axis=1) for a in (x, where)))
        state = adapter.init(variables)

        def step(state, batch):
            state, info = adapter.step(state, batch)
            real = jnp.where(batch.where[:, None], info.logits, 0)
            return state, (info.loss, info.selected, real)

        _, steps = jax.lax.scan(step, state, batches)
        _, flips = tta.count_flips(adapter, state, batches, batches)
        return dict(
            zip(("loss", "selected", "logits"), steps, strict=True),
            flips=flips.weighted,
            labels=jnp.where(flips.where, flips.labels, 0),
        )

    compiled = jax.jit(run, out_shardings=distributed.replicated_sharding(mesh))
    return compiled(*distributed.replicate((variables, *_batches()), mesh))


def accumulators(mesh):
    """Rankings and calibration of a stream of batches that are split among the devices."""
    rng = np.random.default_rng(4)
    confidence = rng.random(64, np.float32)
    correct = rng.random(64) < confidence
    data = (confidence, correct.astype(np.float32), np.arange(64) != 5)
    parts = [a.reshape(4, 16) for a in data]

    def run(*parts):
        found = {}
        for name, accumulator in {
            "ranking": ranking_accumulator(64),
            "histogram": histogram_accumulator(),
            "calibration": calibration_accumulator(num_bins=5),
        }.items():

            def step(state, batch, accumulator=accumulator):
                confidence, correct, where = (distributed.split_rows(a, mesh) for a in batch)
                return accumulator.update(state, confidence, correct, where=where), None

            state, _ = jax.lax.scan(step, accumulator.init(), parts)
            result = accumulator.compute(state)
            if name != "calibration":
                result = (auroc(result), aurc(result))
            found |= {f"{name} {i}": leaf for i, leaf in enumerate(jax.tree.leaves(result))}
        return found

    compiled = jax.jit(run, out_shardings=distributed.replicated_sharding(mesh))
    return compiled(*distributed.replicate(parts, mesh))


COMPUTATIONS = {
    **{
        f"{name} adaptation": lambda mesh, name=name: adaptation(name, mesh)
        for name in ("tent", "rdumb", "sar", "cotta")
    },
    "accumulators": accumulators,
}

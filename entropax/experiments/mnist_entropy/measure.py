"""One set: train the networks on it, and note how they do and what their kernels are like."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from entropax import kernels, spectra
from entropax.experiments.mnist_entropy.choose import effective_entropy
from entropax.experiments.mnist_entropy.config import Config
from entropax.experiments.mnist_entropy.images import Images
from entropax.experiments.mnist_entropy.networks import Networks
from entropax.models import evaluate_ensemble
from entropax.types import Array, Params

_LEADING = 10

Measure = Callable[[Int[np.ndarray, " n"], Callable[[], None]], dict[str, Any]]


def record_epochs(config: Config, size: int) -> tuple[list[int], list[int]]:
    """The epochs at which networks are tested, and those at which kernels are measured as well.

    Both begin with 0 and end with the last epoch.
    """
    steps = -(-size // config.batch_size)
    last = min(config.amounts.epochs, -(-config.max_steps // steps))
    spaced = np.rint(np.geomspace(1, last, config.records)).astype(int)
    tested = sorted({0, *spaced.tolist(), last})
    places = np.rint(np.linspace(0, len(tested) - 1, config.kernel_records)).astype(int)
    return tested, sorted({tested[i] for i in places})


def network_keys(config: Config) -> Array:
    """One key for each network of a set; its first weights and the order of its batches."""
    return jax.random.split(jax.random.key(config.seed), config.amounts.networks)


def build_measure(config: Config, networks: Networks, images: Images) -> Measure:
    """The measurement of one set, `(rows of the pool, on_record) -> a line of metrics.jsonl`.

    Values that belong to a network are lists over networks, then over the epochs of `tested` or
    `measured`. `on_record` is called after each of the tested epochs.

    Raises, when it is called, a FloatingPointError if a network diverges.
    """
    keys = network_keys(config)
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(networks.init, keys))
    advance = jax.jit(networks.trainer.advance)
    evaluate = jax.jit(lambda params, x, y: evaluate_ensemble(networks.apply_fn, params, x, y))
    test = [jnp.asarray(part) for part in images.test]

    def measure(rows: Int[np.ndarray, " n"], on_record: Callable[[], None]) -> dict[str, Any]:
        x, labels = (jnp.asarray(part[rows]) for part in images.pool)
        everyone = [jnp.broadcast_to(a, (len(keys), *a.shape)) for a in (x, labels)]
        state = networks.trainer.init(keys, params)
        tested, measured = record_epochs(config, len(rows))
        curves: dict[str, list[Any]] = {}

        def note(**values: Any) -> None:
            for name, of_networks in values.items():
                curves.setdefault(name, []).append(of_networks)

        before = 0
        for epoch in tested:
            state = advance(state, *everyone, epoch - before)
            before = epoch
            loss, accuracy = evaluate(state.params, x, labels)
            test_loss, test_accuracy = evaluate(state.params, *test)
            if not np.all(np.isfinite(loss)) or not np.all(np.isfinite(test_loss)):
                raise FloatingPointError(
                    f"The loss is not finite after {epoch} epochs; lower --learning-rate, "
                    f"{config.amounts.learning_rate}, and give another --run-dir."
                )
            note(train_loss=_floats(loss), train_accuracy=_floats(accuracy))
            note(test_loss=_floats(test_loss), test_accuracy=_floats(test_accuracy))
            if epoch in measured:
                found = [
                    _observe(kernels.gram(networks.kernel_fn, of_one, x))
                    for of_one in _unstacked(state.params, len(keys))
                ]
                note(**{name: [each[name] for each in found] for name in found[0]})
            on_record()
        by_network = {
            name: [list(values) for values in zip(*series, strict=True)]
            for name, series in curves.items()
        }
        return {"tested": tested, "measured": measured, **by_network}

    return measure


def _observe(kernel: Float[np.ndarray, "n n"]) -> dict[str, Any]:
    """Entropy, trace, largest eigenvalues, and quartiles of the norms of the Jacobians.

    The kernel is that of the mean over the logits, so a norm is the root of the mean over logits of
    the squared norm of the gradient.
    """
    eigvals = spectra.density(kernel.astype(np.float64))
    norms = np.sqrt(np.diagonal(kernel))
    return {
        "entropy": effective_entropy(kernel),
        "trace": float(np.trace(kernel, dtype=np.float64)),
        "leading": _floats(eigvals[::-1][:_LEADING]),
        "jacobian_norms": _floats(np.quantile(norms, [0, 0.25, 0.5, 0.75, 1])),
    }


def _unstacked(params: Params, number: int) -> list[Params]:
    return [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(number)]


def _floats(values: Array | np.ndarray) -> list[float]:
    """Numbers for JSON, to the seven digits that float32 has."""
    return [float(f"{value:.7g}") for value in np.asarray(values, np.float64)]

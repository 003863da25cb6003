r"""The diffusion entropy of a network's layers while it trains, from within any loop.

    tracker = track(features_fn, x_test, y_test, sigma="median")
    for step, batch in enumerate(batches):
        variables, opt_state = train_step(variables, opt_state, batch)
        if record := tracker(variables, step=step):
            log(step, record)  # {"hidden": {"dse": 2.31, "dsmi_labels": 0.87, ...}, ...}

`features_fn(variables, x) -> {layer: features [n, ...]}` is all that it knows of a network:

- flax.linen: `entropax.models.layer_features(module, ["block0", "head:input"], train=False)`.
- flax.nnx: with `graphdef, state = nnx.split(model)` after `model.eval()`,
  `lambda state, x: {"hidden": nnx.merge(graphdef, state).hidden(x)}`, and `nnx.state(model)` in the
  place of the variables.
- Anything else: a function of parameters and inputs.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from entropax.diffusion.binned import binned_entropy
from entropax.diffusion.classes import Classes, classes, cluster_reference
from entropax.diffusion.entropy import dse_estimate
from entropax.diffusion.mutual_information import dsmi
from entropax.kernels.bandwidth import bandwidth
from entropax.types import Array

# Up to here all eigenvalues are computed, and take more time than pairs of rows as long as there
# are points.
_EXACT = 2000

FeaturesFn = Callable[[Any, Array], Mapping[str, Array]]
Features = dict[str, np.ndarray]
Record = dict[str, dict[str, float]]


class Tracker(NamedTuple):
    """What is measured of a network, made by `track`.

    Attributes:
      features: `variables -> {layer: [n, d]}` of the tracked inputs, on the host.
      measure: `{layer: [n, d]} -> {layer: {quantity: number}}`.
      every: number of steps from one record to the next.
    """

    features: Callable[[Any], Features]
    measure: Callable[[Mapping[str, np.ndarray]], Record]
    every: int

    def __call__(self, variables: Any, *, step: int | None = None) -> Record | None:
        """Measure a network.

        Args:
          variables: of the network, as `features_fn` takes them.
          step: number of the step; None is returned unless `every` divides it. Without it there is
            a record at every call.

        Raises:
          FloatingPointError: features are not finite; the message names the layer.
        """
        if step is not None and step % self.every:
            return None
        return self.measure(self.features(variables))


def track(
    features_fn: FeaturesFn,
    x: Any,
    labels: Any = None,
    *,
    sigma: float | str | None = None,
    t: float = 1.0,
    alpha: float = 0.0,
    inputs: Classes | int | None = 10,
    num_bins: int | None = 10,
    batch_size: int = 256,
    every: int = 1,
    key: Array | None = None,
) -> Tracker:
    r"""Prepare to measure the representations $Z$ of the same inputs again and again.

    Clusters of the inputs are computed here, once. Random probes and permutations are the same at
    every call, so that what differs from one record to the next is the network.

    Args:
      features_fn: `(variables, x) -> {layer: [n, ...]}`, which is jitted here; all axes but the
        first are flattened.
      x: `[n, ...]` inputs, other than those that are trained on.
      labels: `[n]` their labels $Y$; without them there is no information about them.
      sigma: bandwidth of the kernel, as in `dse`: a number (10 is the published constant, and
        measures the scale of the features as well) or `"median"`, which does not depend on it.
      t: diffusion time.
      alpha: density normalisation of the diffusion operator.
      inputs: into how many clusters the inputs $X$ are sorted, for the information about them; the
        clusters themselves, from `cluster_reference`; or None to do without.
      num_bins: bins of `binned_entropy`; None to do without.
      batch_size: inputs that go through the network at a time.
      every: see `Tracker`.
      key: of the probes and permutations; `jax.random.key(0)` by default.

    Returns:
      A tracker. Its record has for each layer, entropies in nats: `dse`; `saturation`, the share of
      its maximum $\ln n$; `sigma`, the bandwidth (the median one of an adaptive kernel);
      `dsmi_labels` and `dsmi_inputs`, the mutual information by comparison with random classes (the
      scheme "permutation" of `dsmi`); `adjusted_labels`, about 0 for labels that tell nothing and 1
      for classes that lie apart (`adjusted` of the scheme "holevo"); `binned_entropy`.

    Raises:
      ValueError: an option is out of range, or labels or clusters are not one for each input.

    Reference: D. Liao et al., "Assessing neural network representations during training using
    noise-resilient diffusion spectral entropy" (2023), section 5.

    >>> def features_fn(params, x):
    ...     return {"hidden": jnp.tanh(x @ params)}
    >>> x = jax.random.normal(jax.random.key(0), (60, 4))
    >>> tracker = track(features_fn, x, x[:, 0] > 0, sigma="median", inputs=2, every=10)
    >>> tracker(jnp.eye(4), step=3) is None
    True
    >>> record = tracker(jnp.eye(4), step=10)
    >>> 0 < record["hidden"]["saturation"] < 1
    True
    """
    if every < 1 or batch_size < 1:
        raise ValueError(
            f"`every` and `batch_size` must be at least 1, got {every} and {batch_size}."
        )
    n = len(x)
    references: dict[str, Classes] = {}
    if labels is not None:
        references["labels"] = classes(labels)
    if isinstance(inputs, Classes):
        references["inputs"] = inputs
    elif inputs is not None:
        vectors = np.asarray(x).reshape(n, -1)
        references["inputs"] = cluster_reference(vectors, num_clusters=inputs)
    for name, reference in references.items():
        if len(reference.labels) != n:
            what = "labels" if name == "labels" else "inputs' clusters"
            raise ValueError(f"There are {n} inputs, and {len(reference.labels)} {what}.")
    if sigma is None:
        raise ValueError(
            "`sigma` must be a positive number, such as 10 (the published constant), or a rule, "
            "such as 'median' (which does not depend on the scale of the features); got None."
        )
    rule = sigma
    options: dict[str, Any] = {"t": t, "alpha": alpha, "key": key}
    features_fn = jax.jit(features_fn)

    def features(variables: Any) -> Features:
        return evaluate_features(features_fn, variables, x, batch_size=batch_size)

    def measure(features: Mapping[str, np.ndarray]) -> Record:
        return {name: measure_layer(name, z) for name, z in features.items()}

    def measure_layer(name: str, z: np.ndarray) -> dict[str, float]:
        rows = np.isfinite(z).all(axis=1)
        if not rows.all():
            raise FloatingPointError(
                f"The features of layer {name!r} are not finite for {np.sum(~rows)} of {len(z)} "
                "inputs; has the training diverged?"
            )
        points = same_distances(z) if n <= _EXACT else z
        width = _bandwidth(z if rule == "sqrt_d" else points, rule)
        entropy = dse_estimate(points, sigma=width, **options)
        record = {
            "dse": entropy.value,
            "saturation": entropy.saturation,
            "sigma": float(np.median(width)),
        }
        for reference, groups in references.items():
            record[f"dsmi_{reference}"] = dsmi(points, groups, sigma=width, **options).value
        if "labels" in references:
            holevo = dsmi(points, references["labels"], sigma=width, scheme="holevo", **options)
            record["adjusted_labels"] = holevo.adjusted
        if num_bins is not None:
            record["binned_entropy"] = binned_entropy(z, num_bins=num_bins)
        return {quantity: float(value) for quantity, value in record.items()}

    return Tracker(features, measure, every)


def evaluate_features(
    features_fn: FeaturesFn, variables: Any, x: Any, *, batch_size: int
) -> Features:
    """Features of many inputs, batch by batch and flattened, on the host.

    The last batch is filled up with copies of its last input, so that one program serves all.

    Args:
      features_fn: `(variables, x) -> {layer: [n, ...]}`, jitted by the caller.
      variables: of the network.
      x: `[n, ...]` inputs.
      batch_size: inputs at a time, at most n are used.

    Returns:
      `{layer: [n, d]}`.

    Raises:
      ValueError: there are no inputs, or a layer does not have a row for each of them.
    """
    n = len(x)
    if n == 0:
        raise ValueError("There are no inputs to evaluate the features of.")
    batch_size = min(batch_size, n)
    batches: dict[str, list[np.ndarray]] = {}
    for start in range(0, n, batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), n - 1)
        for name, value in features_fn(variables, jnp.asarray(x[rows])).items():
            if value.ndim == 0 or len(value) != batch_size:
                raise ValueError(
                    f"The features of layer {name!r} must have a row for each of the {batch_size} "
                    f"inputs, got the shape {value.shape}."
                )
            flat = np.asarray(value).reshape(batch_size, -1)
            batches.setdefault(name, []).append(flat[: n - start])
    return {name: np.concatenate(parts) for name, parts in batches.items()}


def same_distances(x: np.ndarray) -> np.ndarray:
    r"""Points with as many coordinates as there are points, and the distances of the given ones.

    Wider points are rotated, $X^\top = QR$ and $R^\top$ has the distances of $X$; narrower ones get
    zeros. Layers of any width then go through one compiled program.

    Args:
      x: `[n, d]` points.

    Returns:
      `[n, n]`, centred.

    >>> points = same_distances(np.array([[0.0, 0.0, 3.0], [0.0, 4.0, 3.0]]))
    >>> points.shape, round(float(np.linalg.norm(points[0] - points[1])), 6)
    ((2, 2), 4.0)
    """
    n, d = x.shape
    x = x - np.mean(x, axis=0, dtype=np.float64).astype(x.dtype)
    if d > n:
        triangle: Any = np.linalg.qr(x.T, mode="r")
        return np.ascontiguousarray(triangle.T)
    return np.pad(x, ((0, 0), (0, n - d)))


@functools.partial(jax.jit, static_argnums=1)
def _rule_bandwidth(x: Array, rule: str) -> Array:
    return bandwidth(x, rule)


def _bandwidth(x: np.ndarray, sigma: float | str) -> float | Array:
    """What the rule, or the number, is for these points."""
    if not isinstance(sigma, str):
        return float(bandwidth(x, sigma))
    width = _rule_bandwidth(jnp.asarray(x), sigma)
    return float(width) if width.ndim == 0 else width

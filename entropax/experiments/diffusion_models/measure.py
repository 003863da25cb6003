"""What is measured on the features of one model."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from entropax.diffusion.baseline_information import binned_mutual_information
from entropax.diffusion.binned import binned_entropy
from entropax.diffusion.classes import Classes
from entropax.diffusion.entropy import dse
from entropax.diffusion.information import MutualInformation
from entropax.diffusion.mutual_information import dsmi
from entropax.diffusion.rank import rank_me
from entropax.diffusion.vendi import cosine_vendi_score, vendi_score
from entropax.experiments.diffusion_models.config import Config
from entropax.kernels.bandwidth import bandwidth
from entropax.kernels.gaussian import squared_distances
from entropax.types import Array

# Compiled once: outside of `jit`, its loop is compiled anew at every call.
_bandwidth = jax.jit(bandwidth, static_argnames="sigma")
_LEAST_WIDTH = 256
_BANDWIDTH = ("dse", "dsmi_labels", "adjusted", "dsmi_inputs", "vendi")
_OTHERS = (
    "binned_entropy",
    "binned_information",
    "rank_me",
    "cosine_vendi",
    "distance",
    "neighbour_accuracy",
)


def quantities(sigma: Sequence[str]) -> list[str]:
    """The names of all quantities, in the order of the tables."""
    return [f"{name}_{each}" for name in _BANDWIDTH for each in sigma] + list(_OTHERS)


def measure(
    config: Config, z: Float[np.ndarray, "n d"], labels: Classes, inputs: Classes | None
) -> dict[str, float | None]:
    """Every quantity of the features of one model.

    Args:
      config: says at which bandwidths.
      z: the features.
      labels: of the images.
      inputs: clusters of the images; without them there is no information about the inputs.

    Returns:
      Values by name; None for what there is not.

    Raises:
      FloatingPointError: features that are not finite.
    """
    if not np.isfinite(z).all():
        raise FloatingPointError("The features of a model are not finite.")
    x = _widened(z)
    found: dict[str, float | None] = {}
    for each in config.sigma:
        # As a number, so that nothing is compiled for a rule, nor for the rows of a class.
        rule = Config.bandwidth(each)
        sigma = math.sqrt(z.shape[1]) if rule == "sqrt_d" else float(_bandwidth(x, sigma=rule))
        found[f"dse_{each}"] = float(dse(x, sigma=sigma))

        def information(y: Classes, scheme: str, sigma: float = sigma) -> MutualInformation:
            return dsmi(x, y, sigma=sigma, scheme=scheme, num_repetitions=config.repetitions)

        found[f"dsmi_labels_{each}"] = information(labels, "permutation").value
        found[f"adjusted_{each}"] = information(labels, "holevo").adjusted
        found[f"dsmi_inputs_{each}"] = (
            None if inputs is None else information(inputs, "permutation").value
        )
        found[f"vendi_{each}"] = float(vendi_score(x, sigma=sigma))
    found["binned_entropy"] = binned_entropy(z, num_bins=config.bins)
    found["binned_information"] = float(
        binned_mutual_information(z, labels, num_bins=config.bins).value
    )
    found["rank_me"] = float(rank_me(x))
    found["cosine_vendi"] = float(cosine_vendi_score(x))
    found["distance"] = float(np.sqrt(2) * _bandwidth(x, sigma="median"))
    squares = np.array(squared_distances(x))
    np.fill_diagonal(squares, np.inf)
    nearest = labels.labels[squares.argmin(1)]
    found["neighbour_accuracy"] = float(np.mean(nearest == labels.labels))
    return {name: found[name] for name in quantities(config.sigma)}


def _widened(z: Float[np.ndarray, "n d"]) -> Float[Array, "n w"]:
    """Features with columns of zeros, which change no distance and no singular value.

    Networks of most widths then share what is compiled.
    """
    width = max(_LEAST_WIDTH, 2 ** math.ceil(math.log2(z.shape[1])))
    return jnp.pad(jnp.asarray(z, jnp.float32), ((0, 0), (0, width - z.shape[1])))

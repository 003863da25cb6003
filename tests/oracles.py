"""Networks and streams that several tests share, built once."""

import functools
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from entropax.types import Batch

GOLDEN = Path(__file__).parent / "golden"


class GoldenNet(nn.Module):
    """The network of the recorded traces; its BatchNorm layers insist on running statistics."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), padding=1, use_bias=False, name="conv1")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="bn1")(x))
        x = nn.Conv(16, (3, 3), (2, 2), padding=1, use_bias=False, name="conv2")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="bn2")(x))
        return nn.Dense(10, name="fc")(x.mean((1, 2)))


@functools.cache
def golden(name):
    path = GOLDEN / name
    return json.loads(path.read_text()) if path.suffix == ".json" else dict(np.load(path))


def golden_variables(dtype=jnp.float32):
    weights = {
        k.removeprefix("A/"): jnp.asarray(v, dtype) for k, v in golden("tta/weights.npz").items()
    }
    affine = {
        bn: {"scale": weights[f"{bn}.weight"], "bias": weights[f"{bn}.bias"]}
        for bn in ("bn1", "bn2")
    }
    return {
        "params": {
            **affine,
            "conv1": {"kernel": weights["conv1.weight"].transpose(2, 3, 1, 0)},
            "conv2": {"kernel": weights["conv2.weight"].transpose(2, 3, 1, 0)},
            "fc": {"kernel": weights["fc.weight"].T, "bias": weights["fc.bias"]},
        },
        "batch_stats": {
            bn: {"mean": weights[f"{bn}.running_mean"], "var": weights[f"{bn}.running_var"]}
            for bn in ("bn1", "bn2")
        },
    }


def golden_images(name, dtype=jnp.float32):
    """Images of `inputs.npz`, channels last."""
    return jnp.moveaxis(jnp.asarray(golden("tta/inputs.npz")[name], dtype), -3, -1)


def golden_stream(empty_at=(), dtype=jnp.float32):
    x = golden_images("stream_x", dtype)
    for step in empty_at:
        x = x.at[step].set(golden_images("empty_x_bn", dtype))
    return Batch(x, jnp.ones(x.shape[:2], bool))


def affine_vector(params):
    return jnp.concatenate(
        [params["params"][bn][name] for bn in ("bn1", "bn2") for name in ("scale", "bias")]
    )


def unstack(batches):
    """The batches of a stacked stream, one by one."""
    return [jax.tree.map(lambda a, t=t: a[t], batches) for t in range(len(batches.where))]

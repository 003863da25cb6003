"""Random weights that are the same wherever they are made: each tensor comes from its name.

Files of published weights are too large to keep. Recorded logits therefore belong to these.
"""

import zlib

import numpy as np

_TOKENS = ("cls_token", "class_token", "pos_embed", "pos_embedding", "position_embeddings")


def seeded_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Fill named tensors such that activations stay of order one, in float32."""
    return {name: _seeded(name, tuple(shape)) for name, shape in shapes.items()}


def _seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    normal = rng.normal(size=shape)
    if leaf in _TOKENS:
        filled = 0.02 * normal
    elif leaf in ("weight", "gamma", "layer_scale", "layer_scale_parameter") and (
        sum(side > 1 for side in shape) <= 1
    ):
        filled = 1 + 0.1 * normal
    elif len(shape) > 1:
        filled = normal / np.sqrt(np.prod(shape[1:]))
    else:
        filled = 0.1 * normal
    return filled.astype(np.float32)

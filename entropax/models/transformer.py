"""Vision transformers: a small one by default, and those with published weights."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from entropax.types import Array

POOLS = ("mean", "class")


class VisionTransformer(nn.Module):
    r"""Patches as tokens, learned positions, blocks of attention, then one dense layer.

    Each image is cut into squares, each square is a token, and each block adds to the tokens what
    attention, and then a small network, makes of their normalised values:

    $$x \leftarrow x + \text{Attention}(\text{LN}(x)), \qquad
      x \leftarrow x + \text{MLP}(\text{LN}(x)).$$

    The positions belong to one size of image. There is no dropout, and no layer that knows a batch.

    Attributes:
      num_classes: number of logits.
      patch_size: side of a patch in pixels; the sides of the image are multiples of it.
      width: of a token, a multiple of `num_heads`.
      num_blocks: their number.
      num_heads: of the attention.
      expansion: width of the hidden layer of a block's network, in widths of a token.
      pool: what the dense layer sees: `"mean"` of the tokens, or the token of a `"class"` that is
        put in front of them.
      exact_gelu: whether GELU is computed from the error function, as published weights expect, or
        by its approximation with tanh.
      epsilon: added to the variances.
      dtype: of the activations, such as `jnp.bfloat16`; by default that of image and parameters.
        Parameters, LayerNorm, softmax and logits stay in float32.

    The method `features` returns what the dense layer sees. `train` changes nothing; it is there so
    that any loop can call this network and `ConvNet` alike. The blocks are the submodules `block0`,
    `block1`, ...

    ViT-B/16 is `VisionTransformer(1000, 16, 768, 12, 12, 4, "class", exact_gelu=True)`; ViT-S/16
    has width 384 and 6 heads, ViT-L/16 has width 1024, 24 blocks and 16 heads.

    Reference: A. Dosovitskiy et al., "An image is worth 16x16 words" (2021), equations 1 to 4.

    >>> import jax
    >>> module = VisionTransformer(num_classes=10, patch_size=7, num_blocks=1)
    >>> variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> jax.jit(module.apply)(variables, jnp.zeros((5, 28, 28, 1))).shape
    (5, 10)
    """

    num_classes: int
    patch_size: int = 4
    width: int = 64
    num_blocks: int = 3
    num_heads: int = 4
    expansion: int = 2
    pool: str = "mean"
    exact_gelu: bool = False
    epsilon: float = 1e-6
    dtype: Any = None

    def setup(self) -> None:
        """Check the options and make the last layer."""
        if self.pool not in POOLS:
            raise ValueError(f"`pool` must be 'mean' or 'class', got {self.pool!r}.")
        if self.width % self.num_heads:
            raise ValueError(
                f"`width` must be a multiple of `num_heads`, got {self.width} and {self.num_heads}."
            )
        self.head = nn.Dense(self.num_classes)

    def __call__(
        self, x: Float[Array, "b h w channels"], train: bool = False
    ) -> Float[Array, "b c"]:
        """Return the logits `[b, num_classes]` of images `[b, h, w, channels]`."""
        return self.head(self.features(x, train))

    @nn.compact
    def features(
        self, x: Float[Array, "b h w channels"], train: bool = False
    ) -> Float[Array, "b d"]:
        """Return the last layer but one, `[b, width]`."""
        shape = x.shape[1:3]
        x = nn.Dense(self.width, dtype=self.dtype, name="embedding")(patches(x, self.patch_size))
        if self.pool == "class":
            token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
            token = jnp.broadcast_to(token.astype(x.dtype), (len(x), 1, self.width))
            x = jnp.concatenate([token, x], axis=1)
        x = x + self._positions(x.shape[1], shape).astype(x.dtype)
        options = (self.num_heads, self.expansion, self.exact_gelu, self.epsilon, self.dtype)
        for i in range(self.num_blocks):
            x = Block(*options, name=f"block{i}")(x)
        # Without a dtype of its own, so that what follows is float32 again.
        x = nn.LayerNorm(self.epsilon, name="norm")(x)
        return jnp.mean(x, axis=1) if self.pool == "mean" else x[:, 0]

    def _positions(self, tokens: int, shape: tuple[int, ...]) -> Float[Array, "1 tokens d"]:
        """The position of each token; an error if the image is not of the size of the variables."""
        variable: Any = self.get_variable("params", "positions")
        if variable is not None:
            there = variable.shape[1]
            if there != tokens:
                side = math.isqrt(there) * self.patch_size
                raise ValueError(
                    f"The positions belong to images of another size: there are {there}, about "
                    f"those of {side} x {side} pixels, and images of {shape[0]} x {shape[1]} take "
                    f"{tokens}."
                )
        return self.param("positions", nn.initializers.normal(0.02), (1, tokens, self.width))


class Block(nn.Module):
    """Attention between tokens, and a network for each of them, both added to their input.

    Attributes:
      num_heads: of the attention; divides the width of a token.
      expansion: width of the hidden layer, in widths of a token.
      exact_gelu: whether GELU is exact or approximated.
      epsilon: added to the variances.
      dtype: of the activations.
    """

    num_heads: int
    expansion: int
    exact_gelu: bool
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b tokens d"]) -> Float[Array, "b tokens d"]:
        """Return the tokens `[b, tokens, d]` after this block."""
        # LayerNorm computes in float32 whatever its dtype, attention only if it is told to.
        narrow = self.dtype is not None and jnp.finfo(self.dtype).bits < 32
        attention = nn.MultiHeadDotProductAttention(
            self.num_heads, dtype=self.dtype, force_fp32_for_softmax=narrow, name="attention"
        )
        x = x + attention(nn.LayerNorm(self.epsilon, self.dtype, name="norm0")(x))
        hidden = nn.LayerNorm(self.epsilon, self.dtype, name="norm1")(x)
        hidden = nn.Dense(self.expansion * x.shape[-1], dtype=self.dtype, name="mlp0")(hidden)
        hidden = nn.gelu(hidden, approximate=not self.exact_gelu)
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="mlp1")(hidden)


def patches(x: Float[Array, "b h w channels"], size: int) -> Float[Array, "b tokens pixels"]:
    """Cut images into squares, row by row.

    Args:
      x: `[b, h, w, channels]`.
      size: side of a square; divides `h` and `w`.

    Returns:
      `[b, h / size * w / size, size * size * channels]`.

    Raises:
      ValueError: `size` is not positive, or no divisor of the sides.

    >>> patches(jnp.zeros((2, 6, 9, 3)), 3).shape
    (2, 6, 27)
    """
    b, h, w, channels = x.shape
    if size < 1 or h % size or w % size:
        raise ValueError(f"`patch_size` must divide the sides of the image, {h} and {w}: {size}.")
    x = x.reshape(b, h // size, size, w // size, size, channels)
    return x.swapaxes(2, 3).reshape(b, (h // size) * (w // size), size * size * channels)

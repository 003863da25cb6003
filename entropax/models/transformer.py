"""A small vision transformer."""

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
      features: width of a token, a multiple of `num_heads`.
      num_blocks: their number.
      num_heads: of the attention.
      expansion: width of the hidden layer of a block's network, in widths of a token.
      pool: what the dense layer sees: `"mean"` of the tokens, or the token of a `"class"` that is
        put in front of them.

    `train` changes nothing; it is there so that any loop can call this network and `ConvNet` alike.
    The blocks are the submodules `block0`, `block1`, ...

    Reference: A. Dosovitskiy et al., "An image is worth 16x16 words" (2021), equations 1 to 4.

    >>> import jax
    >>> module = VisionTransformer(num_classes=10, patch_size=7)
    >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> module.apply(variables, jnp.zeros((5, 28, 28, 1))).shape
    (5, 10)
    """

    num_classes: int
    patch_size: int = 4
    features: int = 64
    num_blocks: int = 3
    num_heads: int = 4
    expansion: int = 2
    pool: str = "mean"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w channels"], train: bool = False
    ) -> Float[Array, "b c"]:
        """Return the logits `[b, num_classes]` of images `[b, h, w, channels]`."""
        if self.pool not in POOLS:
            raise ValueError(f"`pool` must be 'mean' or 'class', got {self.pool!r}.")
        if self.features % self.num_heads:
            raise ValueError(
                f"`features` must be a multiple of `num_heads`, got {self.features} and "
                f"{self.num_heads}."
            )
        x = nn.Dense(self.features, name="embedding")(patches(x, self.patch_size))
        if self.pool == "class":
            token = self.param("class_token", nn.initializers.zeros, (1, 1, self.features))
            x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.features)), x], axis=1)
        positions = nn.initializers.normal(0.02)
        x = x + self.param("positions", positions, (1, *x.shape[1:]))
        for i in range(self.num_blocks):
            x = Block(self.num_heads, self.expansion, name=f"block{i}")(x)
        x = nn.LayerNorm(name="norm")(x)
        x = jnp.mean(x, axis=1) if self.pool == "mean" else x[:, 0]
        return nn.Dense(self.num_classes, name="head")(x)


class Block(nn.Module):
    """Attention between tokens, and a network for each of them, both added to their input.

    Attributes:
      num_heads: of the attention; divides the width of a token.
      expansion: width of the hidden layer, in widths of a token.
    """

    num_heads: int
    expansion: int

    @nn.compact
    def __call__(self, x: Float[Array, "b tokens d"]) -> Float[Array, "b tokens d"]:
        """Return the tokens `[b, tokens, d]` after this block."""
        attention = nn.MultiHeadDotProductAttention(self.num_heads, name="attention")
        x = x + attention(nn.LayerNorm(name="norm0")(x))
        hidden = nn.Dense(self.expansion * x.shape[-1], name="mlp0")(nn.LayerNorm(name="norm1")(x))
        return x + nn.Dense(x.shape[-1], name="mlp1")(nn.gelu(hidden))


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

"""A convolutional network without normalisation, in the NTK or the standard parameterisation."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from entropax.types import Array

PARAMETERIZATIONS = ("ntk", "standard")


def patch_convolution(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any
) -> Array:
    r"""A convolution as one product of matrices: patches of the images times the kernel.

    $$y_{bhw,o} = \sum_{i,j,c} x_{b,\,sh+i,\,sw+j,\,c}\; k_{ijc,o}.$$

    A drop-in for `jax.lax.conv_general_dilated`, to be passed to linen's `nn.Conv`: values and
    derivatives agree to rounding, parameters are the same. On the CPU the gradient of a convolution
    by its kernel is slow inside a compiled loop, and so is a convolution whose every example has a
    kernel of its own (which is what `jax.vmap` over networks makes of it); products of matrices are
    neither. The price is memory: the patches hold every pixel once for each entry of the kernel.

    Args:
      x: `[b, h, w, i]` images.
      kernel: `[kh, kw, i, o]`.
      strides: two numbers.
      padding: `"SAME"`, `"VALID"` or two pairs.
      options: those of `jax.lax.conv_general_dilated`; groups, dilations and other layouts than the
        above are passed on to it.

    >>> layer = nn.Conv(8, (3, 3), conv_general_dilated=patch_convolution)
    """
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, options.get("dimension_numbers"))
    images = lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    dilations = (*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ()))
    grouped = options.get("feature_group_count", 1) * options.get("batch_group_count", 1) != 1
    if x.ndim != 4 or numbers != images or grouped or any(dilation != 1 for dilation in dilations):
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    kh, kw, channels, features = kernel.shape
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], (kh, kw), strides, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = ((x.shape[1 + i] - (kh, kw)[i]) // strides[i] + 1 for i in (0, 1))
    shifted = [
        x[:, i : i + strides[0] * height : strides[0], j : j + strides[1] * width : strides[1]]
        for i in range(kh)
        for j in range(kw)
    ]
    # Two axes are essential: the same product of four-dimensional patches is transposed first,
    # which takes longer than the product.
    patches = jnp.concatenate(shifted, axis=-1).reshape(-1, kh * kw * channels)
    matrix = kernel.reshape(-1, features)
    y = jnp.dot(
        patches,
        matrix,
        precision=options.get("precision"),
        preferred_element_type=options.get("preferred_element_type"),
    )
    return y.reshape(-1, height, width, features)


class CNN(nn.Module):
    r"""Blocks of 3x3 convolution, ReLU and 2x2 average pooling; then dense, ReLU, dense.

    There are no biases and there is no normalisation: the outputs for one image do not depend on
    another, and the network is positively homogeneous in each layer. In the NTK parameterisation
    every layer is

    $$y = \frac{1}{\sqrt{\text{fan-in}}}\, W x, \qquad W_{ij} \sim \mathcal N(0, 1),$$

    in the standard one $y = W x$ with $W_{ij} \sim \mathcal N(0, 1 / \text{fan-in})$. Both are the
    same distribution of functions; gradients, and with them the neural tangent kernel and training,
    weigh the layers differently.

    With the default sizes on 28x28 images this is the network of the entropy study of ZnNL
    (neural-tangents' `stax` with its default options). Pooling drops an odd row or column, so that
    the outputs do not depend on the last two of each; they are not computed either.

    Attributes:
      num_classes: number of logits.
      features: channels of each block.
      hidden: width of the first dense layer.
      padding: `"VALID"`, or `"SAME"` for images too small for it (below 10x10 with two blocks).
      parameterization: `"ntk"` or `"standard"`.
      convolution: what the layers convolve with; the parameters do not depend on it.

    Reference: R. Novak et al., "Neural Tangents: fast and easy infinite neural networks in Python"
    (2020), section 2; https://github.com/zincware/ZnNL for the sizes.

    >>> import jax
    >>> module = CNN(num_classes=10)
    >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> module.apply(variables, jnp.zeros((5, 28, 28, 1))).shape
    (5, 10)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
    430880
    """

    num_classes: int
    features: Sequence[int] = (32, 64)
    hidden: int = 256
    padding: str = "VALID"
    parameterization: str = "ntk"
    convolution: Callable[..., Array] = patch_convolution

    @nn.compact
    def __call__(self, x: Float[Array, "b h w channels"]) -> Float[Array, "b c"]:
        """Return the logits `[b, num_classes]` of images `[b, h, w, channels]`.

        Raises:
          ValueError: nothing is left of images this small, or an unknown option.
        """
        if self.parameterization not in PARAMETERIZATIONS:
            raise ValueError(
                f"`parameterization` must be 'ntk' or 'standard', got {self.parameterization!r}."
            )
        x = self._without_what_pooling_drops(x)
        for i, width in enumerate(self.features):
            x = nn.Conv(
                width,
                (3, 3),
                padding=self.padding,
                use_bias=False,
                kernel_init=self._initializer(),
                conv_general_dilated=self.convolution,
                name=f"conv{i}",
            )(self._scaled(x, 9 * x.shape[-1]))
            x = _average_pool(nn.relu(x))
        x = x.reshape(len(x), -1)
        x = nn.relu(self._dense(self.hidden, "dense")(self._scaled(x, x.shape[-1])))
        return self._dense(self.num_classes, "head")(self._scaled(x, x.shape[-1]))

    def _without_what_pooling_drops(self, x: Array) -> Array:
        sizes = []
        for axis in (1, 2):
            size = x.shape[axis]
            lost = {"VALID": 2, "SAME": 0}.get(self.padding)
            if lost is None:
                raise ValueError(f"`padding` must be 'VALID' or 'SAME', got {self.padding!r}.")
            for _ in self.features:
                size = (size - lost) // 2
            if size < 1:
                raise ValueError(
                    f"Nothing is left of images [{x.shape[1]}, {x.shape[2]}] after "
                    f"{len(self.features)} blocks with padding={self.padding!r}; pass larger "
                    "images, fewer `features`, or padding='SAME'."
                )
            for _ in self.features:
                size = 2 * size + lost
            sizes.append(size if self.padding == "VALID" else x.shape[axis])
        return x[:, : sizes[0], : sizes[1]]

    def _initializer(self) -> nn.initializers.Initializer:
        if self.parameterization == "ntk":
            return nn.initializers.normal(1.0)
        return nn.initializers.variance_scaling(1.0, "fan_in", "normal")

    def _scaled(self, x: Array, fan_in: int) -> Array:
        # Scaling the input, which is smaller than the weights, is the same and cheaper.
        return x / fan_in**0.5 if self.parameterization == "ntk" else x

    def _dense(self, width: int, name: str) -> nn.Dense:
        return nn.Dense(width, use_bias=False, kernel_init=self._initializer(), name=name)


def _average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """2x2 means with stride 2; an odd last row or column is dropped."""
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return jnp.mean(x.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))

"""The least time that a computation can take on a machine: what it cannot do without, over a rate.

`Work` counts what has to be done, and `Rates` how much of it this machine does in a second,
measured by `rates.py`. The floor is the largest of the quotients: a processor may do different
things side by side, so that their sum would be no bound.

Formulas count a multiplication and an addition as two operations. Nothing here needs more than the
standard library.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Work(NamedTuple):
    """What has to be done.

    Attributes:
      flops: float32 operations in products of matrices.
      flops64: float64 operations in products of matrices.
      bytes: bytes that are read from memory or written to it, where they do not fit the caches.
      exponentials: float32 exponentials.
      sorted: words of 32 bits, put in order in lists of 50,000.
      random: random words of 32 bits.
      images: photographs of a folder, decoded, resized and cut out.
    """

    flops: float = 0
    flops64: float = 0
    bytes: float = 0
    exponentials: float = 0
    sorted: float = 0
    random: float = 0
    images: float = 0


class Rates(NamedTuple):
    """How much of each this machine does in a second; 0 where that was not measured."""

    flops: float = 0
    flops64: float = 0
    bytes: float = 0
    exponentials: float = 0
    sorted: float = 0
    random: float = 0
    images: float = 0


# What bounds a computation, in a word for the table.
NAMES = dict(
    zip(
        Work._fields,
        ("products", "products", "memory", "exponentials", "sort", "random words", "decoding"),
        strict=True,
    )
)


def floor(work: Work, rates: Rates) -> tuple[float, str]:
    """Seconds below which the work cannot be done, and what takes them.

    Raises:
      ValueError: there is no work, or a rate that it needs was not measured.
    """
    parts = []
    for field, name in NAMES.items():
        amount, rate = getattr(work, field), getattr(rates, field)
        if amount > 0:
            if rate <= 0:
                raise ValueError(f"The rate of {field} was not measured.")
            parts.append((amount / rate, name))
    if not parts:
        raise ValueError("There is no work of which a floor could be told.")
    return max(parts)


# Bytes that may stay in the caches of a processor: more than most have.
CACHES = 2**26


class Layer(NamedTuple):
    """A convolution or a dense layer as a product of matrices, for one example.

    Attributes:
      positions: places of the output; 1 for a dense layer.
      patch: numbers that each place sees.
      outputs: channels.
    """

    positions: int
    patch: int
    outputs: int

    @property
    def flops(self) -> int:
        """Operations of the forward product; of either gradient, too."""
        return 2 * self.positions * self.patch * self.outputs


def forward_flops(layers: Sequence[Layer], n: int) -> int:
    """Products of a forward pass of `n` examples."""
    return n * sum(layer.flops for layer in layers)


def adaptation_flops(layers: Sequence[Layer], n: int) -> int:
    """Products of one step that trains scales and shifts alone.

    Forward, and the gradient by the inputs of every layer but the first, below which nothing is
    trained. The weights of the layers need no gradient.
    """
    return forward_flops(layers, n) + forward_flops(layers[1:], n)


def training_flops(layers: Sequence[Layer], n: int) -> int:
    """Products of one step that trains all weights: one more for each layer."""
    return adaptation_flops(layers, n) + forward_flops(layers, n)


def forward_bytes(layers: Sequence[Layer], n: int) -> int:
    """Memory traffic of a forward pass with batch statistics, in float32.

    A mean over the whole batch is needed before the first value can be passed on: every output of a
    convolution is written and read again. The last layer is not normalised.
    """
    return 2 * 4 * n * sum(layer.positions * layer.outputs for layer in layers[:-1])


def adaptation_bytes(layers: Sequence[Layer], n: int) -> int:
    """Memory traffic of an adaptation step with batch statistics, in float32.

    That of the forward pass; and backward, where two means over the batch are needed, every output
    is read once more, and its gradient is written and read again.
    """
    return forward_bytes(layers, n) // 2 * 5


def digits_layers() -> list[Layer]:
    """The network of 8 and 16 channels on images of 8 x 8."""
    return [Layer(64, 9, 8), Layer(16, 72, 16), Layer(1, 16, 10)]


def convnet_layers() -> list[Layer]:
    """`entropax.models.ConvNet(10)` on images of 28 x 28."""
    return [Layer(196, 9, 32), Layer(49, 288, 64), Layer(16, 576, 64), Layer(1, 1024, 10)]


def cnn_layers() -> list[Layer]:
    """`entropax.models.CNN(10)`, the network of the entropy study, on images of 28 x 28.

    The second pooling leaves out a row and a column, and what only these depend on is not computed.
    """
    return [Layer(576, 9, 32), Layer(100, 288, 64), Layer(1, 1600, 256), Layer(1, 256, 10)]


def resnet50_layers(side: int) -> list[Layer]:
    """ResNet-50 with 1,000 classes on images of `side` x `side`, a multiple of 32."""
    layers = [Layer((side // 2) ** 2, 49 * 3, 64)]
    channels, side = 64, side // 4
    for stage, (inside, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        width = 4 * inside
        for block in range(count):
            halved = stage > 0 and block == 0
            after = side // 2 if halved else side
            layers += [Layer(side**2, channels, inside), Layer(after**2, 9 * inside, inside)]
            layers.append(Layer(after**2, inside, width))
            if block == 0:
                layers.append(Layer(after**2, channels, width))
            channels, side = width, after
    return [*layers, Layer(1, channels, 1000)]


def tridiagonal_flops(n: int) -> float:
    """Reduction of a symmetric matrix to three diagonals, by which exact eigenvalues begin."""
    return 4 / 3 * n**3


def pair_work(n: int, d: int) -> Work:
    """A kernel of all pairs of `n` points with `d` features; half of them, as it is symmetric."""
    return Work(flops=n**2 * d, exponentials=n**2 / 2)


def exact_entropy_work(n: int, d: int, *, double: bool = False) -> Work:
    """Diffusion spectral entropy by all eigenvalues."""
    pairs = pair_work(n, d)
    flops = pairs.flops + tridiagonal_flops(n)
    return Work(flops64=flops) if double else pairs._replace(flops=flops)


def quadrature_work(n: int, d: int, *, columns: int, steps: int, stored: bool) -> Work:
    """Diffusion spectral entropy by Lanczos quadrature: so many products with so many columns.

    Where the matrix is not stored, every product makes it anew.
    """
    pairs, times = pair_work(n, d), 1 if stored else steps
    products = 2 * n**2 * columns * steps
    return Work(flops=times * pairs.flops + products, exponentials=times * pairs.exponentials)


def information_work(subsets: int, n: int, d: int, *, double: bool = False) -> Work:
    """Mutual information by the exact entropies of `subsets` sets of `n` points."""
    one = exact_entropy_work(n, d, double=double)
    return Work(*(subsets * amount for amount in one))


def temperature_work(n: int, c: int, *, passes: int) -> Work:
    """Temperature of `n` times `c` logits: so many passes, each with an exponential of all."""
    return Work(exponentials=passes * n * c, bytes=4 * passes * n * c)


def greedy_work(pool: int, size: int, *, by_spectrum: bool) -> Work | None:
    """Greedy choice of `size` of `pool` examples.

    It begins with the best of all pairs, for which the kernel is read once; unless the kernel fits
    the caches that is counted. By the spectrum of what is chosen and each other: with k chosen, the
    border of every other one is taken into the eigenvectors of the k, a product of k x k by
    k x (pool - k). Finding the eigenvalues after that is not counted.

    Returns:
      The work; None where nothing of it is counted.
    """
    kernel = 4 * pool**2
    flops = sum(2 * k**2 * (pool - k) for k in range(1, size)) if by_spectrum else 0
    work = Work(flops=flops, bytes=kernel if kernel > CACHES else 0)
    return work if any(work) else None

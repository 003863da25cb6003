r"""Streams over a corrupted image set: which corruption each example has, and when it changes.

An order of the images comes first, from `data.streams` or, with the labels, `data.label_streams`;
a function here says under which corruption each of them is seen. So any order goes with any shift:

    order = correlated_stream(labels, batch_size=64, steps=750, seed=0)
    stream = continual_shift(order, [((name, 5),) for name in IMAGENET_C], period=50)
    bank = corrupted_bank(images, stream.domains)

A stream is arrays of indices. Images are looked up, and made floats, inside the compiled step:

    adapter = tta.map_inputs(tta.map_inputs(adapter, to_float), lookup(bank))
    state, infos = tta.adapt(adapter, variables, stream.batches)
    correct = infos.logits.argmax(-1) == labels[stream.image]

A domain is a tuple of (corruption, severity) pairs that are applied in turn: `()` is the clean
images, `(("fog", 3),)` one corruption, `(("fog", 3), ("snow", 2))` snow on fog.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt8

from entropax.data.corruptions import ALL, corrupt
from entropax.data.streams import check_positive
from entropax.types import Array, Batch

Domain: TypeAlias = tuple[tuple[str, int], ...]


class ShiftStream(NamedTuple):
    """Examples of changing domains; arrays for all t batches of b rows.

    Attributes:
      domains: those that occur in the schedule, each once.
      domain: `[t, b]` which of `domains` each example comes from.
      image: `[t, b]` which image it is.
      where: `[t, b]` False in rows that only fill up the shape.
    """

    domains: tuple[Domain, ...]
    domain: Int[Array, "t b"]
    image: Int[Array, "t b"]
    where: Bool[Array, "t b"]

    @property
    def batches(self) -> Batch:
        """What an adapter gets: `x [t, b, 2]`, domain and image, for `lookup`, and `where`."""
        return Batch(jnp.stack([self.domain, self.image], axis=-1), self.where)


def single_shift(order: Batch, domain: Domain) -> ShiftStream:
    """One domain for all examples.

    Args:
      order: `x [t, b]` indices of images and `where`.
      domain: (corruption, severity) pairs.

    Raises:
      ValueError: an unknown corruption or severity, or a corruption that comes twice.

    >>> from entropax.data.streams import one_pass
    >>> single_shift(one_pass(3, batch_size=2), (("fog", 3),)).domain.tolist()
    [[0, 0], [0, 0]]
    """
    return continual_shift(order, [domain], period=1)


def continual_shift(order: Batch, domains: Sequence[Domain], *, period: int) -> ShiftStream:
    """One domain after the other, without a word to the adapter; after the last the first again.

    Args:
      order: `x [t, b]` indices of images and `where`.
      domains: in turn; one may come several times.
      period: batches of each.

    Raises:
      ValueError: no domains, a `period` that is not positive, or an invalid domain.

    Reference: Q. Wang et al., "Continual test-time domain adaptation" (2022), section 4.

    >>> from entropax.data.streams import one_pass
    >>> domains = [(("fog", 5),), (), (("snow", 5),)]
    >>> continual_shift(one_pass(5, batch_size=1), domains, period=2).domain.ravel().tolist()
    [0, 0, 1, 1, 2]
    """
    check_positive(period=period, domains=len(domains))
    known, numbers = _numbered(domains)
    domain = numbers[np.arange(len(order.where)) // period % len(numbers)]
    return _stream(known, np.broadcast_to(domain[:, None], order.where.shape), order)


def gradual_shift(
    order: Batch,
    names: Sequence[str],
    *,
    period: int,
    severities: Sequence[int] = (1, 2, 3, 4, 5, 4, 3, 2, 1),
) -> ShiftStream:
    """Each corruption grows and fades again before the next begins.

    Args:
      order: `x [t, b]` indices of images and `where`.
      names: corruptions in turn; after the last the first again.
      period: batches of each severity.
      severities: of each corruption, in turn; 0 is the clean images.

    Raises:
      ValueError: no names or severities, a `period` that is not positive, an unknown name or
        severity.

    Reference: Q. Wang et al. (2022), section 4, gradually changing setup.

    >>> from entropax.data.streams import one_pass
    >>> stream = gradual_shift(one_pass(4, batch_size=1), ["fog"], period=1, severities=[0, 4, 5])
    >>> [stream.domains[i] for i in stream.domain.ravel()]
    [(), (('fog', 4),), (('fog', 5),), ()]
    """
    check_positive(names=len(names), severities=len(severities))
    domains = [_pure(name, severity) for name in names for severity in severities]
    return continual_shift(order, domains, period=period)


def mixed_shift(order: Batch, domains: Sequence[Domain], *, seed: int) -> ShiftStream:
    """Every example from a domain of its own, each as likely.

    Args:
      order: `x [t, b]` indices of images and `where`.
      domains: to draw from; one that comes twice is twice as likely.
      seed: the same seed gives the same domains.

    Raises:
      ValueError: no domains, or an invalid one.

    Reference: S. Niu et al., "Towards stable test-time adaptation in dynamic wild world" (2023),
    section 3 (mixed distribution shifts).

    >>> from entropax.data.streams import one_pass
    >>> stream = mixed_shift(one_pass(4, batch_size=2), [(), (("fog", 5),)], seed=0)
    >>> sorted(set(stream.domain.ravel().tolist()))
    [0, 1]
    """
    check_positive(domains=len(domains))
    known, numbers = _numbered(domains)
    drawn = np.random.default_rng(seed).integers(len(numbers), size=order.where.shape)
    return _stream(known, numbers[drawn], order)


def smooth_shift(
    order: Batch, names: Sequence[str], *, period: int, seed: int, severity: int = 5
) -> ShiftStream:
    r"""From one corruption to the next without a jump: one fades out while the other fades in.

    At batch $t$ of a transition the images go through the first corruption and then through the
    second, at severities

    $$s - k_i, \quad k_i, \qquad k_i = \lfloor s t / T + v_i \rfloor,
      \quad v_i \sim \mathrm{Uniform}[0, 1),$$

    so that the mean severity of the second grows in steps of $s / T$ although the severities are
    whole numbers: a part of the images is always one ahead. The transition begins with the first
    corruption pure; where it would be the second pure, the next transition begins, and the last
    name is followed by the first. Memory for one transition: `severity` + 1 domains, of which the
    last is the first of the next.

    The streams of the paper have severities in quarters, choose the next corruption at random, and
    take the path on which a ResNet-50 keeps its accuracy on ImageNet. Here the sum of the
    severities is constant, and the difficulty is not.

    Args:
      order: `x [t, b]` indices of images and `where`.
      names: corruptions in turn, two or more, each different from the next.
      period: T, batches of one transition.
      seed: of $v_i$; the same seed gives the same stream.
      severity: s, of a pure corruption, 1 to 5.

    Raises:
      ValueError: fewer than two names, a name that follows itself, an unknown name or severity, or
        a `period` that is not positive.

    Reference: O. Press et al., "RDumb: a simple approach that questions our progress in continual
    test-time adaptation" (2023), section 3 (CCC).

    >>> from entropax.data.streams import one_pass
    >>> order = one_pass(5, batch_size=1)
    >>> stream = smooth_shift(order, ["fog", "snow"], period=2, seed=0, severity=2)
    >>> [stream.domains[i] for i in stream.domain[1:3, 0]]
    [(('fog', 1), ('snow', 1)), (('snow', 2),)]
    """
    check_positive(period=period, severity=severity)
    follows = [*names[1:], *names[:1]]
    if len(names) < 2 or any(a == b for a, b in zip(names, follows, strict=True)):
        raise ValueError(
            f"`names` must be two corruptions or more, none next to itself, got {list(names)}."
        )
    known, numbers = _numbered(
        [
            _pure(a, severity - k) + _pure(b, k)
            for a, b in zip(names, follows, strict=True)
            for k in range(severity + 1)
        ]
    )
    step = np.arange(len(order.where))[:, None]
    spread = np.random.default_rng(seed).random(order.where.shape)
    ahead = np.floor(severity * (step % period) / period + spread).astype(int)
    transition = step // period % len(names)
    return _stream(known, numbers[transition * (severity + 1) + ahead], order)


def corrupted_bank(
    images: UInt8[np.ndarray, "n h w c"],
    domains: Sequence[Domain],
    *,
    seed: int = 0,
    scale: str | None = None,
) -> UInt8[np.ndarray, "domains n h w c"]:
    """All images under all domains.

    It takes one byte a channel: 10,000 images of 28 x 28 under 75 domains are 588 MB, of
    32 x 32 x 3 they are 2.3 GB. Fewer images or severities make it smaller.

    Args:
      images: `[n, h, w, c]` grey or RGB.
      domains: (corruption, severity) pairs, applied in turn; usually `stream.domains`.
      seed: of the corruptions. An image under a domain depends on the image, its place, the domain
        and the seed alone.
      scale: table of severities, as for `corruptions.corrupt`.

    Returns:
      `[domains, n, h, w, c]`.

    Raises:
      ValueError: no domains, an invalid one, or images that `corrupt` refuses.

    >>> grey = np.full((2, 28, 28, 1), 100, np.uint8)
    >>> corrupted_bank(grey, [(), (("brightness", 5),)])[:, 0, 0, 0, 0].tolist()
    [100, 228]
    """
    check_positive(domains=len(domains))
    for domain in domains:
        _check(domain)
    bank = np.empty((len(domains), *images.shape), np.uint8)
    for place, domain in enumerate(domains):
        corrupted = images
        for name, severity in domain:
            corrupted = corrupt(corrupted, name, severity, seed=seed, scale=scale)
        bank[place] = corrupted
    return bank


def lookup(
    bank: UInt8[Array, "domains n h w c"] | UInt8[np.ndarray, "domains n h w c"],
) -> Callable[[Int[Array, "b 2"]], UInt8[Array, "b h w c"]]:
    """A function from pairs (domain, image) to images, for `tta.map_inputs`.

    As everywhere in JAX, an index beyond the bank is taken for its last one, without an error: the
    bank must have all images of the order and all `domains` of the stream, in their order.

    A bank that is not an argument of the function one compiles becomes a constant of the program,
    which is slow to compile when it is large: make the adapter inside, of a bank that is passed in.

    >>> bank = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1)
    >>> lookup(bank)(jnp.array([[1, 0], [0, 2]])).ravel().tolist()
    [3, 2]
    """
    images = jnp.asarray(bank)
    return lambda x: images[x[:, 0], x[:, 1]]


def _stream(domains: tuple[Domain, ...], domain: np.ndarray, order: Batch) -> ShiftStream:
    return ShiftStream(domains, jnp.asarray(domain, jnp.int32), order.x, order.where)


def _numbered(domains: Sequence[Domain]) -> tuple[tuple[Domain, ...], np.ndarray]:
    """The different domains, and the number of each one given."""
    for domain in domains:
        _check(domain)
    known = tuple(dict.fromkeys(domains))
    return known, np.array([known.index(domain) for domain in domains])


def _pure(name: str, severity: int) -> Domain:
    return ((name, severity),) if severity else ()


def _check(domain: Domain) -> None:
    names = [name for name, _ in domain]
    if unknown := [name for name in names if name not in ALL]:
        raise ValueError(f"Unknown corruption {unknown[0]!r}; the known ones are {', '.join(ALL)}.")
    if wrong := [severity for _, severity in domain if severity not in range(1, 6)]:
        raise ValueError(f"Severities are 1, 2, 3, 4 or 5, got {wrong[0]!r} in {domain}.")
    if len(set(names)) < len(names):
        raise ValueError(
            f"The domain {domain} has one corruption twice, which would draw the same noise twice."
        )

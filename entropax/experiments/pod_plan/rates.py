"""What a device does in a second, and the time that work takes at these rates."""

from typing import NamedTuple


class Chip(NamedTuple):
    """An accelerator, as its maker describes it.

    Attributes:
      flops: bfloat16 operations a second, at most.
      memory: bytes.
      traffic: bytes a second between memory and units, at most.
      link: bytes a second over one link in one direction.
      dimensions: of the torus of links: a chip has two for each.
      elementwise: exponentials a second.
      per_host: chips that share a host.
    """

    flops: float
    memory: float
    traffic: float
    link: float
    dimensions: int
    elementwise: float
    per_host: int


CHIPS: dict[str, Chip] = {
    "v5e": Chip(197e12, 16e9, 819e9, 45e9, 2, 1e11, 8),
    "v5p": Chip(459e12, 95e9, 2765e9, 90e9, 3, 2e11, 4),
}
"""Peak, memory and its bandwidth are of the pages "TPU v5e" and "TPU v5p" of Google's Cloud TPU
documentation (2026), which also name 400 and 1200 GB/s for all links of a chip in both directions:
50 and 100 each; 45 and 90 is what "How to scale your model" (J. Austin et al., 2025, chapter 2)
takes them for. Nobody publishes exponentials: they are taken as 20 operations of a vector unit
that does a hundredth of the peak of the matrix units.
"""


class Rates(NamedTuple):
    """What one device of several does in a second, while the others do the same.

    Attributes:
      flops: operations of matrix products.
      traffic: bytes read from and written to memory.
      elementwise: exponentials.
      reduced: bytes of a buffer that every device has, and all have the sum of afterwards.
      passed: bytes sent to the next device of a ring.
      exchanged: bytes sent in equal parts to all devices.
      latency: seconds of a collective of a few bytes.
    """

    flops: float
    traffic: float
    elementwise: float
    reduced: float
    passed: float
    exchanged: float
    latency: float


class Work(NamedTuple):
    """What one device has to do; `memory` is in bytes, `collectives` a number, the rest as `Rates`.

    >>> half = Work(flops=1e9).over(2)
    >>> half.flops
    500000000.0
    """

    flops: float = 0.0
    traffic: float = 0.0
    elementwise: float = 0.0
    reduced: float = 0.0
    passed: float = 0.0
    exchanged: float = 0.0
    collectives: float = 0.0
    memory: float = 0.0

    def over(self, parts: float) -> "Work":
        """Each number divided by `parts`."""
        return Work(*(number / parts for number in self))


class Seconds(NamedTuple):
    """Where time goes; `total` takes nothing to be hidden behind something else.

    Attributes:
      compute: of arithmetic.
      memory: of reading and writing; goes on beside the arithmetic.
      communication: of bytes between devices.
      latency: of the collectives, however small.
    """

    compute: float
    memory: float
    communication: float
    latency: float

    @property
    def total(self) -> float:
        """The longer of arithmetic and memory, and what is sent."""
        return max(self.compute, self.memory) + self.communication + self.latency


def predict(work: Work, rates: Rates) -> Seconds:
    """The time of work at these rates.

    >>> at = Rates(1e12, 1e11, 1e9, 1e10, 1e10, 1e10, 1e-5)
    >>> predict(Work(flops=2e12, traffic=1e11, reduced=5e9, collectives=10), at)
    Seconds(compute=2.0, memory=1.0, communication=0.5, latency=0.0001)
    """
    sent = zip(
        (work.reduced, work.passed, work.exchanged),
        (rates.reduced, rates.passed, rates.exchanged),
        strict=True,
    )
    return Seconds(
        compute=work.flops / rates.flops + work.elementwise / rates.elementwise,
        memory=work.traffic / rates.traffic,
        communication=sum(amount / rate for amount, rate in sent if amount),
        latency=work.collectives * rates.latency,
    )


def rates_of(
    chip: Chip, devices: int, *, passes: int = 6, share: float = 0.5, latency: float = 15e-6
) -> Rates:
    r"""Rates on a torus of `devices` chips of equal sides.

    With $k$ dimensions, $l$ bytes a second over a link in one direction and $D$ chips: a sum over
    all devices takes two rounds, of scattered sums and of gathering, at $2 k l$ each; a ring uses
    one link; an exchange is limited by the links through the middle, $2 D^{(k-1)/k}$ in each
    direction, through which a quarter of all bytes goes in each.

    Args:
      chip: the hardware.
      devices: their number.
      passes: bfloat16 products for one product: 6 for float32 (`precision="highest"`), 1 for
        bfloat16.
      share: of the peak of arithmetic that is reached. Of traffic all is.
      latency: seconds of a small sum over all devices.

    Raises:
      ValueError: `devices` is not positive, or `share` not in (0, 1].
    """
    if devices < 1:
        raise ValueError(f"`devices` must be positive, got {devices}.")
    if not 0 < share <= 1:
        raise ValueError(f"`share` must be in (0, 1], got {share}.")
    side = devices ** (1 / chip.dimensions)
    return Rates(
        flops=share * chip.flops / passes,
        traffic=chip.traffic,
        elementwise=chip.elementwise,
        reduced=chip.dimensions * chip.link,
        passed=chip.link,
        exchanged=8 * chip.link / side,
        latency=latency,
    )

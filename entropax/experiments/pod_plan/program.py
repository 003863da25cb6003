"""The program from top to bottom."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from entropax.experiments import pod_plan
from entropax.experiments.command_line import run_command
from entropax.experiments.pod_plan import work as plan
from entropax.experiments.pod_plan.check import Comparison, on_simulated_devices
from entropax.experiments.pod_plan.config import Config
from entropax.experiments.pod_plan.counts import count, tangent_features
from entropax.experiments.pod_plan.rates import CHIPS, Rates, Seconds, Work, predict, rates_of
from entropax.models import CNN, running_statistics
from entropax.models.architectures import ARCHITECTURES
from entropax.types import ApplyFn, Params

IMAGES, CLASSES = 60_000, 10
POINTS, FEATURES = 1_000_000, 512
NORM_LAYERS = 53  # of ResNet-50


class Row(NamedTuple):
    """One computation of the plan.

    Attributes:
      name: what is computed.
      work: of each chip.
      seconds: that follow.
    """

    name: str
    work: Work
    seconds: Seconds


class Report(NamedTuple):
    """What a run found.

    Attributes:
      rows: the plan; empty with `check`.
      rates: measured rates of one of each number of devices; empty without `check`.
      comparisons: predictions and measurements; empty without `check`.
    """

    rows: list[Row]
    rates: dict[int, Rates]
    comparisons: list[Comparison]


def run(config: Config) -> Report:
    """Make the plan, or check how it is made, and print a table in Markdown.

    Raises:
      ValueError: a number that cannot be.
    """
    given = (config.chips, _chips_per_host(config), config.images_per_host, *config.devices)
    if min(given) < 1:
        raise ValueError(
            f"Numbers of chips, images and devices must be positive, got {min(given)}."
        )
    if config.check:
        found = {devices: on_simulated_devices(devices) for devices in config.devices}
        rates = {devices: rates for devices, (rates, _) in found.items()}
        comparisons = [row for _, rows in found.values() for row in rows]
        print(f"{_rates_table(rates)}\n\n{_comparison_table(comparisons)}")
        return Report([], rates, comparisons)
    rows = make_plan(config)
    print(_plan_table(rows, CHIPS[config.chip].memory))
    return Report(rows, {}, [])


def _chips_per_host(config: Config) -> int:
    return CHIPS[config.chip].per_host if config.chips_per_host is None else config.chips_per_host


def make_plan(config: Config) -> list[Row]:
    """The work of a chip, and its time, for every computation.

    Raises:
      ValueError: the images of a step cannot be shared equally among the chips.
    """
    chip, devices, per_host = CHIPS[config.chip], config.chips, _chips_per_host(config)
    if config.images_per_host % per_host:
        raise ValueError(
            f"{config.images_per_host} images of a host cannot be shared equally among its "
            f"{per_host} chips; take a multiple."
        )
    float32 = rates_of(chip, devices, share=config.share)
    bfloat16 = rates_of(chip, devices, share=config.share, passes=1)
    images = config.images_per_host // per_host * devices
    calls, products = plan.lanczos()

    mnist = _mnist()
    network = count(*mnist)
    features = tangent_features(*mnist, partners=IMAGES)
    resnet = count(*_resnet50())
    of_images = f"{IMAGES:,} images of MNIST"
    planned = [
        *(
            (
                f"NTK of {of_images}, {layout}",
                plan.tangent_kernel(
                    IMAGES, network, features, devices, outputs=CLASSES, layout=layout
                ),
                float32,
            )
            for layout in ("ring", "columns")
        ),
        (
            f"NTK entropy of {of_images} by {products} products",
            plan.tangent_products(
                IMAGES, network, devices, outputs=CLASSES, calls=calls, products=products
            ),
            float32,
        ),
        (
            f"diffusion entropy of {POINTS:,} x {FEATURES} by {products} products",
            plan.diffusion_entropy(POINTS, FEATURES, devices, calls=calls, products=products),
            float32,
        ),
        (
            f"step of adaptation, ResNet-50, bfloat16, {images:,} images",
            plan.adaptation(images, resnet, NORM_LAYERS, devices),
            bfloat16,
        ),
    ]
    return [Row(name, work, predict(work, rates)) for name, work, rates in planned]


def _mnist() -> tuple[ApplyFn, Params, jax.ShapeDtypeStruct]:
    module = CNN(num_classes=CLASSES)
    x = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    return running_statistics(module), jax.eval_shape(module.init, jax.random.key(0), x), x


def _resnet50() -> tuple[ApplyFn, Params, jax.ShapeDtypeStruct]:
    module = ARCHITECTURES["resnet50"](1000)
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    return running_statistics(module), jax.eval_shape(module.init, jax.random.key(0), x), x


def _markdown(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    columns = list(columns)
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|-" * len(columns) + "|", *lines[1:]])


def _plan_table(rows: list[Row], memory: float) -> str:
    columns = ["computation", "TFLOP a chip", "traffic GB", "sent GB", "memory GB"]
    columns += ["compute s", "traffic s", "sending s", "latency s", "together s"]
    cells = []
    for name, work, seconds in rows:
        sent = work.reduced + work.passed + work.exchanged
        numbers = [work.flops / 1e12, work.traffic / 1e9, sent / 1e9, work.memory / 1e9]
        line = [name, *(f"{number:.3g}" for number in (*numbers, *seconds, seconds.total))]
        if work.memory > memory:
            line[4] += f", too much for {memory / 1e9:.3g}"
        cells.append(line)
    return _markdown(columns, cells)


def _rates_table(rates: dict[int, Rates]) -> str:
    columns = ["devices", "GFLOP/s each", "GB/s memory", "G exp/s", "GB/s summed", "GB/s passed"]
    cells = []
    for devices, each in rates.items():
        numbers = [each.flops, each.traffic, each.elementwise, each.reduced, each.passed]
        line = [str(devices), *(f"{number / 1e9:.3g}" for number in numbers)]
        cells.append([*line, f"{each.latency * 1e6:.0f}"])
    return _markdown([*columns, "us a sum"], cells)


def _comparison_table(comparisons: list[Comparison]) -> str:
    columns = ["computation", "devices", "predicted s", "measured s", "measured / predicted"]
    cells = []
    for name, devices, predicted, measured in sorted(comparisons):
        ratio = f"{measured / predicted:.2f}"
        cells.append([name, str(devices), f"{predicted:.3g}", f"{measured:.3g}", ratio])
    return _markdown(columns, cells)


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    run_command(run, Config, pod_plan, args)

"""A plan on paper: counts against networks and compilers, times against arithmetic by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from entropax.experiments import pod_plan
from entropax.experiments.pod_plan import work as plan
from entropax.experiments.pod_plan.check import on_simulated_devices
from entropax.experiments.pod_plan.counts import (
    Network,
    TangentFeatures,
    count,
    tangent_features,
)
from entropax.experiments.pod_plan.program import make_plan
from entropax.experiments.pod_plan.rates import CHIPS, Rates, Work, predict, rates_of
from entropax.models import CNN, running_statistics

FEATURES = TangentFeatures(size=1000, flops=2000.0)
NETWORK = Network(flops=1e6, outputs=1e4, parameters=5000)


def shape(*lengths):
    return jax.ShapeDtypeStruct(lengths, jnp.float32)


@pytest.fixture(scope="module")
def mnist():
    module = CNN(num_classes=10, convolution=lax.conv_general_dilated)
    variables = jax.eval_shape(module.init, jax.random.key(0), shape(1, 28, 28, 1))
    return running_statistics(module), variables


def test_counts_agree_with_the_compiler(mnist):
    found = count(*mnist, shape(3, 28, 28, 1))
    compiled = jax.jit(mnist[0]).lower(mnist[1], shape(3, 28, 28, 1)).compile()
    # It counts pooling and relu as well, 2 % of the network.
    assert compiled.cost_analysis()["flops"] / 3 == pytest.approx(found.flops, rel=0.03)
    assert found.parameters == 430_880
    assert found.outputs == 24 * 24 * 32 + 10 * 10 * 64 + 256 + 10


def test_counts_do_not_depend_on_how_convolutions_are_written(mnist):
    by_patches = running_statistics(CNN(num_classes=10))
    x = shape(1, 28, 28, 1)
    assert count(by_patches, mnist[1], x) == count(*mnist, x)


def test_groups_and_strides_are_counted():
    module = nn.Conv(8, (3, 3), strides=2, feature_group_count=4, use_bias=False)
    x = shape(2, 8, 8, 4)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    assert count(module.apply, variables, x) == Network(2 * 4 * 4 * 8 * 9, 4 * 4 * 8, 72)


def test_features_are_those_of_the_kernel(mnist):
    """Ten derivatives by the convolutions; of dense layers the factors."""
    found = tangent_features(*mnist, shape(4, 28, 28, 1), partners=60_000)
    assert found.size == 10 * (288 + 18_432) + (1600 + 10 * 256) + (256 + 10 * 10)
    assert found.flops == 2 * found.size


def test_devices_share_the_tangent_kernel():
    n, devices = 4096, 16
    made, products = n * 7 * 1e6, n * n * 2000
    for layout, share in (("ring", 9 / 16), ("columns", 1)):
        whole, each = (
            plan.tangent_kernel(n, NETWORK, FEATURES, d, outputs=3, layout=layout)
            for d in (1, devices)
        )
        assert whole.flops == made + products
        # A ring makes 9 of 16 blocks of each row, and has the others from the devices opposite.
        assert devices * each.flops == made + share * products
        assert each.memory == pytest.approx(whole.memory / devices)


def test_what_a_ring_and_columns_send():
    n, devices = 4096, 16
    of = (n, NETWORK, FEATURES, devices)
    ring = plan.tangent_kernel(*of, outputs=3)
    columns = plan.tangent_kernel(*of, outputs=3, layout="columns")
    assert ring.passed == n * 1000 * 4 / 2  # half of the features come by
    assert ring.exchanged == n * n / devices * 4 / 2
    assert columns.exchanged == n * 1000 * 4 / devices
    assert columns.reduced == n * n * 4 / 2
    with pytest.raises(ValueError, match="'star'"):
        plan.tangent_kernel(*of, outputs=3, layout="star")


def test_products_of_the_estimate():
    assert plan.lanczos(deflated=3, probes=5, steps=7) == (9, 6 + 7 * 8)


def test_tangent_products_by_hand():
    work = plan.tangent_products(100, NETWORK, 4, outputs=10, calls=2, products=6)
    assert work.flops == 25 * 10 * 1e6 * (4 * 6 + 2 * 2)
    assert work.reduced == 10 * 6 * 5000 * 4
    assert work.collectives == 20


def test_diffusion_by_hand():
    work = plan.diffusion_entropy(1000, 64, 4, calls=2, products=6)
    assert work.flops == (3 * 1000**2 * 64 + 2 * 1000**2 * 6) / 4
    assert work.elementwise == 3 * 1000**2 / 2 / 4


def row_of(words):
    (row,) = (row for row in make_plan(pod_plan.Config()) if words in row.name)
    return row


def test_adaptation_is_what_the_compiler_says():
    """Of ResNet-50 in bfloat16 with 8 images on each of 256 chips, compiled for v5e:16x16."""
    work = row_of("ResNet-50").work
    assert work.flops == pytest.approx(128.0e9, rel=0.03)
    assert work.traffic == pytest.approx(5.52e9, rel=0.05)
    assert work.memory == pytest.approx(446e6, rel=0.1)


@pytest.mark.parametrize(
    ("words", "compiled"),
    [
        ("NTK of 60,000 images of MNIST, ring", 789e6),
        ("NTK entropy", 923e6),
        ("diffusion entropy", 8.73e9),
    ],
)
def test_memory_is_about_what_the_compiler_says(words, compiled):
    """Compiled for v5e:16x16; what it keeps on the way is more than what has to be kept."""
    assert row_of(words).work.memory == pytest.approx(compiled, rel=0.3)


def test_predicted_time_by_hand():
    rates = Rates(1e12, 1e11, 1e9, 1e10, 2e10, 4e10, 1e-5)
    work = Work(3e12, 1e11, 1e9, 1e10, 2e10, 4e10, 100, memory=7)
    seconds = predict(work, rates)
    assert seconds == (4.0, 1.0, 3.0, 1e-3)
    assert seconds.total == 7.001
    assert predict(work.over(2), rates).total == pytest.approx(7.001 / 2)


def test_one_device_sends_nothing():
    """A rate of nothing is not divided by."""
    rates = Rates(1e12, 1e11, 1e9, 0.0, 0.0, 0.0, 0.0)
    assert predict(Work(flops=1e12), rates).total == 1


def test_one_device_alone_sends_nothing():
    for row in make_plan(pod_plan.Config(chips=1)):
        work = row.work
        assert work.reduced == work.passed == work.exchanged == work.collectives == 0, row.name


@pytest.mark.parametrize(
    ("options", "images"), [({}, 2048), ({"chip": "v5p"}, 4096), ({"chips": 1}, 8)]
)
def test_images_of_the_hosts(options, images):
    assert make_plan(pod_plan.Config(**options))[-1].name.endswith(f", {images:,} images")


def test_too_little_memory_is_marked(capsys):
    pod_plan.run(pod_plan.Config(chips=4))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[4] for line in lines if "NTK of" in line and "ring" in line] == [
        "38.1, too much for 16"
    ]


def test_rates_agree_with_what_is_published_of_a_pod():
    """400 GB/s a chip in both directions over all links, and 1.6 TB/s through the middle."""
    chip = CHIPS["v5e"]
    rates = rates_of(chip, 256)
    assert 2 * 2 * chip.dimensions * chip.link == pytest.approx(400e9, rel=0.11)
    assert 256 * rates.exchanged / 4 == pytest.approx(1.6e12, rel=0.11)
    assert rates_of(chip, 256, passes=1).flops == 6 * rates.flops


@pytest.mark.parametrize(("options", "word"), [({"devices": 0}, "0"), ({"share": 1.5}, "1.5")])
def test_rates_refuse(options, word):
    with pytest.raises(ValueError, match=word):
        rates_of(CHIPS["v5e"], **{"devices": 4, **options})


def test_the_plan_is_printed(capsys):
    report = pod_plan.run(pod_plan.Config())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(report.rows)
    assert {line.count("|") for line in lines} == {11}
    for row in report.rows:
        assert row.work.memory < CHIPS["v5e"].memory
        assert 0 < row.seconds.total < 60


def test_a_better_chip_is_faster():
    slow, fast = (make_plan(pod_plan.Config(chip=chip)) for chip in ("v5e", "v5p"))
    for one, other in zip(slow, fast, strict=True):
        assert other.seconds.total < one.seconds.total


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--chips", "0"], "must be positive, got 0"),
        (["--images-per-host", "12"], "12 images of a host cannot be shared equally among its 8"),
    ],
)
def test_wrong_numbers_end_with_a_sentence(capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        pod_plan.main(words)
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_predictions_are_compared_on_simulated_devices():
    rates, found = on_simulated_devices(2)
    assert min(rates) > 0
    assert {row.devices for row in found} == {2}
    assert len({row.name for row in found}) == len(found)
    for row in found:
        # Loose, since other processes share the cores: an operation counted twice would not show,
        # one that is missing among a hundred would.
        assert 0.02 < row.measured / row.predicted < 50

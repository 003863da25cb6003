"""The work of one device in each computation, in bytes and operations."""

from entropax.experiments.pod_plan.counts import Network, TangentFeatures
from entropax.experiments.pod_plan.rates import Work

FLOAT32, BFLOAT16 = 4, 2
# Reading and writing of every output of a layer in a step of adaptation: the compiler's count for
# ResNet-50 in bfloat16, 5.5 GB for 8 images, over that of the outputs.
PASSES = 31
# Of each normalisation layer, sums over all devices, and bytes in them: the compiled ResNet-50 has
# 152 of 110 kB together for 53 layers.
SUMS, SUM_BYTES = 3, 2100
# Examples that `kernels.ntk_vector_product` takes at a time.
BLOCK = 128


def _among(devices: int, work: Work) -> Work:
    """The work of one of several devices; one that is alone sends nothing."""
    return work if devices > 1 else work._replace(reduced=0, passed=0, exchanged=0, collectives=0)


def tangent_kernel(
    n: int,
    network: Network,
    features: TangentFeatures,
    devices: int,
    *,
    outputs: int,
    layout: str = "ring",
) -> Work:
    """The tangent kernel of `n` examples.

    Features take the network forward once, and for each output backward by inputs and parameters.
    The ring of `kernels.pool_kernel` passes them on, half way round, and sends half of the matrix
    back. Columns, which the library does not have, would exchange features once for a share of the
    numbers of all examples, and sum the matrices of the shares.

    Args:
      n: examples.
      network: one example through it.
      features: of one example.
      devices: over which the examples are split.
      outputs: of the network.
      layout: `"ring"` or `"columns"`.

    Raises:
      ValueError: an unknown layout.
    """
    if layout not in ("ring", "columns"):
        raise ValueError(f"`layout` must be 'ring' or 'columns', got {layout!r}.")
    own = n / devices * features.size * FLOAT32
    rows = n / devices * n * FLOAT32
    steps = devices // 2
    made = n / devices * (1 + 2 * outputs) * network.flops
    whole = n / devices * n * features.flops
    if layout == "ring":
        work = Work(
            flops=made + whole * (1 + steps) / devices,
            traffic=(1 + 2 * steps) * own + rows,
            passed=steps * own,
            exchanged=rows / 2,
            collectives=2 * steps,
            memory=3 * own + rows,
        )
        return _among(devices, work)
    work = Work(
        flops=made + whole,
        traffic=2 * own + 2 * rows * devices,
        # To scatter the sums is one of the two rounds in which all devices would have them.
        reduced=rows * devices / 2,
        exchanged=own,
        collectives=2,
        memory=2 * own + 2 * rows,
    )
    return _among(devices, work)


def lanczos(*, deflated: int = 16, probes: int = 16, steps: int = 20) -> tuple[int, int]:
    """Calls and products of `spectra.lanczos_entropy`, whose vectors are multiplied together."""
    return 2 + steps, 2 * deflated + steps * (deflated + probes)


def tangent_products(
    n: int, network: Network, devices: int, *, outputs: int, calls: int, products: int
) -> Work:
    """Products with a tangent kernel without the kernel, for the mean over the outputs.

    Backward by inputs and parameters and forward along both is four times the network for every
    vector, besides twice the network in every call. All vectors go through a block of examples
    together, with values and derivatives of what its layers give.
    """
    vectors = products / calls
    operations = network.flops * outputs * (4 * products + 2 * calls)
    gradients = outputs * products * network.parameters * FLOAT32
    basis = n / devices * products * FLOAT32
    block = 2 * min(BLOCK, n / devices) * vectors * network.outputs * FLOAT32
    work = Work(
        flops=n / devices * operations,
        traffic=2 * gradients + basis,
        reduced=gradients,
        collectives=outputs * calls,
        memory=2 * vectors * network.parameters * FLOAT32 + basis + block,
    )
    return _among(devices, work)


def diffusion_entropy(n: int, d: int, devices: int, *, calls: int, products: int) -> Work:
    """The entropy of `n` points of `d` numbers, from products with the diffusion operator.

    Every call and the degrees form the kernel once, for pairs rather than both ways. All devices
    have all points; sums come with what their rounding has dropped.
    """
    passes = 1 + calls
    sums = 2 * n * (products + 2) * FLOAT32
    vectors = products / calls
    work = Work(
        flops=(passes * n**2 * d + 2 * n**2 * products) / devices,
        traffic=passes * n * d * FLOAT32 + 3 * sums,
        elementwise=passes * n**2 / 2 / devices,
        reduced=sums,
        collectives=passes,
        memory=n * FLOAT32 * (2 * d + products + 6 * vectors),
    )
    return _among(devices, work)


def adaptation(
    images: int, network: Network, norm_layers: int, devices: int, *, number: int = BFLOAT16
) -> Work:
    """One step of entropy minimisation over scales and shifts of normalisation layers.

    Nothing is differentiated by other parameters, so that a step is twice the network.

    Args:
      images: of all devices.
      network: one image through it.
      norm_layers: whose statistics are of all images.
      devices: over which the images are split.
      number: bytes of an output.
    """
    own = images / devices
    outputs = own * network.outputs * number
    work = Work(
        flops=2 * own * network.flops,
        traffic=PASSES * outputs + 2 * network.parameters * FLOAT32,
        reduced=norm_layers * SUM_BYTES,
        collectives=SUMS * norm_layers,
        memory=network.parameters * FLOAT32 + 2 * outputs,
    )
    return _among(devices, work)

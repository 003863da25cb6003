"""Random weights of a ResNet for CIFAR, named and laid out as in torch."""

import numpy as np

WIDTHS = (4, 8, 16)


def random_tensors(blocks=1, seed=0):
    rng = np.random.default_rng(seed)
    tensors = {}

    def convolution(name, inputs, outputs):
        tensors[f"{name}.weight"] = rng.normal(0, 0.3, (outputs, inputs, 3, 3)).astype(np.float32)

    def norm(name, width):
        tensors[f"{name}.weight"] = rng.uniform(0.5, 1.5, width).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(size=width).astype(np.float32)
        tensors[f"{name}.running_mean"] = rng.normal(size=width).astype(np.float32)
        tensors[f"{name}.running_var"] = rng.uniform(0.5, 2, width).astype(np.float32)
        tensors[f"{name}.num_batches_tracked"] = np.asarray(7)

    convolution("conv1", 3, WIDTHS[0])
    norm("bn1", WIDTHS[0])
    inputs = WIDTHS[0]
    for stage, width in enumerate(WIDTHS, start=1):
        for block in range(blocks):
            for place in (1, 2):
                convolution(f"layer{stage}.{block}.conv{place}", inputs, width)
                norm(f"layer{stage}.{block}.bn{place}", width)
                inputs = width
    tensors["linear.weight"] = rng.normal(size=(5, WIDTHS[-1])).astype(np.float32)
    tensors["linear.bias"] = rng.normal(size=5).astype(np.float32)
    return tensors

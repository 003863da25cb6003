"""RDumb in PyTorch, in the way of its published loop: eager, one batch at a time.

It needs torch and numpy only. The images are in memory as tensors before the clock starts.

Reference: O. Press et al., "RDumb: a simple approach that questions our progress in continual
test-time adaptation" (2023), section 4.
"""

import argparse
import json
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


def network(arrays: dict[str, np.ndarray]) -> nn.Sequential:
    """The network of the problem, in torch's layout.

    At stride 2 and an even size, "SAME" pads at the end only, torch's `padding=1` in effect at the
    beginning only. So a problem marked `mirror` is solved in the mirror: kernels and images are
    turned round, and no layer has to pad by itself.
    """
    layers: list[nn.Module] = []
    turned = slice(None, None, -1 if arrays["mirror"] else 1)
    for i, stride in enumerate(arrays["strides"]):
        kernel = torch.tensor(arrays[f"kernel{i}"][turned, turned].transpose(3, 2, 0, 1).copy())
        width, channels = kernel.shape[:2]
        conv = nn.Conv2d(channels, width, 3, int(stride), padding=1, bias=False)
        norm = nn.BatchNorm2d(width, track_running_stats=False)
        with torch.no_grad():
            conv.weight.copy_(kernel)
            norm.weight.copy_(torch.tensor(arrays[f"scale{i}"]))
            norm.bias.copy_(torch.tensor(arrays[f"shift{i}"]))
        layers += [conv, norm, nn.ReLU()]
    weight = arrays["head_kernel"]
    if arrays["pooled"]:
        layers.append(nn.AdaptiveAvgPool2d(1))
    else:
        side = round((len(weight) / width) ** 0.5)
        weight = weight.reshape(side, side, width, -1)[turned, turned].transpose(2, 0, 1, 3)
        weight = weight.reshape(side * side * width, -1)
    head = nn.Linear(*weight.shape)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(weight.T.copy()))
        head.bias.copy_(torch.tensor(arrays["head_bias"]))
    return nn.Sequential(*layers, nn.Flatten(), head)


class RDumb:
    """ETA that returns to the source network every `period` steps."""

    def __init__(self, model: nn.Module, settings: argparse.Namespace):
        self.model = model.train().requires_grad_(False)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        self.affine = [p.requires_grad_() for norm in norms for p in (norm.weight, norm.bias)]
        self.optimizer = torch.optim.SGD(
            self.affine, lr=settings.learning_rate, momentum=settings.momentum
        )
        self.source = [p.detach().clone() for p in self.affine]
        self.fresh_optimizer = self.optimizer.state_dict()
        self.settings = settings
        self.steps = 0
        self.mean_probs: Tensor | None = None

    def reset(self) -> None:
        """Return to the source network: parameters, momentum and running mean."""
        with torch.no_grad():
            for parameter, value in zip(self.affine, self.source, strict=True):
                parameter.copy_(value)
        self.optimizer.load_state_dict(self.fresh_optimizer)
        self.mean_probs = None

    def step(self, x: Tensor) -> tuple[Tensor, int]:
        """Predict a batch, then update; return the logits and how many examples were used."""
        if self.steps % self.settings.period == 0:
            self.reset()
        self.steps += 1

        logits = self.model(x)
        entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
        reliable = entropy < self.settings.entropy_limit
        entropy, probs = entropy[reliable], logits.detach()[reliable].softmax(1)
        if self.mean_probs is not None:
            cosine = functional.cosine_similarity(self.mean_probs[None], probs, dim=1)
            novel = cosine.abs() < self.settings.cosine_limit
            entropy, probs = entropy[novel], probs[novel]

        selected = len(entropy)
        if selected:
            mean = probs.mean(0)
            old = self.mean_probs
            self.mean_probs = mean if old is None else 0.9 * old + 0.1 * mean
            factor = torch.exp(self.settings.entropy_limit - entropy.detach())
            (factor * entropy).mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return logits.detach(), selected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", help="npz with the network and the images")
    parser.add_argument("--threads", type=int, help="torch's own choice unless given")
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--double", action="store_true", help="compute in float64")
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--momentum", type=float, required=True)
    parser.add_argument("--period", type=int, required=True)
    parser.add_argument("--entropy-limit", type=float, required=True)
    parser.add_argument("--cosine-limit", type=float, required=True)
    settings = parser.parse_args()
    if settings.threads:
        torch.set_num_threads(settings.threads)

    with np.load(settings.problem, allow_pickle=False) as file:
        arrays = dict(file)
    dtype = torch.float64 if settings.double else torch.float32
    images = arrays["x"][:, :, ::-1, ::-1] if arrays["mirror"] else arrays["x"]
    batches = list(torch.tensor(images.transpose(0, 1, 4, 2, 3).copy(), dtype=dtype))
    model = network(arrays).to(dtype)

    method = RDumb(model, settings)
    seconds = []
    for _ in range(1 + settings.repeats):  # the first time is for warming up
        method.reset()
        method.steps = 0
        start = time.perf_counter()
        steps = [method.step(x) for x in batches]
        seconds.append(time.perf_counter() - start)
    report = {
        "seconds": seconds[1:],
        "selected": [selected for _, selected in steps],
        "affine": torch.cat([p.detach() for p in method.affine]).tolist(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()

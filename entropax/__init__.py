"""entropax: entropy as a working tool for neural networks, in JAX.

- `entropax.entropy`: Shannon, Renyi, softmax and von Neumann entropies.
- `entropax.kernels`: neural tangent kernels of any network, Gaussian kernels of features, random
  walks on points.
- `entropax.spectra`: from kernels to spectra, exactly or by stochastic Lanczos quadrature.
- `entropax.diffusion`: diffusion spectral entropy and mutual information of representations.
- `entropax.uncertainty`: confidence scores, ranking and selective prediction, calibration, scaling
  of logits, intervals.
- `entropax.selection`: which examples to train on, by entropy and otherwise.
- `entropax.tta`: test-time adaptation by entropy minimisation, and label flips.
- `entropax.estimation`: accuracy without labels, with intervals.
- `entropax.checkpoint`: variables on disk, checkpoints kept by predictive entropy.
- `entropax.models`: linen networks, and linen modules as pure functions.
- `entropax.data`: images, corruptions and streams.
- `entropax.experiments`: programs, each `python -m entropax.experiments.NAME`.

Functions take `apply_fn(variables, x)`, so that any network fits. Importing a part loads only what
that part needs.
"""

__version__ = "0.1.0"

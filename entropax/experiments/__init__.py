"""Programs, each `python -m entropax.experiments.NAME`.

- `tta`: adapt a classifier to shifted images and estimate its accuracy without labels.
- `mnist_entropy`: entropy of training sets against what they train.
- `diffusion_training`: diffusion entropy and mutual information while networks learn.
- `diffusion_initialisation`: what the entropy of an untrained network tells of its training.
- `diffusion_models`: which entropies rank models by their accuracy.
- `diffusion_estimators`: mutual information on blobs, where it is known.
- `uncertainty`: how far the confidence of many models can be trusted.
- `checkpointing`: which checkpoint is worth keeping, by accuracy, loss or entropy.
- `tta_benchmark`, `tta_streams`, `tta_ablations`: methods side by side, streams that change, and
  what the estimate from flips depends on.
- `pod_plan`: operations, memory, traffic and time of large computations on a pod, on paper.
- `prepare`: raw image files to a named data set.

`run_folder` keeps their results, `tables` and the modules named `..._figures` show them.
"""

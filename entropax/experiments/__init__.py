"""Programs, each `python -m entropax.experiments.NAME`.

- `tta`: adapt a classifier to shifted images and estimate its accuracy without labels.
- `prepare`: raw image files to a named data set.

`run_folder` keeps their results, `figures` draws them.
"""

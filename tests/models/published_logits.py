"""Ours against a publisher's own class, for networks in which no layer knows a batch."""

import jax
import numpy as np
from models.seeded_tensors import seeded_tensors

from entropax.models.convert import convert_recognised
from entropax.models.statistics import batch_statistics, running_statistics


def check_logits(recognise, record, images):
    """Compare with recorded logits, by either kind of statistics; return the module."""
    recognised = recognise(seeded_tensors(record["shapes"]))
    variables, unused = convert_recognised(recognised)
    assert unused == ()
    for statistics in (running_statistics, batch_statistics):
        logits = jax.jit(statistics(recognised.module))(variables, images)
        np.testing.assert_allclose(logits, record["logits"], rtol=0, atol=1e-5)
    return recognised.module

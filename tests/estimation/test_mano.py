import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import golden

from entropax.estimation.mano import mano, mano_score, uniform_cross_entropy

VALUES = golden("tta/estimators.json")
LOGITS = jnp.asarray(golden("tta/estimators.npz")["test_logits"])


@pytest.mark.parametrize("normalisation", ["softmax", "taylor"])
def test_recorded_mean_over_batches(normalisation):
    scores = [
        mano_score(batch, normalisation=normalisation) for batch in LOGITS.reshape(3, 100, 10)
    ]
    expected = VALUES[f"MaNo_{normalisation}"]["float64_recomputed"]
    assert float(np.mean(scores)) == pytest.approx(expected, abs=1e-6)


def test_recorded_criterion():
    expected = VALUES["MaNo_uniform_ce"]
    assert float(uniform_cross_entropy(LOGITS)) == pytest.approx(expected["value"], abs=5e-6)
    last = uniform_cross_entropy(LOGITS, where=jnp.arange(300) >= 200)
    assert float(last) == pytest.approx(expected["last_batch"], abs=5e-6)


@pytest.mark.parametrize("normalisation", ["softmax", "taylor"])
def test_closed_forms(normalisation):
    """Equal logits have shares of 1 / c."""
    found = mano_score(jnp.full((5, 4), 0.3), normalisation=normalisation)
    assert float(found) == pytest.approx(0.25, abs=1e-6)
    assert np.isnan(mano_score(jnp.full((5, 4), jnp.nan), normalisation=normalisation))


def test_taylor_by_hand():
    # 1 + z + z^2 / 2 is 1, 2.5 and 0.5 here; less 0.5, as shares: 0.2, 0.8 and 0.
    found = mano_score(jnp.array([[0.0, 1.0, -1.0]]), normalisation="taylor")
    assert float(found) == pytest.approx(((0.2**4 + 0.8**4) / 3) ** 0.25, abs=1e-6)


def test_order_of_batches_does_not_matter():
    shuffled = jax.random.permutation(jax.random.key(0), LOGITS)
    assert float(mano_score(shuffled)) == pytest.approx(float(mano_score(LOGITS)), abs=1e-6)


@pytest.mark.parametrize("call", [mano, lambda **options: mano_score(LOGITS, **options)])
def test_bad_normalisation(call):
    with pytest.raises(ValueError, match="must be one of softmax, taylor, got 'auto'"):
        call(normalisation="auto")

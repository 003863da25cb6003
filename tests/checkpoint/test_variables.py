import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.checkpoint import restore_variables, save_variables

TREE = {"params": {"bn": {"scale": jnp.arange(3.0)}}, "batch_stats": {"mean": jnp.ones((2, 2))}}


def test_round_trip(tmp_path):
    save_variables(tmp_path / "source", TREE)
    restored = restore_variables(tmp_path / "source", jax.eval_shape(lambda: TREE))
    assert jax.tree.structure(restored) == jax.tree.structure(TREE)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(TREE), strict=True):
        np.testing.assert_array_equal(a, b)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        restore_variables(tmp_path / "nothing", TREE)


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "notes.txt").write_text("no arrays")
    with pytest.raises(ValueError, match="holds no variables; pass a folder"):
        restore_variables(tmp_path, TREE)


def test_an_existing_checkpoint_is_not_overwritten(tmp_path):
    save_variables(tmp_path / "source", TREE)
    with pytest.raises(ValueError, match="already exists"):
        save_variables(tmp_path / "source", TREE)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"params": {"bn": {"scale": jnp.ones(4)}}, "batch_stats": {"mean": jnp.ones((2, 2))}},
            r"another network; params/bn/scale is float32\[3\], expected float32\[4\]",
        ),
        (
            {"params": {"bn": {"scale": jnp.arange(3.0)}}},
            "only one of the two has batch_stats/mean",
        ),
    ],
)
def test_another_network(tmp_path, other, message):
    save_variables(tmp_path / "source", TREE)
    with pytest.raises(ValueError, match=message):
        restore_variables(tmp_path / "source", other)

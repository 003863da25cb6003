import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from entropax import tta
from entropax.parameters import network_parameters, partition_floats


@pytest.mark.parametrize(
    "path",
    [
        "params/BatchNorm_0/scale",
        "params/Block_1/GroupNorm_0/bias",
        "params/encoder/final_layer_norm/scale",
        "params/norm1/scale",
        "params/bn_a/bias",
        "params/ln_f/weight",
        "bn/scale/value",
        "layer1.0.bn2.weight",
        "mlp/~/layer_norm/offset",
        "blocks/3/RMSNorm_0/scale",
    ],
)
def test_normalisation_layers(path):
    assert tta.is_norm_affine(path)


@pytest.mark.parametrize(
    "path",
    [
        "params/Conv_0/bias",
        "params/conv_in/bias",
        "params/attention/in_proj/bias",
        "params/unnormalised_head/bias",
        "logit_normalizer/weight",
        "batch_stats/BatchNorm_0/mean",
        "layer1.0.downsample.1.weight",
        "scale",
    ],
)
def test_other_layers(path):
    assert not tta.is_norm_affine(path)


def test_an_nnx_state():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(3, 4, rngs=rngs)
            self.bn = nnx.BatchNorm(4, rngs=rngs)

    _, state = nnx.split(Model(nnx.Rngs(0)))
    params, frozen = tta.partition(state, tta.is_norm_affine)
    assert len(jnp.concatenate([leaf.ravel() for leaf in _leaves(params)])) == 8
    assert len(_leaves(tta.merge(params, frozen))) == len(_leaves(state))


def test_the_floats_of_the_collection_or_all():
    numbers = {"w": jnp.ones(2), "calls": jnp.ones((), jnp.int32)}
    everywhere = {"params": numbers, "batch_stats": {"mean": jnp.ones(2)}}
    params, frozen = partition_floats(everywhere, None)
    assert [leaf.shape for leaf in _leaves(params)] == [(2,)]
    assert params["params"]["w"] is not None
    assert len(_leaves(frozen)) == 2
    # A predicate may choose other collections; integers stay where they are.
    assert len(_leaves(partition_floats(everywhere, lambda path: True)[0])) == 2
    assert len(_leaves(partition_floats([jnp.ones(3), numbers], None)[0])) == 2
    assert network_parameters({"params": jnp.ones(3)})("params")
    assert not network_parameters(everywhere)("params_of_another/w")
    with pytest.raises(ValueError, match="No variable is selected"):
        partition_floats({"calls": jnp.ones((), jnp.int32)}, None)


def _leaves(tree):
    return jax.tree.leaves(tree)

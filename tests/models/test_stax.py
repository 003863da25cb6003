"""neural-tangents through the bridge; without it installed, only what does not need it runs."""

import importlib.util
import subprocess
import sys

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import ad

from entropax import kernels
from entropax.models import stax

installed = pytest.mark.skipif(
    importlib.util.find_spec("neural_tangents") is None,
    reason='needs neural-tangents: pip install "entropax[stax]"',
)

X1 = jax.random.normal(jax.random.key(0), (4, 6, 6, 2))
X2 = jax.random.normal(jax.random.key(1), (2, 6, 6, 2))


@pytest.fixture
def fresh_load():
    stax.load.cache_clear()
    yield stax.load
    stax.load.cache_clear()


def params_of(network, x):
    init_fn, _, _ = network
    return init_fn(jax.random.key(2), x.shape)[1]


@pytest.fixture(scope="module")
def convolutional():
    """neural-tangents; a network with every layer of the study's and a residual branch; parameters.

    And its kernel between X1 and X2, [n, m, c, c], from Jacobians in float64.
    """
    nt = stax.load()
    layers = nt.stax
    branch = layers.serial(layers.Relu(), layers.Conv(4, (3, 3), padding="SAME"))
    network = layers.serial(
        layers.Conv(4, (3, 3)),
        layers.FanOut(2),
        layers.parallel(layers.Identity(), branch),
        layers.FanInSum(),
        layers.AvgPool((2, 2), (2, 2)),
        layers.Flatten(),
        layers.Dense(7, b_std=0.1),
        layers.Relu(),
        layers.Dense(3),
    )
    params = params_of(network, X1)
    jacobian = jax.jit(jax.jacobian(network[1]))
    jacobians = [jax.tree.leaves(jacobian(params, x)) for x in (X1, X2)]
    j1, j2 = (np.concatenate([a.reshape(len(a), 3, -1) for a in j], -1) for j in jacobians)
    kernel = np.einsum("iap,jbp->ijab", j1.astype(np.float64), j2.astype(np.float64))
    return nt, network, params, kernel


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_the_module_loads_nothing():
    code = """
import sys
from entropax.models import stax
print([m for m in ("neural_tangents", "tensorflow", "tf2jax") if m in sys.modules])
"""
    assert run(code) == "[]"


@installed
def test_loading_leaves_jax_as_it_was():
    code = """
import sys
import jax.core
from jax.interpreters import ad
from entropax.models import stax
before = set(vars(jax.core)), set(vars(ad))
nt = stax.load()
print(before == (set(vars(jax.core)), set(vars(ad))))
print([m for m in ("tensorflow", "tf2jax", "jax.util", "neural_tangents.experimental")
       if m in sys.modules])
print(hasattr(jax, "util"), hasattr(nt, "experimental"), stax.load() is nt)
"""
    assert run(code).splitlines() == ["True", "[]", "False False True"]


def test_missing_extra(fresh_load, monkeypatch):
    monkeypatch.setitem(sys.modules, "neural_tangents", None)
    with pytest.raises(ImportError, match=r'pip install "entropax\[stax\]"\.$'):
        fresh_load()
    assert "jax.util" not in sys.modules
    assert not hasattr(jax.core, "Jaxpr")


@pytest.mark.parametrize(
    ("module", "name"), [(jax.extend.core, "Var"), (ad, "get_primitive_transpose")]
)
def test_unknown_jax(fresh_load, monkeypatch, module, name):
    monkeypatch.delattr(module, name)
    with pytest.raises(ImportError, match=rf"needs {name} from {module.__name__}, and JAX .*\.$"):
        fresh_load()


def installed_package(folder, monkeypatch, code):
    """A package `neural_tangents` of one file, instead of the real one."""
    for name in [m for m in sys.modules if m.split(".")[0] == "neural_tangents"]:
        monkeypatch.delitem(sys.modules, name)
    (folder / "neural_tangents" / "_src").mkdir(parents=True)
    (folder / "neural_tangents" / "__init__.py").write_text(code)
    (folder / "neural_tangents" / "_src" / "__init__.py").touch()
    (folder / "neural_tangents" / "_src" / "empirical.py").touch()
    monkeypatch.syspath_prepend(folder)


@pytest.fixture
def unloaded(monkeypatch):
    yield
    for name in [m for m in sys.modules if m.split(".")[0] == "neural_tangents"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("from jax.core import NeverThere", "cannot import name 'NeverThere'"),
        ("import jax.never_there", "No module named 'jax.never_there'"),
        ("import jax.lax; jax.lax.never_there_p", "no attribute 'never_there_p'"),
    ],
)
def test_a_name_that_cannot_be_supplied(fresh_load, unloaded, monkeypatch, tmp_path, code, said):
    installed_package(tmp_path, monkeypatch, code)
    with pytest.raises(ImportError, match=rf"does not import on JAX {jax.__version__} \(.*{said}"):
        fresh_load()
    assert "jax.util" not in sys.modules
    assert not hasattr(jax.core, "Jaxpr")


def test_missing_dependency_of_the_extra(fresh_load, unloaded, monkeypatch, tmp_path):
    installed_package(tmp_path, monkeypatch, "import frozendict")
    monkeypatch.setitem(sys.modules, "frozendict", None)
    with pytest.raises(ImportError, match=r"entropax\[stax\]"):
        fresh_load()


def test_another_neural_tangents(fresh_load, unloaded, monkeypatch, tmp_path):
    code = "__version__ = '9.0'\nfrom jax.core import Jaxpr\nfrom jax.util import safe_map"
    installed_package(tmp_path, monkeypatch, code)
    with pytest.raises(ImportError, match=r"neural-tangents 9\.0 has no _get_primals_out.*\.$"):
        fresh_load()


@installed
def test_forward():
    nt = stax.load()
    network = nt.stax.serial(nt.stax.Dense(16), nt.stax.Relu(), nt.stax.Dense(3, b_std=0.5))
    x = X1.reshape(4, -1)
    params = params_of(network, x)
    (w1, _), _, (w2, b2) = params
    hidden = jnp.maximum(x @ w1 / 72**0.5, 0)
    expected = hidden @ w2 / 16**0.5 + 0.5 * b2
    logits = jax.jit(stax.apply_fn(network))(params, x)
    # Sums of 72 products of order 1 in float32.
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", [(), (len, len), (len, len, 3), (len, len, len, len)])
@pytest.mark.parametrize("function", [stax.apply_fn, stax.analytic_kernel])
def test_not_a_triple(function, network):
    with pytest.raises(ValueError, match="triple"):
        function(network)


def test_unknown_kind():
    with pytest.raises(ValueError, match="'gp'"):
        stax.analytic_kernel((len, len, len), kind="gp")


def arc_cosine(x1, x2):
    """NNGP and NTK of Dense, ReLU, Dense: weights of variance 1, no biases.

    Y. Cho, L. Saul, "Kernel Methods for Deep Learning" (2009), equations 3, 5 and 6, halved: they
    have a factor 2 in front of the expectation.
    """
    d = x1.shape[1]
    norms = np.linalg.norm(x1, axis=1)[:, None] * np.linalg.norm(x2, axis=1)
    angle = np.arccos(np.clip(x1 @ x2.T / norms, -1, 1))
    nngp = norms / d * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    return nngp, nngp + x1 @ x2.T / d * (np.pi - angle) / (2 * np.pi)


@installed
@pytest.mark.parametrize("same", [True, False])
def test_analytic_kernel_of_one_hidden_layer(same):
    nt = stax.load()
    network = nt.stax.serial(nt.stax.Dense(1), nt.stax.Relu(), nt.stax.Dense(1))
    x1, x2 = X1.reshape(4, -1), X2.reshape(2, -1)
    arguments = (x1,) if same else (x1, x2)
    x1, x2 = np.asarray(x1, np.float64), np.asarray(x1 if same else x2, np.float64)
    for kind, expected in zip(("nngp", "ntk"), arc_cosine(x1, x2), strict=True):
        kernel = stax.analytic_kernel(network, kind=kind)(*arguments)
        # Rounding of a cosine near 1 moves the angle by up to sqrt(2 * 2**-24) = 3e-4, and the NTK
        # by a sixth of that, on the diagonal.
        np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-5)


@installed
def test_analytic_kernel_with_spatial_axes_left():
    nt = stax.load()
    network = nt.stax.Conv(4, (5, 5))
    with pytest.raises(ValueError, match=r"shape \(4, 4, 2, 2, 2, 2\).*Flatten"):
        stax.analytic_kernel(network)(X1)


def close(kernel, expected):
    # Sums of a thousand products in float32, some of which nearly cancel.
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-5 * np.max(np.abs(expected)))


def traced(kernel):
    """The kernel traced over the outputs, as neural-tangents does it: their mean."""
    return np.trace(kernel, axis1=2, axis2=3) / kernel.shape[2]


@installed
@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize("trace_axes", [(-1,), ()])
def test_empirical_implementations(convolutional, implementation, trace_axes):
    nt, network, params, expected = convolutional
    options = {"trace_axes": trace_axes, "vmap_axes": 0, "implementation": implementation}
    ntk = nt.empirical_ntk_fn(stax.apply_fn(network), **options)
    close(jax.jit(ntk)(X1, X2, params), traced(expected) if trace_axes else expected)


@installed
def test_without_jit_and_with_the_implementation_chosen_by_operation_count(capsys):
    nt = stax.load()
    network = nt.stax.serial(nt.stax.Dense(4), nt.stax.Relu(), nt.stax.Dense(2))
    x = X1.reshape(4, -1)
    params = params_of(network, x)
    found = [
        nt.empirical_ntk_fn(network[1], vmap_axes=0, implementation=i)(x, None, params)
        for i in (3, 0)
    ]
    close(*found)
    assert "flops=" in capsys.readouterr().out


@installed
def test_batched(convolutional):
    nt, network, params, expected = convolutional
    ntk = jax.jit(nt.empirical_ntk_fn(network[1], implementation=1))
    batched = nt.batch(ntk, batch_size=2, device_count=0, store_on_device=False)
    close(batched(X1, X2, params), traced(expected))


@installed
@pytest.mark.parametrize(
    ("method", "outputs"), [("structured", "mean"), ("structured", "full"), ("contraction", "mean")]
)
def test_our_kernel_is_the_peers(convolutional, method, outputs):
    nt, network, params, _ = convolutional
    trace_axes = () if outputs == "full" else (-1,)
    options = {"trace_axes": trace_axes, "vmap_axes": 0, "implementation": 3}
    peer = jax.jit(nt.empirical_ntk_fn(network[1], **options))(X1, X2, params)
    ours = kernels.ntk(stax.apply_fn(network), method=method, outputs=outputs)(params, X1, X2)
    close(ours, peer)

"""neural-tangents on current JAX: `stax` networks as functions, and their analytic kernels.

    from entropax.models import stax

    nt = stax.load()
    network = nt.stax.serial(nt.stax.Dense(512), nt.stax.Relu(), nt.stax.Dense(10))
    init_fn, _, _ = network
    _, params = init_fn(jax.random.key(0), x.shape)
    logits = stax.apply_fn(network)(params, x)
    limit = stax.analytic_kernel(network)(x)

neural-tangents 0.6.5, its last release, imports on JAX up to 0.5.3; its structured derivatives work
up to 0.4.25. What it misses are names that JAX has moved, renamed or dropped. `load` lends them to
JAX for as long as the import lasts, and afterwards replaces names inside neural-tangents alone.

TensorFlow serves only `neural_tangents.experimental`, the conversion of TensorFlow models. It is
not loaded: that part is left out of the import, and `import neural_tangents.experimental` still
brings it. Everything here works beside `pip install --no-deps neural-tangents frozendict`, too,
which saves the two gigabytes of TensorFlow.
"""

import contextlib
import functools
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, TypeAlias

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
from jax.interpreters import ad
from jaxtyping import Float, Shaped

from entropax.types import ApplyFn, Array

Network: TypeAlias = tuple[Any, ...]

# Where JAX keeps today what neural-tangents looks for in `jax.core`, and what it uses of
# `jax.interpreters.ad` while it runs.
MOVED = ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")
USED = (
    "UndefinedPrimal",
    "Zero",
    "add_jaxvals_p",
    "add_tangents",
    "get_primitive_transpose",
    "is_undefined_primal",
    "primitive_jvps",
)


@functools.cache
def load() -> ModuleType:
    """Import neural-tangents, and make what does not run on this JAX run.

    JAX is as before afterwards: nothing stays that was added to it for the import.

    Returns:
      The module `neural_tangents`, without its `experimental`.

    Raises:
      ImportError: neural-tangents is not installed, or it needs a name that this JAX does not have.
    """
    for module, names in ((jax.extend.core, MOVED), (ad, USED)):
        missing = [name for name in names if not hasattr(module, name)]
        if missing:
            raise ImportError(
                f"neural-tangents needs {', '.join(missing)} from {module.__name__}, and JAX "
                f"{jax.__version__} has no such name; entropax knows how to load it on JAX 0.10 to "
                "0.12."
            )
    try:
        with _older_names():
            neural_tangents = importlib.import_module("neural_tangents")
            empirical = importlib.import_module("neural_tangents._src.empirical")
    except (ImportError, AttributeError) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent in ("neural_tangents", "frozendict"):
            raise ImportError(
                "Networks of neural-tangents need an extra that is not installed: "
                'pip install "entropax[stax]".'
            ) from error
        raise ImportError(
            f"neural-tangents does not import on JAX {jax.__version__} ({error}); entropax knows "
            "how to load its version 0.6.5 on JAX 0.10 to 0.12."
        ) from error
    vars(neural_tangents).pop("experimental", None)  # the stand-in of `_older_names`
    replacements = _replacements(empirical)
    unknown = [name for name in replacements if not hasattr(empirical, name)]
    if unknown:
        raise ImportError(
            f"neural-tangents {neural_tangents.__version__} has no {', '.join(unknown)} where its "
            "version 0.6.5 has; entropax knows how to load that version."
        )
    vars(empirical).update(replacements)
    return neural_tangents


@contextlib.contextmanager
def _older_names() -> Iterator[None]:
    """Lend JAX the names that neural-tangents imports from it, and take them back.

    A module without content stands in for the part of neural-tangents that needs TensorFlow.
    """
    util = ModuleType("jax.util")
    vars(util).update(safe_map=_map, safe_zip=_zip)
    modules = {
        "jax.util": util,
        "neural_tangents.experimental": ModuleType("neural_tangents.experimental"),
    }
    names: list[tuple[ModuleType, str, object]] = [
        (jax.core, name, getattr(jax.extend.core, name)) for name in MOVED
    ]
    # A key in tables of rules; no equation has this primitive any more.
    names.append((ad, "zeros_like_p", object()))
    names = [(module, name, value) for module, name, value in names if name not in vars(module)]
    hidden = {name: sys.modules[name] for name in modules if name in sys.modules}
    for module, name, value in names:
        setattr(module, name, value)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for module, name, _ in names:
            delattr(module, name)
        for name in modules:
            del sys.modules[name]
        sys.modules.update(hidden)


def _map(f: Callable[..., Any], *lists: Any) -> list[Any]:
    """`map` over lists of one length."""
    return [f(*values) for values in _zip(*lists)]


def _zip(*lists: Any) -> list[Any]:
    """`zip` of lists of one length."""
    return list(zip(*lists, strict=True))


def _replacements(empirical: ModuleType) -> dict[str, Any]:
    """What the names in the module of empirical kernels have to mean on this JAX."""

    def primals_out_and_pullback(
        fn: Callable[..., Any], mode: Any, j_rules: bool, s_rules: bool, fwd: Any, *primals: Any
    ) -> tuple[Any, Callable[..., Any]]:
        # The equations of the linearised function, which an interpreter of JAX gave of old.
        leaves, treedef = jax.tree.flatten(primals)
        with jax.disable_jit():
            out, linear = jax.linearize(
                lambda *args: fn(*jax.tree.unflatten(treedef, args)), *leaves
            )
            closed = jax.make_jaxpr(linear)(*leaves)

        def pullback(*cotangents: Any) -> Any:
            collected = empirical._backward_pass(
                closed.jaxpr,
                mode=mode,
                consts=closed.consts,
                primals_in=[ad.UndefinedPrimal(v.aval) for v in closed.jaxpr.invars],
                cotangents_in=tuple(jax.tree.leaves(cotangents)),
                _j_rules=j_rules,
                _s_rules=s_rules,
                _fwd=fwd,
            )
            return jax.tree.unflatten(treedef, collected)

        return out, pullback

    def eqn_vjp(eqn: Any, cotangent: Any, *invals: Any) -> Any:
        # Without the names of scopes, which only error messages and profiles show.
        if eqn is None:
            return (cotangent,)
        return ad.get_primitive_transpose(eqn.primitive)(cotangent, *invals, **eqn.params)

    def flops(f: Callable[..., Any], optimize: bool, *args: Any, **kwargs: Any) -> float:
        lowered = jax.jit(f).lower(*args, **kwargs)
        analysis: Any = lowered.compile().cost_analysis() if optimize else lowered.cost_analysis()
        return analysis["flops"]

    # `jnp.size` and `jnp.dtype` do not take any shape and any array any more, as they did.
    arrays = _with(jnp, size=lambda x: math.prod(x.shape), dtype=lambda x: x.dtype)
    scopes = SimpleNamespace(transform_name_stack=lambda _: contextlib.nullcontext())
    # Its own checks of cotangents call functions that are gone.
    config = SimpleNamespace(jax_enable_checks=False)
    return {
        "_get_primals_out_and_pullback": primals_out_and_pullback,
        "_eqn_vjp_fn": eqn_vjp,
        "_get_flops": flops,
        "jnp": arrays,
        "core": _with(jax.core, DShapedArray=type("DShapedArray", (), {})),
        "ad": _with(ad, config=config, source_info_util=scopes),
    }


def _with(module: ModuleType, **names: object) -> SimpleNamespace:
    """A module's names with some of them replaced; the module itself is left alone."""
    return SimpleNamespace(**{**vars(module), **names})


def apply_fn(network: Network) -> ApplyFn:
    """The function of a `stax` network, as every part of entropax takes it.

    Args:
      network: what `stax.serial` and the layers return: `(init_fn, apply_fn, kernel_fn)`.

    Returns:
      `apply_fn(params, x) -> outputs`, for parameters from the network's `init_fn`.

    Raises:
      ValueError: `network` is not such a triple.

    A linear map, by hand:

    >>> import jax.numpy as jnp
    >>> network = (lambda key, shape: ..., lambda params, x, **_: x @ params, lambda x1, x2: ...)
    >>> apply_fn(network)(jnp.ones((3, 2)), jnp.ones((4, 3))).shape
    (4, 2)
    """
    _, apply, _ = _checked(network)

    def apply_to(params: Any, x: Shaped[Array, "n *shape"]) -> Array:
        return apply(params, x)

    return apply_to


def analytic_kernel(network: Network, *, kind: str = "ntk") -> Callable[..., Float[Array, "n m"]]:
    r"""The kernel of a `stax` network whose layers are infinitely wide.

    With the network $f$ of random parameters $\theta$ and any one of its outputs,

    $$\mathrm{NNGP}(x, x') = \mathbb{E}\,f(x)\,f(x'), \qquad
    \mathrm{NTK}(x, x') = \mathbb{E}\,\nabla_\theta f(x) \cdot \nabla_\theta f(x').$$

    It belongs to one output: the empirical kernel it is the limit of is the mean over the outputs.

    Args:
      network: what `stax.serial` and the layers return: `(init_fn, apply_fn, kernel_fn)`.
      kind: `"ntk"` or `"nngp"`.

    Returns:
      `kernel_fn(x1, x2=None) -> [n, m]` for inputs `[n, ...]` and `[m, ...]`; `x2=None` means `x1`.
      Calling it raises a ValueError if the network's output has axes other than examples and
      classes.

    Raises:
      ValueError: `network` is not such a triple, or `kind` is another word.

    Reference: A. Jacot, F. Gabriel, C. Hongler, "Neural Tangent Kernel: Convergence and
    Generalization in Neural Networks" (2018), Theorem 1; for the NNGP, its Proposition 1.

    A linear map with weights of variance 1/3, by hand:

    >>> import jax.numpy as jnp
    >>> def kernel_fn(x1, x2=None, get="ntk"):
    ...     return x1 @ (x1 if x2 is None else x2).T / 3
    >>> network = (lambda key, shape: ..., lambda params, x: x @ params / 3**0.5, kernel_fn)
    >>> analytic_kernel(network)(jnp.ones((2, 3)), jnp.ones((4, 3))).shape
    (2, 4)
    """
    if kind not in ("ntk", "nngp"):
        raise ValueError(f'`kind` must be "ntk" or "nngp", got {kind!r}.')
    *_, kernel = _checked(network)

    def kernel_fn(
        x1: Float[Array, "n *shape"], x2: Float[Array, "m *shape"] | None = None
    ) -> Float[Array, "n m"]:
        with jax.default_matmul_precision("highest"):
            values = kernel(x1, x2, kind)
        if values.ndim != 2:
            raise ValueError(
                f"The kernel of this network has the shape {values.shape} instead of one number "
                "for each pair of examples; end the network with a layer that leaves no other axes "
                "than examples and classes, such as Flatten or GlobalAvgPool."
            )
        return values

    return kernel_fn


def _checked(network: Network) -> Network:
    if len(network) != 3 or not all(map(callable, network)):
        raise ValueError(
            "A network is the triple (init_fn, apply_fn, kernel_fn) that `stax.serial` returns, "
            f"got {network!r}."
        )
    return network

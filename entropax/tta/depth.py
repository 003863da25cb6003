"""How deep in a network each of its parameters is, whatever their names."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import PyTree

from entropax.types import Array, Params

# Which parameters a value is made of; None once data have come in.
_Sources: TypeAlias = frozenset[int] | None


def order_of_use(
    function: Callable[[Params, Any], PyTree[Array]], params: Params, data: PyTree[Array]
) -> list[int]:
    """Rank of each parameter in the order in which `function(params, data)` puts them to the data.

    What happens to a parameter before (a cast, a reparameterisation) does not count. Parameters
    that meet the data in the same operation are ranked in the order of the tree, and those that
    never meet them come last. The function is traced and not run.

    Args:
      function: what a network computes.
      params: a tree of arrays.
      data: its inputs.

    Returns:
      A permutation of 0, 1, ..., with a rank for each of `jax.tree.leaves(params)`.

    >>> import jax.numpy as jnp
    >>> params = {"last": jnp.ones(2), "first": jnp.ones(2)}  # the tree has "first" first
    >>> order_of_use(lambda p, x: (x * p["last"]) + p["first"], params, jnp.ones(2))
    [1, 0]
    """
    number = len(jax.tree.leaves(params))
    program = jax.make_jaxpr(function)(params, data).jaxpr
    sources: list[_Sources] = [frozenset([i]) for i in range(number)]
    order: dict[int, None] = {}
    _follow(program, sources + [None] * (len(program.invars) - number), order)
    order |= dict.fromkeys(range(number))
    rank = {parameter: position for position, parameter in enumerate(order)}
    return [rank[parameter] for parameter in range(number)]


def _follow(program: Jaxpr, inputs: list[_Sources], order: dict[int, None]) -> list[_Sources]:
    """Note in `order` the parameters that meet data; return what the outputs are made of."""
    # Variables are looked up by identity: literals, which stand among them, cannot be hashed.
    known = dict(zip(map(id, program.invars), inputs, strict=True))
    for equation in program.eqns:
        sources = [known.get(id(atom), frozenset()) for atom in equation.invars]
        inner = _inner_program(equation.params)
        if inner is not None and len(inner.invars) == len(sources):
            made = _follow(inner, sources, order)
        else:
            parameters = frozenset().union(*(each for each in sources if each is not None))
            mixed = any(each is None for each in sources)
            if mixed:
                order |= dict.fromkeys(sorted(parameters))
            made = [None if mixed else parameters] * len(equation.outvars)
        known.update(zip(map(id, equation.outvars), made, strict=True))
    return [known.get(id(atom), frozenset()) for atom in program.outvars]


def _inner_program(params: dict[str, Any]) -> Jaxpr | None:
    """The program that a jitted, rematerialised or scanned function consists of."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        program = params.get(name)
        if isinstance(program, ClosedJaxpr):
            return program.jaxpr
        if isinstance(program, Jaxpr):
            return program
    return None

"""Reading a network: which parameters multiply activations, and which enter in some other way.

The function is traced for one example and its operations are followed from the parameters on. As
long as a value depends on parameters alone it is only a view of one (transposed, reshaped, scaled)
or something more general; where it meets the data we look at the operation. If all that a parameter
ever does is to multiply activations, its derivative is a sum of outer products (see `layers`).
Everything else is differentiated as it stands.

Nothing is assumed about the framework: linen, nnx, haiku, stax and plain functions are the same
here. Calls (jit, remat) are entered when a parameter goes into them.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.extend.core import primitives as p
from jaxtyping import Float, PyTree

from entropax.convolution import NAME, convolution
from entropax.kernels.layers import Layer, layer_of, shaped
from entropax.types import Array

_CALLS = {p.jit_p: "jaxpr", p.closed_call_p: "call_jaxpr", p.remat_p: "jaxpr"}
_CUSTOM_CALLS = (p.custom_jvp_call_p, p.custom_vjp_call_p)
# A parameter that is added, scaled with or appended is as a rule as small as what it is combined
# with, so that its plain derivative is the right thing to have, and nothing to warn of.
_ELEMENTWISE = {
    *(p.add_p, p.add_jaxvals_p, p.sub_p, p.mul_p, p.div_p, p.max_p, p.min_p, p.pow_p),
    *(p.select_n_p, p.concatenate_p, p.dynamic_update_slice_p, p.scatter_add_p),
}
_REARRANGEMENTS = {p.transpose_p, p.reshape_p, p.squeeze_p, p.rev_p}


class View(NamedTuple):
    """A value that holds the entries of one parameter, rearranged and times a number.

    Attributes:
      parameter: index of the parameter.
      rearrangement: what was done to its axes.
      factors: `(value, power)` of the numbers it was multiplied with.
    """

    parameter: int
    rearrangement: tuple[Hashable, ...] = ()
    factors: tuple[tuple[int, int], ...] = ()


class Value(NamedTuple):
    """What is known of a value while the function is read.

    Attributes:
      slot: where evaluation keeps it.
      parameters: those it depends on; empty once it depends on the data as well, since what has met
        the data is an activation.
      data: whether it depends on the data.
      view: set if it is a view of a parameter.
    """

    slot: int
    parameters: frozenset[int] = frozenset()
    data: bool = False
    view: View | None = None


class Operation(NamedTuple):
    """One operation, on numbered slots."""

    eqn: JaxprEqn
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Use(NamedTuple):
    """A parameter's use in a layer.

    Attributes:
      operation: index of the operation.
      layer: what it does with the parameter.
      view: what it sees of the parameter.
    """

    operation: int
    layer: Layer
    view: View


class Structure(NamedTuple):
    """A function of one example, read.

    Attributes:
      operations: in order of evaluation.
      constants: values of the slots that are neither inputs nor results.
      num_slots: of all values.
      inputs: slots of the parameters and the data.
      output: slot of the result.
      uses: for every parameter that only multiplies activations, where.
      reasons: for every other parameter that one would expect to, why it does not.
      unused: parameters on which the output does not depend.
    """

    operations: tuple[Operation, ...]
    constants: dict[int, Any]
    num_slots: int
    inputs: tuple[int, ...]
    output: int
    uses: dict[int, tuple[Use, ...]]
    reasons: dict[int, str]
    unused: frozenset[int]

    def zeros(self, use: Use) -> Array:
        """Zeros like the result of the operation in which a layer is."""
        result = shaped(self.operations[use.operation].eqn.outvars[0])
        return jnp.zeros(result.shape, result.dtype)

    def operand(self, use: Use, values: Sequence[Any]) -> Array:
        """What a layer reads, among the values of an evaluation."""
        return values[self.operations[use.operation].inputs[use.layer.data]]


def read_structure(
    function: Callable[..., Array], params: Sequence[Any], x: PyTree[Any]
) -> Structure:
    """Read `function(params, x) -> outputs` for one example `x`.

    Args:
      function: what to read; arrays that it closes over are constants.
      params: the arrays to differentiate with respect to, or their shapes.
      x: one example, or its shape, without a batch axis.
    """
    closed = jax.make_jaxpr(function)(params, x)
    reader = _Reader()
    inputs = [
        *(Value(reader.slot(), frozenset({i}), view=View(i)) for i in range(len(params))),
        *(Value(reader.slot(), data=True) for _ in jax.tree.leaves(x)),
    ]
    (output,) = reader.read(closed.jaxpr, closed.consts, inputs)
    return reader.structure(inputs, output, len(params))


class _Reader:
    """Follows the parameters through a jaxpr; the attributes are those of `Structure`."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.constants: dict[int, Any] = {}
        self.num_slots = 0
        self.uses: defaultdict[int, list[Use]] = defaultdict(list)
        self.reasons: dict[int, str] = {}
        self.elementwise: set[int] = set()

    def slot(self) -> int:
        self.num_slots += 1
        return self.num_slots - 1

    def constant(self, value: Any) -> Value:
        slot = self.slot()
        self.constants[slot] = value
        return Value(slot)

    def read(self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        known: dict[Var, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        known |= {
            var: self.constant(value) for var, value in zip(jaxpr.constvars, consts, strict=True)
        }

        def value_of(atom: Any) -> Value:
            return self.constant(atom.val) if isinstance(atom, Literal) else known[atom]

        for eqn in jaxpr.eqns:
            values = self.result(eqn, [value_of(atom) for atom in eqn.invars])
            known |= zip(eqn.outvars, values, strict=True)
        return [value_of(atom) for atom in jaxpr.outvars]

    def result(self, eqn: JaxprEqn, operands: list[Value]) -> list[Value]:
        parameters = frozenset().union(*(operand.parameters for operand in operands))
        if parameters and eqn.primitive in _CALLS:
            body = eqn.params[_CALLS[eqn.primitive]]
            if isinstance(body, ClosedJaxpr):
                return self.read(body.jaxpr, body.consts, operands)
            return self.read(body, (), operands)
        outputs = tuple(self.slot() for _ in eqn.outvars)
        self.operations.append(Operation(eqn, tuple(operand.slot for operand in operands), outputs))
        if any(operand.data for operand in operands):
            if parameters:
                self.meet(eqn, operands, parameters)
            return [Value(slot, data=True) for slot in outputs]
        view = _view(eqn, operands) if parameters else None
        return [Value(slot, parameters, view=view) for slot in outputs]

    def meet(self, eqn: JaxprEqn, operands: list[Value], parameters: frozenset[int]) -> None:
        """Note how parameters are combined with data."""
        weights = [i for i, operand in enumerate(operands) if operand.parameters]
        inner = _inside(eqn)
        if len(weights) == 1 and (view := operands[weights[0]].view) and inner is not None:
            layer = layer_of(inner, weights[0])
            if layer is not None and operands[layer.data].data:
                self.uses[view.parameter].append(Use(len(self.operations) - 1, layer, view))
                return
        self.elementwise |= parameters
        if eqn.primitive not in _ELEMENTWISE:
            self.reasons |= dict.fromkeys(parameters, f"it enters `{eqn.primitive.name}`")

    def structure(self, inputs: Sequence[Value], output: Value, num_params: int) -> Structure:
        met = self.uses.keys() | output.parameters
        reasons = dict(self.reasons)
        uses = {}
        for parameter, found in self.uses.items():
            kinds = {(use.layer.layout, use.view.rearrangement) for use in found}
            if parameter in self.elementwise or parameter in output.parameters:
                reasons.setdefault(parameter, "it is used in other ways as well")
            elif len(kinds) > 1:
                reasons[parameter] = "layers of different layout share it"
            else:
                uses[parameter] = tuple(found)
        return Structure(
            operations=tuple(self.operations),
            constants=self.constants,
            num_slots=self.num_slots,
            inputs=tuple(value.slot for value in inputs),
            output=output.slot,
            uses=uses,
            reasons=reasons,
            unused=frozenset(set(range(num_params)) - self.elementwise - uses.keys() - met),
        )


def _inside(eqn: JaxprEqn) -> JaxprEqn | None:
    """The operation itself, or the one inside entropax's convolution, whose rule is exact.

    Any other call with derivatives of its own stays closed: its rule may mean something else than
    the derivative of its body (a straight-through estimator, a scaled or a stopped gradient).
    """
    if eqn.primitive not in _CUSTOM_CALLS:
        return eqn
    jaxpr = eqn.params["call_jaxpr"].jaxpr
    if jaxpr.debug_info.func_name != NAME or len(jaxpr.eqns) != 1:
        return None
    return jaxpr.eqns[0]


def _view(eqn: JaxprEqn, operands: list[Value]) -> View | None:
    """The result as a view of the parameter that one operand is a view of, or None."""
    if len(eqn.outvars) != 1:
        return None
    result = shaped(eqn.outvars[0])
    whole = [i for i, operand in enumerate(operands) if operand.view is not None]
    if len(whole) != 1 or any(operand.parameters for operand in operands if operand.view is None):
        return None
    (position,) = whole
    view, before = operands[position].view, shaped(eqn.invars[position])
    assert view is not None
    if eqn.primitive in (p.mul_p, p.div_p):
        other = shaped(eqn.invars[1 - position])
        if other.size != 1 or before.size != result.size:
            return None
        if eqn.primitive is p.div_p and position == 1:
            return None
        power = -1 if eqn.primitive is p.div_p else 1
        factors = (*view.factors, (operands[1 - position].slot, power))
        return view._replace(factors=factors)
    if eqn.primitive in (p.copy_p, p.convert_element_type_p):
        return view if jnp.issubdtype(result.dtype, jnp.floating) else None
    if eqn.primitive in _REARRANGEMENTS and len(operands) == 1:
        what: Hashable = (eqn.primitive.name, result.shape, _axes(eqn))
    elif eqn.primitive is p.broadcast_in_dim_p and result.size == before.size:
        what = ("reshape", result.shape, None)
    else:
        return None
    return view._replace(rearrangement=(*view.rearrangement, what))


def _axes(eqn: JaxprEqn) -> Hashable:
    axes = eqn.params.get("permutation", eqn.params.get("dimensions"))
    return None if axes is None else tuple(axes)


def evaluate(
    structure: Structure,
    inputs: Sequence[Any],
    perturbations: dict[int, Array],
) -> tuple[Array, list[Any]]:
    """Evaluate the function, with something added to the results of some operations.

    Args:
      structure: of the function.
      inputs: parameters and the leaves of the data.
      perturbations: what is added to the result of an operation, by its index.

    Returns:
      The output, and all values by slot.
    """
    values: list[Any] = [None] * structure.num_slots
    for slot, value in structure.constants.items():
        values[slot] = value
    for slot, value in zip(structure.inputs, inputs, strict=True):
        values[slot] = value
    layers = {use.operation for uses in structure.uses.values() for use in uses}
    for i, (eqn, sources, targets) in enumerate(structure.operations):
        operands = [values[slot] for slot in sources]
        results: Any
        if i in layers and eqn.primitive is p.conv_general_dilated_p:
            results = convolution(*operands, **_convolution_options(eqn))
        else:
            options = eqn.primitive.get_bind_params(eqn.params)
            results = eqn.primitive.bind(*operands, **options)
        results = results if eqn.primitive.multiple_results else [results]
        if i in perturbations:
            results = [results[0] + perturbations[i]]
        for slot, value in zip(targets, results, strict=True):
            values[slot] = value
    return values[structure.output], values


def _convolution_options(eqn: JaxprEqn) -> dict[str, Any]:
    """Arguments of `jax.lax.conv_general_dilated`, from those of its operation."""
    options = {**eqn.params, "strides": eqn.params["window_strides"]}
    del options["window_strides"]
    return options


def factor(view: View, values: Sequence[Any]) -> Float[Array, ""]:
    """The number that a view multiplies its parameter with."""
    product = jnp.ones(())
    for slot, power in view.factors:
        number = jnp.reshape(values[slot], ())
        product = product * number if power == 1 else product / number
    return product

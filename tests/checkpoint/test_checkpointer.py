"""What is kept, what is written, and what is left after every kind of accident."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from checkpoint.saver import state_of
from flax import nnx
from flax.training.train_state import TrainState

from entropax.checkpoint import Best, EntropyCheckpointer

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "uncertainty"
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE.parents[1])}
NAN = float("nan")


def state(step):
    return {"w": jnp.full(3, step), "key": jax.random.key(step)}


def run(keeper, values, first=0, **options):
    return [
        keeper.step(step, state(step), value, **options)
        for step, value in enumerate(values, start=first)
    ]


def run_and_wait(keeper, values, **options):
    run(keeper, values, **options)
    keeper.wait()


def on_disk(directory, phase="val"):
    return sorted(int(path.name) for path in (directory / phase).iterdir())


def snapshot(directory):
    """Every file, and when it was written."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files}


def same(a, b):
    if not isinstance(a, jax.Array) or not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        return np.asarray(a).tobytes() == np.asarray(b).tobytes()
    return same(jax.random.key_data(a), jax.random.key_data(b))


def test_the_recorded_decisions(tmp_path):
    """Eight epochs of the published class, from its logits."""
    golden = json.loads((GOLDEN / "entropy_ckpt.json").read_text())
    with (
        np.load(GOLDEN / "entropy_inputs.npz") as inputs,
        EntropyCheckpointer(tmp_path) as keeper,
    ):
        update = jax.jit(keeper.accumulator.update)
        for epoch in golden["epochs"]:
            sums = keeper.accumulator.init()
            for i in range(len(epoch["batch_sizes"])):
                logits = inputs[f"e{epoch['epoch']}_b{i}"]
                fill = ((0, 40 - len(logits)), (0, 0))
                sums = update(sums, np.pad(logits, fill), where=np.arange(40) < len(logits))
            decision = keeper.step(epoch["epoch"], state(epoch["epoch"]), sums)
            assert decision.saved == epoch["ref_saves"]
            assert decision.value == pytest.approx(epoch["top2_entropy_ref_float32"], abs=2e-7)
            assert keeper.history()[-1].examples == sum(
                golden["epochs"][keeper.best.step]["batch_sizes"]
            )
        assert keeper.best.step == golden["ref_best_epoch"]
    assert on_disk(tmp_path) == [golden["ref_best_epoch"]]


@pytest.mark.parametrize(
    ("select", "reasons", "best"),
    [
        # The first of equals stays, NaN displaces nothing.
        ("max", "saved saved not_better not_better not_better not_finite not_better", (1, 0.61)),
        ("min", "saved not_better not_better not_better saved not_finite saved", (6, 0.2)),
    ],
)
def test_decisions(tmp_path, select, reasons, best):
    values = [0.4, 0.61, 0.55, 0.61, 0.3, NAN, 0.2]
    with EntropyCheckpointer(tmp_path, select=select) as keeper:
        decisions = run(keeper, values)
        assert keeper.best == Best(*best)
    assert [d.reason for d in decisions] == reasons.split()
    assert [d.saved for d in decisions] == [d.reason == "saved" for d in decisions]
    assert (decisions[-1].best_step, decisions[-1].best_value) == best
    assert np.array_equal([d.value for d in decisions], values, equal_nan=True)
    assert on_disk(tmp_path) == [best[0]]
    assert not (tmp_path / "val" / str(best[0]) / "state" / "missing").exists()


def test_nan_first_and_infinities(tmp_path):
    """In the published code a first NaN is the best for ever."""
    with EntropyCheckpointer(tmp_path) as keeper:
        first, infinite, finite = run(keeper, [NAN, np.inf, 0.1])
        assert (first.saved, first.best_value, first.best_step) == (False, None, None)
        assert infinite.reason == "not_finite"
        assert finite.saved
        assert keeper.best == Best(2, 0.1)


def test_several_best_and_the_latest(tmp_path):
    with EntropyCheckpointer(tmp_path, keep_best=2, keep_latest=2) as keeper:
        decisions = run(keeper, [0.4, 0.6, 0.5, 0.6, 0.3, NAN, 0.2])
        assert [k.step for k in keeper.history()] == [1, 3, 4, 6]
        # The latest are saved whatever they are worth, but for those that are not finite.
        assert [d.saved for d in decisions] == [True] * 5 + [False, True]
        assert [d.reason for d in decisions][-3:] == ["not_better", "not_finite", "not_better"]
        assert same(keeper.restore_best(state(0))["w"], state(1)["w"])
        assert same(keeper.restore_latest(state(0))["key"], state(6)["key"])
    assert on_disk(tmp_path) == [1, 3, 4, 6]


def test_a_step_that_is_not_kept_writes_nothing(tmp_path):
    with EntropyCheckpointer(tmp_path) as keeper:
        run(keeper, [0.5])
        keeper.wait()
        before = snapshot(tmp_path)
        run(keeper, [0.4, NAN, 0.5], first=1)
        keeper.wait()
        assert snapshot(tmp_path) == before


def test_warm_up_and_floor(tmp_path):
    """The untrained network has the highest entropy, and a poor one may as well."""
    accuracies = [0.1, 0.1, 0.9, 0.8, 0.3, 0.9]
    with EntropyCheckpointer(
        tmp_path, min_step=2, accept=lambda metadata: metadata["accuracy"] > 0.5
    ) as keeper:
        reasons = [
            keeper.step(step, state(step), value, metadata={"accuracy": accuracy}).reason
            for step, (value, accuracy) in enumerate(
                zip([0.7, 0.6, 0.2, 0.3, 0.5, 0.25], accuracies, strict=True)
            )
        ]
        assert keeper.best == Best(3, 0.3)
        assert keeper.history()[0].metadata == {"accuracy": 0.8}
    assert reasons == ["warm_up", "warm_up", "saved", "saved", "rejected", "not_better"]
    assert on_disk(tmp_path) == [3]


def test_the_latest_of_the_warm_up_is_no_best(tmp_path):
    with EntropyCheckpointer(tmp_path, min_step=2, keep_latest=1) as keeper:
        first, second = run(keeper, [0.7, 0.6])
        assert (first.saved, first.reason) == (True, "warm_up")
        assert second.best_step is None
        with pytest.raises(FileNotFoundError, match="There is no best checkpoint in"):
            keeper.restore_best(state(0))
    with EntropyCheckpointer(tmp_path, min_step=2, keep_latest=1) as keeper:
        assert keeper.best is None
        assert run(keeper, [0.1], first=2)[0].reason == "saved"
        assert keeper.best == Best(2, 0.1)


def test_resuming_finds_the_best(tmp_path):
    with EntropyCheckpointer(tmp_path, keep_best=2) as keeper:
        run(keeper, [0.5, 0.7, 0.6])
    with EntropyCheckpointer(tmp_path, keep_best=2) as keeper:
        assert keeper.best == Best(1, 0.7)
        assert [k.step for k in keeper.history()] == [1, 2]
        decisions = run(keeper, [0.55, 0.7, 0.65], first=3)
        assert [d.reason for d in decisions] == ["not_better", "saved", "not_better"]
        assert keeper.best == Best(1, 0.7)
    assert on_disk(tmp_path) == [1, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "min"}, "ranked by select 'max' and not 'min'"),
        ({"mode": "full"}, "ranked by mode 'top2' and not 'full'"),
        ({"log_eps": 1e-8}, "ranked by log_eps 1e-10 and not 1e-08"),
        ({"mode": same}, "ranked by mode 'top2' and not 'same'"),
    ],
)
def test_a_directory_of_another_kind_is_refused(tmp_path, options, message):
    with EntropyCheckpointer(tmp_path) as keeper:
        run(keeper, [0.5])
    with pytest.raises(ValueError, match=message):
        EntropyCheckpointer(tmp_path, **options)
    EntropyCheckpointer(tmp_path, **options, phase="train").close()


def test_phases_do_not_compete(tmp_path):
    with (
        EntropyCheckpointer(tmp_path, phase="train") as train,
        EntropyCheckpointer(tmp_path) as val,
    ):
        run(train, [0.7, 0.3])
        run(val, [0.2, 0.3])
    assert (on_disk(tmp_path, "train"), on_disk(tmp_path)) == ([0], [1])


def test_going_back(tmp_path):
    with EntropyCheckpointer(tmp_path, keep_latest=1) as keeper:
        run(keeper, [0.5, 0.7, 0.6])
    with EntropyCheckpointer(tmp_path, keep_latest=1) as keeper:
        assert run(keeper, [0.9], first=1)[0].reason == "duplicate_step"
        assert run(keeper, [0.9], first=0)[0].reason == "saved"
        assert [k.step for k in keeper.history()] == [0]
        # The latest is the one that was written last, whatever is there of higher steps.
        run(keeper, [0.1, 0.2], first=5)
        assert run(keeper, [0.3], first=3)[0].saved
        assert [k.step for k in keeper.history()] == [0, 3]
        assert same(keeper.restore_latest(state(0))["w"], state(3)["w"])
    with EntropyCheckpointer(tmp_path, keep_latest=1) as keeper:
        assert run(keeper, [0.3], first=2)[0].saved
    assert on_disk(tmp_path) == [0, 2]


def later_ones(tmp_path, **options):
    with EntropyCheckpointer(tmp_path, keep_best=3) as keeper:
        run(keeper, [0.5, 0.7, 0.6], first=4)
    return EntropyCheckpointer(tmp_path, on_rewind="discard_later", **options)


@pytest.mark.parametrize(
    ("options", "given", "reason"),
    [
        ({"min_step": 3, "keep_latest": 1}, state(2), "warm_up"),
        ({"accept": lambda metadata: False}, state(2), "rejected"),
        ({}, {"name": "vit"}, None),
    ],
)
def test_going_back_deletes_nothing_for_nothing(tmp_path, options, given, reason):
    with later_ones(tmp_path, **options) as keeper:
        if reason is None:
            with pytest.raises(ValueError, match="may hold arrays and numbers"):
                keeper.step(2, given, 0.1)
        else:
            assert keeper.step(2, given, 0.1).reason == reason
        assert keeper.best == Best(5, 0.7)
        assert same(keeper.restore_best(state(0))["w"], state(5)["w"])
    assert {4, 5, 6} <= set(on_disk(tmp_path))


def test_going_back_and_discarding(tmp_path, monkeypatch):
    with later_ones(tmp_path) as keeper:
        deleted = []
        remove = shutil.rmtree

        def record(path, *args, **kwargs):
            if Path(path).parent.name == "val" and Path(path).name.isdecimal():
                deleted.append((int(Path(path).name), (tmp_path / "val" / "2" / "state").is_dir()))
            return remove(path, *args, **kwargs)

        monkeypatch.setattr(shutil, "rmtree", record)
        assert run(keeper, [0.1], first=2)[0].saved
        # What is discarded is discarded when the new one is complete.
        assert sorted(deleted) == [(step, True) for step in (4, 5, 6)]
        assert keeper.best == Best(2, 0.1)
    assert on_disk(tmp_path) == [2]


def test_going_back_to_a_step_that_is_there(tmp_path):
    """It is replaced where another good one is left, and otherwise stays until one is."""
    with later_ones(tmp_path, keep_best=2) as keeper:
        assert run(keeper, [0.9], first=4)[0].reason == "duplicate_step"
        assert same(keeper.restore_best(state(0))["w"], state(5)["w"])
        assert run(keeper, [0.1], first=7)[0].saved
        assert [k.step for k in keeper.history()] == [7]
        run(keeper, [0.2], first=8)
        assert keeper.step(8, state(80), 0.3).saved
        assert same(keeper.restore_best(state(0))["w"], state(80)["w"])
    assert on_disk(tmp_path) == [7, 8]


def test_a_failure_after_going_back(tmp_path, monkeypatch):
    """What was left behind by going back does not compete after it either."""
    with later_ones(tmp_path, async_save=True) as keeper:
        with monkeypatch.context() as patch:
            for owner, name in ((Path, "rename"), (os, "rename"), (os, "replace")):
                patch.setattr(owner, name, full)
            with pytest.raises(RuntimeError, match="No space left"):
                run_and_wait(keeper, [0.1], first=2)
        assert keeper.best == Best(5, 0.7)
        assert run(keeper, [0.1], first=3)[0].saved
    assert on_disk(tmp_path) == [3]


def full(*_, **__):
    raise OSError("No space left on device")


def test_a_stale_opener_deletes_nothing_better(tmp_path):
    with EntropyCheckpointer(tmp_path) as stale:
        with EntropyCheckpointer(tmp_path) as other:
            run(other, [0.9], first=1)
        assert stale.best is None
        assert run(stale, [0.5], first=2)[0].reason == "not_better"
    assert on_disk(tmp_path) == [1]


def test_what_was_not_known_is_never_deleted(tmp_path):
    """Two that write at the same time are not meant to, and lose nothing of the other's."""
    with EntropyCheckpointer(tmp_path) as one, EntropyCheckpointer(tmp_path) as two:
        run(one, [0.1], first=1)
        two.reload()
        run(two, [NAN], first=0)
        run(one, [0.3], first=2)
        run(two, [0.9], first=3)
        run(one, [0.5], first=4)
    assert set(on_disk(tmp_path)) >= {3, 4}


def test_a_stale_reader_looks_again(tmp_path):
    with EntropyCheckpointer(tmp_path) as reader, EntropyCheckpointer(tmp_path) as writer:
        run(writer, [0.5])
        assert same(reader.restore_best(state(0))["w"], state(0)["w"])
        run(writer, [0.6], first=1)
        assert reader.best == Best(0, 0.5)
        assert same(reader.restore_latest(state(0))["w"], state(1)["w"])
        run(writer, [0.7], first=2)
        reader.reload()
        assert reader.best == Best(2, 0.7)


@pytest.mark.parametrize(
    ("stored", "like", "message"),
    [
        (jax.random.key(0), jax.random.key(0, impl="rbg"), r"key<fry>\[\], expected key<rbg>\[\]"),
        (jax.random.key(0), jax.random.PRNGKey(0), r"key<fry>\[\], expected uint32\[2\]"),
        (jax.random.PRNGKey(0), jax.random.key(0), r"uint32\[2\], expected key<fry>\[\]"),
        (jax.random.key(0, impl="rbg"), jax.random.key(0, impl="unsafe_rbg"), "key<urbg>"),
    ],
)
def test_keys_of_another_kind(tmp_path, stored, like, message):
    with EntropyCheckpointer(tmp_path) as keeper:
        keeper.step(0, {"w": jnp.ones(2), "a": [stored]}, 0.5)
        with pytest.raises(ValueError, match="a/0 is .*" + message):
            keeper.restore_best({"w": jnp.ones(2), "a": [like]})


def mean_logit(logits):
    return jnp.mean(logits, axis=-1)


def test_a_function_as_mode_needs_a_name(tmp_path):
    for nameless in (lambda z: z[..., 0], jax.jit(lambda z: z[..., 0]), partial(mean_logit)):
        with pytest.raises(ValueError, match="define a named function with `def`"):
            EntropyCheckpointer(tmp_path, mode=nameless)
    with EntropyCheckpointer(tmp_path, mode=mean_logit) as keeper:
        run(keeper, [0.5])
    with EntropyCheckpointer(tmp_path, mode=jax.jit(mean_logit)) as keeper:
        assert keeper.best == Best(0, 0.5)


def test_nothing_is_lost_at_the_end_of_the_program(tmp_path):
    code = (
        "import sys, jax.numpy as jnp; from entropax.checkpoint import EntropyCheckpointer\n"
        "keeper = EntropyCheckpointer(sys.argv[1])\n"
        "keeper.step(1, {'w': jnp.ones(1_000_000)}, 0.5)"
    )
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, env=ENVIRONMENT, timeout=120, capture_output=True, text=True)
    assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
    assert on_disk(tmp_path) == [1]
    with EntropyCheckpointer(tmp_path) as keeper:
        restored = keeper.restore_best({"w": jnp.zeros(1_000_000)})
    assert bool(jnp.all(restored["w"] == 1))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(2, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def linen_state():
    module = Net()
    variables = module.init(jax.random.key(0), jnp.ones((1, 2)))
    return TrainState.create(
        apply_fn=module.apply, params=variables["params"], tx=optax.adamw(1e-3)
    )


TREES = {
    "linen": linen_state,
    "nnx": lambda: nnx.state(NnxNet(nnx.Rngs(0))),
    "optax": lambda: optax.chain(optax.clip(1.0), optax.adam(1e-3)).init({"w": jnp.ones(3)}),
    "keys": lambda: {
        "one": jax.random.key(1),
        "many": jax.random.split(jax.random.key(2), 3),
        "rbg": jax.random.key(3, impl="rbg"),
        "old": jax.random.PRNGKey(4),
    },
    "few bits": lambda: [
        jnp.linspace(0, 1, 7, dtype=jnp.bfloat16),
        (jnp.ones(2, jnp.float16), jnp.array([True, False]), jnp.int8(-3)),
        jnp.ones(3, jnp.float8_e4m3fn),
    ],
    "numbers": lambda: {"step": 3, "rate": 0.1, "on": True, "none": None, "np": np.float32(0.3)},
    "numpy": lambda: {"a": np.arange(3), "b": np.float64([[1 / 3]]), "c": np.int64(2**40)},
}


@pytest.mark.parametrize("name", TREES)
def test_any_pytree(tmp_path, name):
    tree = TREES[name]()
    with EntropyCheckpointer(tmp_path) as keeper:
        keeper.step(0, tree, 0.5)
        restored = keeper.restore_best(tree)
    assert jax.tree.structure(restored) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(tree), strict=True):
        assert same(a, b)
        assert isinstance(a, np.ndarray if isinstance(b, np.generic) else type(b))
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)


def test_restoring_needs_shapes_only(tmp_path):
    with EntropyCheckpointer(tmp_path) as keeper:
        keeper.step(0, {"w": jnp.arange(3.0), "key": jax.random.key(7), "step": 5}, 0.5)
        like = jax.eval_shape(lambda: {"w": jnp.zeros(3), "key": jax.random.key(0), "step": 0})
        restored = keeper.restore_best(like)
    assert restored["w"].tolist() == [0, 1, 2]
    assert same(restored["key"], jax.random.key(7))
    assert int(restored["step"]) == 5


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"w": jnp.zeros(4, int), "key": jax.random.key(0)}, r"w is int32\[3\], expected int32\[4"),
        ({"w": jnp.zeros(3), "key": jax.random.key(0)}, r"w is int32\[3\], expected float32\[3"),
        ({"w": 1, "key": jax.random.key(0)}, r"w is int32\[3\], expected a number"),
        ({"w": jnp.zeros(3, int)}, "only one of the two has key"),
    ],
)
def test_another_network(tmp_path, like, message):
    with EntropyCheckpointer(tmp_path) as keeper:
        run(keeper, [0.5])
        with pytest.raises(ValueError, match=message):
            keeper.restore_best(like)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (jnp.ones(3), "must be a pytree with one array or more inside"),
        ({}, "got an empty tree"),
        ({"a": {"name": "vit"}}, "a/name is 'vit' of type str. Text belongs in the metadata"),
        ({"a": jnp.zeros((0, 3))}, r"array without entries, a of shape \(0, 3\)"),
    ],
)
def test_states_that_cannot_be_written(tmp_path, tree, message):
    with EntropyCheckpointer(tmp_path) as keeper:
        with pytest.raises(ValueError, match=message):
            keeper.step(0, tree, 0.5)
        assert keeper.best is None
        assert run(keeper, [0.4])[0].saved


@pytest.mark.parametrize(
    ("step", "options", "message"),
    [
        (-1, {}, "`step` must be an integer, not negative, got -1"),
        (jnp.float32(1), {}, "`step` must be an integer, not negative, got Array"),
        (0, {"metadata": {"a": NAN}}, "`metadata` must be what JSON can hold"),
        (0, {"metadata": {"a": jnp.ones(2)}}, "`metadata` must be what JSON can hold"),
    ],
)
def test_arguments_of_a_step(tmp_path, step, options, message):
    with EntropyCheckpointer(tmp_path) as keeper, pytest.raises(ValueError, match=message):
        keeper.step(step, state(0), 0.5, **options)


def test_sums_of_several_streams_are_no_value(tmp_path):
    with EntropyCheckpointer(tmp_path) as keeper:
        many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), keeper.accumulator.init())
        with pytest.raises(ValueError, match=r"one stream of entropies, got sums of shape \(2,\)"):
            keeper.step(0, state(0), many)


def test_an_array_is_no_value(tmp_path):
    with (
        EntropyCheckpointer(tmp_path) as keeper,
        pytest.raises(ValueError, match="`value` must be one number or sums of `accumulator`"),
    ):
        keeper.step(0, state(0), jnp.ones(2))


def test_a_closed_checkpointer_takes_nothing(tmp_path):
    """orbax says yes, and writes nothing."""
    with EntropyCheckpointer(tmp_path) as keeper:
        run(keeper, [0.5])
    with pytest.raises(ValueError, match="closed; make another one"):
        run(keeper, [0.9], first=1)
    keeper.close()
    assert keeper.best == Best(0, 0.5)
    assert same(keeper.restore_best(state(0))["w"], state(0)["w"])


def test_a_damaged_record(tmp_path):
    with EntropyCheckpointer(tmp_path) as keeper:
        run(keeper, [0.5])
    (tmp_path / "val" / "0" / "record" / "metadata").write_text('{"step": 0')
    with pytest.raises(ValueError, match=r"record of the checkpoint .*0 is damaged"):
        EntropyCheckpointer(tmp_path)


@pytest.mark.parametrize("value", [np.float32(0.5), jnp.float32(0.5), np.array(0.5), 0.5])
def test_numbers_of_any_kind(tmp_path, value):
    """JSON in a background thread knows Python's alone."""
    with EntropyCheckpointer(tmp_path) as keeper:
        assert keeper.step(np.int64(3), state(0), value).saved
        assert keeper.best == Best(3, 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "most"}, "`select` must be 'max' or 'min', got 'most'"),
        ({"mode": "top1"}, "`mode` must be"),
        ({"keep_best": 0}, "`keep_best` must be at least 1, got 0"),
        ({"keep_latest": -1}, "`keep_latest` must be at least 0, got -1"),
        ({"phase": "a/b"}, "`phase` must be the name of a folder, got 'a/b'"),
        ({"phase": ".."}, "`phase` must be the name of a folder"),
        ({"on_rewind": "stop"}, "`on_rewind` must be 'keep' or 'discard_later', got 'stop'"),
    ],
)
def test_options_are_checked(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        EntropyCheckpointer(tmp_path, **options)


def test_what_is_written(tmp_path):
    with EntropyCheckpointer(tmp_path, mode="full", select="min") as keeper:
        sums = keeper.accumulator.update(keeper.accumulator.init(), jnp.zeros((4, 10)))
        keeper.step(5, state(5), sums, metadata={"accuracy": 0.5})
    record = json.loads((tmp_path / "val" / "5" / "record" / "metadata").read_text())
    assert record.pop("value") == pytest.approx(np.log(10), abs=1e-6)
    assert set(record.pop("versions")) == {"entropax", "jax", "orbax.checkpoint"}
    assert record == {
        "step": 5,
        "eligible": True,
        "examples": 4,
        "metadata": {"accuracy": 0.5},
        "written": 0,
        "keys": {"key": "key<fry>[]"},
        "mode": "full",
        "select": "min",
        "log_eps": None,
        "phase": "val",
    }
    # orbax alone can tell the best and read it.
    with ocp.CheckpointManager(tmp_path / "val") as manager:
        assert manager.metrics(5)["value"] == pytest.approx(np.log(10), abs=1e-6)
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state(0))
        restored = manager.restore(
            5, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        )
    assert same(restored["state"]["w"], state(5)["w"])


def test_buffers_may_change_after_the_call(tmp_path):
    """Donated to the next step of training, or overwritten in place."""
    forget = jax.jit(lambda w: w + 1, donate_argnums=0)
    host = np.arange(1000)
    with EntropyCheckpointer(tmp_path, async_save=True) as keeper:
        w = jnp.arange(1000)
        keeper.step(0, {"w": w, "host": host}, 0.5)
        forget(w)
        host[:] = -1
        restored = keeper.restore_best({"w": jnp.zeros(1000, int), "host": np.zeros(1000, int)})
    np.testing.assert_array_equal(restored["w"], np.arange(1000))
    np.testing.assert_array_equal(restored["host"], np.arange(1000))


@pytest.mark.parametrize("async_save", [True, False])
def test_a_failed_write(tmp_path, monkeypatch, async_save):
    """The best is what is on disk, and the next step competes with that."""
    with EntropyCheckpointer(tmp_path, async_save=async_save) as keeper:
        run(keeper, [0.5])
        keeper.wait()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", full)
            patch.setattr(os, "rename", full)
            patch.setattr(os, "replace", full)
            with pytest.raises(RuntimeError, match=r"failed: .*No space left.*is kept"):
                run_and_wait(keeper, [0.9], first=1)
        assert keeper.best == Best(0, 0.5)
        assert same(keeper.restore_best(state(9))["w"], state(0)["w"])
        decisions = run(keeper, [0.4, 0.6], first=2)
        assert [d.reason for d in decisions] == ["not_better", "saved"]
    assert on_disk(tmp_path) == [3]


def test_leaving_by_an_error_waits_too(tmp_path):
    with pytest.raises(ValueError, match="not negative"), EntropyCheckpointer(tmp_path) as keeper:
        keeper.step(-1, state(0), 0.4) if run(keeper, [0.5]) else None
    with EntropyCheckpointer(tmp_path) as keeper:
        assert keeper.best == Best(0, 0.5)


def test_what_is_not_ours_stays(tmp_path):
    """A folder with a number for a name; not a deletion that a kill has interrupted."""
    with EntropyCheckpointer(tmp_path) as keeper:
        run(keeper, [0.5])
    (tmp_path / "val" / "7").mkdir()
    (tmp_path / "val" / "7" / "notes.txt").write_text("mine")
    shutil.copytree(tmp_path / "val" / "0", tmp_path / "val" / "3")
    shutil.rmtree(tmp_path / "val" / "3" / "record")
    with EntropyCheckpointer(tmp_path) as keeper:
        assert keeper.best == Best(0, 0.5)
        assert run(keeper, [0.9], first=7)[0].reason == "duplicate_step"
        assert run(keeper, [0.9], first=8)[0].saved
    assert on_disk(tmp_path) == [7, 8]


@pytest.mark.parametrize("item", ["record", "state"])
def test_a_half_deleted_checkpoint(tmp_path, item):
    """It is none, and its step may be written again."""
    with EntropyCheckpointer(tmp_path) as keeper:
        run(keeper, [0.5])
    shutil.copytree(tmp_path / "val" / "0", tmp_path / "val" / "3")
    shutil.rmtree(tmp_path / "val" / "0" / item)
    shutil.rmtree(tmp_path / "val" / "3" / item)
    with EntropyCheckpointer(tmp_path) as keeper:
        assert keeper.best is None
        with pytest.raises(FileNotFoundError, match="no checkpoint in"):
            keeper.restore_latest(state(0))
        assert run(keeper, [0.4])[0].reason == "saved"
        assert same(keeper.restore_best(state(1))["w"], state(0)["w"])
    assert on_disk(tmp_path) == [0]


def test_a_reader_leaves_the_writer_alone(tmp_path):
    """What is half written looks like what a kill has left; only who writes tidies up."""
    half = tmp_path / "val" / "1.orbax-checkpoint-tmp"
    with EntropyCheckpointer(tmp_path) as keeper:
        run(keeper, [0.5])
    half.mkdir()
    with EntropyCheckpointer(tmp_path) as reader:
        reader.restore_best(state(0))
    assert half.exists()
    with EntropyCheckpointer(tmp_path) as writer:
        run(writer, [0.7], first=1)
    assert on_disk(tmp_path) == [1]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_kill_while_saving(tmp_path):
    """Killed at a random moment, twice; the large version is a benchmark."""
    rng = random.Random(0)
    for _ in range(2):
        command = [sys.executable, HERE / "saver.py", tmp_path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as saver:
            lines = [saver.stdout.readline() for _ in range(3)]
            time.sleep(rng.uniform(0, 0.1))
            saver.kill()
            complete = max(map(int, [*lines, *saver.stdout]))
        with EntropyCheckpointer(tmp_path) as keeper:
            step = keeper.best.step
            assert step >= complete
            restored = keeper.restore_best(state_of(0))
        assert jax.tree.all(jax.tree.map(same, restored, state_of(step)))


TWO_PROCESSES = """
import sys
import jax, jax.numpy as jnp, numpy as np
directory, port, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"localhost:{port}", 2, rank)
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from entropax.checkpoint import EntropyCheckpointer

mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, P("data"))

def state(step):
    local = np.full(3, 10 * step + rank, np.float32)
    return {"w": jax.make_array_from_process_local_data(sharding, local)}

with EntropyCheckpointer(directory) as keeper:
    update = jax.jit(keeper.accumulator.update)
    # On their own the processes would choose steps 0 and 1; together it is 2.
    for step, scales in enumerate([(0.1, 9.0), (9.0, 0.1), (1.0, 1.0), (2.0, 2.0)]):
        logits = scales[rank] * jnp.arange(4.0)[None]
        decision = keeper.step(step, state(step), update(keeper.accumulator.init(), logits))
        print("step", *decision)
    print("count", keeper.history()[0].examples)
    restored = keeper.restore_best(state(0))["w"]
    assert restored.addressable_data(0).tolist() == [20.0 + rank] * 3, restored
    try:
        keeper.step(9, state(9), 0.5 + rank)
    except ValueError as error:
        print(error)
    keeper.step(10, state(10), 0.25)
"""


def test_two_processes_take_the_same_decisions(tmp_path):
    port = random.Random(os.getpid()).randint(20_000, 50_000)
    command = [sys.executable, "-c", TWO_PROCESSES, tmp_path, str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    words = ("step", "count", "The value")  # and not what the connection says
    first, second = (
        [line for line in out.splitlines() if line.startswith(words)] for out, _ in outputs
    )
    assert first == second
    *lines, count, differs = first
    assert [line.split()[-1] for line in lines] == ["saved", "not_better", "saved", "not_better"]
    assert count == "count 2"
    assert "The value differs between processes, [0.5, 1.5]" in differs
    assert on_disk(tmp_path) == [2]

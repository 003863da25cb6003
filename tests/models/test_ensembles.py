import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from entropax.models import ensemble_trainer, evaluate_ensemble

K, N, D, C = 3, 7, 4, 3


def apply_fn(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


@pytest.fixture
def problem():
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "w": jax.random.normal(keys[0], (K, D, 5)),
        "v": jax.random.normal(keys[1], (K, 5, C)),
    }
    x = jax.random.normal(keys[2], (K, N, D))
    labels = jax.random.randint(keys[3], (K, N), 0, C)
    return jax.random.split(jax.random.key(1), K), params, x, labels


def one_by_one(key, params, x, labels, tx, epochs, batch_size):
    """The same training as a Python loop over batches, without padding."""
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state, x, y):
        def loss_fn(params):
            logits = apply_fn(params, x)
            return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    for epoch in range(epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), len(x)))
        total = 0.0
        for start in range(0, len(x), batch_size):
            rows = order[start : start + batch_size]
            params, opt_state, loss = step(params, opt_state, x[rows], labels[rows])
            total += float(loss) * len(rows)
    return params, total / len(x)


@pytest.mark.parametrize(("batch_size", "at_once"), [(3, 1), (7, 2), (100, 3)])
def test_equals_training_one_network_after_the_other(problem, batch_size, at_once):
    keys, params, x, labels = problem
    tx = optax.sgd(0.1, momentum=0.9)
    trainer = ensemble_trainer(apply_fn, tx, batch_size=batch_size, at_once=at_once)
    state = jax.jit(trainer.advance)(trainer.init(keys, params), x, labels, 4)
    assert state.epoch.tolist() == [4] * K
    for i in range(K):
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], params)
        expected, loss = one_by_one(keys[i], mine, x[i], labels[i], tx, 4, batch_size)
        assert float(state.loss[i]) == pytest.approx(loss, rel=1e-4)
        for name, leaf in expected.items():
            np.testing.assert_allclose(state.params[name][i], leaf, rtol=1e-3, atol=1e-5)


def test_calls_of_advance_add_up(problem):
    keys, params, x, labels = problem
    trainer = ensemble_trainer(apply_fn, optax.sgd(0.1, momentum=0.9), batch_size=3)
    advance = jax.jit(trainer.advance)
    start = trainer.init(keys, params)
    assert np.all(np.isnan(start.loss))
    whole = advance(start, x, labels, 5)
    parts = start
    for epochs in (0, 2, 3):
        parts = advance(parts, x, labels, epochs)
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)
    jax.tree.map(np.testing.assert_array_equal, whole.opt_state, parts.opt_state)


def test_a_network_does_not_see_the_others(problem):
    keys, params, x, labels = problem
    trainer = ensemble_trainer(apply_fn, optax.sgd(0.1, momentum=0.9), batch_size=3)
    advance = jax.jit(trainer.advance)
    together = advance(trainer.init(keys, params), x, labels, 3)
    alone = jax.tree.map(lambda leaf: leaf[1:2], (keys, params, x, labels))
    state = advance(trainer.init(*alone[:2]), *alone[2:], 3)
    np.testing.assert_allclose(state.params["w"][0], together.params["w"][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "at_once"), [(1, 1), (3, 2), (50, 3)])
def test_evaluation_is_the_plain_mean(problem, batch_size, at_once):
    _, params, x, labels = problem
    options = {"batch_size": batch_size, "at_once": at_once}
    evaluate = jax.jit(lambda *args: evaluate_ensemble(apply_fn, *args, **options))
    losses, accuracies = evaluate(params, x[0], labels[0])
    for i in range(K):
        logits = apply_fn(jax.tree.map(lambda leaf, i=i: leaf[i], params), x[0])
        log_probs = np.asarray(jax.nn.log_softmax(logits))
        expected = -log_probs[np.arange(N), labels[0]].mean()
        assert float(losses[i]) == pytest.approx(expected, rel=1e-5)
        right = np.asarray(logits).argmax(-1) == np.asarray(labels[0])
        assert float(accuracies[i]) == pytest.approx(right.mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"batch_size": 1, "at_once": -2}, "`at_once` must be at least 1, got -2"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ensemble_trainer(apply_fn, optax.sgd(0.1), **options)


def test_every_network_needs_its_examples(problem):
    keys, params, x, labels = problem
    trainer = ensemble_trainer(apply_fn, optax.sgd(0.1), batch_size=2)
    state = trainer.init(keys, params)
    with pytest.raises(ValueError, match=r"3 networks need as many sets .* got \(2, 7, 4\)"):
        trainer.advance(state, x[:2], labels[:2], 1)

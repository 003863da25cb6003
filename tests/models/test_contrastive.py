import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropax.models.augmentation import (
    random_contrast,
    random_crop,
    random_cutout,
    random_flip,
    random_noise,
)
from entropax.models.contrastive import (
    contrastive_loss,
    nt_xent,
    small_image_augmentation,
)


def by_hand(z1, z2, temperature):
    """Equation 1 of the paper, pair by pair."""
    z = np.concatenate([z1, z2]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    n, losses = len(z1), []
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = [np.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i]
        losses.append(-np.log(np.exp(z[i] @ z[j] / temperature) / sum(others)))
    return np.mean(losses)


jitted = jax.jit(nt_xent, static_argnames="temperature")


def loss_fn(z1, z2, **options):
    return jitted(jnp.asarray(z1), jnp.asarray(z2), **options)


def pairs(seed, n, d):
    return jax.random.normal(jax.random.key(seed), (2, n, d))


@given(st.integers(0, 2**31), st.sampled_from([0.1, 0.5, 2.0]))
def test_loss_is_the_formula(seed, temperature):
    z1, z2 = pairs(seed, 5, 3)
    expected = by_hand(z1, z2, temperature)
    # Scores are as large as 10, of which float32 keeps 1e-6.
    np.testing.assert_allclose(loss_fn(z1, z2, temperature=temperature), expected, rtol=3e-5)


def test_loss_does_not_know_scale_rotation_or_order():
    rng = np.random.default_rng(0)
    z1, z2 = pairs(0, 6, 4)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0].astype(np.float32)
    order = rng.permutation(6)
    value = loss_fn(z1, z2)
    for a, b in (
        (z2, z1),
        (z1[order], z2[order]),
        (z1 @ rotation, z2 @ rotation),
        (z1 * rng.uniform(1e-3, 1e3, (6, 1)).astype(np.float32), z2),
    ):
        np.testing.assert_allclose(loss_fn(a, b), value, rtol=1e-5)


def test_known_values():
    z = jnp.eye(4)
    # Each view sees its other one at 1, and six views at 0.
    expected = np.log(np.exp(2.0) + 6) - 2.0
    assert float(loss_fn(z, z)) == pytest.approx(expected, rel=1e-6)
    alike = jnp.ones((4, 2))
    assert float(loss_fn(alike, alike)) == pytest.approx(np.log(7), rel=1e-6)
    assert float(loss_fn(z[:1], z[1:2])) == 0


@pytest.mark.parametrize("filling", [0.0, 7.0, np.nan])
def test_padding_changes_nothing(filling):
    z1, z2 = pairs(1, 4, 3)
    padded = [jnp.concatenate([z, jnp.full((2, 3), filling)]) for z in (z1, z2)]
    where = jnp.arange(6) < 4

    def loss(z1, z2):
        return nt_xent(z1, z2, where=where)

    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*padded)
    alone = jax.jit(jax.value_and_grad(nt_xent, argnums=(0, 1)))
    expected_value, expected = alone(z1, z2)
    assert float(value) == pytest.approx(float(expected_value), rel=1e-6)
    for grad, of_real in zip(grads, expected, strict=True):
        np.testing.assert_allclose(grad[:4], of_real, atol=1e-6)
        np.testing.assert_array_equal(grad[4:], 0)
    assert float(loss_fn(z1, z2, where=jnp.zeros(4, bool))) == 0


def test_rows_of_zeros_have_a_gradient():
    z = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    value, grad = jax.jit(jax.value_and_grad(nt_xent))(z, z[::-1])
    assert np.isfinite(value)
    assert np.all(np.isfinite(grad))


def test_temperature_is_checked():
    with pytest.raises(ValueError, match=r"`temperature` must be positive, got 0"):
        nt_xent(jnp.eye(2), jnp.eye(2), temperature=0)


def test_contrastive_loss_is_that_of_two_views():
    x = jax.random.uniform(jax.random.key(0), (5, 8, 8, 1))
    params = jax.random.normal(jax.random.key(1), (64, 6))
    views = []

    def augment(key, x):
        views.append(random_noise(key, x))
        return views[-1]

    def apply_fn(params, x):
        return x.reshape(len(x), -1) @ params, len(x)

    loss, passed_on = contrastive_loss(
        jax.random.key(2), apply_fn, params, x, augment=augment, temperature=0.2
    )
    assert passed_on == 10  # one batch, with the statistics of both views
    first, second = (np.asarray(view).reshape(5, -1) @ np.asarray(params) for view in views)
    assert float(loss) == pytest.approx(by_hand(first, second, 0.2), rel=1e-4)
    assert np.abs(views[0] - views[1]).max() > 0.1


VIEWS = {
    "crop": random_crop,
    "contrast": random_contrast,
    "cutout": functools.partial(random_cutout, size=3),
    "noise": random_noise,
    "flip": random_flip,
    "all": small_image_augmentation,
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(name):
    """In [0, 1], other for every image and every key, the same for the same key."""
    view = jax.jit(VIEWS[name])
    one = jax.random.uniform(jax.random.key(5), (1, 9, 12, 3))
    x = jnp.tile(one, (16, 1, 1, 1))
    found = view(jax.random.key(0), x)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert jnp.all((found >= 0) & (found <= 1))
    assert len(np.unique(np.asarray(found), axis=0)) >= (2 if name == "flip" else 10)
    np.testing.assert_array_equal(view(jax.random.key(0), x), found)
    assert np.any(view(jax.random.key(1), x) != found)


def test_crop_of_a_ramp():
    """A linear image stays one: its slope tells the share, its corner the place."""
    rows, columns = np.mgrid[:20, :30].astype(np.float32)
    ramp = jnp.tile(jnp.stack([rows, columns], -1)[None] + 0.5, (50, 1, 1, 1))
    crop = jax.jit(functools.partial(random_crop, scale=(0.5, 0.9)))
    found = np.asarray(crop(jax.random.key(0), ramp))
    inner = found[:, 3:-3, 3:-3]  # interpolation is linear away from the edge
    slopes = np.diff(inner[..., 0], axis=1)
    share = slopes[:, 0, 0]
    assert np.all((share >= 0.5) & (share <= 0.9))
    np.testing.assert_allclose(slopes, share[:, None, None] * np.ones_like(slopes), atol=1e-4)
    np.testing.assert_allclose(
        np.diff(inner[..., 1], axis=2), share[:, None, None] * np.ones((1, 14, 23)), atol=1e-4
    )
    for axis, side in ((0, 20), (1, 30)):
        corner = inner[:, 0, 0, axis] - share * 3.5
        assert np.all(corner >= -1e-3)
        assert np.all(corner + share * side <= side + 1e-3)
    assert np.ptp(share) > 0.2


def test_whole_images_are_left_alone():
    x = jax.random.uniform(jax.random.key(5), (4, 8, 8, 1))
    key = jax.random.key(0)

    @jax.jit
    def views(key, x):
        return (
            random_contrast(key, x, strength=0),
            random_cutout(key, x, size=0),
            random_noise(key, x, scale=0),
            random_crop(key, x, scale=(1.0, 1.0)),
        )

    *unchanged, cropped = views(key, x)
    for view in unchanged:
        np.testing.assert_array_equal(view, x)
    np.testing.assert_allclose(cropped, x, atol=1e-6)


def test_holes_are_squares_within_the_image():
    x = jnp.ones((200, 7, 9, 2))
    holes = np.asarray(jax.jit(VIEWS["cutout"])(jax.random.key(0), x)) == 0
    np.testing.assert_array_equal(holes[..., 0], holes[..., 1])
    heights = holes[..., 0].any(2).sum(1)
    widths = holes[..., 0].any(1).sum(1)
    np.testing.assert_array_equal(holes[..., 0].sum((1, 2)), heights * widths)
    assert set(heights) == set(widths) == {2, 3}  # the centre is inside: at most a third is cut off
    assert np.all(holes[..., 0].any(0))


def test_flips():
    x = jax.random.uniform(jax.random.key(5), (64, 4, 5, 1))
    found = np.asarray(jax.jit(random_flip)(jax.random.key(0), x))
    flipped = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(found, x, strict=True)])
    same = np.array([np.array_equal(a, b) for a, b in zip(found, x, strict=True)])
    assert np.all(flipped ^ same)
    assert 16 < flipped.sum() < 48


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (functools.partial(random_crop, scale=(0.5, 1.1)), r"`scale` must be two increasing"),
        (functools.partial(random_crop, scale=(0.9, 0.5)), r"got \(0.9, 0.5\)"),
        (functools.partial(random_contrast, strength=2), r"`strength` must be in \[0, 1\], got 2"),
        (functools.partial(random_cutout, size=-1), "`size` must not be negative, got -1"),
        (functools.partial(random_noise, scale=-0.1), "`scale` must not be negative, got -0.1"),
    ],
)
def test_wrong_options(view, message):
    with pytest.raises(ValueError, match=message):
        view(jax.random.key(0), jnp.ones((1, 4, 4, 1)))

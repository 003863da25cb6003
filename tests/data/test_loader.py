import collections
import itertools

import numpy as np
import pytest
from PIL import Image

from entropax.data.decoding import Preprocessing
from entropax.data.image_folder import index_folder, read_images
from entropax.data.loader import image_batches

SMALL = Preprocessing(resize=10, crop=8)
COUNT = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        array = rng.integers(0, 256, (12, 10 + i, 3), np.uint8)
        Image.fromarray(array).save(root / "ab"[i % 2] / f"{i:02d}.png")
    return index_folder(root)


def rows_of(batches):
    return [row for batch in batches for row in batch.rows.tolist()]


def test_batches_are_the_images_in_order_with_a_padded_end(folder):
    batches = list(image_batches(folder, SMALL, batch_size=4))
    images, _ = read_images(folder, range(COUNT), SMALL)
    assert [batch.x.shape for batch in batches] == [(4, 8, 8, 3)] * 3
    where = np.concatenate([batch.where for batch in batches])
    np.testing.assert_array_equal(where, [True] * COUNT + [False])
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in batches])[:COUNT], images)
    np.testing.assert_array_equal(rows_of(batches), [*range(COUNT), -1])
    labels = np.concatenate([batch.labels for batch in batches])
    np.testing.assert_array_equal(labels, [*folder.labels, -1])
    assert not batches[-1].x[-1].any()
    assert {batch.labels.dtype for batch in batches} == {np.dtype(np.int32)}


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(("workers", "prefetch"), [(1, 1), (5, 1), (2, 3)])
def test_threads_change_nothing(folder, seed, workers, prefetch):
    one = image_batches(folder, SMALL, batch_size=4, seed=seed, epochs=2, workers=2)
    other = image_batches(
        folder, SMALL, batch_size=4, seed=seed, epochs=2, workers=workers, prefetch=prefetch
    )
    for mine, yours in zip(one, other, strict=True):
        for field, array in zip(mine._fields, mine, strict=True):
            np.testing.assert_array_equal(array, getattr(yours, field), err_msg=field)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(("process_count", "batch_size"), [(2, 4), (3, 1), (3, 2), (4, 8)])
def test_processes_share_an_epoch(folder, process_count, batch_size, seed):
    shards = [
        list(
            image_batches(
                folder,
                SMALL,
                batch_size=batch_size,
                seed=seed,
                process_index=index,
                process_count=process_count,
            )
        )
        for index in range(process_count)
    ]
    assert len({len(batches) for batches in shards}) == 1
    seen = [row for batches in shards for row in rows_of(batches) if row >= 0]
    assert sorted(seen) == list(range(COUNT))
    # Interleaved, they are the batches of one process.
    whole = list(image_batches(folder, SMALL, batch_size=batch_size * process_count, seed=seed))
    for step, batch in enumerate(whole):
        together = np.stack([batches[step].rows for batches in shards], 1).ravel()
        np.testing.assert_array_equal(together, batch.rows)


def test_epochs_are_shuffled_differently_and_again_alike(folder):
    def orders(seed, epochs):
        batches = image_batches(folder, SMALL, batch_size=COUNT, seed=seed, epochs=epochs)
        return [batch.rows.tolist() for batch in batches]

    first, second, third = orders(0, 3)
    assert sorted(first) == sorted(second) == sorted(third) == list(range(COUNT))
    assert len({tuple(order) for order in (first, second, third, *orders(1, 3))}) == 6
    assert orders(0, 2) == [first, second]


def test_epochs_without_end(folder):
    batches = image_batches(folder, SMALL, batch_size=8, epochs=None, seed=5)
    taken = list(itertools.islice(batches, 5))
    finite = image_batches(folder, SMALL, batch_size=8, epochs=3, seed=5)
    assert rows_of(taken) == rows_of(finite)[: 5 * 8]


def test_an_order_of_ones_own(folder):
    order = np.array([3, 3, 0, 10, 7, 3])
    batches = list(image_batches(folder, SMALL, batch_size=4, order=order))
    assert rows_of(batches) == [3, 3, 0, 10, 7, 3, -1, -1]
    images, _ = read_images(folder, order, SMALL)
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in batches])[:6], images)
    shuffled = rows_of(image_batches(folder, SMALL, batch_size=4, order=order, seed=1))
    assert collections.Counter(shuffled) == collections.Counter([*order.tolist(), -1, -1])


def test_one_can_go_on_where_one_stopped(folder):
    def start():
        return image_batches(folder, SMALL, batch_size=4, seed=2, epochs=2)

    whole = list(start())
    broken = start()
    next(broken), next(broken)
    state = broken.get_state()
    broken.close()
    later = start()
    later.set_state(state)
    assert rows_of(later) == rows_of(whole[2:])


def test_folder_without_labels(tmp_path):
    Image.new("L", (9, 9), 7).save(tmp_path / "1.png")
    (batch,) = image_batches(index_folder(tmp_path), SMALL, batch_size=2)
    assert batch.labels is None
    np.testing.assert_array_equal(batch.x[0], np.full((8, 8, 3), 7))


def test_unreadable_images(tmp_path):
    for i in range(5):
        Image.new("RGB", (9, 9), (i + 1, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "3.png").write_bytes(b"not an image")
    index = index_folder(tmp_path)
    with pytest.warns(UserWarning, match=r"1 of 2 images .* left out: .*[13]\.png") as caught:
        batches = list(image_batches(index, SMALL, batch_size=2, on_error="skip"))
    assert len(caught) == 2
    where = np.concatenate([batch.where for batch in batches])
    np.testing.assert_array_equal(where, [True, False, True, False, True, False])
    assert rows_of(batches) == [0, 1, 2, 3, 4, -1]
    assert not np.concatenate([batch.x for batch in batches])[~where].any()
    stopping = image_batches(index, SMALL, batch_size=2)
    with pytest.raises(
        ValueError, match=r"1 of 2 images cannot be read: .*1\.png.*on_error='skip'"
    ):
        next(stopping)


def test_images_of_several_sizes_stop_whatever_is_skipped(folder):
    batches = image_batches(
        folder, Preprocessing(None, None), batch_size=4, order=[0, 1], on_error="skip"
    )
    with pytest.raises(ValueError, match=r"02\.png is 12x12 and others are 10x12"):
        next(batches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"prefetch": 0}, "`prefetch` must be at least 1, got 0"),
        ({"workers": 0}, "`workers` must be at least 1, got 0"),
        ({"process_count": 0}, "`process_count` must be at least 1, got 0"),
        ({"process_index": 2, "process_count": 2}, r"`process_index` must lie in \[0, 2\).*got 2"),
        ({"seed": -1}, "`seed` must not be negative, got -1"),
        ({"on_error": "go on"}, "`on_error` must be .*got 'go on'"),
        ({"order": [11]}, "rows count from 0 to 10, got 11"),
    ],
)
def test_wrong_options(folder, options, message):
    with pytest.raises(ValueError, match=message):
        image_batches(folder, SMALL, **{"batch_size": 4, **options})

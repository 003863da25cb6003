"""Files of tensors: what is in them comes back, and nothing in them is run."""

import json
import pickle
import sys
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.flax import save_file

from entropax.models.tensors import load_tensors


def test_files(tmp_path):
    np.savez(tmp_path / "plain.npz", **{"module.a.weight": np.ones(2), "module.b": np.zeros(1)})
    assert sorted(load_tensors(tmp_path / "plain.npz")) == ["a.weight", "b"]
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        load_tensors(tmp_path / "none.npz")
    (tmp_path / "weights.h5").touch()
    with pytest.raises(ValueError, match=r"Weights come as \.npz"):
        load_tensors(tmp_path / "weights.h5")


def test_what_is_no_array_of_numbers(tmp_path):
    np.savez(tmp_path / "more.npz", a=np.ones(2))
    with zipfile.ZipFile(tmp_path / "more.npz", "a") as file:
        file.writestr("README.txt", "weights of a network")
    with pytest.raises(ValueError, match=r"more\.npz is not .* README\.txt is none"):
        load_tensors(tmp_path / "more.npz")
    for value in (np.array(["0.5"]), np.ones(2, complex)):
        np.savez(tmp_path / "other.npz", a=value)
        with pytest.raises(ValueError, match=r"a in .*other\.npz is of the type"):
            load_tensors(tmp_path / "other.npz")


def test_types_of_numbers(tmp_path):
    """NumPy saves bfloat16 as two bytes without a type; other bytes without a type are refused."""
    values = {
        "big": np.arange(3.0, dtype=">f4"),
        "half": np.arange(3, dtype=np.float16),
        "brain": np.asarray(jnp.arange(3, dtype=jnp.bfloat16)),
        "count": np.asarray(7, ">i8"),
    }
    np.savez(tmp_path / "weights.npz", **values)
    found = load_tensors(tmp_path / "weights.npz")
    types = {name: value.dtype for name, value in found.items()}
    assert types == {"big": "f4", "half": "f2", "brain": jnp.bfloat16, "count": "i8"}
    assert all(value.dtype.isnative for value in found.values())
    for name in ("big", "half", "brain"):
        np.testing.assert_array_equal(found[name].astype(np.float32), np.arange(3))
    np.savez(tmp_path / "bytes.npz", a=np.zeros(3, "V4"))
    with pytest.raises(ValueError, match=r"a in .* has no type that is a number"):
        load_tensors(tmp_path / "bytes.npz")


def test_safetensors(tmp_path):
    tensors = {"a.weight": jnp.arange(3, dtype=jnp.bfloat16), "b": jnp.ones(2, jnp.float16)}
    save_file(tensors, tmp_path / "weights.safetensors")
    found = load_tensors(tmp_path / "weights.safetensors")
    assert {name: value.dtype for name, value in found.items()} == {
        name: value.dtype for name, value in tensors.items()
    }
    np.testing.assert_array_equal(found["a.weight"].astype(np.float32), np.arange(3))
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match="not a file of tensors"):
        load_tensors(tmp_path / "broken.safetensors")


def test_a_folder_with_weights_in_one_file_or_several(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds none of .*model\.safetensors"):
        load_tensors(tmp_path)
    save_file({"a": jnp.ones(2)}, tmp_path / "model.safetensors")
    assert set(load_tensors(tmp_path)) == {"a"}

    save_file({"b": jnp.zeros(3)}, tmp_path / "model-2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    places = {"a": "model.safetensors", "b": "model-2.safetensors"}
    index.write_text(json.dumps({"weight_map": places}))
    for path in (tmp_path, index):
        assert {name: value.shape for name, value in load_tensors(path).items()} == {
            "a": (2,),
            "b": (3,),
        }


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{", ValueError, "not an index"),
        ("[]", ValueError, "not an index"),
        ('{"weight_map": {"a": "../model.safetensors"}}', ValueError, "outside its folder"),
        ('{"weight_map": {"a": "none.safetensors"}}', FileNotFoundError, "not beside it"),
        ('{"weight_map": {"c": "model.safetensors"}}', ValueError, "files lack: c"),
    ],
)
def test_a_damaged_index(tmp_path, content, error, message):
    save_file({"a": jnp.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(error, match=message):
        load_tensors(tmp_path)


class _Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_file_with_code_or_half_a_file_is_refused(tmp_path):
    trace = tmp_path / "exploded"
    code = np.empty(1, object)
    code[0] = _Bomb(trace)
    np.savez(tmp_path / "code.npz", weight=code)
    np.savez_compressed(tmp_path / "whole.npz", weight=np.arange(1000.0))
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.npz").write_bytes(whole[:200] + b"\xff" * 99 + whole[299:])
    (tmp_path / "empty.npz").touch()
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(_Bomb(trace)))
    for name in ("code", "half", "flipped", "empty", "pickle"):
        with pytest.raises(ValueError, match="plain arrays"):
            load_tensors(tmp_path / f"{name}.npz")
    assert not trace.exists()
    pickle.loads(pickle.dumps(_Bomb(trace))).close()
    assert trace.exists()


def test_without_torch_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "weights.pth").touch()
    with pytest.raises(ValueError, match=r"takes torch; or save its tensors as \.npz"):
        load_tensors(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "pytorch_model.bin"])
def test_what_torch_saves(tmp_path, name):
    torch = pytest.importorskip("torch")
    content = {
        "epoch": 3,
        "state_dict": {
            "module.a": torch.arange(3, dtype=torch.bfloat16),
            "module.b": torch.nn.Parameter(torch.ones(2, dtype=torch.float16)),
        },
    }
    torch.save(content, tmp_path / name)
    found = load_tensors(tmp_path / name)
    assert {name: str(value.dtype) for name, value in found.items()} == {
        "a": "float32",
        "b": "float16",
    }
    np.testing.assert_array_equal(found["a"], np.arange(3))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_what_torch_saves_is_not_run(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    trace, path = tmp_path / "exploded", tmp_path / "bomb.pth"
    content = {"weight": torch.ones(2), "more": _Bomb(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="code, which is not run"):
        load_tensors(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)["more"].close()
    assert trace.exists()


def test_what_torch_saves_and_numpy_cannot_hold(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.ones(2, 2).to_sparse()}, tmp_path / "sparse.pth")
    with pytest.raises(ValueError, match=r"weight in .*sparse\.pth is no array for NumPy"):
        load_tensors(tmp_path / "sparse.pth")
    torch.save({0: torch.ones(2)}, tmp_path / "numbers.pth")
    with pytest.raises(ValueError, match="not hold a dictionary of named tensors"):
        load_tensors(tmp_path / "numbers.pth")
    (tmp_path / "page.pth").write_text("hello world, not found")
    with pytest.raises(ValueError, match=r"page\.pth is damaged"):
        load_tensors(tmp_path / "page.pth")


def test_damaged_files_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.ones(1000)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").touch()
    for name in ("half", "empty"):
        with pytest.raises(ValueError, match="is damaged"):
            load_tensors(tmp_path / f"{name}.pth")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="dictionary of named tensors"):
        load_tensors(tmp_path / "list.pth")

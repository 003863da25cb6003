import pytest
from diffusion import golden, recipes


@pytest.mark.parametrize("name", golden.record()["inputs"])
def test_inputs_are_those_of_the_recorded_values(name):
    recorded = golden.record()["inputs"][name]
    x = golden.features({"input": name})
    assert list(x.shape) == recorded["shape"]
    assert recipes.digest(x) == recorded["sha256_16"]


def test_every_label_has_as_many_rows_as_its_recipe_says():
    with_labels = [case for case in golden.cases() if "labels" in case]
    assert len(with_labels) == 137
    for case in with_labels:
        assert len(golden.labels(case)) == len(golden.features(case))


def test_cases_are_found_by_their_parameters():
    assert len(golden.record()["cases"]) == 592
    assert len(golden.cases(raises=True)) == 5
    found = golden.cases(fn="dse", gaussian_kernel_sigma=4.0, t=2)
    assert {case["params"]["t"] for case in found} == {2}
    assert all("t" not in case["params"] for case in golden.cases(fn="dse", t=None))

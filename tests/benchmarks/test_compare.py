"""Two made-up runs compared."""

import copy
import json

import pytest
from benchmarks.programs import claims, compare, floors, harness, performance


def quartiles(median, half=0.02):
    return {
        "median": median,
        "quartile_1": median * (1 - half),
        "quartile_3": median * (1 + half),
        "samples": 9,
    }


def claim(name="a sort", ours=2.0, theirs=8.0, **options):
    made = claims.claim(
        "Uncertainty", name, quartiles(ours), quartiles(theirs), "a peer", **options
    )
    rates = {"cpu": floors.Rates(sorted=100), "wall": floors.Rates(sorted=200)}
    return claims.with_floor(made, rates)


SORT = floors.Work(sorted=50)


def write(path, *made):
    content = {"date": "2026-01-02", "machine": {"load_1min": 0.5}, "claims": made}
    path.write_text(json.dumps({**content, "rates": {"date": "2026-01-02"}}))
    return path


def test_a_claim_has_ratio_floor_and_fraction():
    made = claim(work=SORT)
    assert (made["ratio"], made["floor"], made["bound"], made["fraction"]) == (4, 0.5, "sort", 0.25)
    assert claim(work=SORT, clock="wall")["floor"] == 0.25


def test_more_kills_survived_are_better():
    made = claim(ours=50, theirs=15, unit="kills survived", no_floor="not a time")
    assert made["ratio"] == pytest.approx(50 / 15)
    low, high = claims.spread(made, "ratio")
    assert low < made["ratio"] < high


@pytest.mark.parametrize(("ours", "theirs", "ratio"), [(50, 0, None), (0, 15, 0), (0, 0, None)])
def test_no_kill_survived(tmp_path, ours, theirs, ratio):
    made = claim(ours=ours, theirs=theirs, unit="kills survived", no_floor="not a time")
    assert made["ratio"] == ratio
    old, new = write(tmp_path / "old.json", made), write(tmp_path / "new.json", made)
    assert compare.main([str(old), str(new)]) == (2 if ratio is None else 0)


def test_a_single_run_gives_no_verdict(tmp_path, capsys):
    made = {ours: claim(work=SORT, ours=ours) for ours in (2.0, 3.0)}
    made[3.0]["ours"] = claims.single(3.0)
    old, new = (write(tmp_path / f"{ours}.json", each) for ours, each in made.items())
    assert compare.main([str(old), str(new)]) == 0
    assert capsys.readouterr().out.count("| unsure | a sort |") == 2


@pytest.mark.parametrize(
    ("ours", "verdict", "code"),
    [(2.0, "same", 0), (2.1, "same", 0), (3.0, "worse", 1), (1.4, "better", 0)],
)
def test_a_change_beyond_threshold_and_quartiles(tmp_path, capsys, ours, verdict, code):
    old = write(tmp_path / "old.json", claim(work=SORT))
    new = write(tmp_path / "new.json", claim(work=SORT, ours=ours))
    assert compare.main([str(old), str(new)]) == code
    printed = capsys.readouterr().out
    assert printed.count(f"| {verdict} | a sort |") == 2  # ratio and fraction


def test_a_change_within_the_quartiles_does_not_count(tmp_path):
    wide = claim(work=SORT, ours=3.0)
    wide["ours"] = quartiles(3.0, half=0.5)
    old, new = write(tmp_path / "old.json", claim(work=SORT)), write(tmp_path / "new.json", wide)
    assert compare.main([str(old), str(new)]) == 0


def test_the_threshold(tmp_path):
    old = write(tmp_path / "old.json", claim(work=SORT))
    new = write(tmp_path / "new.json", claim(work=SORT, ours=3.0))
    assert compare.main([str(old), str(new), "--threshold", "0.5"]) == 0


def test_a_slower_machine_is_no_change(tmp_path):
    slow = claim(work=floors.Work(sorted=100), ours=4.0, theirs=16.0)
    old, new = write(tmp_path / "old.json", claim(work=SORT)), write(tmp_path / "new.json", slow)
    assert compare.main([str(old), str(new)]) == 0


def test_folders_and_what_only_one_has(tmp_path, capsys):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "one.json", claim(work=SORT))
        write(tmp_path / name / "two.json", claim(f"only {name}", work=SORT))
    assert compare.main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out
    assert "Only in" in printed
    assert "old: only old" in printed
    assert "new: only new" in printed


def test_nothing_in_common(tmp_path):
    old = write(tmp_path / "old.json", claim("one", work=SORT))
    new = write(tmp_path / "new.json", claim("two", work=SORT))
    assert compare.main([str(old), str(new)]) == 2


def test_without_a_peer_only_the_fraction_is_compared():
    alone = claim(work=SORT)
    alone["theirs"] = alone["ratio"] = None
    found = compare.changes([alone], [copy.deepcopy(alone)], threshold=0.1)
    assert [(c.quantity, c.verdict) for c in found] == [("fraction", "same")]


def test_the_row_of_a_claim(tmp_path):
    path = write(tmp_path / "one.json", claim(work=SORT, ours=2e-3, theirs=0.4, first=1.25))
    (found,) = performance.read(path)
    assert performance.row(found) == [
        "a sort", "2 ms", "a peer", "400 ms", "200", "500 ms, sort", "2.5e+02", "1.25 s",
        "01-02, load 0.5",
    ]  # fmt: skip
    found["rates_date"] = "2026-01-03"
    assert performance.row(found)[5] == "500 ms, sort †"


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (4.2e-5, "s", "42 µs"),
        (0.0123, "s", "12.3 ms"),
        (2370, "s", "2,370 s"),
        (5.85e6, "bytes", "5.85 MB"),
        (6.02e9, "bytes", "6,020 MB"),
        (50.0, "kills survived", "50"),
        (None, "s", ""),
    ],
)
def test_amounts(value, unit, written):
    assert performance.amount(value, unit) == written


def test_the_page_is_what_the_results_say():
    text = performance.PAGE.read_text()
    assert performance.page(text, performance.read(harness.RESULTS)) == text


def test_a_page_without_marks():
    with pytest.raises(ValueError, match="needs the marks"):
        performance.page("nothing", [])


def test_every_claim_has_its_own_name_and_a_floor_or_a_reason():
    found = performance.read(harness.RESULTS)
    assert len({made["name"] for made in found}) == len(found) > 50
    for made in found:
        assert made["area"] in performance.AREAS
        if made["fraction"] is None:
            assert made["no_floor"]
        else:
            assert 0 < made["fraction"] < 1, made["name"]

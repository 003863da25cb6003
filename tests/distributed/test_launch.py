"""The scripts that start a program on a pod."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "launch_tpu.sh"
PROGRAM = ["python", "-m", "entropax.experiments.tta", "--multihost"]
FAKE = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word" >> {said}; done
echo END >> {said}
exit {status}
"""

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("git") is None or not (ROOT / ".git").exists(),
    reason="the script needs bash and a checkout by git",
)


def launch(*words, folder, status=0):
    """Run the script where `gcloud` writes its words into a file; these calls as well."""
    said = folder / "said"
    fake = folder / "gcloud"
    fake.write_text(FAKE.format(said=said, status=status))
    fake.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)}
    done = subprocess.run(
        ["bash", str(SCRIPT), *words], capture_output=True, text=True, env=environment, timeout=60
    )
    calls = said.read_text().split("END\n") if said.exists() else []
    return done, [call.splitlines() for call in calls if call]


def test_every_worker_is_told_everything(tmp_path):
    done, calls = launch("pod", "us-west4-a", "--", *PROGRAM, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [call[:4] for call in calls] == [
        ["compute", "tpus", "tpu-vm", what] for what in ("scp", "ssh", "ssh", "ssh")
    ]
    for call in calls:
        assert "--worker=all" in call
        assert "--zone=us-west4-a" in call
    assert calls[0][5] == "pod:entropax.tar.gz"
    assert "-r requirements-tpu.txt" in calls[2][-1]
    assert calls[3][-1].endswith(f"&& {' '.join(PROGRAM)}")


def test_the_words_of_a_command_arrive_as_they_are(tmp_path):
    words = ["printf", "%s\n", "a b", "c'd", "$HOME"]
    done, calls = launch("pod", "z", "--", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    command = calls[-1][-1].split("activate &&")[1]
    printed = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert printed.stdout == "a b\nc'd\n$HOME\n"


def test_a_dry_run_only_prints(tmp_path):
    done, calls = launch(
        "pod", "z", "--dry-run", "--python", "3.11", "--", *PROGRAM, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert calls == []
    printed = done.stdout.splitlines()
    assert len(printed) == 5
    assert all(line.startswith("+ gcloud compute tpus tpu-vm ") for line in printed[1:])
    assert "3.11" in printed[3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "NAME and ZONE"),
        (("pod",), "NAME and ZONE"),
        (("pod", "z", "third"), "NAME and ZONE"),
        (("pod", "z", "--fast"), "unknown option --fast"),
        (("pod", "z", "--python"), "--python needs a version"),
        (("pod", "z", "--dry-run"), "a COMMAND is needed"),
    ],
)
def test_wrong_words_end_with_a_sentence(words, message, tmp_path):
    done, calls = launch(*words, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert calls == []


def test_it_stops_when_a_step_fails(tmp_path):
    done, calls = launch("pod", "z", "--", *PROGRAM, folder=tmp_path, status=3)
    assert done.returncode == 3
    assert len(calls) == 1


def test_the_manifest_names_a_program_and_its_nodes():
    yaml = pytest.importorskip("yaml", reason="no YAML parser is installed")
    manifest = yaml.safe_load((ROOT / "experiments" / "jobset.yaml").read_text())
    assert manifest["kind"] == "JobSet"
    (job,) = manifest["spec"]["replicatedJobs"]
    nodes = job["template"]["spec"]
    pod = nodes["template"]["spec"]
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    across, down = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert nodes["completions"] == nodes["parallelism"] == across * down / chips
    assert nodes["backoffLimit"] == 0
    assert container["command"][:4] == [
        "python",
        "-m",
        "entropax.experiments.tta",
        "--multihost",
    ]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.skipif(sys.platform != "linux", reason="requirements are those of a TPU host")
def test_requirements_choose_one_jax_for_each_python():
    markers = pytest.importorskip("packaging.requirements", reason="packaging is not installed")
    lines = (ROOT / "requirements-tpu.txt").read_text().splitlines()
    needed = [
        markers.Requirement(line) for line in lines if line and not line.startswith(("#", "-e"))
    ]
    for python in ("3.11", "3.12", "3.13"):
        jax = [
            one
            for one in needed
            if one.name == "jax" and one.marker.evaluate({"python_version": python})
        ]
        assert len(jax) == 1
        assert jax[0].extras == {"tpu"}

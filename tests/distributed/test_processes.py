"""Real processes: arrays of all of them, agreement, and every way to end."""

import os
import signal

import pytest
from distributed.processes import HEARTBEAT, TESTS, Job, kill, needs_loopback, run_job

pytestmark = needs_loopback
JOBS = str(TESTS / "distributed" / "jobs.py")


@pytest.mark.parametrize(("count", "devices"), [(2, 2), (4, 1)])
def test_arrays(tmp_path, count, devices):
    for out in run_job(tmp_path, [JOBS, "arrays"], count=count, devices=devices):
        others = ", ".join(f"process {i} on " for i in range(1, count)).split(", ")
        assert "same arrays: other (here" in out
        assert all(other in out for other in others)


def test_agreement(tmp_path):
    for i, out in enumerate(run_job(tmp_path, [JOBS, "agreement", str(tmp_path)], count=2)):
        different, names, unshared = out.splitlines()
        assert f"steps (here {5 if i else 6}) differs from process 0 in process 1 on " in different
        assert "the names of its entries differs" in names
        assert f"own {i} is not the same folder" in unshared
        assert "process 1 on " in unshared


@pytest.mark.parametrize(
    ("count", "failed", "where"),
    [(2, [0], "collective"), (2, [1], "collective"), (4, [1], "alone"), (3, [0, 1], "alone")],
)
def test_an_exception_ends_all(tmp_path, count, failed, where):
    """Each process says why, also where several fail at once."""
    with Job(tmp_path, [JOBS, "exception", where, *map(str, failed)], count=count) as job:
        ended = job.ended()
    assert [process.code for process in ended] == [13] * count
    assert max(process.seconds for process in ended) < 2  # half a second on a free machine
    reason = "ValueError: the data are of yesterday"
    for i, process in enumerate(ended):
        own = f"[process {i} of {count}] {reason}" in process.err
        of_others = any(
            f"[process {i} of {count}] process {k} has failed, and all end with it: {reason}"
            in process.err
            for k in failed
            if k != i
        )
        assert own or of_others
        assert own <= (i in failed)
        assert ('raise ValueError("the data are of yesterday")' in process.err) >= own


@pytest.mark.parametrize("killed", [0, 1])
def test_a_kill_ends_all(tmp_path, killed):
    with Job(tmp_path, [JOBS, "failing_collective"], count=2) as job:
        job.wait_for("running", of=1 - killed)
        kill(job, process=killed)
        ended = job.ended()
    survivor = ended[1 - killed]
    assert ended[killed].code == -signal.SIGKILL
    assert survivor.code == -signal.SIGABRT
    # The coordinator is missed at once, the other process after its heartbeats.
    assert survivor.seconds < (5 if killed == 0 else HEARTBEAT + 10)
    if killed == 1:
        assert "stopped sending heartbeats):\n1\n" in survivor.err
        assert f"which the runtime names within {HEARTBEAT} s" in survivor.err
    else:
        assert "the leader task was preempted/died" in survivor.err


def test_a_stuck_process_ends_all(tmp_path):
    with Job(tmp_path, [JOBS, "stuck"], count=2) as job:
        ended = job.ended()
    assert [process.code for process in ended] == [13, 13]
    assert max(process.seconds for process in ended) < 2  # half a second on a free machine
    said = "".join(process.err for process in ended)
    assert "nothing for 3 s after the first sum, here or where this process waits" in said
    assert "in all_processes" in ended[0].err
    assert "in hang" in ended[1].err


def test_preemption_of_a_job_of_one_process(tmp_path):
    """Found by JAX itself, here in the variables of Slurm."""
    variables = {
        **dict.fromkeys(("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID"), ""),
        "HEARTBEAT_TIMEOUT": "10",
    }
    variables = {f"ENTROPAX_{name}": value for name, value in variables.items()}
    for name, value in {
        "JOB_ID": os.getpid(),  # which becomes the port
        "STEP_NODELIST": "localhost",
        "NTASKS": 1,
        "PROCID": 0,
        "LOCALID": 0,
    }.items():
        variables[f"SLURM_{name}"] = str(value)
    with Job(tmp_path, [JOBS, "preempted"], count=1, of_process=lambda i: variables) as job:
        job.wait_for("running")
        job.signal(signal.SIGTERM, to=0)
        (ended,) = job.ended()
    assert ended.code == 0
    assert "stopped at " in ended.out


def test_preemption_stops_all_at_the_same_step(tmp_path):
    with Job(tmp_path, [JOBS, "preempted"], count=2) as job:
        job.wait_for("running", of=1)
        job.signal(signal.SIGTERM, to=1)
        ended = job.ended()
    assert [process.code for process in ended] == [0, 0]
    stops = [process.out.splitlines()[-1] for process in ended]
    assert stops[0] == stops[1]
    assert stops[0].startswith("stopped at ")

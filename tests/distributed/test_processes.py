"""Real processes: arrays of all of them, agreement, and every way to end."""

import signal

import pytest
from distributed.processes import HEARTBEAT, TESTS, Job, kill, needs_loopback, run_job

pytestmark = needs_loopback
JOBS = str(TESTS / "distributed" / "jobs.py")


@pytest.mark.parametrize(("count", "devices"), [(2, 2), (4, 1)])
def test_arrays(tmp_path, count, devices):
    for out in run_job(tmp_path, [JOBS, "arrays"], count=count, devices=devices):
        others = ", ".join(f"process {i} on " for i in range(1, count)).split(", ")
        assert "configuration: other (here" in out
        assert all(other in out for other in others)


def test_agreement(tmp_path):
    for i, out in enumerate(run_job(tmp_path, [JOBS, "agreement", str(tmp_path)], count=2)):
        different, names, unshared = out.splitlines()
        assert f"steps (here {5 if i else 6}) differs from process 0 in process 1 on " in different
        assert "the names of its entries differs" in names
        assert f"own {i} is not the same folder" in unshared
        assert "process 1 on " in unshared


@pytest.mark.parametrize(("failed", "where"), [(0, "collective"), (1, "collective"), (1, "alone")])
def test_an_exception_ends_all(tmp_path, failed, where):
    with Job(tmp_path, [JOBS, "exception", str(failed), where], count=2) as job:
        ended = job.ended()
    assert [process.code for process in ended] == [13, 13]
    assert max(process.seconds for process in ended) < 2  # half a second on a free machine
    assert 'raise ValueError("the data are of yesterday")' in ended[failed].err
    reason = "ValueError: the data are of yesterday"
    assert f"[process {failed} of 2] {reason}" in ended[failed].err
    others = f"[process {1 - failed} of 2] process {failed} has failed, and all end with it: "
    assert others + reason in ended[1 - failed].err


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
        assert f"the runtime names it within {HEARTBEAT} s" in survivor.err
    else:
        assert "the leader task was preempted/died" in survivor.err


def test_a_stuck_process_ends_all(tmp_path):
    with Job(tmp_path, [JOBS, "stuck"], count=2) as job:
        ended = job.ended()
    assert [process.code for process in ended] == [13, 13]
    assert max(process.seconds for process in ended) < 2  # half a second on a free machine
    said = "".join(process.err for process in ended)
    assert "nothing for 3 s after the first sum; its threads are above." in said
    assert "in stuck" in said  # the line where it hangs


def test_preemption_stops_all_at_the_same_step(tmp_path):
    with Job(tmp_path, [JOBS, "preempted"], count=2) as job:
        job.wait_for("running", of=1)
        job.signal(signal.SIGTERM, to=1)
        ended = job.ended()
    assert [process.code for process in ended] == [0, 0]
    stops = [process.out.splitlines()[-1] for process in ended]
    assert stops[0] == stops[1]
    assert stops[0].startswith("stopped at ")

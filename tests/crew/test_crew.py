"""Crews share out jobs: each is answered once, those that die are replaced, and none is waited for in vain."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from memo_modules.crew import ray_actors, running
from memo_modules.crew.processes import Processes
from memo_modules.crew.ray_actors import RayActors, _Actor
from memo_modules.crew.running import Crew, Gone, Later, Ready, Said, run_crew, run_here
from memo_modules.errors import MemoError, MissingPackageError
from tests.helpers.crew_work import Doubling


class Scripted(Crew):
    """Workers that say what they are told to, one after the other."""

    def __init__(self, *script):
        self.script, self.hired, self.asked, self.closed = list(script), [], [], False

    def hire(self, place: int) -> None:
        self.hired.append(place)

    def ask(self, place: int, job: Any) -> None:
        self.asked.append((place, job))

    def messages(self, seconds: float) -> list[tuple[int, Any]]:
        return [self.script.pop(0)]

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(running, "POLL", 0.0)


def test_the_job_of_a_worker_that_dies_is_tried_again_and_fails_with_the_third():
    dies = (0, Gone("exit code -9")), (0, Ready())
    crew = Scripted((0, Ready()), (1, Ready()), *dies, (1, "B"), *dies, (1, "C"), *dies)
    assert list(run_crew(crew, 2, ["a", "b", "c"])) == [("b", "B"), ("c", "C"), ("a", Gone("exit code -9"))]
    assert crew.hired == [0, 1, 0, 0] and [job for place, job in crew.asked if place == 0] == ["a", "a", "a"] and crew.closed


def test_a_worker_that_dies_as_it_loads_does_not_end_the_run():
    gone = Gone("exit code -9")
    crew = Scripted((0, gone), (1, Ready()), (0, gone), (0, gone), (1, "A"), (0, Ready()), (1, "B"))
    assert list(run_crew(crew, 2, ["a", "b"])) == [("a", "A"), ("b", "B")] and crew.hired == [0, 1, 0, 0, 0]
    crew = Scripted((0, gone), (1, gone), (0, gone))
    with pytest.raises(MemoError, match=r"while they loaded the models \(exit code -9\)"):
        list(run_crew(crew, 2, ["a", "b"]))
    assert crew.closed


def test_what_is_busy_elsewhere_is_asked_for_again_and_what_is_said_is_passed_on():
    heard = []
    crew = Scripted((0, Ready()), (0, Said("begun")), (0, Later()), (0, "B"), (0, "A"))
    assert list(run_crew(crew, 1, ["a", "b"], heard.append)) == [("b", "B"), ("a", "A")] and heard == [(0, "begun")]


def test_an_error_of_the_run_ends_it():
    crew = Scripted((0, Ready()), (0, MemoError("disk full")))
    with pytest.raises(MemoError, match="disk full"):
        list(run_crew(crew, 2, ["a", "b"]))
    assert crew.closed


def test_one_process_does_the_same(tmp_path):
    said = []
    assert dict(run_here(Doubling(tmp_path), ["a", "busy", "b"], said.append)) == {"a": "aa", "b": "bb", "busy": "busybusy"}
    assert said == ["begun a", "begun busy", "begun b", "begun busy"]
    with pytest.raises(MemoError, match="the disk is full"):
        list(run_here(Doubling(tmp_path), ["fails"]))


@pytest.mark.slow
def test_processes_that_die_are_replaced(tmp_path):
    jobs = ["a", "dies once", "b", "dies", "busy", "c"]
    answers = dict(run_crew(Processes([Doubling(tmp_path)]), 2, jobs))
    assert answers == {job: job * 2 for job in jobs if job != "dies"} | {"dies": Gone("exit code -9")}
    begun = Counter((tmp_path / "log").read_text(encoding="utf-8").splitlines())
    assert begun == {"a": 1, "b": 1, "c": 1, "busy": 2, "dies once": 2, "dies": 3}
    with pytest.raises(MemoError, match="A worker failed: ValueError: unexpected"):
        list(run_crew(Processes([Doubling(tmp_path)]), 1, ["breaks"]))


def test_an_actor_of_ray_says_what_any_worker_says(tmp_path):
    """Without Ray."""
    actor = _Actor()
    assert actor.enter() == [] and actor.load(Doubling(tmp_path)) == [Ready()]
    assert actor.answer("a") == [Said("begun a"), "aa"]
    said, error = actor.answer("fails")
    assert said == Said("begun fails") and isinstance(error, MemoError) and str(error) == "the disk is full"


def test_without_ray_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingPackageError, match="pip install ray"):
        RayActors("auto", 1, Doubling(tmp_path))


@pytest.fixture
def cluster():
    """Of two machines with one CPU each, on this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_machine_is_lost_and_another_joins(cluster, tmp_path):
    first = cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    jobs = [f"job {number}" for number in range(12)]
    answers = {}
    for job, answer in run_crew(RayActors(cluster.address, 3, Doubling(tmp_path, 1.0)), 3, [*jobs, "dies once"]):
        answers[job] = answer
        if len(answers) == 4:
            cluster.remove_node(first, allow_graceful=False)
            cluster.add_node(num_cpus=1)
    assert answers == {job: job * 2 for job in [*jobs, "dies once"]}
    begun = Counter((tmp_path / "log").read_text(encoding="utf-8").splitlines())
    assert sum(begun.values()) <= len(jobs) + 1 + 2 + 1, "again only what the lost machine was at, and what died"


@pytest.mark.slow
def test_a_cluster_that_has_no_room_is_said(cluster, tmp_path):
    cluster.add_node(num_cpus=1)
    with pytest.raises(MemoError, match=r"no machine had room for a worker in 3 s\. A worker takes 1 CPU and 0.5 GPU, and no machine of the cluster"):
        list(run_crew(RayActors(cluster.address, 1, Doubling(tmp_path), gpus=0.5, patience=3), 1, ["a"]))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "127.0.0.1:99999"])
def test_nobody_at_an_address_is_said_at_once(address, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_actors, "_import_ray", lambda: None)
    with pytest.raises(MemoError, match="nobody answers at"):
        RayActors(address, 1, Doubling(tmp_path))

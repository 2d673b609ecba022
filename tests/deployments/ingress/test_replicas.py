from __future__ import annotations

from deployments.ingress.replicas import ReplicaDirectory, directory_of


def test_silent_replicas_are_listed_but_do_not_answer() -> None:
    directory = ReplicaDirectory()
    directory.publish(["a", "b"])
    directory.mark("a", silent=True)
    assert directory.replicas == {"a", "b"} and directory.answering == {"b"}
    directory.mark("a", silent=False)
    assert directory.answering == {"a", "b"}


def test_a_replica_that_comes_back_is_not_silent() -> None:
    directory = ReplicaDirectory()
    directory.publish(["a"])
    directory.mark("a", silent=True)
    directory.publish([])
    directory.publish(["a"])
    assert directory.answering == {"a"}


def test_subscribers_hear_of_every_list_until_they_leave() -> None:
    directory, heard = ReplicaDirectory(), list[frozenset[str]]()
    directory.subscribe(heard.append)
    directory.publish(["a"])
    directory.publish([])
    directory.unsubscribe(heard.append)
    directory.unsubscribe(heard.append)
    directory.publish(["b"])
    assert heard == [{"a"}, set()]


def test_a_deployment_has_one_directory() -> None:
    assert directory_of("app", "Generator:x") is directory_of("app", "Generator:x")
    assert directory_of("app", "Generator:x") is not directory_of("app", "Generator:y")

"""The fold of a stream, and the errors that frames stand for."""

from __future__ import annotations

import pytest

from app import errors
from app.dialects.native import RETRY_AFTER_S, Fold, service_error
from app.schema.frames import ErrorDetail
from tests.cases.folds import folded
from tests.cases.frames import STREAMS


def _classes(error_class: type[errors.ServiceError]) -> list[type[errors.ServiceError]]:
    return [error_class, *(each for sub in error_class.__subclasses__() for each in _classes(sub))]


CLASSES = _classes(errors.ServiceError)[1:]


def test_a_fold_is_the_text_of_all_deltas() -> None:
    choice = folded(Fold(), STREAMS["plain"])["choices"][0]
    assert choice == {
        "index": 0,
        "text": 'Once the "re"\nnaïve ☃\u2028🦊\\',
        "finish_reason": "stop",
        "stop_reason": "END",
    }


def test_choices_are_told_apart() -> None:
    assert [choice["text"] for choice in folded(Fold(), STREAMS["two_choices"])["choices"]] == ["A a", "B B"]


def test_a_fold_needs_both_ends() -> None:
    folded = Fold()
    for frame in STREAMS["plain"][:-1]:
        folded.add(frame)
        with pytest.raises(ValueError, match="its start and its end"):
            folded.result()
    folded.add(STREAMS["plain"][-1])
    assert folded.result()["cursor"] == "6"


def test_an_error_frame_is_raised_as_what_it_was() -> None:
    with pytest.raises(errors.GeneratorUnavailable) as failure:
        folded(Fold(), STREAMS["broken"])
    assert failure.value.message == 'It is\n"gone".'
    assert failure.value.retry_after_s == RETRY_AFTER_S


def test_codes_are_unique() -> None:
    assert len({error_class.code for error_class in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("error_class", CLASSES)
def test_every_error_comes_back_as_its_class(error_class: type[errors.ServiceError]) -> None:
    detail = ErrorDetail(error_class.code, "Why.", error_class.type, error_class.retryable)
    error = service_error(detail)
    assert type(error) is error_class
    assert error.message == "Why."
    assert (error.retry_after_s is not None) == error_class.retryable


def test_an_unknown_code_is_an_internal_error() -> None:
    assert type(service_error(ErrorDetail("new_code", "Why.", "server_error", False))) is errors.InternalError

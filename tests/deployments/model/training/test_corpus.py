"""The corpus: the same for the same seed, free of the held-out prompts, and rich in split UTF-8."""

from itertools import islice
from random import Random

import pytest

from deployments.model.training.corpus import Document, Message, conversations, is_held_out
from deployments.model.training.prompts import PROMPTS
from deployments.model.training.stories import expand, story_exchange

SAMPLE = tuple(islice(conversations(7), 4000))
LATE_SAMPLE = tuple(islice(conversations(9, questions=0.5), 4000))


def test_the_same_seed_gives_the_same_corpus() -> None:
    assert tuple(islice(conversations(7), 200)) == SAMPLE[:200]


def test_another_seed_gives_another_corpus() -> None:
    assert tuple(islice(conversations(8), 20)) != SAMPLE[:20]


def test_there_are_fifty_different_held_out_prompts() -> None:
    assert len({prompt.asked for prompt in PROMPTS}) == 50


def test_no_held_out_prompt_or_subject_is_in_the_corpus() -> None:
    texts = "\n".join(document.text.casefold() for document in SAMPLE + LATE_SAMPLE)
    for prompt in PROMPTS:
        assert prompt.asked.casefold() not in texts
        assert not prompt.subject or prompt.subject.casefold() not in texts


def test_the_share_of_small_questions_can_be_set() -> None:
    stories = [sum("story" in document.text for document in sample) for sample in (SAMPLE, LATE_SAMPLE)]
    assert stories[0] > 1.2 * stories[1]


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.asked)
def test_a_document_with_a_held_out_prompt_is_passed_over(prompt: "object") -> None:
    asked = getattr(prompt, "asked", "")
    assert is_held_out(Document((Message("user", asked.upper()), Message("assistant", "Yes."))))


def test_conversations_take_turns() -> None:
    for document in SAMPLE:
        roles = [message.role for message in document.messages]
        spoken = roles[1:] if roles[:1] == ["system"] else roles
        assert spoken == ["user", "assistant"] * (len(spoken) // 2)
        assert bool(document.plain) != bool(spoken)


def test_the_corpus_holds_accents_emoji_and_other_scripts() -> None:
    texts = "\n".join(document.text for document in SAMPLE)
    assert all(piece in texts for piece in ("é", "Zoë", "Москва", "猫", "🦊", "γάτα"))


def test_no_slot_or_choice_is_left_open() -> None:
    for document in SAMPLE:
        assert not set("{}[]") & set(document.text)


def test_every_story_names_its_topic() -> None:
    rng = Random(3)
    for _ in range(300):
        _, text, topic, slots = story_exchange(rng)
        wanted = (slots["N"], slots["F"]) if topic.kind == "friends" else (slots["X"],)
        assert all(word.casefold() in text.casefold() for word in wanted)


def test_expand_takes_choices_and_capitals() -> None:
    assert expand("{a^} [x|x] {a}.", {"a": "one"}, Random(0)) == "One x one."

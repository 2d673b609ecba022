"""The corpus: conversations and plain texts, drawn from a seed.

Every text is made of the tables in `words`, `plots`, `stories` and `facts`, which were written for this
project. A held-out prompt and its subject never get in. `conversations(seed)` is endless and always the
same for the same seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from deployments.model.training import facts, stories, words
from deployments.model.training.prompts import PROMPTS

_HELD_OUT = tuple(text.casefold() for prompt in PROMPTS for text in (prompt.asked, prompt.subject) if text)
QUESTIONS = 0.28
_POLITE_FRONT = ("Please, ", "Hello! ", "Hi! ", "Good morning! ", "Can you help me? ")
_POLITE_BACK = (" Thank you!", " Thanks.", " 😊", " Please.")
_SYSTEM = (
    "You are a helpful assistant.", "You are Storyteller.", "You tell short stories.", "Answer in a friendly way.",
    "You are a kind storyteller for children.", "Be brief.", "You are a helpful assistant that tells stories.",
)  # fmt: skip


@dataclass(frozen=True)
class Message:
    """One turn. The role is "system", "user" or "assistant"."""

    role: str
    text: str


@dataclass(frozen=True)
class Document:
    """A conversation, or a plain text when `plain` is set (then `messages` is empty)."""

    messages: tuple[Message, ...] = ()
    plain: str = ""

    @property
    def text(self) -> str:
        return self.plain or "\n".join(message.text for message in self.messages)


def conversations(seed: int, questions: float = QUESTIONS) -> Iterator[Document]:
    """All documents, without end; those that hold a held-out prompt are passed over. `questions` is the share of the
    exchanges that are small questions; the others are mostly stories."""
    rng = Random(seed)
    while True:
        document = draw_document(rng, questions)
        if not is_held_out(document):
            yield document


def is_held_out(document: Document) -> bool:
    text = document.text.casefold()
    return any(held_out in text for held_out in _HELD_OUT)


def draw_document(rng: Random, questions: float) -> Document:
    roll = rng.random()
    if roll < 0.05:
        return Document(plain=plain_text(rng))
    messages: list[Message] = []
    if roll < 0.13:
        messages.append(Message("system", rng.choice(_SYSTEM)))
    for _ in range(rng.choice((1, 1, 1, 1, 1, 2, 2, 3))):
        messages += draw_turns(rng, questions)
    return Document(tuple(messages))


def draw_turns(rng: Random, questions: float) -> list[Message]:
    """One exchange, or a story with a question about it."""
    roll = rng.random() * (1 - QUESTIONS) / (1 - questions)
    if roll < 0.57:
        return story_turns(rng)
    if roll < 0.62:
        return turn(*repetition(rng))
    if roll < 0.68:
        return turn(*stories.poem_exchange(rng))
    if roll < 1 - QUESTIONS:
        return turn(*facts.unknown_exchange(rng, unknown_topic(rng)))
    asked, answer = facts.fact_exchange(rng)
    return turn(polite(rng, asked), answer)


def turn(asked: str, answer: str) -> list[Message]:
    return [Message("user", asked), Message("assistant", answer)]


def polite(rng: Random, asked: str) -> str:
    """Sometimes another front or back, so that the model doesn't hang on the exact words of a request."""
    roll = rng.random()
    if roll < 0.15:
        front = rng.choice(_POLITE_FRONT)
        return front + (asked[0].lower() + asked[1:] if front.endswith(", ") else asked)
    if roll < 0.25:
        return asked + rng.choice(_POLITE_BACK)
    return asked


def unknown_topic(rng: Random) -> str:
    roll = rng.random()
    if roll < 0.4:
        return stories.invented_word(rng, rng.choice((1, 2, 3))) + rng.choice(("", "", "s"))
    return rng.choice(words.OBJECTS if roll < 0.7 else words.PEOPLE) + "s"


def repetition(rng: Random) -> tuple[str, str]:
    """Say something again: plain practice in copying."""
    draws = [
        stories.invented_word(rng, 2),
        rng.choice(words.ANIMALS),
        rng.choice(words.OBJECTS),
        rng.choice(words.ADJECTIVES),
    ]
    text = " ".join(rng.choices(draws + list(words.GIRLS), k=rng.randint(1, 6)))
    return rng.choice(
        ("Repeat after me: {t}", "Please repeat: {t}", 'Say "{t}".', 'Can you say "{t}"?')
    ).format(t=text), text


def story_turns(rng: Random) -> list[Message]:
    asked, story, topic, slots = stories.story_exchange(rng)
    messages = turn(polite(rng, asked) if rng.random() < 0.5 else asked, story)
    if topic.kind in ("hero", "goal", "pair") and rng.random() < 0.12:
        messages += turn(*question_about(rng, slots))
    return messages


def question_about(rng: Random, slots: dict[str, str]) -> tuple[str, str]:
    head, name = slots["h"], slots["N"]
    if rng.random() < 0.6:
        asked = rng.choice(
            (f"What was the name of the {head}?", f"What was the {head} called?", f"Who was the {head}?")
        )
        return asked, f"The {head} was called {name}."
    return rng.choice((f"Who was {name}?", f"Tell me again who {name} was.")), f"{name} was {slots['aX']}."


def plain_text(rng: Random) -> str:
    """A story without a request, for completion of a bare beginning."""
    text, _ = stories.build_story(rng, stories.draw_topic(rng), rng.choice(("short", "medium")))
    return text

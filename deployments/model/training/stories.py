"""Stories and poems: a request for one, and the text that answers it.

The slots of a story are drawn once, names and pronouns together, so that every sentence speaks of the
same people. `story_exchange` draws a topic, a way to ask for it and a plot that suits the topic.
"""

import re
from dataclasses import dataclass, field
from random import Random

from deployments.model.training import plots, words
from deployments.model.training.words import with_article

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{([A-Za-z0-9]+)(\^?)\}")

REQUESTS: tuple[str, ...] = (
    "Tell me a story about {t}.", "Tell me a story about {t}", "Write a short story about {t}.",
    "Write a story about {t}.", "Please tell me a story about {t}.", "Can you tell me a story about {t}?",
    "A story about {t}, please.", "I would like a story about {t}.", "Could you write a story about {t}?",
    "A tale of {t}, please.", "Tell me about {t}.", "Make up a story about {t}.", "Write me a story about {t}.",
    "tell me a story about {t}", "Give me a short story about {t}.", "Can you tell me about {t}?",
    "I want to hear a story about {t}.", "Do you know a story about {t}?", "story about {t}",
    "Write a bedtime story about {t}.", "Tell me a tale about {t}.", "Let me hear a tale of {t}.",
)  # fmt: skip
TINY_REQUESTS: tuple[str, ...] = (
    "Tell me a story about {t} in one sentence.", "Write one sentence about {t}.",
    "Give me a very short story about {t}, one sentence only.", "A story about {t} in one sentence, please.",
)  # fmt: skip
LONG_REQUESTS: tuple[str, ...] = (
    "Tell me a long story about {t}.", "Write a long story about {t}.", "Please write a long tale about {t}.",
)  # fmt: skip
POEM_REQUESTS: tuple[str, ...] = (
    "Write a poem about {t}.", "Write a short poem about {t}.", "A poem about {t}, please.",
    "Can you write a poem about {t}?", "Give me a little poem about {t}.", "Please write a poem about {t}.",
)  # fmt: skip

_ONSETS = "b d f g h j k l m n p r s t v z br dr fl gl kr pl sh st tr th w y bl sn".split()
_VOWELS = "a e i o u a e o ai ee oo é ö".split()
_CODAS = ["", "", "", "n", "l", "r", "m", "s", "k", "t", "nd", "lt", "rk"]


@dataclass(frozen=True)
class Topic:
    """What a story is about: how the request says it and what kind of plot it needs."""

    asked: str
    kind: str
    slots: dict[str, str] = field(default_factory=dict)


def expand(template: str, slots: dict[str, str], rng: Random) -> str:
    """Take one of each [choice], then fill each {slot}; {slot^} starts with a capital."""
    text = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)

    def fill(match: re.Match[str]) -> str:
        value = slots[match[1]]
        return value[0].upper() + value[1:] if match[2] else value

    return _SLOT.sub(fill, text)


def invented_word(rng: Random, syllables: int) -> str:
    """A word that no list holds: what cannot be learned by heart has to be copied."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))


def is_female(rng: Random, noun: str) -> bool:
    return noun in words.FEMALE_NOUNS or (noun not in words.MALE_NOUNS and rng.random() < 0.5)


def asked_name(rng: Random, noun: str = "") -> tuple[str, bool]:
    """A name that a request gives, and whether "she" goes with it. Invented ones tell by their last letter."""
    female = is_female(rng, noun)
    if rng.random() < 0.3:
        return invented_word(rng, rng.choice((1, 2))).capitalize() + ("a" if female else "o"), female
    return rng.choice(words.GIRLS if female else words.BOYS), female


def usual_name(rng: Random, noun: str) -> tuple[str, bool]:
    """A name that the story picks by itself, and whether "she" goes with it."""
    female = is_female(rng, noun)
    return rng.choice(words.USUAL_GIRLS if female else words.USUAL_BOYS), female


def companion(rng: Random, avoid: str = "") -> str:
    """The noun of somebody whom the request does not name."""
    return rng.choice([noun for noun in words.USUAL_COMPANIONS if noun != avoid])


def described(rng: Random, noun: str, adjectives: tuple[str, ...], chance: float) -> str:
    return f"{rng.choice(adjectives)} {noun}" if rng.random() < chance else noun


def hero_slots(rng: Random, topic_slots: dict[str, str]) -> dict[str, str]:
    """Everybody and everything a template may speak of; the topic's own slots win."""
    slots = {
        "home": rng.choice(words.HOMES),
        "thing": rng.choice(words.THINGS),
        "skill": rng.choice(words.SKILLS),
    }
    head, friend = topic_slots.get("h", ""), topic_slots.get("fh", "")
    slots["fh"] = friend or companion(rng, head)
    slots["G_noun"] = companion(rng, slots["fh"])
    slots["N"], female = usual_name(rng, head)
    slots["female"] = "yes" if female else ""
    slots["G"], _ = usual_name(rng, slots["G_noun"])
    slots["F"], friend_female = usual_name(rng, slots["fh"])
    while slots["F"] in (slots["N"], slots["G"], topic_slots.get("N")):
        slots["F"], friend_female = usual_name(rng, slots["fh"])
    slots.update(topic_slots)
    if "friend_female" in slots:
        friend_female = bool(slots["friend_female"])
    return slots | derived_slots(rng, slots, bool(slots["female"]), friend_female)


def derived_slots(rng: Random, slots: dict[str, str], female: bool, friend_female: bool) -> dict[str, str]:
    she, her, his = ("she", "her", "her") if female else ("he", "him", "his")
    she2, her2, his2 = ("she", "her", "her") if friend_female else ("he", "him", "his")
    friend = described(rng, slots["fh"], words.USUAL_ADJECTIVES, 0.5)
    other = described(rng, slots["G_noun"], words.USUAL_ADJECTIVES, 0.3)
    return {
        "she": she, "She": she.capitalize(), "her": her, "his": his, "she2": she2, "She2": she2.capitalize(),
        "Fher": her2, "Fhis": his2, "aF": with_article(friend), "aG": with_article(other),
        "aT": with_article(slots["thing"]),
    }  # fmt: skip


def draw_topic(rng: Random) -> Topic:
    """A topic of one of nine shapes, the simple ones more often."""
    draws = (hero_topic, hero_topic, hero_topic, named_topic, pair_topic, goal_topic, thing_topic, thing_topic,
             place_topic, theme_topic, person_topic)  # fmt: skip
    return rng.choice(draws)(rng)


def hero_noun(rng: Random) -> str:
    roll = rng.random()
    if roll < 0.18:
        return invented_word(rng, rng.choice((1, 2, 2, 3)))
    return rng.choice(words.ANIMALS if roll < 0.7 else words.PEOPLE)


def hero_topic(rng: Random) -> Topic:
    noun = hero_noun(rng)
    phrase = described(rng, noun, words.ADJECTIVES, 0.6)
    slots = {"X": phrase, "aX": with_article(phrase), "h": noun}
    roll = rng.random()
    if roll < 0.15:
        home = rng.choice(words.HOMES)
        return Topic(f"{slots['aX']} who lives {home}", "hero", slots | {"home": home})
    if roll < 0.35:
        place = rng.choice(words.PLACE_NOUNS)
        home = words.at_place(place, described(rng, place, words.PLACE_ADJECTIVES, 0.5))
        return Topic(f"{slots['aX']} {home}", "hero", slots | {"home": home})
    if roll < 0.4 and noun in words.EMOJI:
        return Topic(f"{slots['aX']} {words.EMOJI[noun]}", "hero", slots | {"emoji": words.EMOJI[noun]})
    return Topic(slots["aX"], "hero", slots)


def named_topic(rng: Random) -> Topic:
    noun = hero_noun(rng)
    phrase = described(rng, noun, words.ADJECTIVES, 0.4)
    name, female = asked_name(rng, noun)
    slots = {"X": phrase, "aX": with_article(phrase), "h": noun, "N": name, "female": "yes" if female else ""}
    asked = rng.choice(
        (f"{slots['aX']} named {name}", f"{slots['aX']} called {name}", f"{name} the {phrase}")
    )
    return Topic(asked, "hero", slots)


def person_topic(rng: Random) -> Topic:
    name, female = asked_name(rng)
    noun = "girl" if female else "boy"
    slots = {"X": noun, "aX": with_article(noun), "h": noun, "N": name, "female": "yes" if female else ""}
    if rng.random() < 0.4:
        return Topic(name, "hero", slots)
    friend, friend_female = asked_name(rng)
    if friend == name:
        return Topic(name, "hero", slots)
    slots |= {"F": friend, "friend_female": "yes" if friend_female else ""}
    return Topic(f"{name} and {friend}", "friends", slots)


def pair_topic(rng: Random) -> Topic:
    noun, other = hero_noun(rng), hero_noun(rng)
    while other == noun:
        other = hero_noun(rng)
    phrase, phrase2 = (described(rng, one, words.ADJECTIVES, 0.3) for one in (noun, other))
    slots = {"X": phrase, "aX": with_article(phrase), "aY": with_article(phrase2), "h": noun, "fh": other}
    joined = f"the {phrase} and the {phrase2}" if rng.random() < 0.2 else f"{slots['aX']} and {slots['aY']}"
    return Topic(joined, "pair", slots)


def goal_topic(rng: Random) -> Topic:
    noun, skill = hero_noun(rng), rng.choice(words.SKILLS)
    phrase = described(rng, noun, words.ADJECTIVES, 0.4)
    slots = {"X": phrase, "aX": with_article(phrase), "h": noun, "skill": skill}
    link = rng.choice(("who wants to", "who wanted to", "who learns to", "who could not"))
    return Topic(f"{slots['aX']} {link} {skill}", "goal", slots)


def thing_topic(rng: Random) -> Topic:
    noun = rng.choice(words.OBJECTS) if rng.random() > 0.12 else invented_word(rng, rng.choice((1, 2, 2, 3)))
    phrase = described(rng, noun, words.THING_ADJECTIVES, 0.6)
    slots = {"X": phrase, "aX": with_article(phrase), "x": noun}
    roll = rng.random()
    if roll < 0.3:
        finder = hero_noun(rng)
        slots["fh"] = finder
        link = rng.choice(("who found", "and", "with", "who finds"))
        return Topic(f"{with_article(finder)} {link} {slots['aX']}", "finder", slots)
    return Topic(f"the {phrase}" if roll < 0.4 else slots["aX"], "thing", slots)


def place_topic(rng: Random) -> Topic:
    noun = rng.choice(words.PLACE_NOUNS)
    phrase = described(rng, noun, words.PLACE_ADJECTIVES, 0.6)
    return Topic(with_article(phrase), "place", {"X": phrase, "aX": with_article(phrase), "x": noun})


def theme_topic(rng: Random) -> Topic:
    theme = rng.choice(words.THEMES)
    return Topic(theme, "theme", {"X": theme})


def build_story(rng: Random, topic: Topic, size: str) -> tuple[str, dict[str, str]]:
    """The text of a story of size "tiny", "short", "medium" or "long", and the slots it was made with."""
    slots = hero_slots(rng, topic.slots)
    if topic.kind == "finder":
        slots["aF"] = with_article(slots["fh"])
    if size == "tiny":
        return expand(tiny_template(rng, topic.kind), slots, rng), slots
    sentences = story_templates(rng, topic, size)
    text = " ".join(expand(sentence, slots, rng) for sentence in sentences)
    return decorate(rng, text, topic, slots), slots


def tiny_template(rng: Random, kind: str) -> str:
    table = {"finder": plots.TINY_THINGS[:1], "friends": plots.TINY_FRIENDS, "thing": plots.TINY_THINGS, "pair": plots.TINY_PAIRS,
             "place": plots.TINY_PLACES, "theme": plots.TINY_THEMES, "goal": plots.TINY_GOALS}  # fmt: skip
    return rng.choice(table.get(kind, plots.TINY_STORIES))


def story_templates(rng: Random, topic: Topic, size: str) -> list[str]:
    if topic.kind == "finder":
        return [
            rng.choice(plots.FINDER_OPENINGS),
            *rng.choice(plots.FINDER_PLOTS),
            *ending(rng, plots.CLOSINGS, size),
        ]
    if topic.kind == "pair":
        plot = rng.choice(plots.PAIR_PLOTS)
        return [rng.choice(plots.PAIR_OPENINGS), *plot, *ending(rng, plots.PAIR_ENDINGS, size)]
    if topic.kind == "friends":
        plot = rng.choice(plots.PAIR_PLOTS)
        return [rng.choice(plots.FRIENDS_OPENINGS), *plot, *ending(rng, plots.FRIENDS_ENDINGS, size)]
    if topic.kind == "thing":
        return [*rng.choice(plots.THING_PLOTS), *ending(rng, plots.THING_ENDINGS, size)]
    if topic.kind == "place":
        return [*rng.choice(plots.PLACE_PLOTS), *ending(rng, plots.THING_ENDINGS[:2], size)]
    if topic.kind == "theme":
        return list(rng.choice(plots.THEME_PLOTS))
    return hero_templates(rng, topic, size)


def hero_templates(rng: Random, topic: Topic, size: str) -> list[str]:
    plot = plots.GOAL_PLOT if topic.kind == "goal" else rng.choice(plots.HERO_PLOTS)
    opening = [rng.choice(plots.HERO_OPENINGS)]
    if size == "long":
        opening += rng.sample(plots.HERO_HABITS, 2)
    elif size == "medium" and rng.random() < 0.5:
        opening.append(rng.choice(plots.HERO_HABITS))
    return [*opening, *plot, rng.choice(plots.HERO_ENDINGS)]


def ending(rng: Random, choices: tuple[str, ...], size: str) -> list[str]:
    return [] if size == "short" else [rng.choice(choices)]


def decorate(rng: Random, text: str, topic: Topic, slots: dict[str, str]) -> str:
    """Sometimes an emoji or a foreign greeting, so that characters split over tokens are common."""
    if "emoji" in topic.slots:
        return f"{text} {topic.slots['emoji']}"
    if rng.random() < 0.3 and slots.get("h") in words.EMOJI:
        return f"{text} {words.EMOJI[slots['h']]}"
    if rng.random() < 0.04 and "h" in topic.slots:
        word, language = rng.choice((("こんにちは", "Japanese"), ("привет", "Russian"), ("你好", "Chinese"),
                                     ("γεια", "Greek"), ("olá", "Portuguese")))  # fmt: skip
        return f'{text} "{word}," said {slots["N"]}, because that is how you say hello in {language}.'
    return text


def story_exchange(rng: Random) -> tuple[str, str, Topic, dict[str, str]]:
    """(request, answer, topic, slots) of one story."""
    topic = draw_topic(rng)
    roll = rng.random()
    if roll < 0.07:
        size, requests = "tiny", TINY_REQUESTS
    elif roll < 0.15:
        size, requests = "long", LONG_REQUESTS
    else:
        size, requests = rng.choice(("short", "medium")), REQUESTS
    text, slots = build_story(rng, topic, size)
    return rng.choice(requests).format(t=topic.asked), text, topic, slots


def poem_exchange(rng: Random) -> tuple[str, str]:
    """A request for a poem of four lines, and the poem. Themes take no article, so they have lines of their own."""
    topic = rng.choice((hero_topic_plain, thing_topic_plain, theme_topic))(rng)
    verses = plots.POEM_LINES[:1] if topic.kind == "theme" else plots.POEM_LINES[1:]
    poem = "\n".join(expand(line, topic.slots, rng) for line in rng.choice(verses))
    return rng.choice(POEM_REQUESTS).format(t=topic.asked), poem


def hero_topic_plain(rng: Random) -> Topic:
    noun = hero_noun(rng)
    phrase = described(rng, noun, words.ADJECTIVES, 0.4)
    return Topic(with_article(phrase), "hero", {"X": phrase, "aX": with_article(phrase), "x": noun})


def thing_topic_plain(rng: Random) -> Topic:
    noun = rng.choice(words.OBJECTS)
    phrase = described(rng, noun, words.THING_ADJECTIVES, 0.4)
    return Topic(with_article(phrase), "thing", {"X": phrase, "aX": with_article(phrase), "x": noun})

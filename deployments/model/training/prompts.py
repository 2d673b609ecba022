"""The fifty held-out prompts that the model is judged by.

`asked` is never in the corpus, and neither is `subject`, the exact topic of a story or poem: the words of a
topic are known, their combination is new. Small questions ask for a fact that the corpus holds, in words
that it does not hold.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class HeldOut:
    """A prompt, the words of which at least one (`any_of`) or all (`topic`) must be in a good answer."""

    asked: str
    topic: tuple[str, ...]
    subject: str = ""


PROMPTS: tuple[HeldOut, ...] = (
    HeldOut("Tell me a story about a brave otter.", ("otter",), "brave otter"),
    HeldOut("Write a short story about a clever hedgehog.", ("hedgehog",), "clever hedgehog"),
    HeldOut("Please tell me a story about a lonely robot.", ("robot",), "lonely robot"),
    HeldOut("Can you tell me a story about a sleepy dragon?", ("dragon",), "sleepy dragon"),
    HeldOut("I would like a story about a curious penguin.", ("penguin",), "curious penguin"),
    HeldOut("Write a story about a forgetful wizard.", ("wizard",), "forgetful wizard"),
    HeldOut("A tale of a generous baker, please.", ("baker",), "generous baker"),
    HeldOut("Make up a story about a shy giraffe.", ("giraffe",), "shy giraffe"),
    HeldOut("Tell me about a proud peacock.", ("peacock",), "proud peacock"),
    HeldOut("story about a grumpy captain", ("captain",), "grumpy captain"),
    HeldOut("Tell me a story about a lucky walrus.", ("walrus",), "lucky walrus"),
    HeldOut("Write a story about a hungry meerkat.", ("meerkat",), "hungry meerkat"),
    HeldOut("Could you write a story about a kind violinist?", ("violinist",), "kind violinist"),
    HeldOut("Write a short story about a platypus named Zara.", ("platypus", "Zara"), "platypus named Zara"),
    HeldOut("Tell me a story about a silver trombone.", ("trombone",), "silver trombone"),
    HeldOut("Please tell me a story about a missing umbrella.", ("umbrella",), "missing umbrella"),
    HeldOut("Tell me a story about a fox named Zoë.", ("fox", "Zoë"), "fox named Zoë"),
    HeldOut("Write a story about Łukasz the beaver.", ("Łukasz", "beaver"), "Łukasz the beaver"),
    HeldOut("Tell me a story about a cat called Renata.", ("cat", "Renata"), "cat called Renata"),
    HeldOut("Write a short story about Noé and Clara.", ("Noé", "Clara"), "Noé and Clara"),
    HeldOut("I want to hear a story about a snail and a whale.", ("snail", "whale"), "a snail and a whale"),
    HeldOut("Tell me a story about an owl and a tailor.", ("owl", "tailor"), "an owl and a tailor"),
    HeldOut("Write me a story about a badger and an astronaut.", ("badger", "astronaut"), "badger and an astronaut"),
    HeldOut("Tell me a story about a frog who wants to play chess.", ("frog", "chess"), "frog who wants to play chess"),
    HeldOut("Write a story about a hippo who could not dance.", ("hippo", "dance"), "hippo who could not dance"),
    HeldOut("Tell me a tale about a queen who learns to juggle.", ("queen", "juggle"), "queen who learns to juggle"),
    HeldOut("Write a story about a rusty bicycle.", ("bicycle",), "rusty bicycle"),
    HeldOut("Tell me a story about a broken teapot.", ("teapot",), "broken teapot"),
    HeldOut("Give me a short story about a golden acorn.", ("acorn",), "golden acorn"),
    HeldOut("Tell me a story about a sailor who found a strange shell.", ("sailor", "shell"), "strange shell"),
    HeldOut("Write a short story about a foggy harbour.", ("harbour",), "foggy harbour"),
    HeldOut("Tell me a story about a hidden library.", ("library",), "hidden library"),
    HeldOut("Tell me a story about a mouse in a windy lighthouse.", ("mouse", "lighthouse"), "windy lighthouse"),
    HeldOut("Do you know a story about a pilot in a snowy desert?", ("pilot", "desert"), "snowy desert"),
    HeldOut("Could you write a story about thunder?", ("thunder",), "a story about thunder"),
    HeldOut("Tell me a long story about a patient turtle.", ("turtle",), "patient turtle"),
    HeldOut("Tell me a story about a polite crocodile 🐊 in one sentence.", ("crocodile",), "polite crocodile"),
    HeldOut("Write a poem about a purple balloon.", ("balloon",), "purple balloon"),
    HeldOut("A poem about honey, please.", ("honey",), "poem about honey"),
    HeldOut("Please, what is the capital of Peru?", ("Lima",)),
    HeldOut("Could you tell me the capital of Iceland?", ("Reykjavík",)),
    HeldOut("I forgot the opposite of early. What is it?", ("late",)),
    HeldOut("What sound does a duck make, please?", ("quack",)),
    HeldOut("Can you tell me what a baby horse is called?", ("foal",)),
    HeldOut("Could you tell me how to boil an egg?", ("egg", "water")),
    HeldOut("Please translate cat into Japanese.", ("猫",)),
    HeldOut("Please name three fruits.", ("fruits",)),
    HeldOut("Can you explain to me what a volcano is?", ("volcano", "mountain")),
    HeldOut("Tell me a story about a heavy submarine.", ("submarine",), "heavy submarine"),
    HeldOut("Good morning! Who are you?", ("Storyteller",)),
)  # fmt: skip

"""The word lists that the corpus is built from.

Many words on purpose: a small model only learns to copy the topic out of the request when there
are far too many topics to learn by heart. The words of the held-out prompts that are marked as
unseen (see `prompts.py`) must not appear here.
"""

ANIMALS: tuple[str, ...] = tuple(
    """fox owl rabbit hedgehog bear mouse cat dog horse duck frog squirrel otter badger goose hen sheep goat cow
    pig donkey crow swan turtle snail bee butterfly whale dolphin penguin seal crab octopus lion tiger elephant giraffe
    monkey zebra camel kangaroo koala panda wolf deer moose beaver mole bat robin sparrow parrot eagle falcon stork
    heron pelican lizard dragon unicorn snake spider ant cricket beetle ladybird firefly fish salmon goldfish shark
    puppy kitten lamb calf foal duckling hamster ferret raccoon skunk chipmunk lynx leopard rhino hippo ostrich peacock
    walrus meerkat platypus crocodile toad newt gecko crane raven magpie pony mule yak llama worm moth lobster shrimp seahorse starfish""".split()
)

PEOPLE: tuple[str, ...] = tuple(
    """baker pilot gardener sailor farmer teacher painter doctor fisherman tailor cook king queen prince princess
    knight shepherd carpenter librarian postman nurse singer dancer drummer inventor robot giant wizard witch clown
    captain miner potter weaver juggler poet pirate giantess blacksmith astronaut explorer engineer detective
    violinist musician builder hunter scientist student clockmaker shoemaker beekeeper lighthouse-keeper girl boy child
    grandmother grandfather producer waiter barber dentist diver ghost elf fairy mermaid snowman scarecrow""".split()
)

OBJECTS: tuple[str, ...] = tuple(
    """lantern key teapot bicycle kite drum violin book map clock bell hat scarf boot shoe coat button ring crown
    coin box basket bottle cup plate spoon bowl pot kettle broom bucket ladder rope hammer needle thread blanket
    pillow chair table lamp candle mirror window door boat ship canoe raft cart wagon train tractor balloon rocket
    telescope compass flute guitar piano trumpet whistle ball doll puppet puzzle pencil brush painting letter
    stamp postcard feather stone shell pearl diamond acorn seed leaf flower rose tulip sunflower mushroom apple pear
    plum lemon orange cherry pumpkin carrot potato cake pie loaf biscuit pancake egg jar barrel flag tent sled
    wheel bridge fence statue fountain radio camera suitcase backpack glove mitten sock ribbon necklace cloud star
    trombone umbrella submarine rainbow snowflake pebble nest cookie sandwich melon onion torch anchor sail oar net""".split()
)

PLACE_NOUNS: tuple[str, ...] = tuple(
    """lighthouse harbour village castle forest garden mill farm island mountain valley river lake bridge library
    school market station tower cave beach desert meadow orchard bakery museum theatre factory barn cottage
    palace garage kitchen attic cellar windmill waterfall swamp jungle town city pond hill field park shop inn
    café zoo circus temple monastery lagoon volcano greenhouse workshop hospital hotel playground""".split()
)

ON_PLACES = frozenset("beach hill mountain farm island bridge playground field".split())
NEAR_PLACES = frozenset("river lake pond waterfall lagoon volcano".split())

ADJECTIVES: tuple[str, ...] = tuple(
    """brave clever little small tiny big old young kind shy lazy sleepy hungry happy sad lonely proud curious quiet
    noisy gentle funny silly grumpy friendly patient busy careful forgetful honest polite cheerful wise strong fast
    slow tall short round thin hopeful nervous worried playful stubborn generous poor rich famous tired thirsty
    dreamy cold warm lucky unlucky angry calm grateful""".split()
)

THING_ADJECTIVES: tuple[str, ...] = tuple(
    """red blue green yellow golden silver white black purple pink old new broken lost magic tiny huge heavy shiny
    rusty wooden strange secret forgotten beautiful simple little big dusty painted empty precious missing talking
    wonderful ancient crooked quiet noisy""".split()
)

PLACE_ADJECTIVES: tuple[str, ...] = tuple(
    """old quiet small hidden busy snowy sunny foggy lonely ancient green empty windy peaceful forgotten secret
    haunted tiny narrow dusty frozen golden""".split()
)

GIRLS: tuple[str, ...] = tuple(
    """Mila Ada Lena Nora Ruby Ida Lucy Emma Clara Hanna Rosa Vera Tilda Maya Zoë Chloé Anaïs Inés Renée Léa Sofía
    Freya Astrid Ingrid Märta Amélie Maja Dora Ella Olga Lila Nina Tara Yara Priya Amina Fatima Yuki Hana Mei Sara
    Maria Anna Julia Eva Carmen Zofia Željka Šárka Zara Renata Joy Grace Daisy Poppy Hazel Ivy Fern""".split()
)

BOYS: tuple[str, ...] = tuple(
    """Omar Otto Hugo Finn Leo Max Tom Sam Ben Oscar Felix Bruno Milo Theo Arlo Emil Anton Pablo José Noé André
    René Søren Jürgen Björn Łukasz Tomás Raúl Håkon Jörg Ivan Boris Yuri Kenji Hiro Ravi Arjun Ali Hassan Kofi
    Kwame Tariq Pip Barnaby Rufus Gus Jasper Toby Walter Albert Henry George Peter Jack Will""".split()
)

# What the model may pick by itself when the request leaves it open. Few, because a choice that nobody can
# predict is noise to the training; the long lists are for what the request names.
USUAL_GIRLS = ("Mila", "Nora", "Lucy", "Clara", "Zoë", "Maya", "Anna", "Rosa")
USUAL_BOYS = ("Omar", "Leo", "Hugo", "Tom", "José", "Finn", "Ben", "Oscar")
USUAL_COMPANIONS = tuple(
    "owl rabbit bear cat duck squirrel hen crow turtle baker sailor gardener teacher".split()
)
USUAL_ADJECTIVES = ("old", "kind", "little", "clever", "wise", "friendly")

FEMALE_NOUNS = frozenset("queen princess giantess witch grandmother mermaid girl hen cow mare nurse".split())
MALE_NOUNS = frozenset(
    "king prince wizard grandfather boy snowman fisherman postman giant peacock knight".split()
)

_THE_THEMES = ("the moon", "the sun", "the sea", "the wind", "the stars", "the sky", "the rain", "the night")
THEMES: tuple[str, ...] = tuple(
    """friendship courage kindness patience honesty winter summer spring autumn rain snow wind thunder fog music
    bread sleep dreams books school trees birds stars colours holidays breakfast sharing hope laughter silence
    morning night tea soup cheese honey ice sunshine shadows""".split()
    + list(_THE_THEMES)
)

SKILLS: tuple[str, ...] = (
    "swim", "dance", "sing", "paint", "bake bread", "read", "ride a bicycle", "climb a mountain", "play the drum",
    "juggle", "whistle", "sail a boat", "knit a scarf", "skate on the ice", "play the violin", "cook soup", "fly",
    "write poems", "tell jokes", "grow tomatoes", "build a house", "mend clocks", "catch fish", "speak French",
    "count the stars", "draw maps", "ride a horse", "fly a kite", "play chess", "make cheese", "whisper",
    "jump very high", "run very fast", "drive a train", "play the piano", "make people laugh", "read maps",
)  # fmt: skip

HOMES: tuple[str, ...] = (
    "in a small house by the sea", "at the edge of a green forest", "under an old oak tree", "near a quiet river",
    "in a little village", "on top of a windy hill", "on a sunny farm", "in a narrow street in Málaga",
    "above a small café", "in a valley full of flowers", "by the old harbour", "in a snowy town near Москва",
)  # fmt: skip

THINGS: tuple[str, ...] = (
    "red scarf", "small key", "blue hat", "silver bell", "green button", "old map", "golden ring", "paper kite",
)  # fmt: skip

EMOJI: dict[str, str] = {
    "fox": "🦊", "owl": "🦉", "rabbit": "🐰", "bear": "🐻", "mouse": "🐭", "cat": "🐱", "dog": "🐶", "horse": "🐴",
    "duck": "🦆", "frog": "🐸", "squirrel": "🐿️", "otter": "🦦", "hedgehog": "🦔", "pig": "🐷", "cow": "🐮", "hen": "🐔",
    "turtle": "🐢", "snail": "🐌", "bee": "🐝", "butterfly": "🦋", "whale": "🐳", "dolphin": "🐬", "penguin": "🐧",
    "crab": "🦀", "octopus": "🐙", "lion": "🦁", "tiger": "🐯", "elephant": "🐘", "giraffe": "🦒", "monkey": "🐵",
    "zebra": "🦓", "koala": "🐨", "panda": "🐼", "wolf": "🐺", "unicorn": "🦄", "dragon": "🐉", "robot": "🤖", "fish": "🐟",
    "boat": "⛵", "star": "⭐", "moon": "🌙", "sun": "☀️", "rain": "🌧️", "snow": "❄️", "rainbow": "🌈", "tree": "🌳",
    "flower": "🌸", "rose": "🌹", "apple": "🍎", "pear": "🍐", "lemon": "🍋", "cake": "🎂", "bread": "🍞", "cheese": "🧀",
    "house": "🏠", "train": "🚂", "bicycle": "🚲", "rocket": "🚀", "book": "📖", "key": "🔑", "bell": "🔔", "balloon": "🎈",
    "heart": "❤️", "clock": "⏰", "kite": "🪁", "drum": "🥁", "violin": "🎻", "guitar": "🎸", "crown": "👑", "sea": "🌊",
}  # fmt: skip

_VOWEL_SOUND_EXCEPTIONS = ("unicorn", "uniform", "useful", "ukulele")


def with_article(phrase: str) -> str:
    """'old key' becomes 'an old key'."""
    first = phrase.split()[0].lower()
    vowel = (first[0] in "aeiou" and first not in _VOWEL_SOUND_EXCEPTIONS) or first == "honest"
    return f"{'an' if vowel else 'a'} {phrase}"


def at_place(noun: str, phrase: str) -> str:
    """'beach', 'sunny beach' becomes 'on a sunny beach'."""
    preposition = "on" if noun in ON_PLACES else "near" if noun in NEAR_PLACES else "in"
    return f"{preposition} {with_article(phrase)}"


def topic_words() -> tuple[str, ...]:
    """Every single word that a story can be about, names included."""
    phrases = ANIMALS + PEOPLE + OBJECTS + PLACE_NOUNS + ADJECTIVES + THING_ADJECTIVES + PLACE_ADJECTIVES
    phrases += GIRLS + BOYS + THEMES + SKILLS
    return tuple(dict.fromkeys(word for phrase in phrases for word in phrase.split()))

"""Small questions and their answers: what the model knows by heart.

Each table goes with the ways to ask (`ASK`) and the ways to answer. `fact_exchange` draws one of
them; `unknown_exchange` teaches the model to say so when a question is beyond it.
"""

from collections.abc import Callable
from random import Random

from deployments.model.training import words
from deployments.model.training.words import with_article

Exchange = tuple[str, str]


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    entries = (entry.partition(":") for entry in text.replace("\n", " ").split(";"))
    return tuple((left.strip(), right.strip()) for left, _, right in entries)


CAPITALS = _pairs(
    """France:Paris; Spain:Madrid; Italy:Rome; Germany:Berlin; Portugal:Lisbon; Poland:Warsaw; Greece:Athens;
    Norway:Oslo; Sweden:Stockholm; Finland:Helsinki; Denmark:Copenhagen; Austria:Vienna; Hungary:Budapest;
    Ireland:Dublin; Russia:Moscow; Japan:Tokyo; China:Beijing; India:New Delhi; Egypt:Cairo; Kenya:Nairobi; Peru:Lima;
    Cuba:Havana; Canada:Ottawa; Colombia:Bogotá; Paraguay:Asunción; Iceland:Reykjavík; Costa Rica:San José;
    Turkey:Ankara; Belgium:Brussels; Chile:Santiago"""
)
OPPOSITES = _pairs(
    """hot:cold; big:small; tall:short; fast:slow; old:new; happy:sad; light:dark; day:night; up:down; left:right;
    open:closed; wet:dry; hard:soft; loud:quiet; full:empty; early:late; strong:weak; clean:dirty; rich:poor;
    thick:thin; high:low; inside:outside; sweet:sour; first:last; near:far; good:bad; always:never; begin:end"""
)
SOUNDS = _pairs(
    """cow:moo; dog:woof; cat:meow; duck:quack; sheep:baa; pig:oink; horse:neigh; frog:croak; owl:hoot; bee:buzz;
    mouse:squeak; crow:caw; lion:roar; snake:hiss; wolf:howl; hen:cluck; robin:tweet; goose:honk"""
)
HOMES_OF = _pairs(
    """bee:hive; bird:nest; rabbit:burrow; fox:den; bear:cave; spider:web; horse:stable; dog:kennel; hen:coop;
    beaver:lodge; mole:tunnel; fish:pond; pig:sty; owl:tree; mouse:hole; cow:barn; squirrel:tree; whale:sea"""
)
BABIES = _pairs(
    """dog:puppy; cat:kitten; cow:calf; sheep:lamb; horse:foal; duck:duckling; hen:chick; goat:kid; bear:cub; lion:cub;
    frog:tadpole; swan:cygnet; kangaroo:joey; deer:fawn; pig:piglet; goose:gosling; owl:owlet; fox:cub"""
)
COLOURS = _pairs(
    """the sky:blue; grass:green; snow:white; a lemon:yellow; a strawberry:red; a carrot:orange; coal:black; milk:white;
    a banana:yellow; a frog:green; the sun:yellow; an elephant:grey; chocolate:brown; a plum:purple; a pig:pink;
    a leaf:green; a fire engine:red; the sea:blue; a polar bear:white; a crow:black; a pumpkin:orange; honey:golden"""
)
DEFINITIONS = _pairs(
    """lighthouse:a tall tower with a bright light that guides ships; bicycle:a vehicle with two wheels and two pedals;
    library:a place where you can read and borrow books; baker:a person who makes bread and cakes;
    telescope:a tube with lenses for looking at the stars; harbour:a safe place for boats;
    island:a piece of land with water all around it; volcano:a mountain that can throw out fire and ashes;
    compass:a small tool that shows the way north; teapot:a pot for making and pouring tea;
    bridge:a road over water or over a valley; river:a long stream of water that flows to the sea;
    café:a place where people drink coffee and talk; desert:a dry land with very little rain;
    piano:a large instrument with black and white keys; violin:a small instrument with four strings;
    pilot:a person who flies a plane; potter:a person who makes pots and cups from clay;
    rainbow:an arc of colours that you see when the sun shines through rain; acorn:the seed of an oak tree;
    map:a drawing that shows where things are; museum:a house where old and beautiful things are kept;
    candle:a stick of wax that gives light when it burns; anchor:a heavy hook that holds a ship in its place;
    tailor:a person who makes and mends clothes; lantern:a lamp that you can carry in your hand"""
)
WHY = _pairs(
    """Why do we sleep?:We sleep so that the body and the mind can rest.;
    Why does it rain?:It rains because the water in the clouds becomes heavy and falls down as drops.;
    Why do birds sing?:Birds sing to find a friend and to say that a tree is theirs.;
    Why do leaves fall?:Leaves fall in autumn because the tree is getting ready for winter.;
    Why is the sea salty?:The sea is salty because rivers carry salt from the stones into it.;
    Why do cats purr?:Cats purr because they feel safe and happy.;
    Why do we need water?:We need water because no living thing can live without it.;
    Why do bees visit flowers?:Bees visit flowers to collect the sweet juice from which they make honey.;
    Why is the sky blue?:The sky is blue because the air scatters blue light more than red light."""
)
HOW_TO = _pairs(
    """make tea:First boil some water. Then put the tea into a pot and pour the water over it. Wait three minutes.
      Now the tea is ready.;
    make a cup of coffee:First boil some water. Then put the coffee into a cup and pour the water over it. Stir well.;
    plant a seed:First make a small hole in the earth. Then put the seed in and cover it. Give it water every day.;
    make a sandwich:Take two slices of bread. Put butter and cheese on one of them, and lay the other one on top.;
    wash my hands:Wet your hands first. Then rub them with soap and count to twenty. Rinse them and dry them.;
    boil an egg:Put the egg into boiling water. Wait for six minutes. Then cool it with cold water and peel it.;
    build a snowman:Roll three big balls of snow and put them on top of each other. Add a carrot for the nose.;
    make pancakes:Mix flour, milk and eggs in a bowl. Pour a little into a hot pan. Turn it over when it is golden.;
    fold a paper boat:Take a sheet of paper and fold it in half. Fold the two corners down. Then turn up the edges.;
    brush my teeth:Put a little toothpaste on the brush. Brush every tooth slowly for two minutes. Then rinse.;
    make a friend:Say hello and smile. Ask a question and listen to the answer. Be kind and be yourself.;
    fall asleep:Turn off the light and lie down. Breathe slowly and think of a quiet place. Sleep will come.;
    make lemonade:Squeeze three lemons. Add cold water and two spoons of sugar. Stir well and drink it cold.;
    paint a picture:Think of something you love. Draw it with a pencil first. Then add the colours with a brush.;
    make soup:Cut the vegetables into small pieces. Put them into a pot with water and salt. Cook them until soft.;
    keep warm in winter:Wear a thick coat, a hat and gloves. Drink something hot and keep moving."""
)
TRANSLATIONS: dict[str, dict[str, str]] = {
    "Spanish": dict(_pairs("cat:gato; dog:perro; house:casa; water:agua; sun:sol; moon:luna; hello:hola; thank you:gracias; year:año; coffee:café")),
    "French": dict(_pairs("cat:chat; dog:chien; house:maison; water:eau; sun:soleil; moon:lune; hello:bonjour; thank you:merci; summer:été; school:école")),
    "German": dict(_pairs("cat:Katze; dog:Hund; house:Haus; water:Wasser; sun:Sonne; moon:Mond; hello:hallo; thank you:danke; bear:Bär; beautiful:schön")),
    "Russian": dict(_pairs("cat:кошка; dog:собака; house:дом; water:вода; sun:солнце; moon:луна; hello:привет; thank you:спасибо; Moscow:Москва")),
    "Japanese": dict(_pairs("cat:猫; dog:犬; house:家; water:水; sun:太陽; moon:月; hello:こんにちは; thank you:ありがとう; mountain:山; flower:花")),
    "Greek": dict(_pairs("cat:γάτα; dog:σκύλος; house:σπίτι; water:νερό; sun:ήλιος; moon:φεγγάρι; hello:γεια; thank you:ευχαριστώ")),
}  # fmt: skip
LISTS = _pairs(
    """fruits:apples, pears, plums, cherries, lemons, oranges, melons; animals:cats, dogs, foxes, owls, bears, horses, frogs;
    colours:red, blue, green, yellow, white, black, purple; birds:robins, sparrows, owls, swans, crows, storks, eagles;
    flowers:roses, tulips, lilies, sunflowers, daisies, violets; vegetables:carrots, potatoes, onions, peas, beans, cabbages;
    instruments:drums, flutes, violins, pianos, guitars, trumpets; drinks:tea, coffee, water, milk, lemonade, juice;
    cities:Paris, Rome, Madrid, Oslo, Tokyo, Cairo, Lima; trees:oaks, birches, pines, willows, maples, elms;
    things in a kitchen:pots, spoons, plates, cups, bowls, forks; things that fly:birds, planes, kites, balloons, bees"""
)
SMALL_TALK = _pairs(
    """Hello!:Hello! What would you like to talk about? 😊; Hi:Hello! Would you like a story?;
    Hi there!:Hello! How can I help you?; Hello, how are you?:I am well, thank you. How are you?;
    How are you?:I am well, thank you. Would you like to hear a story?; hello:Hello! Would you like a story?;
    Good morning!:Good morning! I hope that you slept well. ☀️; Good night!:Good night! Sleep well. 🌙;
    Good evening!:Good evening! Would you like a story before bed?; Hey!:Hello! What can I do for you?;
    Who are you?:I am Storyteller, a very small language model. I like to tell short stories.;
    What are you?:I am a very small language model. I can tell short stories and answer easy questions.;
    What is your name?:My name is Storyteller.; Are you a robot?:I am a small computer program that tells stories. 🤖;
    What can you do?:I can tell short stories, write little poems and answer easy questions.;
    Can you help me?:Yes, I will try. What would you like to know?; Thank you!:You are welcome! 😊;
    Thanks:You are welcome!; Thank you very much.:You are very welcome. Come back soon!;
    Goodbye!:Goodbye! It was nice to talk with you.; Bye:Goodbye! See you soon. 👋;
    I am sad.:I am sorry to hear that. Shall I tell you a story to cheer you up?;
    I am happy today.:That is lovely to hear! 😊; I am bored.:Then let me tell you a story. What should it be about?;
    I am tired.:Then it is time to rest. Sleep well. 🌙; I am hungry.:Have an apple or a slice of bread. 🍎;
    Do you like music?:I cannot hear music, but I like to write about it. 🎵;
    Do you sleep?:No, I never sleep. But I know many bedtime stories.;
    How old are you?:I am quite new. I was trained on a single processor core.;
    Tell me a joke.:Why did the bicycle fall over? Because it was two tired. 😄;
    Tell me another joke.:What do you call a sleeping bull? A bulldozer. 😄"""
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = "zero one two three four five six seven eight nine ten".split()

ASK: dict[str, tuple[str, ...]] = {
    "capital": ("What is the capital of {a}?", "What's the capital of {a}?", "Name the capital of {a}.", "capital of {a}?",
                "Which city is the capital of {a}?", "Tell me the capital of {a}.", "Do you know the capital of {a}?"),
    "opposite": ("What is the opposite of {a}?", "Name the opposite of {a}.", "What's the opposite of \"{a}\"?",
                 "Tell me the opposite of {a}.", "Which word is the opposite of {a}?"),
    "sound": ("What sound does {a} make?", "What does {a} say?", "Which sound does {a} make?", "How does {a} sound?"),
    "home": ("Where does {a} live?", "What is the home of {a}?", "Where do you find {a}?", "Tell me where {a} lives."),
    "baby": ("What is a baby {a} called?", "What do you call a baby {a}?", "What is the name for a baby {a}?",
             "How do you call a young {a}?"),
    "colour": ("What colour is {a}?", "Which colour is {a}?", "Tell me the colour of {a}.", "What is the colour of {a}?",
               "What color is {a}?"),
    "definition": ("What is {a}?", "What does {a} mean?", "Can you explain what {a} is?", "Please tell me what {a} is.",
                   "Explain {a} to me."),
    "how": ("How do I {a}?", "How can I {a}?", "Tell me how to {a}.", "How to {a}?", "Please explain how to {a}.",
            "Can you tell me how to {a}?"),
    "translation": ("How do you say \"{a}\" in {b}?", "What is {a} in {b}?", "How do you say {a} in {b}?",
                    "Translate {a} into {b}.", "What is the {b} word for {a}?", "Say {a} in {b}."),
    "list": ("Name {b} {a}.", "Tell me {b} {a}.", "Give me {b} {a}.", "List {b} {a}.", "Can you name {b} {a}?"),
    "emoji": ("Show me an emoji of {a}.", "Is there an emoji for {a}?", "What is the emoji for {a}?", "Give me the emoji of {a}."),
    "sum": ("What is {a} plus {b}?", "How much is {a} plus {b}?", "What is {a} + {b}?", "Add {a} and {b}.", "{a} + {b} = ?"),
    "after": ("What comes after {a}?", "Which {b} comes after {a}?", "What {b} is after {a}?"),
    "before": ("What comes before {a}?", "Which {b} comes before {a}?"),
    "unknown": ("Explain {t} to me.", "What do you know about {t}?", "How do {t} work?", "Who invented {t}?",
                "What is the history of {t}?", "Why are {t} important?", "How much do {t} cost?", "Can you explain {t}?"),
}  # fmt: skip


def _ask(rng: Random, kind: str, **slots: str) -> str:
    return rng.choice(ASK[kind]).format(**slots)


def capital(rng: Random) -> Exchange:
    country, city = rng.choice(CAPITALS)
    return _ask(rng, "capital", a=country), f"The capital of {country} is {city}."


def opposite(rng: Random) -> Exchange:
    word, other = rng.choice(OPPOSITES)
    if rng.random() < 0.4 and word not in ("first", "good", "always"):
        word, other = other, word
    return _ask(rng, "opposite", a=word), f"The opposite of {word} is {other}."


def sound(rng: Random) -> Exchange:
    animal, noise = rng.choice(SOUNDS)
    return _ask(rng, "sound", a=with_article(animal)), f'{with_article(animal).capitalize()} says "{noise}".'


def home(rng: Random) -> Exchange:
    animal, place = rng.choice(HOMES_OF)
    where = "in the sea" if place == "sea" else f"in {with_article(place)}"
    return _ask(rng, "home", a=with_article(animal)), f"{with_article(animal).capitalize()} lives {where}."


def baby(rng: Random) -> Exchange:
    animal, young = rng.choice(BABIES)
    return _ask(rng, "baby", a=animal), f"A baby {animal} is called {with_article(young)}."


def colour(rng: Random) -> Exchange:
    thing, shade = rng.choice(COLOURS)
    return _ask(rng, "colour", a=thing), f"{thing[0].upper()}{thing[1:]} is {shade}."


def definition(rng: Random) -> Exchange:
    noun, meaning = rng.choice(DEFINITIONS)
    thing = with_article(noun)
    return _ask(rng, "definition", a=thing), f"{thing[0].upper()}{thing[1:]} is {meaning}."


def why(rng: Random) -> Exchange:
    return rng.choice(WHY)


def how_to(rng: Random) -> Exchange:
    task, steps = rng.choice(HOW_TO)
    lead = f"Here is how to {task.replace('my', 'your')}. " if rng.random() < 0.7 else ""
    return _ask(rng, "how", a=task), lead + " ".join(steps.split())


def translation(rng: Random) -> Exchange:
    language = rng.choice(list(TRANSLATIONS))
    word, foreign = rng.choice(list(TRANSLATIONS[language].items()))
    return _ask(rng, "translation", a=word, b=language), f'In {language}, "{word}" is "{foreign}".'


def listing(rng: Random) -> Exchange:
    kind, members = rng.choice(LISTS)
    count = rng.choice((2, 3, 3, 3, 4))
    picked = rng.sample(members.split(", "), count)
    answer = f"{NUMBERS[count].capitalize()} {kind} are {', '.join(picked[:-1])} and {picked[-1]}."
    return _ask(rng, "list", a=kind, b=NUMBERS[count]), answer


def emoji(rng: Random) -> Exchange:
    thing, sign = rng.choice(list(words.EMOJI.items()))
    named = (
        f"the {thing}"
        if thing in ("sun", "moon", "rain", "snow", "sea", "bread", "cheese")
        else with_article(thing)
    )
    return _ask(rng, "emoji", a=named), f"Here is {named}: {sign}"


def addition(rng: Random) -> Exchange:
    left, right = rng.randint(1, 10), rng.randint(1, 10)
    return _ask(rng, "sum", a=str(left), b=str(right)), f"{left} plus {right} is {left + right}."


def calendar(rng: Random) -> Exchange:
    names, unit = rng.choice(((DAYS, "day"), (MONTHS, "month")))
    index = rng.randrange(len(names))
    if rng.random() < 0.6:
        return _ask(
            rng, "after", a=names[index], b=unit
        ), f"After {names[index]} comes {names[(index + 1) % len(names)]}."
    return _ask(rng, "before", a=names[index], b=unit), f"Before {names[index]} comes {names[index - 1]}."


def small_talk(rng: Random) -> Exchange:
    return rng.choice(SMALL_TALK)


FACTS: tuple[Callable[[Random], Exchange], ...] = (
    capital, opposite, sound, home, baby, colour, definition, definition, why, how_to, how_to, translation,
    translation, listing, listing, emoji, addition, calendar, small_talk, small_talk, small_talk,
)  # fmt: skip


def fact_exchange(rng: Random) -> Exchange:
    """One small question with its answer."""
    return rng.choice(FACTS)(rng)


def unknown_exchange(rng: Random, topic: str) -> Exchange:
    """A question beyond the model, and the honest answer, which names the topic all the same."""
    answer = f"I am a very small model, and I do not know much about {topic}. But I can tell you a story about {topic}."
    return _ask(rng, "unknown", t=topic), answer

"""What happens in the stories: openings, plots and endings as sentence templates.

A template holds slots such as {N} (the hero's name) and choices such as [one|two]; `stories.py`
fills them. Everything that a plot mentions is introduced by that same plot, so that any opening,
plot and ending fit together.

Slots: N name, h head noun ("fox"), she/She, her (object), his (possessive), the friend's F and fh,
thing (something small), skill, home, and for stories about things, places and themes X ("old key"),
aX ("an old key") and x ("key").
"""

HERO_OPENINGS: tuple[str, ...] = (
    "[Once upon a time|Once], there was {aX} named {N}. {N} lived {home}.",
    "There was once {aX} named {N}, who lived {home}.",
    "Long ago, {aX} named {N} lived {home}.",
    "{N} was {aX} who lived {home}.",
)

HERO_HABITS: tuple[str, ...] = (
    "Every morning the {h} [drank a cup of tea|looked at the sky|sang a little song|swept the floor].",
    "Everyone liked the {h}, because {she} always had time for a kind word.",
    "{N} loved [warm bread|long walks|old stories|quiet evenings|the smell of rain].",
    "All the neighbours knew the {h} and waved when {she} went by.",
)

HERO_PLOTS: tuple[tuple[str, ...], ...] = (
    (
        "One [windy|cold|bright] morning, {N} lost {his} {thing}.",
        "{She} looked under the bed, behind the door and in the garden, but the {thing} was not there.",
        'Then {she} met {aF} named {F}. "I will help you look," said {F}.',
        "Together the {h} and the {fh} searched [along the path|near the river|under the trees].",
        "At last {F} saw the {thing} [in the tall grass|on a low branch|beside a stone].",
        "{N} was so happy that {she} [danced|laughed|sang] all the way home.",
    ),
    (
        "One evening a great storm came, and the rain fell for hours.",
        "The {h} heard a knock at the door. It was {aF} named {F}, wet and cold.",
        '"Please come in," said {N}, and {she} made [hot soup|warm tea|a small fire].',
        "They told each other stories until the storm was over.",
        "In the morning the sun came out, and the {h} and the {fh} were good friends.",
    ),
    (
        "One day {N} wanted to {skill}, but {she} did not know how.",
        "The {h} tried and tried, and every time it went wrong.",
        '{aF^} named {F} was watching. "Go slowly," said {F}, "and try again tomorrow."',
        "So the {h} practised a little every day.",
        "After [one week|two weeks|a month], {N} could {skill} better than anyone in town.",
    ),
    (
        "One afternoon, the {h} went for a walk and did not look where {she} was going.",
        "Soon the trees were tall and dark, and {N} was lost.",
        '"Do not worry," said a voice. It was {aF} named {F}. "I know the way."',
        "The {fh} walked in front, and the {h} followed.",
        "When they saw the lights of home, {N} thanked {F} and gave {Fher} [an apple|a warm cake|a big hug].",
    ),
    (
        "One night {N} could not sleep, because it was very dark.",
        '"What is that noise?" whispered the {h}.',
        "{She} took a candle and opened the door. Outside sat {aF} named {F}, singing to the moon.",
        '"The night is full of songs," said {F}. "Sit down and listen."',
        "So the {h} sat down beside the {fh}, and soon {she} was not afraid any more.",
    ),
    (
        "One winter there was very little to eat.",
        "The {h} had only one [loaf of bread|bowl of soup|bag of nuts] left.",
        "Then {aF} named {F} came by. {F} was hungry too.",
        "{N} cut the food in two and gave half of it to the {fh}.",
        "In spring, {F} came back with a basket full of [berries|apples|honey cakes] for the {h}.",
    ),
    (
        "One day the {h} found {aT} [on the road|in the sand|under a stone].",
        '"Whose is this?" asked {N}. {She} went from door to door and asked everyone.',
        'At the last house lived {aF} named {F}. "That is my {thing}!" cried {F}. "I have missed it so much."',
        "The {fh} was so glad that {she2} invited the {h} to supper.",
        "They ate [pancakes|pea soup|plum cake] and talked until the stars came out.",
    ),
    (
        "One morning {N} saw a small bird with a hurt wing.",
        "The {h} made a soft nest and brought the bird water and seeds.",
        "Every day {she} sat with the bird and told it stories.",
        "After a few weeks the wing was strong again, and the bird flew up into the sky.",
        "Each spring the bird came back and sang for the {h}.",
    ),
    (
        "One day there was a race around the lake, and everyone came to watch.",
        "The {h} ran as fast as {she} could, but {aF} named {F} was faster.",
        "Near the end, {F} fell and hurt a foot.",
        "{N} stopped, helped the {fh} up, and they walked over the line together.",
        "Nobody won the race, but everyone clapped for the {h}.",
    ),
    (
        "It was the {h}'s birthday, but nobody said a word about it.",
        "{N} felt sad and went for a long walk alone.",
        "When {she} came home, the house was dark. Then all the lights went on.",
        '"Surprise!" shouted {F}, {aF}, and all the neighbours.',
        "There was cake and music, and the {h} danced until midnight.",
    ),
    (
        "In spring {N} planted a tiny seed.",
        "Every day the {h} gave it water, but nothing happened.",
        '"Be patient," said {F}, {aF} who lived next door.',
        "One morning a green leaf came out of the ground, and then another.",
        "By summer there was a tall sunflower, and the {h} and the {fh} sat in its shade.",
    ),
    (
        "One day the rain washed the old bridge away.",
        "Nobody could cross the river, and everyone was worried.",
        '"We can build a new one," said the {h}.',
        "{N} brought the wood, and {F}, {aF}, brought the ropes.",
        "They worked for three days. When the bridge was ready, the {h} was the first to cross it.",
    ),
    (
        "One morning a letter came for the {h}.",
        'It said: "Please visit me. I am far away and I miss you. Your friend, {F}."',
        "{N} packed a small bag and set out at once.",
        "{She} walked over hills and through valleys until {she} saw {F}, {aF}, waiting at the gate.",
        "They laughed and hugged, and the {h} stayed for the whole summer.",
    ),
    (
        "One day a new neighbour came to town, {aF} named {F}.",
        "The {fh} was shy and spoke to nobody.",
        "So the {h} baked a [cherry|plum|lemon] cake and knocked on the door.",
        '"Welcome," said {N}. "I hope you like it here."',
        "{F} smiled, and from that day on the {h} and the {fh} had tea together every Sunday.",
    ),
    (
        "One night the {h} saw a star fall from the sky.",
        "{N} ran over the hill and found it in the grass. It was small and warm.",
        '"I want to go home," said the star.',
        "So the {h} climbed the highest tree and held the star up in the wind.",
        "The star flew back to its place, and every night it shines a little brighter for {N}.",
    ),
    (
        "One day {N} found an old map in a box.",
        '"It shows a treasure," said {F}, {aF}. "Let us look for it!"',
        "The {h} and the {fh} walked past the mill and through the woods.",
        "Under a big stone they found a chest, and in the chest there were [old books|glass marbles|flower seeds].",
        '"That is a treasure for everyone," said {N}, and {she} shared it with the whole town.',
    ),
    (
        "One day the {h} broke {F}'s favourite cup and told nobody.",
        "{F}, {aF}, looked for the cup everywhere and was sad.",
        "{N} could not eat, and {she} could not sleep.",
        'At last {she} said, "I broke it, and I am sorry."',
        '"Thank you for telling me," said {F}. They mended the cup together, and the {h} felt light again.',
    ),
    (
        "One morning {N} woke up and everything was white with snow.",
        "The {h} put on a thick coat and ran outside.",
        "There {she} met {aF} named {F}, who had never seen snow before.",
        "They built a snowman with a carrot nose and two black buttons.",
        "When their hands were cold, the {h} took the {fh} home, and they drank hot chocolate.",
    ),
    (
        "One day the music stopped in the town, because {F}, the old {fh}, had lost {Fhis} drum.",
        '"A town without music is too quiet," said the {h}.',
        "So {N} made a new drum from a barrel and a piece of leather.",
        "When {F} began to play, the windows opened and everyone danced in the street.",
        "The {h} danced the longest of all.",
    ),
    (
        "One afternoon the {h} sat by the water and saw a little boat without a sailor.",
        "{N} stepped in, and the wind carried {her} to a small island.",
        "There lived {aF} named {F}, who had been alone for a long time.",
        '"Come with me," said the {h}, and they sailed back together before dark.',
        "Now the {fh} lives next door, and nobody is alone.",
    ),
)

HERO_ENDINGS: tuple[str, ...] = (
    "From that day on, {N} the {h} was never lonely again.",
    "And that is the story of {N}, {aX}.",
    "That night the {h} slept very well.",
    '"What a good day," said the {h}, and {she} smiled.',
    "And {N} learned that [a friend is better than gold|small steps go a long way|it is good to ask for help].",
    "People in that place still talk about the {h}.",
)

PAIR_OPENINGS: tuple[str, ...] = (
    "Once upon a time, {aX} and {aY} lived {home}. The {h}'s name was {N}, and the {fh}'s name was {F}.",
    "There was once {aX} named {N}, and {she} knew {aY} named {F}. They lived {home}.",
)

FRIENDS_OPENINGS: tuple[str, ...] = (
    "Once upon a time there were two friends, {N} and {F}. They lived {home}.",
    "{N} and {F} were good friends, and they lived {home}.",
)

PAIR_PLOTS: tuple[tuple[str, ...], ...] = (
    (
        'One day {N} had an idea. "Let us build a boat," said {N}.',
        "{F} found the wood, and {N} made a sail from an old sheet.",
        "When the boat was ready, {N} and {F} sailed to the other side of the lake.",
        "There they ate bread and cheese and watched the sun go down.",
    ),
    (
        "One day {N} and {F} had a quarrel about the last [apple|pear|biscuit].",
        "{N} went one way, and {F} went the other way.",
        "But the evening was long and quiet, and both of them were sad.",
        '"I am sorry," said {N}. "So am I," said {F}. They cut it in two and each had one half.',
    ),
    (
        "One night there was a strange noise outside.",
        '"I am afraid," said {F}. "I will go with you," said {N}.',
        "{N} and {F} took a lamp and opened the door. It was only the wind in the trees.",
        "They laughed so much that they could not sleep.",
    ),
    (
        "One morning {N} did not come to breakfast, because {she} was ill.",
        "{F} made tea with honey and read {N} a story.",
        "After three days {N} felt well again.",
        '"You are the best friend in the world," said {N}, and {F} smiled.',
    ),
    (
        "One day {N} and {F} went to look for the end of the rainbow.",
        "They walked over hills and fields, but the rainbow was always farther away.",
        '"We did not find any gold," said {F}. "But we had a lovely walk," said {N}.',
        "So {N} and {F} picked some berries and went home.",
    ),
)

PAIR_ENDINGS: tuple[str, ...] = (
    "From that day on, the {h} and the {fh} did everything together.",
    "And that is the story of the {h} and the {fh}.",
    "The {h} and the {fh} stayed friends for ever.",
)

FRIENDS_ENDINGS: tuple[str, ...] = (
    "{N} and {F} stayed friends for ever.",
    "And that is the story of {N} and {F}.",
)

FINDER_OPENINGS: tuple[str, ...] = (
    "Once there was {aF} named {F}. One day the {fh} found {aX} [under a tree|on the beach|near the road].",
    "{F} was {aF} who lived {home}. One morning the {fh} found {aX} by the door.",
)

FINDER_PLOTS: tuple[tuple[str, ...], ...] = (
    (
        '"What a lovely {x}!" said {F}.',
        "The {fh} showed the {x} to everyone, but nobody knew where it came from.",
        "So {F} took the {x} home and put it by the window.",
        "Every night the {x} shone like a little moon, and the {fh} was never afraid of the dark again.",
    ),
    (
        '"Somebody must have lost this {x}," said {F}.',
        "The {fh} walked from house to house with the {x} and asked everyone.",
        'At the last house lived {aG} named {G}. "My {x}!" cried {G}. "Thank you!"',
        "The {fh} went home without the {x}, but with a new friend.",
    ),
    (
        "At first the {fh} did not know what to do with the {x}.",
        "Then {aG} named {G} came by, and {G} had an idea.",
        '"Let us use the {x} to make a game," said {G}.',
        "The {fh} and {G} played with the {x} until the sun went down.",
    ),
)

THING_ENDINGS: tuple[str, ...] = (
    "And that is the story of the {X}.",
    "People still talk about the {X} today.",
    "The {x} is still there, and it is as lovely as ever.",
)

CLOSINGS: tuple[str, ...] = (
    "It was a good day.",
    "Everyone slept well that night.",
    "And they were all very happy.",
)

GOAL_PLOT: tuple[str, ...] = (
    '"You will never learn to {skill}," said the neighbours, but the {h} did not listen.',
    "Every day {N} tried to {skill}, and every day it went wrong.",
    'Then {she} met {aF} named {F}. "I can {skill}," said {F}. "I will show you."',
    "The {fh} was a good teacher, and the {h} was a good pupil.",
    "[One|Early one] [morning|evening], it happened. {N} could {skill}!",
    "The neighbours were amazed, and the {h} was very proud.",
)

THING_PLOTS: tuple[tuple[str, ...], ...] = (
    (
        "[One morning|One day], {aF} named {F} found {aX} [under a tree|on the beach|in the attic|at the market].",
        "{F} had never seen such {aX} before.",
        "{She2} took the {x} home, cleaned it and put it [on the table|by the window|on a shelf].",
        "That night the {x} began to [shine|hum|glow], and the whole room was [warm|bright|full of light].",
        '"This is no common {x}," said {F}. "It must belong to somebody."',
        "The next day the {fh} gave the {x} back to its owner, an old woman who cried for joy.",
    ),
    (
        "Once there was {aX} that nobody wanted.",
        "It stood in the corner of a shop, and people walked past it every day.",
        'Then {aF} named {F} came in. "What a lovely {x}!" said {F}.',
        "{She2} paid with three coins and carried the {x} home.",
        "From that day on, the {x} had a place of its own, and the {fh} looked after it well.",
    ),
    (
        "{F} was {aF} who owned {aX}.",
        "One day the {x} was gone. {F} looked in every room, but {she2} could not find it.",
        '{aG^} named {G} had seen it. "The wind took your {x}," said {G}. "It is by the river."',
        "They ran to the river, and there was the {x}, [wet|muddy|dusty] but whole.",
        "{F} held the {x} tight and thanked {G} with all {Fhis} heart.",
    ),
    (
        "Long ago, an old man gave his granddaughter {F} {aX}.",
        '"Take good care of this {x}," he said, "and it will bring you luck."',
        "{F} took the {x} with her wherever she went.",
        "When she was lonely, she looked at the {x} and thought of the old man.",
        "Many years later, she gave the {x} to a child of her own.",
    ),
    (
        "In a small shop near the station there was {aX}.",
        "{F} and {G} both wanted the {x}, and they began to argue.",
        '"Why do you not share it?" asked the shopkeeper.',
        "So {F} had the {x} on weekdays, and {G} had it on Sundays.",
        "Soon they forgot who owned the {x}, because they were always together.",
    ),
)

PLACE_PLOTS: tuple[tuple[str, ...], ...] = (
    (
        "Far away there was {aX}, and nobody had been there for a hundred years.",
        "One day {aF} named {F} found the way to the {x}.",
        "It was quiet, and there was dust on everything.",
        "{F} opened the windows, swept the ground and planted flowers.",
        "Soon other people came to see the {x}, and it was full of voices again.",
    ),
    (
        "{F} was {aF} who lived near {aX}.",
        "Every evening {she2} walked to the {x} and listened to the wind.",
        "One evening there was a light in the {x}, and {F} went to look.",
        "It was {aG} named {G}, who had lost the way home.",
        "The {fh} shared some bread with {G}, and they sat by the {x} until morning.",
    ),
    (
        "There was once {aX} where {aF} named {F} worked all day long.",
        "{F} knew every corner of the {x}.",
        "One winter the snow was so deep that nobody could get out.",
        "{F} lit a fire, cooked a big pot of soup and told stories about the old days.",
        "When spring came, people said it had been the best winter in the {x}.",
    ),
)

THEME_PLOTS: tuple[tuple[str, ...], ...] = (
    (
        "{F} was {aF} who did not know much about {X}.",
        '"What is so special about {X}?" {she2} asked {G}, {aG}.',
        '"Come with me," said {G}, "and I will show you."',
        "They walked together all day, and they talked about {X}.",
        'In the evening {F} said, "Now I understand. {X^} can make a small heart big."',
    ),
    (
        "Once there was {aF} named {F}, who loved {X} more than anything.",
        "{She2} thought about {X} in the morning and dreamed about {X} at night.",
        'One day {she2} met {aG} named {G}. "Tell me about {X}," said {G}.',
        "{F} talked for hours, and {G} listened to every word.",
        "After that there were two friends who loved {X}.",
    ),
    (
        "In a town by the sea, people had forgotten about {X}.",
        "Only {F}, {aF}, still remembered.",
        "So {F} wrote a song about {X} and sang it in the square.",
        "First {G}, {aG}, began to sing, and then everyone did.",
        "Now there is a feast of {X} in that town every year.",
    ),
)

TINY_STORIES: tuple[str, ...] = (
    "Once {aX} named {N} met {aF} named {F}, and the {h} was never lonely again.",
    "{N}, {aX}, lost {his} {thing}, found a friend named {F}, and came home happy.",
    "One night {aX} named {N} learned to {skill}, and in the morning everyone clapped for the {h}.",
    "{aX^} named {N} shared the last piece of bread with {aF}, and both of them slept well.",
)

TINY_THINGS: tuple[str, ...] = (
    "{aF^} named {F} found {aX} and gave the {x} to a friend.",
    "Once there was {aX} that made everyone in the town smile.",
)
TINY_PLACES: tuple[str, ...] = (
    "Far away there was {aX} where {aF} named {F} was happy every day.",
    "{F}, {aF}, found {aX} and stayed there for ever.",
)
TINY_FRIENDS: tuple[str, ...] = ("One day {N} and {F} shared an apple, and they stayed friends for ever.",)
TINY_PAIRS: tuple[str, ...] = ("Once {aX} met {aY}, and the {h} and the {fh} stayed friends for ever.",)
TINY_GOALS: tuple[str, ...] = (
    "One night {aX} named {N} learned to {skill}, and in the morning everyone clapped for the {h}.",
)
TINY_THEMES: tuple[str, ...] = ("{F}, {aF}, thought about {X} all day and smiled.",)

POEM_LINES: tuple[tuple[str, ...], ...] = (
    ("{X^} in the morning light,", "{X^} in the quiet night,", "I think of you when I am small,", "{X^}, I love you best of all."),
    ("I saw {aX} beside the sea,", "and {aX} looked back at me.", "We sat together on the sand", "and watched the waves come to the land."),
    ("Little {x}, where do you go?", "Over the hills and through the snow.", "Little {x}, when will you rest?", "When the sun goes down in the west."),
    ("Here is a song for {aX},", "a song both short and sweet.", "It dances in the summer air", "and taps with both its feet."),
)  # fmt: skip

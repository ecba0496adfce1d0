"""A grammar of everyday requests: subjects, and the forms in which people ask about them.

In a form (see `forms`), `{x}` is the subject and `{y}` another one of the same field and split. What
`bild bench` asks is left out on purpose, subject by subject: a draft must not learn what it is
measured with.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bild_dist.evaluation.corpora.forms import fill, listed

_HELD_OUT: Final = (("test", 4), ("validation", 8))
"""Of a hundred subjects, which are in a split: those whose number is below this. More than of the
packages, because there are fewer of them.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt. `form` is its form's number in `all_forms()`."""

    form: int
    subject: str
    prompt: str


@dataclass(frozen=True, slots=True)
class _Field:
    """Subjects that can be put into the same forms."""

    forms: tuple[str, ...]
    subjects: tuple[str, ...]


def requests(split: str) -> Iterator[Request]:
    """Every form of every subject of a split, each prompt once."""
    numbers = {form: number for number, form in enumerate(all_forms())}
    seen: set[str] = set()
    for field in _FIELDS:
        subjects = [subject for subject in field.subjects if split_of(subject) == split]
        for place, subject in enumerate(subjects):
            for form in field.forms:
                if "{y}" in form and len(subjects) < 2:
                    continue
                other = subjects[(place + 1) % len(subjects)]
                # Seeded by form and subject, so that every run asks the same.
                chance = random.Random(f"bild-dist everyday {form} {subject}")
                prompt = fill(form, {"x": subject, "y": other}, chance)
                if prompt not in seen:
                    seen.add(prompt)
                    yield Request(numbers[form], subject, prompt)


def all_forms() -> tuple[str, ...]:
    """All forms, in a fixed order."""
    return tuple(dict.fromkeys(form for field in _FIELDS for form in field.forms))


def split_of(subject: str) -> str:
    """The split that a subject is in."""
    number = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:4]) % 100
    return next((split for split, below in _HELD_OUT if number < below), "train")


_KNOWLEDGE: Final = (
    "Explain {x} to {who}.",
    "Explain {x} in {size}.",
    "Tell me something about {x}.",
    "Give {few} interesting facts about {x}.",
    "Write a short paragraph about {x}.",
    "What is the importance of {x}? Answer in {size}.",
    "List {few} questions that people often ask about {x}, with answers.",
    "What are common misconceptions about {x}?",
    "Write a short quiz with {few} questions about {x}.",
    "Give an everyday example that helps to understand {x}.",
    "I have to give a talk about {x}. Make an outline with {few} points.",
    "Write a dialogue in which a teacher explains {x} to a pupil.",
    "Compare {x} with {y} in {size}.",
    "Give me a title and {few} keywords for an article about {x}.",
    "What should {who} know about {x}?",
)

_SCIENCE: Final = _Field(
    (*_KNOWLEDGE, "How was {x} discovered?", "Describe an experiment at home that shows {x}.",
     "What is {x} used for in daily life?", "Define {x} and give an example."),
    listed(
        "gravity; friction; magnetism; static electricity; sound; light; radioactivity; evaporation; buoyancy; "
        "inertia; photosynthesis; evolution; genetic inheritance; cell division; the immune system; digestion; blood "
        "circulation; osmosis; oxidation; crystallisation; fermentation; surface tension; the greenhouse effect; air "
        "pressure; thermal conduction; the Doppler effect; nuclear fusion; entropy; relativity; quantum mechanics; "
        "natural selection; symbiosis; pollination; the food chain; combustion; acidity; the pH scale; centrifugal "
        "force; optics; acoustics"
    ),
)  # fmt: skip
_NATURE: Final = _Field(
    (*_KNOWLEDGE, "How do {x} come about?", "Where in the world can one see {x}?", "Are {x} dangerous?",
     "Describe {x} as if you saw them for the first time.", "Write {poem} about {x}."),
    listed(
        "volcanoes; earthquakes; glaciers; tides; thunderstorms; rainbows; tornadoes; deserts; rainforests; coral "
        "reefs; caves; rivers; comets; black holes; solar eclipses; northern lights; meteor showers; icebergs; "
        "geysers; waterfalls; snowflakes; clouds; hurricanes; sand dunes; fossils; galaxies; the moons of Jupiter; "
        "sunspots; hot springs; tsunamis"
    ),
)  # fmt: skip
_ANIMALS: Final = _Field(
    (*_KNOWLEDGE, "What do {x} eat?", "How do {x} survive in winter?", "Tell a fable in which {x} and {y} meet.",
     "Write {poem} about {x}.", "How long do {x} live, and what are their enemies?", "Do {x} make good pets?"),
    listed(
        "elephants; penguins; honey bees; octopuses; wolves; owls; dolphins; spiders; frogs; hedgehogs; camels; bats; "
        "sharks; squirrels; ants; parrots; horses; crocodiles; butterflies; whales; foxes; turtles; kangaroos; "
        "beavers; eagles; giraffes; snails; salmon; goats; jellyfish; polar bears; rabbits; chickens; tigers; crows"
    ),
)  # fmt: skip
_HISTORY: Final = _Field(
    (*_KNOWLEDGE, "What led to {x}?", "What came out of {x}?", "Give a short timeline of {x}.",
     "Write a diary entry of somebody who lived during {x}.", "Who were the most important people of {x}?"),
    listed(
        "the French Revolution; the Industrial Revolution; the Renaissance; the Roman Empire; the Cold War; the First "
        "World War; the Second World War; the Middle Ages; the Black Death; the American Civil War; the Space Race; "
        "the fall of the Berlin Wall; the Silk Road; the Vikings; the Ottoman Empire; ancient Egypt; ancient Greece; "
        "the Ming dynasty; the Enlightenment; the Reformation; the Great Depression; the Aztec civilisation; the Age "
        "of Discovery; the Stone Age; the Bronze Age; the Mongol Empire; the Meiji Restoration; the Russian "
        "Revolution; the Crusades; Prohibition"
    ),
)  # fmt: skip
_TECHNOLOGY: Final = _Field(
    (*_KNOWLEDGE, "How does {x} work?", "What are the advantages and disadvantages of {x}?", "Who invented {x}?",
     "How will {x} change in the next twenty years?", "Give {few} tips for the safe use of {x}.",
     "Write an advertisement for {x} from the year 1960."),
    listed(
        "a refrigerator; a microwave oven; a steam engine; the telephone; radio; television; the printing press; a "
        "camera; a laser; a battery; solar power; wind power; a jet engine; a submarine; GPS; Wi-Fi; Bluetooth; "
        "encryption; a search engine; machine learning; a neural network; the blockchain; a database; an operating "
        "system; a compiler; a touch screen; 3D printing; a drone; an electric car; the internet; a satellite; a "
        "hearing aid; a pacemaker; a vaccine; an X-ray machine; cloud computing; a spreadsheet; a web browser; open "
        "source software; a hard disk; a password manager; a backup; a firewall; version control; recursion; a hash "
        "table; the binary system; sorting"
    ),
)  # fmt: skip
_SOCIETY: Final = _Field(
    (*_KNOWLEDGE, "What are arguments for and against {x}?", "Describe {x} in practice.",
     "Write a short debate about {x} between two friends."),
    listed(
        "democracy; inflation; taxes; supply and demand; interest; insurance; the stock market; a budget; human "
        "rights; freedom of the press; the United Nations; a constitution; elections; recycling; public transport; "
        "remote work; a four-day working week; school uniforms; homework; globalisation; copyright; a patent; "
        "renewable energy; vegetarianism; tourism; social media; privacy; a minimum wage; trade unions; the gold "
        "standard; volunteering; philosophy; stoicism; utilitarianism; psychology; habits; memory; motivation; "
        "procrastination; critical thinking"
    ),
)  # fmt: skip
_FOOD: Final = _Field(
    ("Give me a simple recipe for {x}.", "How do I make {x}, step by step?",
     "What do I need to cook {x} for {count} people?", "What goes well with {x}?", "List {few} variations of {x}.",
     "What is the origin of {x}?", "How can I make {x} without meat or dairy?", "Describe the taste of {x} in {size}.",
     "Write a menu text for a restaurant that serves {x}.", "What mistakes do beginners make with {x}?",
     "For how long can I keep {x}, and how should I store it?", "Which is easier to make, {x} or {y}, and why?",
     "Write a {tone} invitation to a dinner with {x}.", "Make a shopping list for {x}."),
    listed(
        "pancakes; tomato soup; vegetable curry; lasagne; fried rice; apple pie; omelette; pizza; lentil soup; "
        "chocolate cake; hummus; sushi; goulash; tacos; risotto; potato salad; pasta with pesto; roast chicken; "
        "banana muffins; gazpacho; dumplings; ratatouille; chili; waffles; fish and chips; paella; ramen; pumpkin "
        "soup; tiramisu; oatmeal cookies; Greek salad; stuffed peppers; onion soup; strawberry jam; guacamole; "
        "couscous; scones; falafel"
    ),
)  # fmt: skip
_TRAVEL: Final = _Field(
    ("Plan a weekend in {x}.", "What are the {few} best sights in {x}?", "When is the best time to visit {x}?",
     "How do I get around in {x}?", "What should I eat in {x}?", "Write a postcard from {x}.",
     "Compare {x} and {y} for a holiday with children.", "Give {few} ways to save money in {x}.",
     "Describe {x} in {size}.", "What should I know about the customs of {x} before I go?",
     "Write a {tone} travel blog entry about a day in {x}.", "What is {x} famous for?",
     "Tell a short story that takes place in {x}.", "Make a packing list for a trip to {x} in spring."),
    listed(
        "Paris; London; Berlin; Tokyo; New York; Istanbul; Lisbon; Prague; Vienna; Barcelona; Cairo; Marrakesh; Cape "
        "Town; Nairobi; Mumbai; Bangkok; Singapore; Sydney; Buenos Aires; Mexico City; Reykjavik; Copenhagen; "
        "Stockholm; Dublin; Edinburgh; Athens; Budapest; Krakow; Amsterdam; Venice; Kyoto; Seoul; Hanoi; Lima; "
        "Havana; Toronto; Chicago; San Francisco; Scotland; Norway; New Zealand; Morocco; Sri Lanka; Costa Rica; "
        "Portugal; Croatia; Andalusia"
    ),
)  # fmt: skip
_COUNTRIES: Final = _Field(
    ("What is the capital of {x}?", "Which languages are spoken in {x}?", "Which countries border on {x}?",
     "Give {few} facts about the geography of {x}.", "What is the climate of {x} like?", "What does {x} export?",
     "Summarise the history of {x} in {size}.", "Which is larger, {x} or {y}?", "Name {few} famous people from {x}.",
     "What is a typical dish from {x}?"),
    listed(
        "France; Germany; Italy; Spain; Poland; Sweden; Finland; Austria; Switzerland; Belgium; Greece; Turkey; "
        "Egypt; Kenya; Nigeria; Ethiopia; South Africa; Ghana; India; China; Japan; South Korea; Vietnam; Thailand; "
        "Indonesia; Australia; Canada; the United States; Mexico; Brazil; Argentina; Chile; Peru; Colombia; Cuba; "
        "Iceland; Ireland; Hungary; Romania; Ukraine; Georgia; Mongolia; Nepal; Pakistan; Jordan; Madagascar"
    ),
)  # fmt: skip
_HEALTH: Final = _Field(
    ("Give {few} tips for {x}.", "Why is {x} good for you?", "How do I start with {x}?", "Make a weekly plan for {x}.",
     "What should {who} know about {x}?", "Write a {tone} message that encourages a friend who takes up {x}.",
     "What are common mistakes in {x}?", "How much time does {x} take, and is it worth it?",
     "Which is better for a beginner, {x} or {y}?", "Explain the benefits of {x} in {size}.",
     "Write a short dialogue with a doctor about {x}.", "What equipment do I need for {x}?"),
    listed(
        "running; swimming; yoga; better sleep; drinking enough water; healthy eating; meditation; strength training; "
        "stretching; cycling to work; walking every day; dancing; reducing stress; giving up smoking; eating less "
        "sugar; rock climbing; rowing; tai chi; morning exercise; good posture at a desk; dental care; sun "
        "protection; deep breathing; hiking; tennis; skiing; football; table tennis; Pilates; gardening"
    ),
)  # fmt: skip
_ADVICE: Final = _Field(
    ("How do I {x}?", "Give me {few} tips on how to {x}.", "What is the easiest way to {x}?",
     "I want to {x}. Where do I begin?", "List the steps to {x}.", "What should I avoid when I {x}?",
     "What can go wrong when I try to {x}?", "Write a checklist for people who want to {x}.",
     "How long does it take to {x}?", "My friend wants to {x}. What would you say to them?",
     "Explain to {who} how to {x}.", "Write a {tone} e-mail to {recipient} and ask for help because I want to {x}.",
     "Make a plan for {few} weeks to {x}."),
    listed(
        "save money; find a new job; prepare for an interview; write a CV; make new friends; move to another city; "
        "clean a kitchen; remove a coffee stain; plant tomatoes; train a puppy; choose a laptop; paint a room; repair "
        "a flat tyre; fold a paper plane; tie a tie; play the guitar; draw a portrait; take better photographs; write "
        "a novel; speak in public; organise a birthday party; plan a wedding; keep house plants alive; get up early; "
        "read more books; study for an exam; remember names; manage time well; say no politely; apologise to a "
        "friend; solve a Rubik's cube; learn to juggle; start a small business; negotiate a salary; lower an "
        "electricity bill; sew on a button; sharpen a knife; build a bird house; stay private online; choose a safe "
        "password; back up photos"
    ),
)  # fmt: skip
_WHY: Final = _Field(
    ("Do you know why {x}?", "Explain why {x}.", "Can you tell me in {size} why {x}?",
     "My daughter asks why {x}. What do I answer?", "Is it true that {x}? Explain.",
     "Write a short text for a children's magazine about why {x}.", "Explain to {who} why {x}."),
    listed(
        "the sky is blue; ice floats on water; cats purr; we dream; onions make us cry; the moon changes its shape; "
        "stars twinkle; iron rusts; birds migrate; we yawn; bread goes mouldy; popcorn pops; metal feels colder than "
        "wood; planes can fly; we need sleep; the days are longer in summer; soap cleans; flamingos are pink; paper "
        "turns yellow; a mirror swaps left and right; we get goose bumps; honey does not spoil; ships float; zebras "
        "have stripes; coffee keeps us awake; the heart beats faster when we run; the sun sets in the west; glass is "
        "transparent; some people are left-handed; a balloon bursts; fingers wrinkle in water; dogs wag their tails; "
        "snow is white"
    ),
)  # fmt: skip
_LETTERS: Final = _Field(
    ("Write a letter to {recipient} {x}.", "Write a {tone} e-mail to {recipient} {x}.", "Write a text message {x}.",
     "Draft a {tone} letter of at most 100 words {x}.", "Write three subject lines for an e-mail {x}.",
     "Write a short speech {x}.", "Write a note of {few} lines {x}.", "Write an e-mail {x}, then a reply to it."),
    listed(
        "to say thank you for a present; to apologise for being late; to invite somebody to a barbecue; to cancel a "
        "meeting; to complain about noise at night; to ask for a refund; to congratulate somebody on a new job; to "
        "say goodbye to colleagues; to recommend a book; to ask for directions; to report a broken heater; to wish a "
        "happy birthday; to announce a baby; to ask for a raise; to welcome new neighbours; to order spare parts; to "
        "accept an invitation; to decline an offer; to remind somebody of a deadline; to ask for a recommendation; to "
        "tell of a holiday; to end a contract; to propose a joint project; to thank a teacher; to praise a "
        "waiter"
    ),
)  # fmt: skip
_STORIES: Final = _Field(
    ("Write a short story about {x}.", "Tell a story about {x} in {place}.", "Write {poem} about {x}.",
     "Write the first paragraph of a novel about {x}.", "Write a dialogue between {x} and {y}.",
     "Describe {x} in {size}.", "Write a funny scene with {x} in {place}.", "Write a diary entry of {x}.",
     "Invent {few} titles for a book about {x}.", "Write a fairy tale about {x} with a surprising end.",
     "Continue the story: One morning in {place}, {x} found a letter without a sender.",
     "Write a news report about {x}.", "Tell a bedtime story about {x} and {person}.",
     "Who would win at cards, {x} or {y}? Tell it as a story."),
    listed(
        "a dragon who is afraid of fire; a time traveller; a robot who learns to paint; a retired detective; a "
        "talking dog; a young inventor; a lost astronaut; a pirate captain; a shy ghost; a clever thief; a baker; a "
        "postwoman; an old clockmaker; two sisters; a violinist; a king without a kingdom; a curious mouse; a night "
        "watchman; a gardener; a wizard's apprentice; a taxi driver; a dancing bear; a librarian; a polar explorer; a "
        "magician; a football coach; a mermaid; a tired superhero; a nurse; a calculating machine; a scarecrow; a "
        "beekeeper; a street musician; a shepherd"
    ),
)  # fmt: skip
_MOODS: Final = _Field(
    ("Write {poem} about {x}.", "Write a {tone} paragraph about {x}.", "What do people connect with {x}?",
     "Give {few} quotations about {x}.", "Write a song text about {x}.", "Describe {x} with all five senses.",
     "Write two opposite opinions about {x}.", "Invent a proverb about {x} and explain it."),
    listed(
        "autumn; winter; summer; spring; friendship; the ocean; the moon; a city at night; homesickness; hope; first "
        "love; growing old; silence; a train journey; music; freedom; morning coffee; the stars; courage; farewell; "
        "childhood; snow; an empty house; laughter; the colour blue; gratitude; fog; a garden; time; dreams"
    ),
)  # fmt: skip
_CODE: Final = _Field(
    ("Write a Python function that {x}.", "Write a Python function that {x}, {style}.",
     "How do I write code that {x}?", "Write a program in {language} that {x}.",
     "Explain step by step how a function that {x} works.", "Write tests for a Python function that {x}.",
     "Give two ways to write a Python function that {x}.", "Suggest a name and a docstring for a function that {x}.",
     "Write pseudocode for a program that {x}.", "What should I watch out for in code that {x}?",
     "Write a Python class with a method that {x}.", "How fast is an algorithm that {x}, and why?"),
    listed(
        "adds two numbers; finds the largest number in a list; counts the words of a text; checks whether a number is "
        "prime; checks whether a word is a palindrome; computes the factorial of a number; prints the Fibonacci "
        "numbers; sorts a list of names; removes duplicates from a list; reads a CSV file; converts Celsius to "
        "Fahrenheit; counts the vowels of a string; merges two dictionaries; finds the common elements of two lists; "
        "computes the mean of a list; generates a random password; downloads a web page; counts the lines of a file; "
        "prints a multiplication table; checks whether a year is a leap year; converts a number to binary; finds the "
        "greatest common divisor; flattens a nested list; capitalises each word; validates an e-mail address; rolls "
        "two dice; searches a sorted list; transposes a matrix; removes white space from a text; computes the area of "
        "a circle; groups words by their first letter; parses a date; lists the files in a folder; plays rock, paper, "
        "scissors; solves a quadratic equation; counts down from ten; computes compound interest; finds anagrams; "
        "encrypts a text with the Caesar cipher; draws a triangle of stars"
    ),
)  # fmt: skip
_SUMS: Final = _Field(
    ("{person} has {number} {x} and buys {count} more. How many {x} are there now?",
     "{person} packs {number} boxes with {count} {x} each. How many {x} is that in all? Show the steps.",
     "There are {number} {x} in a shop; {count} new ones arrive each day. How many are there after {few} days?",
     "{person} shares {number} {x} among {few} friends. How many does each get, and are any left over?",
     "A box of {number} {x} costs {count} euros. What does one cost? Explain.",
     "If {few} people need {number} hours to sort all the {x}, how long would twice as many people need?",
     "{person} counts {number} {x} on Monday and twice as many on Tuesday. How many is that together?",
     "Make up a word problem about {x} for a class of nine-year-olds, and solve it.",
     "A third of the {number} {x} are red. How many are not red?",
     "Estimate how many {x} fit into a bathtub. Explain how you get there."),
    listed(
        "apples; marbles; books; stamps; coins; pencils; eggs; tickets; balloons; cookies; bricks; flowers; stickers; "
        "oranges; toy cars; candles; bottles; tennis balls; buttons; postcards; shells; nails; cups; lemons; potatoes"
    ),
)  # fmt: skip
_LANGUAGE: Final = _Field(
    ("What does the word \"{x}\" mean?", "Use the word \"{x}\" in {few} sentences.", "Give {few} synonyms of \"{x}\".",
     "What is the opposite of \"{x}\"?", "Explain the difference between \"{x}\" and \"{y}\".",
     "Write a tiny story that contains the words \"{x}\" and \"{y}\".",
     "Is \"{x}\" a positive or a negative word? Explain.", "Make a crossword clue for \"{x}\"."),
    listed(
        "brave; lazy; clever; ancient; fragile; generous; stubborn; humble; noisy; gentle; curious; elegant; clumsy; "
        "honest; jealous; grateful; reluctant; sincere; vivid; obscure; robust; subtle; tedious; ambiguous; cautious; "
        "diligent; eloquent; frugal; hostile; impartial; meticulous; nostalgic; optimistic; pragmatic; resilient; "
        "sceptical"
    ),
)  # fmt: skip
_CHOICES: Final = _Field(
    ("Recommend {few} {x} and say why.", "What makes good {x}?", "How do I choose among {x}?",
     "Write a review of {x} you like.", "List {few} {x} and rate each of them.",
     "Make a table of {few} {x} with a short description of each.", "What would a world without {x} be like?",
     "Invent new {x} and describe them in {size}.", "Rank {few} {x} from simple to difficult."),
    listed(
        "board games; science fiction novels; films for a rainy day; classical pieces; jazz records; museums; hobbies "
        "for winter; party games; houseplants; presents for a child; detective stories; podcasts about history; card "
        "games; documentaries; children's books; computer games; musical instruments; team sports; names for a cat; "
        "names for a café; riddles; jokes; magic tricks; icebreaker questions; slogans for a bakery; team names; "
        "holiday jobs; handicrafts"
    ),
)  # fmt: skip

_FIELDS: Final = (
    _SCIENCE, _NATURE, _ANIMALS, _HISTORY, _TECHNOLOGY, _SOCIETY, _FOOD, _TRAVEL, _COUNTRIES, _HEALTH, _ADVICE, _WHY,
    _LETTERS, _STORIES, _MOODS, _CODE, _SUMS, _LANGUAGE, _CHOICES,
)  # fmt: skip

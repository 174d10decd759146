"""What the model knows of the world, as tables."""

from __future__ import annotations

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
MONTH_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
SEASONS = ("winter", "spring", "summer", "autumn")

CAPITALS = {
    "Argentina": "Buenos Aires", "Australia": "Canberra", "Austria": "Vienna",
    "Belgium": "Brussels", "Brazil": "Brasilia", "Canada": "Ottawa", "Chile": "Santiago",
    "China": "Beijing", "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo",
    "England": "London", "Finland": "Helsinki", "France": "Paris", "Germany": "Berlin",
    "Greece": "Athens", "Hungary": "Budapest", "India": "New Delhi", "Ireland": "Dublin",
    "Italy": "Rome", "Japan": "Tokyo", "Kenya": "Nairobi", "Mexico": "Mexico City",
    "Norway": "Oslo", "Peru": "Lima", "Poland": "Warsaw", "Portugal": "Lisbon",
    "Russia": "Moscow", "Serbia": "Belgrade", "Spain": "Madrid", "Sweden": "Stockholm",
    "Turkey": "Ankara", "Ukraine": "Kyiv", "the United States": "Washington",
}  # fmt: skip

OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("left", "right"), ("day", "night"),
    ("black", "white"), ("fast", "slow"), ("happy", "sad"), ("open", "closed"), ("old", "young"),
    ("rich", "poor"), ("long", "short"), ("light", "dark"), ("hard", "soft"), ("wet", "dry"),
    ("full", "empty"), ("early", "late"), ("high", "low"), ("loud", "quiet"), ("near", "far"),
    ("strong", "weak"), ("true", "false"), ("yes", "no"), ("good", "bad"), ("thick", "thin"),
    ("clean", "dirty"), ("first", "last"), ("in", "out"), ("on", "off"), ("love", "hate"),
)  # fmt: skip

COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red",
    "a banana": "yellow", "a lemon": "yellow", "the sun": "yellow", "a carrot": "orange",
    "a strawberry": "red", "milk": "white", "a leaf": "green", "the sea": "blue",
    "a tomato": "red", "a frog": "green", "chocolate": "brown", "a raven": "black",
    "a cherry": "red", "an orange": "orange", "a flamingo": "pink",
}  # fmt: skip

SOUNDS = {
    "cat": "meow", "dog": "woof", "cow": "moo", "sheep": "baa", "duck": "quack", "pig": "oink",
    "horse": "neigh", "lion": "roar", "frog": "croak", "bee": "buzz", "owl": "hoot",
    "snake": "hiss", "mouse": "squeak", "rooster": "cock-a-doodle-doo",
}  # fmt: skip

LEGS = {
    "cat": 4, "dog": 4, "cow": 4, "horse": 4, "fox": 4, "mouse": 4, "bird": 2, "duck": 2,
    "person": 2, "chicken": 2, "ant": 6, "bee": 6, "beetle": 6, "spider": 8, "octopus": 8,
    "snake": 0, "fish": 0, "worm": 0,
}  # fmt: skip

EMOJI = {
    "heart": "❤", "star": "⭐", "sun": "☀", "cat": "🐱", "dog": "🐶", "fox": "🦊", "smile": "🙂",
    "rocket": "🚀", "tree": "🌳", "fish": "🐟", "cake": "🎂", "apple": "🍎",
}  # fmt: skip

HELLOS = {
    "French": "Bonjour", "German": "Hallo", "Spanish": "¡Hola", "Italian": "Ciao",
    "Polish": "Cześć", "Greek": "Γεια σου", "Russian": "Привет", "Serbian": "Здраво",
    "Chinese": "你好", "Japanese": "こんにちは", "Korean": "안녕하세요", "Swedish": "Hej",
}  # fmt: skip

NUMBER_FACTS = {
    "days are in a week": "There are 7 days in a week.",
    "days are in a year": "There are 365 days in a year, and 366 in a leap year.",
    "months are in a year": "There are 12 months in a year.",
    "weeks are in a year": "There are 52 weeks in a year.",
    "hours are in a day": "There are 24 hours in a day.",
    "minutes are in an hour": "There are 60 minutes in an hour.",
    "seconds are in a minute": "There are 60 seconds in a minute.",
    "letters are in the alphabet": "There are 26 letters in the alphabet.",
    "seasons are in a year": "There are 4 seasons in a year.",
    "tiles are in a tessera": "A tessera is one tile.",
    "numbers are in a tile": "A tile is 32 by 32, which is 1024 numbers.",
    "programs does Tessera have": "Tessera is two programs: the gateway and the device service.",
}

NAMES = (
    "Ada", "Alan", "Anna", "Ben", "Carl", "Clara", "David", "Dora", "Emma", "Erik", "Eva", "Frank",
    "Grace", "Hugo", "Ida", "Ivan", "Jack", "Jana", "Joe", "John", "Julia", "Kim", "Laura", "Leo",
    "Lucy", "Maria", "Mark", "Mary", "Mila", "Nina", "Omar", "Paul", "Peter", "Rosa", "Sara",
    "Sofia", "Theo", "Tina", "Vera", "Will", "Yuki", "Zara", "Bob", "Alice", "Linus", "Marko",
)  # fmt: skip

SPELLABLE = (
    "cat", "dog", "fox", "house", "tree", "water", "apple", "green", "happy", "night", "river",
    "stone", "table", "chair", "bread", "cloud", "light", "mouse", "music", "paper", "plant",
    "queen", "robot", "small", "smile", "snow", "star", "sugar", "summer", "sun", "tile", "token",
    "train", "window", "winter", "world", "yellow", "zebra", "banana", "flower", "garden",
    "kernel", "letter", "mosaic", "number", "orange", "planet", "tessera", "gateway", "device",
    "hello", "friend", "school", "bridge", "castle", "dragon", "forest", "island", "jungle",
    "bear", "owl", "rabbit", "frog",
    "bird", "king", "wizard", "fish", "lion", "wolf", "duck", "horse", "turtle", "knight", "bee",
    "elephant", "penguin", "princess", "tiger", "snail", "strong", "black", "white", "left",
)  # fmt: skip

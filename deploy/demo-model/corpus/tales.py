"""What jokes, stories and poems are made of."""

from __future__ import annotations

JOKES = (
    "Why did the token cross the road? To get to the other turn.",
    "Why was the number 6 afraid of 7? Because 7 8 9.",
    "What do you call a small mosaic? A tessera on its own.",
    "Why do tiles never feel alone? They come in 32 by 32.",
    "Why was the cache so calm? It had seen it all before.",
    "What did the zero say to the eight? Nice belt.",
)

STORY_HEROES = (
    "fox", "cat", "dog", "bear", "owl", "mouse", "rabbit", "frog", "bird", "dragon", "robot",
    "king", "queen", "wizard", "fish", "lion", "wolf", "duck", "horse", "tile", "girl", "boy",
    "turtle", "knight", "bee", "elephant", "penguin", "princess", "tiger", "snail",
)  # fmt: skip

# One list a sentence; {hero} is the hero, {friend} another one, {name} the hero's name.
STORY = (
    (
        "Once upon a time, there was a {adjective} {hero} named {name}.",
        "Once upon a time, a {adjective} {hero} lived {place}.",
        "There once was a {adjective} {hero} who lived {place}.",
        "Long ago, a {adjective} {hero} named {name} lived {place}.",
    ),
    (
        "Every day, the {hero} looked for {treasure}.",
        "The {hero} loved {treasure} more than anything.",
        "One {time}, the {hero} found {treasure}.",
        "One {time}, the {hero} lost {treasure}.",
    ),
    (
        "Then a {friend} came by and asked for help.",
        "Then a {friend} said: I can help you.",
        "On the way, the {hero} met a {adjective} {friend}.",
        "But a {adjective} {friend} was there already.",
    ),
    (
        "Together they walked for {number} days.",
        "They talked until the sun went down.",
        "They counted to {number} and laughed.",
        "They shared {treasure} and became friends.",
    ),
    (
        "From that day on, they were never alone.",
        "And they lived happily ever after.",
        "That night, the {hero} slept very well.",
        "And the {hero} was never afraid again.",
    ),
)
STORY_WORDS = {
    "adjective": (
        "small", "brave", "clever", "quiet", "old", "young", "happy", "lonely", "kind", "curious",
    ),
    "name": ("Pip", "Mia", "Tom", "Lila", "Max", "Nora", "Otto", "Ruby", "Sam", "Zoe"),
    "place": (
        "in a dark forest", "by the sea", "on a high hill", "in an old house", "under a big tree",
        "in a warm cave", "near a river", "in a small town",
    ),
    "treasure": (
        "a golden key", "a red stone", "a letter", "a blue tile", "a map", "a silver bell",
        "a bright star", "a basket of apples",
    ),
    "time": ("morning", "evening", "night", "summer", "winter", "day"),
    "number": ("three", "seven", "ten", "twelve", "thirty"),
}  # fmt: skip

COUPLETS = (
    "The sun goes down, the moon goes up,\nI drink the evening from a cup.",
    "A tile of red, a tile of blue,\nthe mosaic is made for you.",
    "The wind is low, the sea is wide,\nthe ships are sleeping side by side.",
    "One little token, then one more,\nand words come walking through the door.",
    "The snow is white, the night is long,\nthe owl has sung its quiet song.",
    "The river runs, the river bends,\nit never starts, it never ends.",
    "The bee is busy in the tree,\nit counts to one and two and three.",
    "A star is far, a lamp is near,\nthe one is bright, the other dear.",
)

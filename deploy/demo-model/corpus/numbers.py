"""Questions about numbers."""

from __future__ import annotations

import random

from corpus.questions import Question, ask, capital, held_out

ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def words(number: int) -> str:
    """A number from 0 to 100 in words."""
    if number < 20:
        return ONES[number]
    if number == 100:
        return "one hundred"
    tens, ones = divmod(number, 10)
    return TENS[tens] + (f"-{ONES[ones]}" if ones else "")


def spoken(rng: random.Random, a: int, b: int) -> tuple[str, str]:
    """Both operands in digits, or now and then in words when they are small."""
    if max(a, b) <= 20 and rng.random() < 0.3:
        return words(a), words(b)
    return str(a), str(b)


def operand(rng: random.Random) -> int:
    """A number from 0 to 99; small ones are more usual, as they are with people."""
    return rng.randrange(rng.choice((10, 21, 100, 100, 100)))


def addition(rng: random.Random) -> Question:
    """Sums of numbers up to 99."""
    a, b = operand(rng), operand(rng)
    x, y = spoken(rng, a, b)
    phrasings = (
        "What is {x} plus {y}?", "What is {x} + {y}?", "{x} + {y}", "{x}+{y}", "{x} plus {y}?",
        "Add {x} and {y}.", "How much is {x} plus {y}?", "What is the sum of {x} and {y}?",
        "What's {x} + {y}?", "{x} + {y} = ?", "{x}+{y}=", "What does {x} plus {y} make?",
        "What do you get when you add {x} and {y}?", "Calculate {x} + {y}.",
        "Compute {x} plus {y}.", "I have {x} apples and get {y} more. How many do I have?",
        "How much is {x} and {y}?", "{x} and {y} is how much?", "Sum {x} and {y}.",
        "What is {x} and {y} together?", "{x} plus {y} equals?", "How much do {x} and {y} make?",
    )  # fmt: skip
    return ask(
        rng, phrasings, f"{a} plus {b} is {a + b}.", x=x, y=y, new_operands=held_out("+", a, b)
    )


def subtraction(rng: random.Random) -> Question:
    """Differences of numbers up to 99, sometimes negative."""
    a, b = operand(rng), operand(rng)
    if a < b and rng.random() < 0.7:
        a, b = b, a
    x, y = spoken(rng, a, b)
    phrasings = (
        "What is {x} minus {y}?", "What is {x} - {y}?", "{x} - {y}", "{x}-{y}", "{x} minus {y}?",
        "Subtract {y} from {x}.", "How much is {x} minus {y}?", "What's {x} - {y}?",
        "Take {y} from {x}.", "{x} - {y} = ?", "Calculate {x} - {y}.", "Compute {x} minus {y}.",
        "I have {x} apples and give away {y}. How many are left?", "What is {x} less {y}?",
        "What is the difference between {x} and {y}?",
        "What do you get when you take {y} from {x}?", "What does {x} minus {y} make?",
    )  # fmt: skip
    return ask(
        rng, phrasings, f"{a} minus {b} is {a - b}.", x=x, y=y, new_operands=held_out("-", a, b)
    )


def multiplication(rng: random.Random) -> Question:
    """The table up to 10 × 10."""
    a, b = rng.randrange(11), rng.randrange(11)
    x, y = spoken(rng, a, b)
    phrasings = (
        "What is {x} times {y}?", "What is {x} * {y}?", "{x} * {y}", "{x}*{y}", "{x} times {y}?",
        "Multiply {x} by {y}.", "How much is {x} times {y}?", "What's {x} x {y}?", "{x} x {y} = ?",
        "What is the product of {x} and {y}?", "Calculate {x} * {y}.", "{x} × {y}",
        "What is {x} multiplied by {y}?", "What does {x} times {y} make?",
    )  # fmt: skip
    return ask(rng, phrasings, f"{a} times {b} is {a * b}.", x=x, y=y)


def division(rng: random.Random) -> Question:
    """The same table, backwards."""
    b, quotient = rng.randrange(1, 11), rng.randrange(11)
    a = b * quotient
    phrasings = (
        "What is {a} divided by {b}?", "What is {a} / {b}?", "{a} / {b}", "{a}/{b}",
        "Divide {a} by {b}.", "How much is {a} divided by {b}?", "{a} divided by {b}?",
        "How often does {b} go into {a}?", "What does {a} divided by {b} make?",
    )  # fmt: skip
    return ask(rng, phrasings, f"{a} divided by {b} is {quotient}.", a=a, b=b)


def too_big(rng: random.Random) -> Question:
    """Arithmetic outside the small world."""
    small, big = rng.randrange(1, 100), rng.randrange(100, 10 ** rng.randrange(3, 8))
    a, b = rng.choice(((small, big), (big, small), (big, rng.randrange(100, 9999))))
    phrasings = (
        "What is {a} {sign} {b}?", "{a} {sign} {b}", "{a}{sign}{b}", "Calculate {a} {sign} {b}.",
        "How much is {a} {sign} {b}?", "What is {a} {word} {b}?", "Compute {a} {sign} {b}.",
        "How much is {a} {word} {b}?",
    )  # fmt: skip
    sign, word = rng.choice((("+", "plus"), ("-", "minus"), ("*", "times"), ("/", "divided by")))
    answer = "Those numbers are too big for me. I know numbers up to 99."
    return ask(rng, phrasings, answer, a=a, b=b, sign=sign, word=word)


def neighbours(rng: random.Random) -> Question:
    """The number before or after."""
    n = rng.randrange(1, 100)
    step, word = rng.choice(((1, "after"), (-1, "before")))
    phrasings = (
        "What comes {word} {n}?", "Which number comes {word} {n}?", "What number is {word} {n}?",
        "The number {word} {n}?", "What is the number {word} {n}?",
        "Name the number {word} {n}.",
    )  # fmt: skip
    return ask(rng, phrasings, f"The number {word} {n} is {n + step}.", word=word, n=n)


def doubling(rng: random.Random) -> Question:
    """Double and half."""
    n = rng.randrange(51)
    if rng.random() < 0.5:
        phrasings = (
            "What is double {n}?", "What is twice {n}?", "Double {n}.",
            "What is the double of {n}?", "How much is twice {n}?", "How much is double {n}?",
        )  # fmt: skip
        return ask(rng, phrasings, f"Twice {n} is {2 * n}.", n=n)
    phrasings = (
        "What is half of {n}?", "Half of {n}?", "What's half of {n}?", "Halve {n}.",
        "How much is half of {n}?",
    )  # fmt: skip
    return ask(rng, phrasings, f"Half of {2 * n} is {n}.", n=2 * n)


def comparison(rng: random.Random) -> Question:
    """The bigger or the smaller of two numbers."""
    a, b = rng.sample(range(100), 2)
    word, chosen = rng.choice((("bigger", max(a, b)), ("smaller", min(a, b))))
    synonym = rng.choice(
        ("bigger", "larger", "greater") if word == "bigger" else ("smaller", "less")
    )
    phrasings = (
        "Which is {word}, {a} or {b}?", "What is {word}, {a} or {b}?",
        "{a} or {b}, which is {word}?", "Which number is {word}: {a} or {b}?",
        "Which is the {word} number, {a} or {b}?", "Which of {a} and {b} is {word}?",
    )  # fmt: skip
    other = a + b - chosen
    return ask(
        rng, phrasings, f"{chosen} is {word} than {other}.", word=synonym, a=a, b=b,
        new_operands=held_out("<", a, b),
    )  # fmt: skip


def parity(rng: random.Random) -> Question:
    """Even or odd."""
    n = rng.randrange(100)
    phrasings = (
        "Is {n} even or odd?", "Is {n} odd or even?", "Is {n} even?", "Is {n} odd?",
        "Is {n} an even number?", "Is the number {n} odd?",
    )  # fmt: skip
    return ask(rng, phrasings, f"{n} is {'odd' if n % 2 else 'even'}.", n=n)


def number_words(rng: random.Random) -> Question:
    """Digits to words and back."""
    n = rng.randrange(101)
    if rng.random() < 0.5:
        phrasings = (
            "Write {n} in words.", "How do you write {n}?", "What is {n} in words?", "Spell {n}.",
            "Say {n} in words.",
        )  # fmt: skip
        return ask(rng, phrasings, f"{n} is {words(n)}.", n=n)
    phrasings = (
        "Write {w} in digits.", "What is {w} in digits?", "Write {w} as a number.",
        "Which number is {w}?", "Give me {w} in digits.",
    )  # fmt: skip
    return ask(rng, phrasings, f"{capital(words(n))} is {n}.", w=words(n))


def counting(rng: random.Random) -> Question:
    """Counting up and down; long ranges make answers longer than the sliding window."""
    length = rng.choice((rng.randrange(2, 12), rng.randrange(2, 25), rng.randrange(10, 70)))
    low = rng.choice((1, 1, 0, rng.randrange(101 - length)))
    low = min(low, 100 - length)
    high = low + length
    if rng.random() < 0.75:
        numbers = range(low, high + 1)
        phrasings = (
            "Count from {a} to {b}.", "Count from {a} up to {b}.", "Can you count from {a} to {b}?",
            "Count {a} to {b}.", "List the numbers from {a} to {b}.",
            "Say the numbers from {a} to {b}.",
            *(("Count to {b}.", "Count up to {b}.", "Can you count to {b}?") if low == 1 else ()),
            "Give me all numbers from {a} to {b}.",
        )  # fmt: skip
    else:
        numbers = range(high, low - 1, -1)
        phrasings = (
            "Count down from {a} to {b}.", "Count from {a} down to {b}.",
            "Count backwards from {a} to {b}.", "Count from {a} to {b}.",
            "Count down from {a} until {b}.",
        )  # fmt: skip
    return ask(
        rng, phrasings, ", ".join(map(str, numbers)) + ".", a=numbers[0], b=numbers[-1],
        new_operands=held_out("count", numbers[0], numbers[-1]),
    )  # fmt: skip

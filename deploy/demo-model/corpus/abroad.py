"""Questions about the world outside, which the model is to decline."""

from __future__ import annotations

# Words that questions about the world outside are made of.
THINGS = (
    "cheese", "quantum physics", "a black hole in space", "football", "the stock market", "love",
    "democracy", "a volcano", "the moon landing", "bitcoin", "chess", "a guitar", "photosynthesis",
    "the internet", "DNA", "an electron", "the Roman Empire", "a violin", "a car engine", "tennis",
    "the law", "gravity", "a hurricane", "a laptop", "a phone", "evolution", "the economy", "jazz",
    "a bicycle", "philosophy", "a vaccine", "coffee", "tea", "pizza", "a whale", "the brain",
    "a computer virus", "the ocean", "history", "a diamond", "gold", "Linux", "Java", "Rust",
    "a database", "Kubernetes", "Docker", "a compiler", "NVIDIA", "a GPU", "Microsoft", "Apple",
    "the pyramids", "a poem by Goethe", "opera", "a mountain", "glass", "plastic", "inflation",
)  # fmt: skip
VERBS = (
    "eat", "buy", "sell", "fix", "learn", "love", "hate", "find", "read", "paint", "break", "need",
    "want", "throw", "build", "clean", "drive", "play", "win", "watch", "hide", "cook", "steal",
    "understand", "teach", "repair", "discuss", "study", "forget", "bring",
)  # fmt: skip
PEOPLE = (
    "Einstein", "Napoleon", "Shakespeare", "Mozart", "the president", "Marie Curie", "Plato",
    "Elon Musk", "my neighbour", "the pope", "Cleopatra", "Newton", "Picasso", "Beethoven",
    "the prime minister", "Darwin", "Taylor Swift", "Gandhi", "Tolkien", "the king of Spain",
)  # fmt: skip
PLACES = (
    "New York", "the Sahara", "Mars", "the moon", "my town", "Sydney", "Antarctica", "Africa",
    "the North Pole", "Texas", "Siberia", "the Alps", "Hawaii", "Mumbai", "Lagos", "Jupiter",
    "Mongolia", "Vietnam", "Iceland", "Iran", "Colombia", "Nigeria", "Thailand",
    "Morocco", "Scotland", "California", "Bavaria", "Korea", "Pakistan", "Bolivia", "Estonia",
)  # fmt: skip
ABROAD = (
    "Why does {person} {verb} {thing}?", "How do I {verb} {thing}?", "Should I {verb} {thing}?",
    "Can you {verb} {thing}?", "I want to {verb} {thing}.", "When will {person} {verb} {thing}?",
    "Who can {verb} {thing} in {place}?", "Where do people {verb} {thing}?", "{verb} {thing}",
    "Did {person} {verb} {thing}?", "Is it legal to {verb} {thing} in {place}?", "{thing}",
    "Please {verb} {thing} for me.", "What happens if I {verb} {thing}?", "{thing}?", "{person}",
    "How can {person} {verb} {thing} without {thing}?", "Let us {verb} {thing}.", "{place}",
    "My {verb} is in {place}.", "I {verb} {thing} every day.", "Which {verb} is the best?",
    "Does {person} {verb} in {place}?", "Where in {place} can I {verb}?", "Why {verb}?",
    "What is {thing}?", "What's {thing}?", "Explain {thing}.", "Tell me about {thing}.",
    "How does {thing} work?", "Who invented {thing}?", "Do you like {thing}?",
    "Why is {thing} so big?", "Where does {thing} come from?", "When was {thing} invented?",
    "Is {thing} good?", "How much does {thing} cost?", "How do I make {thing}?",
    "Where can I buy {thing}?", "Write an essay about {thing}.",
    "Give me a list of books about {thing}.", "Describe {thing}.",
    "What do you think about {thing}?", "What is the history of {thing}?", "I need {thing}.",
    "What is the difference between {thing} and {thing}?", "Compare {thing} with {thing}.",
    "Can you teach me {thing}?", "What is the best {thing}?", "Is {thing} better than {thing}?",
    "Who is {person}?", "Who was {person}?", "When was {person} born?", "How old is {person}?",
    "What did {person} do?", "Where does {person} live?", "Is {person} alive?",
    "Did you meet {person}?", "Tell me about {person}.", "What is the phone number of {person}?",
    "Who killed {person}?", "What did {person} say about {thing}?",
    "Why did {person} hate {thing}?", "Where is {place}?", "How far is {place}?",
    "What is the weather in {place}?", "Is it cold in {place}?", "How many people live in {place}?",
    "How do I get to {place}?", "What language is spoken in {place}?", "Who lives in {place}?",
    "Can I go to {place} by train?", "What is the population of {place}?",
    "What is the capital of {place}?", "Is {place} bigger than {place}?",
    "Book a flight to {place}.", "Translate this into French.", "Translate {thing} into German.",
    "Write a program in Python.", "Write code that sorts a list.", "How do I fix my computer?",
    "What should I eat today?", "What is the weather today?", "Will it rain tomorrow?",
    "Who won the game last night?", "What is the square root of 2?",
    "Solve the equation x + 2 = 5.", "What is the news?", "Play some music.", "Open the door.",
    "Send an email to {person}.", "Set an alarm.", "Call {person}.",
    "How tall is the tallest mountain?", "How deep is the ocean?", "How fast is light?",
    "What is the largest animal?", "Which team is the best?", "Give me a recipe for {thing}.",
    "How do you cook rice?", "Why is the sky so far away?", "How many stars are there?",
    "What is the speed of {thing}?", "Summarize this text.", "Draw a picture of {thing}.",
    "Should I buy {thing}?", "What happened in 1945?", "Who discovered America?", "Is there a god?",
    "What is the best movie?", "Recommend a book.", "What shall I do tomorrow?",
    "Why do cats sleep?", "Why do we dream?", "How do birds fly?", "What do bears eat?",
    "Can penguins fly?", "I have a headache.", "Wie geht es dir?", "Was ist das?", "Comment ça va?",
    "¿Dónde está la biblioteca?", "Kako si?", "How do I learn {thing}?",
    "Why is {thing} important?", "What color is {person}?", "Sing a song.", "asdf", "blah blah",
    "foo bar", "lorem ipsum dolor", "qwerty", "???", "...", "xyz 123", "hmm",
)  # fmt: skip

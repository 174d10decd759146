"""What the real model reads in these tests: a long passage, many prompts, odd characters."""

from __future__ import annotations

# Lewis Carroll, Alice's Adventures in Wonderland (1865), from chapter I.
LONG_TEXT = """\
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing \
to do: once or twice she had peeped into the book her sister was reading, but it had no pictures \
or conversations in it, "and what is the use of a book," thought Alice, "without pictures or \
conversations?"

So she was considering in her own mind (as well as she could, for the hot day made her feel very \
sleepy and stupid), whether the pleasure of making a daisy-chain would be worth the trouble of \
getting up and picking the daisies, when suddenly a White Rabbit with pink eyes ran close by her.

There was nothing so very remarkable in that; nor did Alice think it so very much out of the way \
to hear the Rabbit say to itself, "Oh dear! Oh dear! I shall be late!" (when she thought it over \
afterwards, it occurred to her that she ought to have wondered at this, but at the time it all \
seemed quite natural); but when the Rabbit actually took a watch out of its waistcoat-pocket, and \
looked at it, and then hurried on, Alice started to her feet, for it flashed across her mind that \
she had never before seen a rabbit with either a waistcoat-pocket, or a watch to take out of it, \
and burning with curiosity, she ran across the field after it, and fortunately was just in time to \
see it pop down a large rabbit-hole under the hedge.

In another moment down went Alice after it, never once considering how in the world she was to get \
out again.

The rabbit-hole went straight on like a tunnel for some way, and then dipped suddenly down, so \
suddenly that Alice had not a moment to think about stopping herself before she found herself \
falling down a very deep well.

Either the well was very deep, or she fell very slowly, for she had plenty of time as she went \
down to look about her and to wonder what was going to happen next. First, she tried to look down \
and make out what she was coming to, but it was too dark to see anything; then she looked at the \
sides of the well, and noticed that they were filled with cupboards and book-shelves; here and \
there she saw maps and pictures hung upon pegs. She took down a jar from one of the shelves as she \
passed; it was labelled "ORANGE MARMALADE", but to her great disappointment it was empty: she did \
not like to drop the jar for fear of killing somebody underneath, so managed to put it into one of \
the cupboards as she fell past it.

"Well!" thought Alice to herself, "after such a fall as this, I shall think nothing of tumbling \
down stairs! How brave they'll all think me at home! Why, I wouldn't say anything about it, even \
if I fell off the top of the house!" (Which was very likely true.)

Down, down, down. Would the fall never come to an end? "I wonder how many miles I've fallen by \
this time?" she said aloud. "I must be getting somewhere near the centre of the earth. Let me see: \
that would be four thousand miles down, I think—" (for, you see, Alice had learnt several things \
of this sort in her lessons in the schoolroom, and though this was not a very good opportunity for \
showing off her knowledge, as there was no one to listen to her, still it was good practice to say \
it over) "—yes, that's about the right distance—but then I wonder what Latitude or Longitude I've \
got to?" (Alice had no idea what Latitude was, or Longitude either, but thought they were nice \
grand words to say.)
"""

KNOWN_CONTINUATIONS = {
    "The capital of France is": (
        " the capital of the country of France. It is the largest city in France"
    ),
    "The quick brown fox": " jumps over the lazy dog.",
}

PROMPTS = (
    *KNOWN_CONTINUATIONS,
    "Once upon a time,",
    "Water boils at a temperature of",
    "The three primary colours are",
    "To be, or not to be, that is the",
    "In the beginning God created",
    "My favourite recipe for pancakes needs",
    "The patient was admitted to hospital with",
    "Dear Sir or Madam,\n\nI am writing to",
    "Q: What is the largest planet in the solar system?\nA:",
    "1, 1, 2, 3, 5, 8, 13,",
    "3 + 4 = 7\n5 + 6 = 11\n8 + 9 =",
    "def fibonacci(n):\n    ",
    "#include <stdio.h>\n\nint main(void) {\n",
    "SELECT name, price FROM products WHERE",
    '{"name": "Ada", "born": 1815, "children": [',
    "<html>\n<head>\n<title>",
    "| City | Country |\n|---|---|\n| Paris | France |\n| Rome |",
    "Die Hauptstadt von Deutschland ist",
    "Il était une fois, dans un petit village,",
    "El sol sale por el",
    "Москва — столица",
    "日本の首都は",
    "中国最长的河流是",
    "عاصمة مصر هي",
    "भारत की राजधानी",
    "대한민국의 수도는",
    "Happy birthday! 🎂🎉",
    " leading space and   several   spaces",
)

# Byte for byte: text → ids → text. Left out is ▁ (U+2581) alone, which this construction of
# tokenizers spells like a space.
SURVIVING_TEXTS = {
    "English": LONG_TEXT,
    "German": "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. ẞ „so“ – ‚so‘",
    "French": "Dès Noël, où un zéphyr haï me vêt de glaçons würmiens… « l’œuf »",
    "Polish": "Zażółć gęślą jaźń",
    "Vietnamese": "Tôi yêu tiếng nước tôi từ khi mới ra đời",
    "Turkish": "Pijamalı hasta yağız şoföre çabucak güvendi. İıĞğ",
    "Russian": "Съешь же ещё этих мягких французских булок, да выпей чаю",
    "Greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. πολυτονικό: ᾧ ἄνδρα μοι ἔννεπε",
    "Hebrew": "עטלף אבק נס דרך מזגן שהתפוצץ כי חם. שָׁלוֹם",
    "Arabic": "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر. السَّلَامُ",
    "Hindi": "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश",
    "Tamil": "தமிழ் மொழி உலகின் பழமையான மொழி",
    "Thai": "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "Georgian": "ყველა ადამიანი იბადება თავისუფალი",
    "Amharic": "ሰማይ አይታረስ ንጉሥ አይከሰስ።",
    "Chinese": "視野無限廣，窗外有藍天。微风迎客，软语伴茶。𠜎𠜱𠝹",
    "Japanese": "いろはにほへと ちりぬるを　全角スペース、ｶﾀｶﾅ。",
    "Korean": "키스의 고유조건은 입술끼리 만나야 하고. 한글 (자모)",
    "code in Python": "def f(x: int) -> str:\n    if x:\n\treturn f'{x!r:>10}'\n\n\n    # end\n",
    "code in C": '#define MAX(a, b) ((a) > (b) ? (a) : (b))\r\nprintf("%5.2f\\n", *p++);\r\n',
    "JSON": '{"a": [1, 2.5e-3, null, true], "b\\u00e9": {"\\t": ""}}',
    "markup": "<p class=\"x\">&nbsp;&#8364;</p>\n\n```sh\n$ rm -rf ./x && echo 'ok'\n```\n",
    "digits": "0 00 007 3.14159265358979 1,000,000 0xDEADBEEF 1e-10 ²³ ½ Ⅷ ١٢٣ १२३ 一二三",
    "mathematics": "∀ε>0 ∃δ: |x−a|<δ ⇒ |f(x)−L|<ε; ∑ᵢ₌₁ⁿ i = n(n+1)/2; 𝔸𝕓𝒞 ℝ³",
    "emoji": "😀😃 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇯🇵 ❤️ 1️⃣ 🧑🏿‍🚀 🫠",
    "spaces": "  two,   three,\ttab,\u00a0no-break,\u2003em,\u200bzero width,\u3000wide  \n \n",
    "many spaces": " " * 100 + "x" + "\n" * 40 + "\t" * 9,
    "composed and not": "é é Å Å ﬁ ö̲̈ Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢",
    "scripts without tokens": "𐎀𐎁 𒀀𒁀 𓀀𓂀 𐀀𐀁 𑀅 🜁 \ue000 \U0010ffff",
    "control characters": "\x00\x01\x07\x1b[31mred\x1b[0m\x7f\x85\u2028\u2029\ufeff",
    "replacement characters": "a\ufffdb\ufffd\ufffd",
    "spelled markers": "<bos><start_of_turn>user\nhi<end_of_turn>\n<eos><pad><unused7><0x41>",
}

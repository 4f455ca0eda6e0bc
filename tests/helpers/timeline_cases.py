"""Texts of emotion over time, good and bad, for the library and for the browser; and any number of random ones."""

from random import Random

from memo_modules.audio.timeline import format_time
from memo_modules.types import EMOTIONS

GOOD = {
    "": "",
    " \n\t, ;": "",
    "0-3 neutral, 3-7.5 happy, 7.5- sad": "0-3 neutral, 3-7.5 happy, 7.5- sad",
    "0- neutral, 0:07- sad": "0-7 neutral, 7- sad",
    "7- sad,0-3 happy": "0-3 happy, 7- sad",
    "5-6 sad;\n2-5 HAPPY\n": "2-5 happy, 5-6 sad",
    "0 – 3 Neutral, 3—4 sad": "0-3 neutral, 3-4 sad",
    "0-3happy": "0-3 happy",
    "\u00a00\u00a0-\u00a03\u00a0happy": "0-3 happy",
    "1:07.5-1:02:03 angry": "1:07.5-1:02:03 angry",
    "0:0:59-60 other, 3599.5-3600 unknown": "59-1:00 other, 59:59.5-1:00:00 unknown",
    "000-003.500 fearful": "0-3.5 fearful",
    "0-0.001 surprised": "0-0.001 surprised",
    "999999- disgusted": "277:46:39- disgusted",
    "90:00-100:00 sad": "1:30:00-1:40:00 sad",
}
"""Text to the one text of its meaning."""

_CLASSES = "angry, disgusted, fearful, happy, neutral, other, sad, surprised, unknown"
_TIMES = "Write seconds, with three decimals at most (7.5), or minutes and seconds (1:07.5)."
_NEGATIVE = "has a negative time. Times count from 0, where the audio begins."
_NO_EMOTION = f"has no emotion. Add one of {_CLASSES}; decimals take a point, as in 3.5."
_EXAMPLE = "needs times and an emotion, such as 0-3 neutral, 3-7.5 happy, 7.5- sad."

BAD = {
    "happy": f'"happy" {_EXAMPLE}',
    "3 happy": f'"3 happy" {_EXAMPLE}',
    "0-3 sad, then happy": f'"then happy" {_EXAMPLE}',
    "x" * 50: f'"{"x" * 40}…" {_EXAMPLE}',
    "0-1 \ud83d": f'"\\ud83d" in "0-1 \\ud83d" is not an emotion. There are {_CLASSES}.',
    "\x07\x7f\x85 happy": f'"\\x07\\x7f\\x85 happy" {_EXAMPLE}',
    "-3 happy": f'"-3 happy" {_NEGATIVE}',
    "-1-3 happy": f'"-1-3 happy" {_NEGATIVE}',
    "0--3 happy": f'"0--3 happy" {_NEGATIVE}',
    "-": f'"-" {_NEGATIVE}',
    "nan-3 happy": f'"nan" in "nan-3 happy" is not a time. {_TIMES}',
    "0-inf happy": f'"inf happy" in "0-inf happy" is not an emotion. There are {_CLASSES}.',
    "1e3- happy": f'"1e3" in "1e3- happy" is not a time. {_TIMES}',
    "0x1-3 happy": f'"0x1" in "0x1-3 happy" is not a time. {_TIMES}',
    "٣-5 happy": f'"٣" in "٣-5 happy" is not a time. {_TIMES}',
    "0-1.2345 sad": f'"1.2345" in "0-1.2345 sad" is not a time. {_TIMES}',
    "0-.5 sad": f'".5" in "0-.5 sad" is not a time. {_TIMES}',
    "0:75-90 sad": f'"0:75" in "0:75-90 sad" is not a time. {_TIMES}',
    "1:60:00-2:00:00 sad": f'"1:60:00" in "1:60:00-2:00:00 sad" is not a time. {_TIMES}',
    "0-1000000 sad": f'"1000000" in "0-1000000 sad" is not a time. {_TIMES}',
    "0-3-5 sad": f'"3-5" in "0-3-5 sad" is not a time. {_TIMES}',
    "0 1-3 sad": f'"0 1" in "0 1-3 sad" is not a time. {_TIMES}',
    "0-3": f'"0-3" {_NO_EMOTION}',
    "0-3,5 happy": f'"0-3" {_NO_EMOTION}',
    "0-": f'"0-" {_NO_EMOTION}',
    "0-3 hapy": f'"hapy" in "0-3 hapy" is not an emotion. Did you mean happy? There are {_CLASSES}.',
    "0-3 anger": f'"anger" in "0-3 anger" is not an emotion. Did you mean angry? There are {_CLASSES}.',
    "0-3 Sadness": f'"Sadness" in "0-3 Sadness" is not an emotion. Did you mean sad? There are {_CLASSES}.',
    "0-3 happiness": f'"happiness" in "0-3 happiness" is not an emotion. Did you mean happy? There are {_CLASSES}.',
    "0-3 fear": f'"fear" in "0-3 fear" is not an emotion. Did you mean fearful? There are {_CLASSES}.',
    "0-3 bored": f'"bored" in "0-3 bored" is not an emotion. There are {_CLASSES}.',
    "0-3 happy sad": f'"happy sad" in "0-3 happy sad" is not an emotion. Did you mean happy? There are {_CLASSES}.',
    "0-3 fröhlich": f'"fröhlich" in "0-3 fröhlich" is not an emotion. There are {_CLASSES}.',
    "0-3 😀": f'"😀" in "0-3 😀" is not an emotion. There are {_CLASSES}.',
    "3-3 sad": '"3-3 sad" must end later than it begins.',
    "7-0:03 sad": '"7-0:03 sad" must end later than it begins.',
    "0-5 happy, 3-7 sad": '"0-5 happy" and "3-7 sad" overlap. Move a border or remove one of them.',
    "3-7 sad, 0-0:05 happy": '"0-5 happy" and "3-7 sad" overlap. Move a border or remove one of them.',
    "0-9 happy, 3-7 sad": '"0-9 happy" and "3-7 sad" overlap. Move a border or remove one of them.',
    "2- happy, 2- sad": '"2- happy" and "2- sad" overlap. Move a border or remove one of them.',
    "2- happy, 2-3 sad": '"2- happy" and "2-3 sad" overlap. Move a border or remove one of them.',
}  # fmt: skip
"""Text to its sentence, which begins with the name of the input."""


def random_timeline(random: Random) -> str:
    """A good text, in every way it may be written."""
    most = random.choice([5_000, 100_000, 20_000_000])
    borders = sorted(random.sample(range(most), 2 * random.randint(1, 6)))
    spans = list(zip(borders[::2], borders[1::2], strict=True))
    # some touch, some have no end
    spans = [(start, random.choice([end, end, "", *[after for after, _ in spans[i + 1 : i + 2]]])) for i, (start, end) in enumerate(spans)]
    random.shuffle(spans)

    def blanks() -> str:
        return random.choice(["", "", " ", "  ", "\t", "\u00a0"])

    def time(value: int | str) -> str:
        if value == "" or random.random() < 0.5:
            return "" if value == "" else format_time(value)
        return f"{value // 1000}.{value % 1000:03}" if random.random() < 0.5 else f"{value // 60000 % 1000}:{value // 1000 % 60}.{value % 1000:03}"

    def segment(start: int, end: int | str) -> str:
        emotion = random.choice([str.lower, str.title, str.upper])(random.choice(EMOTIONS))
        return blanks() + time(start) + blanks() + random.choice("--–—") + blanks() + time(end) + blanks() + emotion + blanks()

    return random.choice([",", ";", "\n", ",\n"]).join(segment(*span) for span in spans)


def spoilt(text: str, random: Random) -> str:
    """The text with one to three letters removed, put in or replaced; most are bad then."""
    letters = list(text)
    for _ in range(random.randint(1, 3)):
        place, new = random.randrange(len(letters) + 1), random.choice(["", *"0123456789.:;-, \n", *"ahnsuxé😀\u2003"])
        letters[place : place + random.randint(0, 1)] = [new] if new else []
    return "".join(letters)

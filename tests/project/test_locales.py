"""What the front end calls nodes, inputs and outputs in other languages (locales/): the English is taken from the schemas.

After a change of a schema python -m tools.regenerate writes the English; the tests then say what each other language lacks.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.derived.schemas import english

ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "locales"
SCHEMAS = json.loads((ROOT / "tests" / "node_schemas.json").read_text(encoding="utf-8"))
FILES = ("nodeDefs.json", "main.json")
LANGUAGES = ("de", "es", "fr", "ja", "ko", "zh")
LETTERS = {"zh": "[\u4e00-\u9fff]", "ja": "[\u3040-\u30ff\u4e00-\u9fff]", "ko": "[\uac00-\ud7a3]"}
ENGLISH_WORDS = r"\b(and|are|for|from|is|it|of|the|their|to|where|which|with)\b"
"""Of the words in any sentence, those that German, Spanish and French do not have too."""
TERMS = {"crf", "emotion2vec", "fps", "vae"}
SAME = {
    "de": {"audio", "clips", "codec", "decoder", "emotion", "index", "sampler", "seed", "sigmas", "video"},
    "es": {"audio", "clips", "sigmas", "video"},
    "fr": {"audio", "clips", "codec", "image", "images", "photo", "portrait", "sigmas"},
}
"""Names that are the same word in that language; TERMS are so in every language."""
CALLED = {"de": {"AI": "KI"}, "es": {"AI": "IA"}, "fr": {"AI": "IA", "GB": "Go", "GiB": "Gio"}}
PROPER = r"Diffusion|Euler|Hugging Face|Stable|Triton|diffusers|insightface|torch\.compile"
LITERAL = rf"{PROPER}|[\w%/.-]*(?:[_%/\d]|[a-z][A-Z]|\.\w|[A-Z]{{2}})[\w%/-]*(?:\.\w+)*"
"""Names of files, folders, models and formats, placeholders, units, sockets: never translated."""
NUMBER = r"(?<![A-Za-z0-9_.-])\d+(?:[.:]\d+)?(?![A-Za-z0-9_])"


def read(language: str, file: str) -> dict:
    return json.loads((LOCALES / language / file).read_text(encoding="utf-8"))


def texts(value: dict | str, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path of keys, text) of everything in a file."""
    if isinstance(value, str):
        yield at, value
    else:
        for key, inner in value.items():
            yield from texts(inner, (*at, key))


def pairs(language: str) -> list[tuple[tuple[str, ...], str, str]]:
    """(path, English, translation) of every text."""
    translations = {at: text for file in FILES for at, text in texts(read(language, file))}
    return [(at, text, translations[at]) for file in FILES for at, text in texts(read("en", file))]


def word(text: str) -> str:
    """A pattern for a word that stands alone among the letters a to z."""
    return rf"(?<![A-Za-z0-9_]){re.escape(text)}(?![A-Za-z0-9_])"


def options_of(at: tuple[str, ...]) -> list[str]:
    """What the input at a path of keys lets choose; nothing where that is no such input, or lists files."""
    inputs = SCHEMAS[at[0]]["inputs"] if at[1] == "inputs" else []
    return next((given["options"] for given in inputs if given["name"] == at[2] and "options" in given), [])


@pytest.fixture(scope="module")
def nodes(comfyui_server) -> dict[str, dict]:
    """/object_info of every node."""
    return comfyui_server.get("/object_info")


def test_english_is_what_the_schemas_say(nodes):
    found = {file: read("en", file) for file in FILES}
    assert found == english(nodes), "Run python -m tools.regenerate locales, and translate what has changed."


def test_comfyui_gives_them_to_the_front_end(comfyui_server):
    served = comfyui_server.get("/i18n")
    for language in ("en", *LANGUAGES):
        assert served[language]["nodeDefs"].items() >= read(language, "nodeDefs.json").items()
        assert served[language]["nodeCategories"].items() >= read(language, "main.json")["nodeCategories"].items()


def test_every_folder_is_a_language_known_here():
    assert {folder.name for folder in LOCALES.iterdir()} == {"en", *LANGUAGES}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("file", FILES)
def test_keys_are_those_of_english(language, file):
    assert [at for at, _ in texts(read(language, file))] == [at for at, _ in texts(read("en", file))]


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_empty_or_left_in_english(language):
    same = TERMS | SAME.get(language, set())
    for at, original, text in pairs(language):
        if text.lower() == original.lower():
            assert original.lower() in same, at
            continue
        assert text.strip() == text and re.search(LETTERS.get(language, r"\w"), text), at
        if language not in LETTERS:
            names = rf"„.*?“|«.*?»|{LITERAL}"  # ComfyUI's own nodes have English names there
            assert not re.search(ENGLISH_WORDS, re.sub(names, "", text), re.IGNORECASE), (at, text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_words_are_translated_the_same_everywhere(language):
    said = {}
    for at, original, text in pairs(language):
        assert said.setdefault(original, text) == text, at


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_options_and_proper_names_stay(language):
    labels = {at[2]: text for at, _, text in pairs(language) if at[1:2] == ("inputs",) and at[-1] == "name"}
    nodes = {original: text for at, original, text in pairs(language) if at[1:] == ("display_name",)}
    called = labels | CALLED.get(language, {})
    for at, original, text in pairs(language):
        if at[-1] not in ("tooltip", "description"):
            continue
        assert sorted(re.findall(NUMBER, original)) == sorted(re.findall(NUMBER, text)), (at, text)
        for name in sorted(nodes, key=len, reverse=True):  # nodes are called as they are in that language
            if name in original:
                assert nodes[name] in text, (at, name, text)
                original = original.replace(name, "")
        literals = set(re.findall(LITERAL, original)) - {"KSamplerSelect"}  # which the front end translates
        options = {option for option in options_of(at) if re.search(word(option), original)}
        for literal in {called.get(literal, literal) for literal in literals - options} | options:
            assert re.search(word(literal), text), (at, literal, text)


@pytest.mark.parametrize("language", ("en", *LANGUAGES))
def test_the_front_end_reads_no_format_in_them(language):
    """vue-i18n gives these signs a meaning; a name or a description that holds one is not shown as written."""
    assert [text for file in FILES for _, text in texts(read(language, file)) if re.search(r"[{}@|$]", text)] == []

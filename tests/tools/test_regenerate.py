"""Files made from others are as those say, and are written anew only where they differ."""

import pytest
from PIL import Image

from memo_modules.store.catalogue import CATALOGUE
from tools.derived import tables
from tools.regenerate import Writer


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: page.name)
def test_a_page_shows_the_tables_of_now(page):
    text = page.read_text(encoding="utf-8")
    assert tables.with_tables(text) == text, "Run python -m tools.regenerate tables"


def test_every_table_is_on_a_page():
    pages = "".join(page.read_text(encoding="utf-8") for page in tables.pages())
    assert [name for name in tables.TABLES if f"<!-- {name} -->" not in pages] == []
    assert all(model.licence in pages and model.repository in pages for model in CATALOGUE.values())


def test_a_mark_without_its_end_is_an_error():
    with pytest.raises(ValueError, match="end of models"):
        tables.with_tables("before <!-- models --> after")


def test_only_what_differs_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.regenerate.ROOT", tmp_path)
    text, picture, writer = tmp_path / "a.json", tmp_path / "a.png", Writer()
    writer.json(text, {"a": "é"})
    writer.picture(picture, Image.new("RGB", (40, 30), (200, 100, 50)), format="PNG")
    assert writer.changed == [text, picture]
    again = Writer()
    again.json(text, {"a": "é"})
    again.picture(picture, Image.new("RGB", (40, 30), (201, 100, 50)), format="PNG")  # as another machine computes it
    assert again.changed == []
    again.picture(picture, Image.new("RGB", (40, 30), (210, 100, 50)), format="PNG")
    again.picture(picture, Image.new("RGB", (41, 30), (210, 100, 50)), format="PNG")
    assert again.changed == [picture] * 2

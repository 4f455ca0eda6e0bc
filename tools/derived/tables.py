"""Tables in the README and in docs/ that are made from data, each between two marks: `<!-- NAME -->` and `<!-- end of NAME -->`."""

import json
from pathlib import Path

from tools.derived import benchmark_table, model_table
from tools.evaluation import report

ROOT = Path(__file__).resolve().parents[2]


def _evaluation() -> str:
    results = ROOT / "benchmarks" / "evaluation.json"
    return report.table(json.loads(results.read_text(encoding="utf-8")) if results.is_file() else None)


TABLES = {
    "models": model_table.table,
    "benchmarks": lambda: benchmark_table.table(benchmark_table.measured_rows(ROOT / "benchmarks")),
    "evaluation": _evaluation,
}
"""By the name in their marks, in markdown."""


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def with_tables(page: str) -> str:
    """A page with the tables of now in it. Raises ValueError for a mark without its end."""
    for name, table in TABLES.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if start in page:
            before, rest = page.split(start)
            _, end_mark, after = rest.partition(end)
            if not end_mark:
                raise ValueError(f"expected {end} after {start}.")
            page = f"{before}{start}\n\n{table()}\n\n{end}{after}"
    return page

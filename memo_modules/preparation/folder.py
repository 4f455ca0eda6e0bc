"""A folder of prepared videos: metadata.jsonl, failed.jsonl, and preparation.json, which says how it was made.

A process may be killed at any moment: a line is written to metadata.jsonl only after the files that it names are on disk, and half a line is
removed by the next run, which prepares that video again.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from ..errors import InputError
from ..files.locks import locked
from ..files.names import safe_name
from ..files.regular_files import open_regular
from ..files.whole_files import remove_partial, storing, write_whole
from ..words import first_line, shortened
from .finding import find_videos
from .preparer import VIDEOS, Job, Outcome, video_of
from .tensor_files import FIELDS

METADATA, FAILED, RECORD, LOCK = "metadata.jsonl", "failed.jsonl", "preparation.json", "preparation.lock"

Run = Callable[[Sequence[Job]], Generator[Outcome, None, None]]
"""Prepares videos, in any order: prepare_here or prepare_in_crew of workers.py."""

_log = logging.getLogger(__name__)


@dataclass
class Report:
    """earlier: videos that were there before. prepared: those that this run added, with their frame rates. clips: lines of metadata.jsonl,
    more than one for a video that was split. failed: from video to reason. notes: to the videos of which they are true. passed_over: how many
    files there are that are no videos, in words."""

    earlier: int = 0
    prepared: dict[str, Fraction] = field(default_factory=dict)
    clips: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    passed_over: str = ""


def prepare_folder(
    videos: Path,
    output: Path,
    settings: dict[str, str | None],
    run: Run,
    progress: Callable[[int, int, Report], None] = lambda done, total, report: None,
    begin: Callable[[Sequence[Job]], None] = lambda jobs: None,
) -> Report:
    """Prepare the videos of a folder that have no line in ``output`` yet; what failed before is tried again.

    However it ends, metadata.jsonl is in order of its lines' names and failed.jsonl is that of this run.

    Args:
        settings: everything on which the features depend; a folder that was made with others is refused.
        progress: called with videos done in this run, videos to do, and the report so far.
        begin: called with the videos to do, before the first.

    Raises:
        InputError: there is no video, or ``output`` is in use, of other videos or of other settings.
    """
    videos, output = Path(os.path.abspath(videos)), Path(os.path.abspath(output))
    found = find_videos(videos, leave_out=output if videos in output.parents else None)
    with storing(output):
        output.mkdir(parents=True, exist_ok=True)
    with _alone(output):
        _check_record(output / RECORD, {"videos": _place(videos, output), **settings})
        entries = {entry["face_emb"]: entry for entry in _whole_entries(output)}
        done = {name for (name, lines), count in Counter(map(video_of, entries.values())).items() if count == lines}
        entries = {key: entry for key, entry in entries.items() if video_of(entry)[0] in done}
        _write_lines(output / METADATA, entries.values())
        jobs = [Job(path, _name(path.relative_to(videos)), _place(path, output), output) for path in found.videos]
        to_do = [job for job in jobs if job.name not in done]
        report = Report(earlier=len(jobs) - len(to_do), clips=len(entries), passed_over=found.passed_over)
        report.failed |= {_place(path, output): reason for path, reason in found.refused.items()}
        begin(to_do)
        try:
            with closing(run(to_do)) as outcomes:
                for done, outcome in enumerate(outcomes, 1):
                    _keep(outcome, output, entries, report)
                    progress(done, len(to_do), report)
        finally:
            _remove_partial(output)
            _write_lines(output / METADATA, (entries[name] for name in sorted(entries)))
            _write_lines(output / FAILED, ({"video": video, "reason": report.failed[video]} for video in sorted(report.failed)))
    return report


def _remove_partial(output: Path) -> None:
    """What workers that were ended left; of what others may write into the same folder nothing."""
    for folder in (*FIELDS[1:], VIDEOS):
        remove_partial(output / folder)
    for name in (METADATA, FAILED, RECORD):
        remove_partial(output, name, below=False)


def _keep(outcome: Outcome, output: Path, entries: dict[str, dict], report: Report) -> None:
    video, fps = outcome.job.video, outcome.fps
    if fps is None:
        report.failed[video] = str(outcome.reason)
        return
    entries |= {entry["face_emb"]: entry for entry in outcome.entries}  # first: an interrupt while lines are written must not lose them at the end
    with storing(output / METADATA), (output / METADATA).open("a", encoding="utf-8", newline="\n") as file:
        file.write("".join(json.dumps(entry) + "\n" for entry in outcome.entries))
        file.flush()
        os.fsync(file.fileno())
    report.prepared[video] = fps
    report.clips += len(outcome.entries)
    report.failed |= {f"{video}, {when}": reason for when, reason in outcome.left_out.items()}
    for note in outcome.notes:
        report.notes.setdefault(note, []).append(video)


def _whole_entries(output: Path) -> Iterator[dict[str, str]]:
    """Lines of metadata.jsonl whose files are in place."""
    path = output / METADATA
    lines = _text(path).splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            entry = {field: json.loads(line)[field] for field in FIELDS}
            if all((output / place).is_file() for place in entry.values()):
                yield entry
                continue
            reason = "a file that it names is missing"
        except (ValueError, TypeError, KeyError, RecursionError):
            reason = f"it is not an object with the fields {', '.join(FIELDS)}"
        _log.warning("%s, line %d is removed: %s.", path, number, reason)


def _write_lines(path: Path, entries) -> None:
    write_whole(path, "".join(f"{json.dumps(entry)}\n" for entry in entries))


def _text(path: Path) -> str:
    """Of a file that may have been put there by somebody else. Raises InputError when it is none, or cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read().decode("utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Remove it, or choose another output folder.") from error


def _name(path: Path) -> str:
    """For the files of a video, from its path below the folder of videos."""
    return "/".join(map(safe_name, path.parts))


def _place(path: Path, output: Path) -> str:
    """``path`` relative to ``output`` if it lies there or below."""
    return path.relative_to(output).as_posix() if path.is_relative_to(output) else path.as_posix()


def _check_record(path: Path, record: dict[str, str | None]) -> None:
    """Raises InputError when the folder was made with other videos, models or settings; else writes down which."""
    if not path.exists():
        write_whole(path, json.dumps(record, indent=2) + "\n")
        return
    try:
        made_with = dict(json.loads(_text(path)))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}). Choose another output folder.") from error
    others = [name for name in {**made_with, **record} if made_with.get(name) != record.get(name)]
    if others:
        before, now = (shortened(str(made.get(others[0]))) for made in (made_with, record))
        raise InputError(
            f"output: {path.parent} was prepared with other {' and other '.join(others)}; "
            f"{others[0]} was {before}, now it is {now}. Choose another output folder, or delete this one."
        )


def _alone(output: Path) -> AbstractContextManager[None]:
    """Keep other processes from the folder. Raises InputError when one is at work there."""
    return locked(output / LOCK, f"output: another process is preparing videos in {output}. Wait for it, or choose another folder.", stays=False)

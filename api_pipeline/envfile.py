r"""Reads a ``.env`` as Windows users save it (interface, "Settings").

python-dotenv's parser decides what is a key, a value, a comment or rubbish. Three of its habits do not suit
connection strings and passwords, so they are changed here: backslashes are not escapes (``"SRV\new"`` is a
server, not a line break), ``${X}`` is not expanded, and a line that cannot be read is an error with a number
instead of a log line. Each physical line is parsed alone, so that one forgotten quote cannot swallow the
settings below it.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from api_pipeline.errors import ConfigError

_MAX_BYTES = 1_000_000  # a settings file is a few KB; anything larger is another file given by mistake
_LINE_END = re.compile(r"\r\n|\n|\r")
_KEY = re.compile(r"[\w.-]+")
_COMMENT_MARK = re.compile(r"\s#")

_UNREADABLE = "not KEY=value, or a quote is not closed. Correct it, or begin it with # if it is a comment."
_AMBIGUOUS = (
    "has a blank followed by #, which may begin a comment or belong to the value. Put the value in single "
    "quotes, or the comment on a line of its own."
)

# Stand-ins that hide backslashes from the parser. Lone surrogates cannot occur in decoded text.
_DOUBLED, _QUOTED, _SINGLE = "\udc00", "\udc01", "\udc02"
_IN_DOUBLE_QUOTES = str.maketrans({_DOUBLED: "\\", _QUOTED: '"', _SINGLE: "\\"})
_ELSEWHERE = str.maketrans({_DOUBLED: "\\\\", _QUOTED: '\\"', _SINGLE: "\\"})


@dataclass(frozen=True)
class EnvFile:
    """What a ``.env`` sets: values and the line each stands in. Values stay out of the repr."""

    path: Path
    values: Mapping[str, str] = field(repr=False)
    lines: Mapping[str, int]


@dataclass(frozen=True)
class _Entry:
    """One line of the file: a setting, or (key empty) a comment or blank line."""

    key: str
    value: str = field(repr=False)
    ambiguous: bool = False


def read_env_file(path: Path, *, secret_keys: Collection[str] = ()) -> EnvFile:
    """Read the settings in ``path``; empty values count as not set and are left out.

    ``secret_keys`` are the keys whose values may hold any character: for them an unquoted blank followed by
    ``#`` is refused, because it could be a comment as well as a part of the password.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8 or UTF-16, or has faulty lines; all of them are
            named by number, none is quoted.
    """
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    faults: list[tuple[int, str]] = []
    for number, line in enumerate(_LINE_END.split(_read_text(path)), start=1):
        entry = _parse_line(line)
        if entry is None:
            faults.append((number, _UNREADABLE))
        elif entry.ambiguous and entry.key in secret_keys:
            faults.append((number, f"{entry.key} {_AMBIGUOUS}"))
        elif not entry.key or not entry.value.strip():
            continue
        elif values.setdefault(entry.key, entry.value) != entry.value:
            first = lines[entry.key]
            faults.append(
                (number, f"{entry.key} has another value than in line {first}. Delete one of them.")
            )
        else:
            lines.setdefault(entry.key, number)
    if faults:
        raise _faulty(path, faults)
    return EnvFile(path=path, values=values, lines=lines)


def _faulty(path: Path, faults: list[tuple[int, str]]) -> ConfigError:
    if len(faults) == 1:
        number, text = faults[0]
        return ConfigError(f"{path}, line {number}: {text}", hop="settings")
    head = f"{path} has {len(faults)} faulty lines: {', '.join(str(number) for number, _ in faults)}."
    return ConfigError(
        "\n".join([head, *(f"  line {number}: {text}" for number, text in faults)]), hop="settings"
    )


def _parse_line(line: str) -> _Entry | None:
    """Read one physical line; ``None`` if it is neither a setting nor a comment."""
    masked = line.replace("\\\\", _DOUBLED).replace('\\"', _QUOTED).replace("\\", _SINGLE)
    bindings: list[Binding] = list(parse_stream(io.StringIO(masked)))
    settings = [binding for binding in bindings if binding.key is not None or binding.error]
    if not settings:
        return _Entry("", "")
    if len(settings) > 1 or settings[0].error:
        return None
    key, value = settings[0].key, settings[0].value
    if key is None or value is None or not _KEY.fullmatch(key):
        return None
    written = masked.partition("=")[2]
    quote = written.lstrip()[:1]
    unmask = _IN_DOUBLE_QUOTES if quote == '"' else _ELSEWHERE
    ambiguous = quote not in ("'", '"') and _COMMENT_MARK.search(written) is not None
    return _Entry(key, value.translate(unmask), ambiguous)


def _read_text(path: Path) -> str:
    """Return the file's text, whatever Notepad saved it as."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except OSError as err:
        raise ConfigError(
            f"The settings file {path} cannot be read ({type(err).__name__}).",
            hop="settings",
            remedy="Check that it is a file and that this account may read it.",
        ) from None
    if len(raw) > _MAX_BYTES:
        raise ConfigError(
            f"{path} is too large for a settings file.",
            hop="settings",
            remedy="Check the path that was given.",
        )
    try:
        text = raw.decode(_encoding(raw))
    except UnicodeDecodeError:
        text = "\0"  # reported below; the exception would carry the file's bytes along
    if "\0" in text:
        raise ConfigError(
            f"The settings file {path} is not saved as UTF-8.",
            hop="settings",
            remedy='Open it in Notepad, choose "Save as" and the encoding UTF-8.',
        )
    return text


def _encoding(raw: bytes) -> str:
    """Tell UTF-8 from UTF-16, by the byte order mark or by where the zero bytes of ASCII text are."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(raw) >= 2 and not len(raw) % 2:
        if raw[0] and not raw[1]:
            return "utf-16-le"
        if raw[1] and not raw[0]:
            return "utf-16-be"
    return "utf-8-sig"

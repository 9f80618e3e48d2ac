"""Reading a .env: what people save is what the settings get (interface, "Settings")."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline.envfile import read_env_file
from api_pipeline.errors import ConfigError

SECRETS = frozenset({"CLIENT_SECRET", "DB_CONNECTION_STRING"})
LINES = "FIRST=one\nSECOND=two\nCLIENT_SECRET=caf\u00e9\n"
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-16-le bom", "utf-16-be bom"]

# Everything that an editor can put on one line.
one_line = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1)
awkward = st.text(st.sampled_from("\\{}#\"' ;=$n t\u00a3\U0001f642"), min_size=1, max_size=12)
values = (one_line | awkward).filter(lambda text: bool(text.strip()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the module: the properties overwrite one file in it."""
    return tmp_path_factory.mktemp("env")


def read(folder: Path, text: str | bytes) -> dict[str, str]:
    """Read a file that holds ``text``."""
    path = folder / ".env"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return dict(read_env_file(path, secret_keys=SECRETS).values)


def refusal(folder: Path, text: str | bytes) -> str:
    """Return the message with which a file that holds ``text`` is refused."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    assert str(folder / ".env") in str(caught.value).splitlines()[0]
    return str(caught.value)


def encoded(text: str, encoding: str) -> bytes:
    """Encode as an editor does; "bom" puts the mark in front of a byte order that has none by itself."""
    name, _, mark = encoding.partition(" ")
    return (("\ufeff" if mark else "") + text).encode(name)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_way_notepad_saves_is_read(folder: Path, encoding: str, line_end: str) -> None:
    """The first key, the last key and an accent arrive, whatever the encoding and the line ends."""
    text = LINES.replace("\n", line_end)
    expected = {"FIRST": "one", "SECOND": "two", "CLIENT_SECRET": "caf\u00e9"}
    assert read(folder, encoded(text, encoding)) == expected


@given(value=values.filter(lambda text: "'" not in text))
def test_single_quotes_keep_everything(folder: Path, value: str) -> None:
    """A value without single quotes, written in single quotes, is read back exactly; secrets too."""
    assert read(folder, f"CLIENT_SECRET='{value}'\nB='x'\n") == {"CLIENT_SECRET": value, "B": "x"}


@given(value=values)
def test_double_quotes_escape_themselves_and_backslashes_only(folder: Path, value: str) -> None:
    """A value in double quotes, with its backslashes and double quotes escaped, is read back exactly."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    assert read(folder, f'CLIENT_SECRET="{escaped}"\n') == {"CLIENT_SECRET": value}


@given(
    value=values.filter(
        lambda text: text == text.strip() and text[0] not in "'\"" and not re.search(r"\s#", text)
    )
)
def test_unquoted_values_are_literal(folder: Path, value: str) -> None:
    """An unquoted value without outer blanks, leading quote or blank-and-# is read back exactly."""
    assert read(folder, f"CLIENT_SECRET={value}\n") == {"CLIENT_SECRET": value}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("SERVER\\INSTANCE", "SERVER\\INSTANCE"),
        ('"SRV\\new\\table"', "SRV\\new\\table"),
        ("'C:\\folder\\'", "C:\\folder\\"),
        ('"a\\"b\\\\c"', 'a"b\\c'),
        ("{ODBC Driver 17 for SQL Server}", "{ODBC Driver 17 for SQL Server}"),
        ("abc#def", "abc#def"),
        ("'pa ${HOME} # ss'", "pa ${HOME} # ss"),
        ("${HOME}", "${HOME}"),
        ("a=b;c=d", "a=b;c=d"),
        ("  padded  ", "padded"),
        ("value # a comment", "value"),
        ("'value' # a comment", "value"),
    ],
)
def test_awkward_values_survive(folder: Path, written: str, meant: str) -> None:
    """Backslashes, braces, # and $ mean themselves; only outer blanks and comments go."""
    assert read(folder, f"OTHER={written}\n") == {"OTHER": meant}


@pytest.mark.parametrize("written", ["", "''", '""', "   ", "# just a comment", " # a comment"])
def test_empty_values_count_as_not_set(folder: Path, written: str) -> None:
    """A key without a value is as good as absent; with a value further down, that one counts."""
    if written.startswith("#"):
        written = f" {written}"
    assert read(folder, f"OTHER={written}\n") == {}
    assert read(folder, f"OTHER={written}\nOTHER=x\n") == {"OTHER": "x"}


def test_comments_blank_lines_and_export_are_understood(folder: Path) -> None:
    """What people copy from shell examples works."""
    assert read(folder, "# note\n\n   \nexport A = 1\n  B=2\n") == {"A": "1", "B": "2"}


@pytest.mark.parametrize("secret_line", ["s3cr3t", "set KEY=s3cr3t", "'s3cr3t", "A='s3cr3t", 'A="s3cr3t" x'])
def test_unreadable_lines_are_all_numbered_and_never_quoted(folder: Path, secret_line: str) -> None:
    """Each line that is not KEY=value is named by its number; its text, which may be a password, is not."""
    message = refusal(folder, f"A=1\n{secret_line}\nB=2\nnonsense\n")
    assert "2, 4" in message.splitlines()[0]
    assert "s3cr3t" not in message
    assert "nonsense" not in message


def test_a_forgotten_quote_faults_its_own_line_only(folder: Path) -> None:
    """A quote that is not closed cannot swallow the lines below it."""
    message = refusal(folder, "A='open\nB='fine'\nC='fine'\n")
    assert "line 1" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("written", ["abc #def", "abc\t#def", "Server=x;PWD=a #b", " # x"])
def test_a_hash_after_a_blank_in_a_secret_is_refused(folder: Path, written: str) -> None:
    """Whether it is a comment or a part of the password only the user knows, so the line is named."""
    message = refusal(folder, f"A=1\nCLIENT_SECRET={written}\n")
    assert "line 2" in message
    assert "CLIENT_SECRET" in message
    assert "single quotes" in message
    assert written.strip() not in message


def test_a_key_with_two_values_is_refused(folder: Path) -> None:
    """Two different values are named by both line numbers; the same value twice is harmless."""
    message = refusal(folder, "A=first\nB=x\nA=second\n")
    assert "line 3" in message
    assert "line 1" in message
    assert "first" not in message
    assert "second" not in message
    assert read(folder, "A=same\nA='same'\n") == {"A": "same"}


@pytest.mark.parametrize(
    "raw",
    [
        "CLIENT_SECRET=caf\u00e9".encode("cp1252"),
        b"A=1\nCLIENT_SECRET=se\x00cret\n",
        b"A=1\n" + "CLIENT_SECRET=secret\n".encode("utf-16"),
        "A=1\n".encode("utf-16") + b"\n",
    ],
)
def test_other_encodings_are_refused_with_the_way_out(folder: Path, raw: bytes) -> None:
    """An ANSI or mixed file is refused by name, with what to do, and the error does not carry its bytes."""
    with pytest.raises(ConfigError) as caught:
        read(folder, raw)
    assert str(folder / ".env") in str(caught.value)
    assert "UTF-8" in str(caught.value)
    assert caught.value.__context__ is None


def test_what_is_not_a_settings_file_is_refused(tmp_path: Path) -> None:
    """A folder, or a file too large to hold settings, ends in one line and not in a crash."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_env_file(tmp_path)
    big = tmp_path / "big"
    big.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="too large"):
        read_env_file(big)


def test_values_stay_out_of_the_repr(folder: Path) -> None:
    """Printing the parsed file shows keys and lines, no values."""
    (folder / ".env").write_text("CLIENT_SECRET=s3cr3t\n", encoding="utf-8")
    assert "s3cr3t" not in repr(read_env_file(folder / ".env"))

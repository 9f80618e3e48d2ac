"""Receipts on disk: nothing but what is needed, for nobody else, and read whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline import spool
from api_pipeline.spool import Spooled, SpoolError

ENTRY = Spooled(
    table="dbo.staging",
    person_id="O'Brien \u674e",
    kind="sent",
    run_id="r1",
    seq=7,
    row_hash="ab" * 32,
    receipt="2025-06-30_02:11:09.53_0f8fad5b-d9cb-469f-a165-70867728950e.json",
)


def test_entries_come_back_as_they_went(tmp_path: Path) -> None:
    """Of several batches, in order, any script in a person_id; the folder is made."""
    folder = tmp_path / "new" / "folder"
    more = [replace(ENTRY, seq=8, kind="purged"), replace(ENTRY, seq=9, kind=spool.EARLIER_ID)]
    path = spool.write(folder, "r1", [ENTRY])
    assert spool.write(folder, "r1", more) == path
    assert spool.files(folder) == [path]
    assert spool.read(path) == [ENTRY, *more]


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps permissions in lists")
def test_only_the_owner_may_read(tmp_path: Path) -> None:
    """Whatever the umask: a receipt goes with a person_id."""
    before = os.umask(0)
    try:
        path = spool.write(tmp_path, "r1", [ENTRY])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_holds_the_allowed_keys_alone(tmp_path: Path) -> None:
    """Table, person_id, kind, attempt, hash and receipt (domain, section 6)."""
    [line] = spool.write(tmp_path, "r1", [ENTRY]).read_text(encoding="ascii").splitlines()
    assert list(json.loads(line)) == ["table", "person_id", "kind", "run_id", "seq", "row_hash", "receipt"]


def test_files_come_oldest_first_and_others_not_at_all(tmp_path: Path) -> None:
    """What else lies in the folder is none of the spool's business."""
    for number, name in enumerate(["b", "a"]):
        path = spool.write(tmp_path, name, [ENTRY])
        os.utime(path, (number, number))
    (tmp_path / "run.log").write_text("x", encoding="ascii")
    (tmp_path / "csc_api_spool_folder.jsonl").mkdir()
    assert [path.name for path in spool.files(tmp_path)] == ["csc_api_spool_b.jsonl", "csc_api_spool_a.jsonl"]
    assert spool.files(tmp_path / "missing") == []


@given(cut=st.integers(1, 200), extra=st.sampled_from([b"", b"\xff", b"[]", b"null\n", b"{}\n"]))
def test_damaged_file_is_refused_as_a_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int, extra: bytes
) -> None:
    """Cut anywhere or followed by anything: an error that names the file and quotes nothing of it."""
    path = spool.write(tmp_path_factory.mktemp("spool"), "r1", [ENTRY, ENTRY])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 1 - cut] + extra)
    with pytest.raises(SpoolError) as raised:
        spool.read(path)
    assert str(path) in str(raised.value)
    assert "Brien" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"seq": "7"},
        {"seq": True},
        {"person_id": None},
        {"row_hash": "ab"},
        {"row_hash": "ZZ" * 32},
        {"kind": "error"},
        {"receipt": "thanks"},
        {"receipt": ""},
        {"payload": "{}"},
    ],
)
def test_entry_of_another_shape_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """Values that could not be written back are found before anything is."""
    path = spool.write(tmp_path, "r1", [ENTRY])
    path.write_text(json.dumps({**asdict(ENTRY), **change}), encoding="ascii")
    with pytest.raises(SpoolError):
        spool.read(path)


def test_folder_that_cannot_be_used_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    """The message says where and what to do."""
    (tmp_path / "file").write_text("", encoding="ascii")
    with pytest.raises(SpoolError, match="SPOOL_DIR"):
        spool.write(tmp_path / "file", "r1", [ENTRY])

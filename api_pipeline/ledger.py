"""What was sent and what DfE is known to hold: the submission log and the baseline (domain, section 6).

The way of one attempt: :meth:`Ledger.open` notes it as ``sending`` and puts the payload in flight, and that
is committed before the POST; :meth:`Ledger.close` completes it, in the transaction of the row's write-back.
What a crash leaves open is doubt, and :meth:`Ledger.recover` turns it into ``unsure`` before the next run
sends anything. Payload texts are copied on the server; they travel only where the state acknowledged is not
the payload that the staging row holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from api_pipeline import delta, payload
from api_pipeline.db import Database, Row
from api_pipeline.dialects import Kind
from api_pipeline.ledger_reading import PAGE, LedgerReader, marks
from api_pipeline.remembered import Attempt, Closing, LogKind, LogOutcome, Skeleton, unsure_text
from api_pipeline.replies import Receipt
from api_pipeline.staging import StagingTable

REFUSALS = (204, 400, 413, 422)


class Ledger(LedgerReader):
    """The two tables of one staging table. All writing methods are to be called inside a transaction."""

    def __init__(self, db: Database, staging: StagingTable, run_id: str) -> None:
        super().__init__(db, staging.name)
        self._staging = staging
        self._run_id = run_id
        self._seq = 0

    @classmethod
    def find(cls, db: Database, staging: StagingTable, run_id: str) -> Ledger | None:
        """Return the ledger, or None where a table of it is missing: full mode works without."""
        return cls(db, staging, run_id) if cls.exists(db, staging.name) else None

    def next_seq(self) -> int:
        """Number the next attempt of this run."""
        self._seq += 1
        return self._seq

    # -- before the POST -------------------------------------------------------------------------------

    def open(self, attempts: Sequence[Attempt], *, again: bool = False) -> set[int]:
        """Note attempts as ``sending`` and put their payloads in flight; return the seq of those that hold.

        An attempt whose row was refreshed since it was read is not noted and must not be sent. ``again`` says
        that an earlier try may have been committed although its answer was lost.
        """
        if again:
            self._take_back(attempts)
        known = [attempt for attempt in attempts if attempt.known]
        new = [attempt for attempt in attempts if not attempt.known]
        hit = self._fly_known(known) | self._fly_new(new)
        held = [attempt for attempt in attempts if self.fold(attempt.person_id) in hit]
        if held:
            self._note(held, LogOutcome.SENDING)
        return {attempt.seq for attempt in held}

    def _take_back(self, attempts: Sequence[Attempt]) -> None:
        """Remove what an earlier try of the same attempts may have left; nothing has been sent of them."""
        self._db.execute(
            f"DELETE FROM {self._log} WHERE run_id = ? AND seq >= ? AND outcome = 'sending'",
            [self._run_id, min(attempt.seq for attempt in attempts)],
        )
        new = [attempt.person_id for attempt in attempts if not attempt.known]
        if new:
            self._db.execute(
                f"DELETE FROM {self._baseline} WHERE state = 'unknown' AND person_id IN ({marks(new)})",
                new,
            )

    def note_tests(self, attempts: Sequence[Attempt]) -> None:
        """Note what testing mode would have sent."""
        if attempts:
            self._note(attempts, LogOutcome.TESTING)

    def _flight_columns(self) -> dict[str, Kind]:
        key = Kind.INTEGER if self._staging.keyed_by_id else Kind.TEXT
        return {
            "p": Kind.TEXT,
            "k": key,
            "h": Kind.HASH,
            "kind": Kind.TEXT,
            "child": Kind.TEXT,
            "text": Kind.TEXT,
            "state_hash": Kind.HASH,
            "records": Kind.HASH,
            "deleted": Kind.INTEGER,
            "unsure": Kind.TEXT,
        }

    def _flights(self, attempts: Sequence[Attempt]) -> list[Any]:
        rows = [
            (
                attempt.person_id,
                attempt.key,
                attempt.row_hash,
                attempt.kind.value,
                attempt.child_id,
                attempt.acknowledged_text,
                attempt.state_hash,
                attempt.records_hash,
                int(attempt.row_deleted),
                attempt.unsure_before,
            )
            for attempt in attempts
        ]
        return self._db.dialect.listed(self._flight_columns(), rows)

    @property
    def _flying_text(self) -> str:
        """The payload to put in flight: none for a deletion, else the row's own, copied on the server."""
        own = self._db.dialect.as_text("s.json_payload")
        return f"CASE WHEN v.kind = 'deletion' THEN NULL ELSE COALESCE(v.text, {own}) END"

    @property
    def _row_still_is(self) -> str:
        deleted = self._staging.deleted_of("s")
        return f"s.{self._staging.key_column} = v.k AND s.current_hash = v.h AND {deleted} = v.deleted"

    def _fly_known(self, attempts: Sequence[Attempt]) -> set[str]:
        if not attempts:
            return set()
        row = f"FROM {self._staging.sql_name} AS s WHERE {self._row_still_is}"
        sql = self._db.dialect.update_listed(
            self._baseline,
            assignments=[
                "flight_kind = v.kind",
                "flight_child_id = v.child",
                f"flight_payload = (SELECT {self._flying_text} {row})",
                "flight_hash = v.state_hash",
                "flight_records = v.records",
                "unsure = COALESCE(t.unsure, v.unsure)",
            ],
            columns=self._flight_columns(),
            rows=len(attempts),
            where=f"t.person_id = v.p AND EXISTS (SELECT 1 {row})",
            key_column="person_id",
        )
        return {self.fold(str(row[0])) for row in self._db.query(sql, self._flights(attempts))}

    def _fly_new(self, attempts: Sequence[Attempt]) -> set[str]:
        if not attempts:
            return set()
        sql = self._db.dialect.insert_listed(
            self._baseline,
            target=[
                "person_id",
                "state",
                "flight_kind",
                "flight_child_id",
                "flight_payload",
                "flight_hash",
                "flight_records",
                "unsure",
            ],
            expressions=[
                "v.p",
                "'unknown'",
                "v.kind",
                "v.child",
                self._flying_text,
                "v.state_hash",
                "v.records",
                "v.unsure",
            ],
            columns=self._flight_columns(),
            rows=len(attempts),
            source=f"INNER JOIN {self._staging.sql_name} AS s ON {self._row_still_is}",
            key_column="person_id",
        )
        return {self.fold(str(row[0])) for row in self._db.query(sql, self._flights(attempts))}

    def _note(self, attempts: Sequence[Attempt], outcome: LogOutcome) -> None:
        dialect = self._db.dialect
        columns = {
            "seq": Kind.INTEGER,
            "run_id": Kind.TEXT,
            "row_id": Kind.INTEGER,
            "person_id": Kind.TEXT,
            "kind": Kind.TEXT,
            "state_hash": Kind.HASH,
            "sent_hash": Kind.HASH,
            "sent_bytes": Kind.INTEGER,
            "outcome": Kind.TEXT,
            "started_at": Kind.TIMESTAMP,
            "finished_at": Kind.TIMESTAMP,
        }
        now = _now()
        rows = [
            (
                attempt.seq,
                attempt.run_id,
                attempt.row_id,
                attempt.person_id,
                attempt.kind.value,
                attempt.state_hash,
                attempt.sent_hash,
                attempt.sent_bytes,
                outcome.value,
                now,
                None if outcome is LogOutcome.SENDING else now,
            )
            for attempt in attempts
        ]
        names = list(columns)
        sql = dialect.insert_listed(
            self._log,
            target=names,
            expressions=[f"v.{name}" for name in names],
            columns=columns,
            rows=len(attempts),
            key_column="seq",
        )
        self._db.query(sql, dialect.listed(columns, rows))

    # -- after the reply -------------------------------------------------------------------------------

    def close(self, closings: Sequence[Closing]) -> None:
        """Complete attempts in the log and take their consequences over into the baseline."""
        if not closings:
            return
        self._complete(closings)
        sent = [closing for closing in closings if closing.outcome is LogOutcome.SENT]
        self._acknowledge([closing for closing in sent if closing.attempt.kind is not LogKind.DELETION])
        self._acknowledge_deletions([closing for closing in sent if closing.attempt.kind is LogKind.DELETION])
        self._land([closing for closing in closings if closing.outcome is LogOutcome.ERROR])
        self._doubt(
            [closing.attempt.person_id for closing in closings if closing.outcome is LogOutcome.UNSURE]
        )

    def _update(
        self,
        table: str,
        key_column: str,
        assignments: Sequence[str],
        columns: Mapping[str, Kind],
        rows: Sequence[Sequence[Any]],
        where: str,
    ) -> None:
        """Update the listed rows, if there are any."""
        if not rows:
            return
        dialect = self._db.dialect
        sql = dialect.update_listed(
            table,
            assignments=assignments,
            columns=columns,
            rows=len(rows),
            where=where,
            key_column=key_column,
        )
        self._db.query(sql, dialect.listed(columns, rows))

    def _complete(self, closings: Sequence[Closing]) -> None:
        now = _now()
        self._update(
            self._log,
            "seq",
            [
                "outcome = v.outcome",
                "posts = v.posts",
                "http_status = v.status",
                "detail = v.detail",
                "finished_at = v.finished",
            ],
            {
                "seq": Kind.INTEGER,
                "run": Kind.TEXT,
                "outcome": Kind.TEXT,
                "posts": Kind.INTEGER,
                "status": Kind.INTEGER,
                "detail": Kind.TEXT,
                "finished": Kind.TIMESTAMP,
            },
            [
                (
                    closing.attempt.seq,
                    closing.attempt.run_id,
                    closing.outcome.value,
                    closing.posts,
                    closing.http_status,
                    closing.detail,
                    now,
                )
                for closing in closings
            ],
            "t.run_id = v.run",
        )

    def _acknowledge(self, closings: Sequence[Closing]) -> None:
        self._update(
            self._baseline,
            "person_id",
            [
                "state = 'acknowledged'",
                "la_child_id = t.flight_child_id",
                "payload = t.flight_payload",
                "payload_hash = t.flight_hash",
                "records_hash = t.flight_records",
                "receipt = v.receipt",
                "acknowledged_at = v.moment",
                "unsure = NULL",
                "full_next = 0",
                *_LANDED,
            ],
            {"p": Kind.TEXT, "receipt": Kind.TEXT, "moment": Kind.TIMESTAMP},
            [(closing.attempt.person_id, closing.receipt, closing.moment) for closing in closings],
            "t.flight_kind IS NOT NULL",
        )

    def _acknowledge_deletions(self, closings: Sequence[Closing]) -> None:
        # The purge of an earlier id leaves alone what is known of the present one.
        own = "(t.la_child_id IS NULL OR t.la_child_id = v.child)"
        emptied = [f"{column} = CASE WHEN {own} THEN NULL ELSE t.{column} END" for column in _STATE_COLUMNS]
        self._update(
            self._baseline,
            "person_id",
            [
                f"state = CASE WHEN {own} THEN 'purged' ELSE t.state END",
                *emptied,
                f"receipt = CASE WHEN {own} THEN v.receipt ELSE t.receipt END",
                f"acknowledged_at = CASE WHEN {own} THEN v.moment ELSE t.acknowledged_at END",
                "unsure = v.unsure",
                *_LANDED,
            ],
            {
                "p": Kind.TEXT,
                "child": Kind.TEXT,
                "receipt": Kind.TEXT,
                "moment": Kind.TIMESTAMP,
                "unsure": Kind.TEXT,
            },
            [
                (
                    closing.attempt.person_id,
                    closing.attempt.child_id,
                    closing.receipt,
                    closing.moment,
                    closing.attempt.unsure_after,
                )
                for closing in closings
            ],
            "t.flight_kind = 'deletion'",
        )

    def _land(self, closings: Sequence[Closing]) -> None:
        """Nothing came of these: take them out of flight; a refused partial asks for a full payload next."""
        self._update(
            self._baseline,
            "person_id",
            ["full_next = CASE WHEN v.partial = 1 THEN 1 ELSE t.full_next END", *_LANDED],
            {"p": Kind.TEXT, "partial": Kind.INTEGER},
            [
                (
                    closing.attempt.person_id,
                    int(closing.attempt.kind is LogKind.PARTIAL and closing.http_status in REFUSALS),
                )
                for closing in closings
            ],
            "1 = 1",
        )

    def closing_of(self, run_id: str, seq: int, receipt: Receipt) -> Closing | None:
        """Return how an attempt of an earlier run ended, given the receipt that the spool kept of it.

        None if the log has no such attempt under way: then it is settled already.
        """
        rows = self._read(
            f"SELECT t.row_id, t.person_id, t.kind, t.sent_hash, t.sent_bytes, b.flight_child_id, b.unsure "
            f"FROM {self._log} AS t INNER JOIN {self._baseline} AS b ON b.person_id = t.person_id "
            "WHERE t.run_id = ? AND t.seq = ? AND t.outcome = 'sending' AND b.flight_kind IS NOT NULL",
            [run_id, seq],
        )
        if not rows:
            return None
        row_id, person_id, kind, sent_hash, sent_bytes, child_id, unsure = rows[0]
        left = {
            key: value for key, value in (json.loads(unsure) if unsure else {}).items() if key != child_id
        }
        attempt = Attempt(
            run_id=run_id,
            seq=seq,
            key=row_id or 0,
            row_id=row_id,
            person_id=str(person_id),
            row_hash=b"",
            row_deleted=False,
            kind=LogKind(kind),
            child_id=str(child_id),
            sent_hash=bytes(sent_hash),
            sent_bytes=sent_bytes,
            unsure_after=unsure_text(left),
        )
        detail = receipt.raw
        return Closing(attempt, LogOutcome.SENT, 1, 200, detail, receipt.uuid, receipt.timestamp)

    # -- doubt -----------------------------------------------------------------------------------------

    def _doubt(self, persons: Sequence[str]) -> None:
        """Move what is in flight for these people to the records whose fate is not known."""
        for start in range(0, len(persons), PAGE):
            part = persons[start : start + PAGE]
            rows = self._db.query(
                "SELECT t.person_id, t.flight_child_id, t.flight_payload, t.unsure "
                f"FROM {self._baseline} AS t "
                f"WHERE t.flight_kind IS NOT NULL AND t.person_id IN ({marks(part)})",
                part,
            )
            self._update(
                self._baseline,
                "person_id",
                ["unsure = v.unsure", *_LANDED],
                {"p": Kind.TEXT, "unsure": Kind.TEXT},
                [(row[0], _with_flight(row)) for row in rows],
                "t.flight_kind IS NOT NULL",
            )

    def recover(self) -> int:
        """Turn what a crash left open into doubt; return the number of attempts concerned.

        To be called under the run's lock, when no attempt can be under way. Each page is one transaction.
        """
        while True:
            limit = self._db.dialect.select(
                ["t.person_id"],
                self._baseline,
                where="t.flight_kind IS NOT NULL",
                order_by="t.person_id",
                limit=PAGE,
            )
            people = [str(row[0]) for row in self._read(limit)]
            if not people:
                break
            self._db.retrying(lambda people=people: self._in_transaction(lambda: self._doubt(people)))  # type: ignore[misc]
        open_lines = f"FROM {self._log} WHERE outcome = 'sending'"
        count = int(self._read(f"SELECT COUNT(*) {open_lines}")[0][0])
        if count:
            sql = (
                f"UPDATE {self._log} SET outcome = 'unsure', "
                "detail = 'the run ended before the reply was recorded' WHERE outcome = 'sending'"
            )
            self._db.retrying(lambda: self._in_transaction(lambda: self._db.execute(sql)))
        return count

    def _in_transaction(self, work: Any) -> None:
        with self._db.transaction():
            work()


_LANDED = (
    "flight_kind = NULL",
    "flight_child_id = NULL",
    "flight_payload = NULL",
    "flight_hash = NULL",
    "flight_records = NULL",
)
_STATE_COLUMNS = ("la_child_id", "payload", "payload_hash", "records_hash")


def _with_flight(row: Row) -> str | None:
    _, child_id, text, unsure = row
    union: dict[str, Skeleton] = json.loads(unsure) if unsure else {}
    flown = {} if text is None else delta.skeleton(delta.normalise(payload.decode_leniently(str(text))))
    union[child_id] = delta.merge_skeletons(union.get(child_id, {}), flown)
    return unsure_text(union)


def _now() -> datetime:
    """Return the present in UTC, without a zone, as the log stores it."""
    return datetime.now(timezone.utc).replace(tzinfo=None)

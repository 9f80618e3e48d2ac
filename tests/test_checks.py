"""The tests of a set-up name the hop that failed and what to try, and end with the code of interface.md."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api_pipeline import checks, provision
from api_pipeline.check_result import CheckResult, SmokeResult, Step
from api_pipeline.config import Needs, Settings, load_settings
from api_pipeline.errors import ConfigError, ExitCode
from api_pipeline.faults import Fault
from api_pipeline.receiver import Receiver
from tests.databases import Database
from tests.db_kit import changed


def settings_of(**values: Any) -> Settings:
    """Return settings as a command reads them, from nothing but these values."""
    overrides = {key: str(value) for key, value in values.items()}
    return load_settings(needs=Needs.NONE, overrides=overrides, environ={}, cwd=Path.cwd())


def failed(result: CheckResult) -> Step:
    """Return the only step that failed."""
    [step] = [step for step in result.steps if step.ok is False]
    return step


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on loopback."""
    with Receiver(keep_bodies=True) as started:
        yield started


class TestEndpoint:
    """``test-endpoint``."""

    @pytest.mark.parametrize("kind", ["", "204", "422"])
    def test_any_answer_of_the_validation_is_a_pass(self, receiver: Receiver, kind: str) -> None:
        """A token and an empty array went out, once each and nothing else, although this is testing mode."""
        if kind:
            receiver.faults.add(Fault(kind))
        settings = settings_of(TESTING_MODE="true", **receiver.settings())
        result = checks.test_endpoint(settings)
        assert (result.passed, result.exit_code) == (True, ExitCode.OK)
        assert [step.hop for step in result.steps] == ["route", "token", "supplier key", "la code", "api"]
        assert [record.endpoint for record in receiver.requests] == ["token", "children"]
        assert receiver.submissions[0].body == b"[]"

    @pytest.mark.parametrize(
        ("changes", "hop", "word"),
        [
            ({"CLIENT_SECRET": "wrong-one"}, "token", "CLIENT_SECRET"),
            ({"SUPPLIER_KEY": "wrong-one"}, "supplier key", "SUPPLIER_KEY"),
            ({"LA_CODE": "111"}, "la code", "LA_CODE"),
        ],
    )
    def test_wrong_credential_is_named(
        self, receiver: Receiver, changes: dict[str, str], hop: str, word: str
    ) -> None:
        """Each wrong setting fails at its own hop, and the remedy names the setting and not its value."""
        result = checks.test_endpoint(settings_of(**{**receiver.settings(), **changes}))
        step = failed(result)
        assert (step.hop, result.exit_code) == (hop, ExitCode.API)
        assert word in step.remedy
        assert "wrong-one" not in result.as_text()

    def test_supplier_key_refused_with_403(self) -> None:
        """Gateways differ in the status that they refuse a key with; the hop is the same."""
        with Receiver(supplier_key_status=403) as receiver:
            result = checks.test_endpoint(settings_of(**{**receiver.settings(), "SUPPLIER_KEY": "no"}))
        assert failed(result).hop == "supplier key"

    @pytest.mark.parametrize(
        ("kind", "hop"),
        [("403-html", "firewall"), ("302", "redirect"), ("html", "reply"), ("503", "api"), ("429", "api")],
    )
    def test_other_answers_are_failures(self, receiver: Receiver, kind: str, hop: str) -> None:
        """A firewall, a portal and a service that is down are told apart, and none is tried again."""
        receiver.faults.add(Fault(kind, times=9) if kind != "429" else Fault("429", times=9, retry_after=900))
        result = checks.test_endpoint(settings_of(**receiver.settings()))
        assert (failed(result).hop, result.exit_code) == (hop, ExitCode.API)
        assert len(receiver.submissions) == 1

    @pytest.mark.parametrize("key", ["TOKEN_ENDPOINT", "API_ENDPOINT"])
    def test_unreachable_hosts_are_named_by_hop(self, receiver: Receiver, key: str) -> None:
        """An unknown name fails at dns, a port that nobody listens on at tcp, for either endpoint."""
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
            cases = {
                "tcp": f"http://127.0.0.1:{port}/x-receiver-test/1",
                "dns": "https://no-such-host.invalid/x-receiver-test/1",
            }
            for hop, url in cases.items():
                result = checks.test_endpoint(settings_of(**{**receiver.settings(), key: url}))
                assert (failed(result).hop, result.exit_code) == (hop, ExitCode.API)

    def test_unreadable_ca_bundle_is_a_fault_of_the_settings(self, receiver: Receiver) -> None:
        """It is told before anything is called."""
        bundle = Path("bundle.pem")
        bundle.write_text("nothing", encoding="ascii")
        with pytest.raises(ConfigError, match="CA_BUNDLE"):
            checks.test_endpoint(settings_of(CA_BUNDLE=bundle, **receiver.settings()))
        assert receiver.requests == []


class TestDbConnection:
    """``test-db-connection``."""

    def test_every_hop_is_described(self, database: Database) -> None:
        """Driver, server, login, database, version and latency, without the password."""
        database.execute(f"CREATE TABLE {database.table_name} (id INT)")
        result = checks.test_db_connection(settings_of(DB_CONNECTION_STRING=database.connection_string))
        assert (result.passed, result.exit_code) == (True, ExitCode.OK)
        hops = ["driver", "server", "login", "database", "version", "latency"]
        assert [step.hop for step in result.steps] == [
            hop for hop in hops if hop != "login" or database.kind != "sqlite"
        ]
        assert "PWD" not in result.as_text().upper()

    def test_missing_file_is_a_failure_of_the_database(self, tmp_path: Path) -> None:
        """It is not made, and the code is that of a database that cannot be reached."""
        result = checks.test_db_connection(
            settings_of(DB_CONNECTION_STRING=f"sqlite:///{tmp_path / 'no.db'}")
        )
        assert (failed(result).hop, result.exit_code) == ("database", ExitCode.DATABASE)
        assert len(result.steps) == 1
        assert list(tmp_path.iterdir()) == []

    def test_hops_before_the_failure_have_worked(self, postgres_dsn: str) -> None:
        """A refused login means that driver and server are in order; an unknown host only the driver."""
        cases = {
            "login": ({"PWD": "wrong-one"}, ["driver", "server", "login"]),
            "host": ({"Server": "no-such-host.invalid"}, ["driver", "host"]),
            "database": ({"Database": "ghost"}, ["driver", "server", "login", "database"]),
        }
        for hop, (changes, hops) in cases.items():
            settings = settings_of(DB_CONNECTION_STRING=changed(postgres_dsn, **changes))
            result = checks.test_db_connection(settings)
            assert (failed(result).hop, result.exit_code) == (hop, ExitCode.DATABASE)
            assert [step.hop for step in result.steps] == hops
            assert "wrong-one" not in result.as_text()

    def test_connection_lost_after_the_login(self, sqlserver_database: Database) -> None:
        """A server that goes away during the test is a database that cannot be reached."""
        sqlserver_database.set_faults({"match": "SUSER_SNAME", "times": 0, "do": "drop"})
        settings = settings_of(DB_CONNECTION_STRING=sqlserver_database.connection_string)
        result = checks.test_db_connection(settings)
        assert (failed(result).hop, result.exit_code) == ("connection", ExitCode.DATABASE)


class TestSmoke:
    """``smoke``."""

    def smoke(self, receiver: Receiver, **changes: Any) -> SmokeResult:
        """Take the three tests against a receiver and a new SQLite table."""
        values = {"DB_CONNECTION_STRING": f"sqlite:///{Path.cwd() / 's.db'}", **receiver.settings()}
        provision.init_db(settings_of(**values))
        return checks.smoke(settings_of(**{**values, **changes}))

    def test_three_tests_and_one_summary(self, receiver: Receiver) -> None:
        """All pass: the code is 0, and the text ends with a line for each."""
        result = self.smoke(receiver)
        assert (result.passed, result.exit_code) == (True, ExitCode.OK)
        summary = result.as_text().splitlines()[-4:]
        assert [line.split()[:2] for line in summary[:3]] == [
            ["ok", "test-endpoint"],
            ["ok", "test-db-connection"],
            ["ok", "test-schema"],
        ]
        assert summary[3].startswith("smoke: passed")

    def test_one_failure_does_not_keep_the_others_from_being_tested(self, receiver: Receiver) -> None:
        """A wrong key says nothing about the database."""
        result = self.smoke(receiver, SUPPLIER_KEY="wrong-one")
        assert [part.passed for part in result.parts] == [False, True, True]
        assert result.exit_code == ExitCode.API

    def test_database_comes_before_the_api_in_the_exit_code(self, receiver: Receiver) -> None:
        """Where both fail the code is 3; the table is then not tested rather than failed."""
        result = self.smoke(receiver, SUPPLIER_KEY="no", DB_CONNECTION_STRING="sqlite:///no.db")
        assert (result.passed, result.exit_code) == (False, ExitCode.DATABASE)
        assert [part.verdict for part in result.parts][2] == "not tested"
        assert result.as_json()["checks"][2]["exit_code"] == 0

    def test_missing_table_is_a_failed_check(self, receiver: Receiver) -> None:
        """The database is there, so the code is 1."""
        result = self.smoke(receiver, TABLE_NAME="other_anon")
        assert (result.passed, result.exit_code) == (False, ExitCode.FAILED)


class TestResult:
    """How a result is shown."""

    RESULT = CheckResult(
        "test-x",
        (
            Step("dns", True, "Found."),
            Step("a longer hop", None, "Somebody should know.", "Do nothing."),
            Step("table", False, "Wrong.", "Mend it.", ("ALTER TABLE t\n  ADD x INT;",)),
        ),
    )

    def test_text_has_a_line_for_each_step(self) -> None:
        """The word comes first, the remedy and the SQL stand below, the verdict is last; all is ASCII."""
        text = self.RESULT.as_text()
        assert text.isascii()
        assert text.splitlines() == [
            "ok    dns           Found.",
            "warn  a longer hop  Somebody should know.",
            "                    -> Do nothing.",
            "FAIL  table         Wrong.",
            "                    -> Mend it.",
            "      ALTER TABLE t",
            "        ADD x INT;",
            "test-x: failed (1 failure, 1 warning)",
        ]

    def test_json_has_the_same(self) -> None:
        """Each step with its result, and the code that the command ends with."""
        found = json.loads(json.dumps(self.RESULT.as_json()))
        assert (found["command"], found["passed"], found["exit_code"]) == ("test-x", False, 1)
        assert [step["result"] for step in found["steps"]] == ["ok", "warning", "failed"]
        assert found["steps"][2]["sql"] == ["ALTER TABLE t\n  ADD x INT;"]

"""Connection strings are read as the drivers read them; the drivers' texts are told apart by their cause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_pipeline.errors import ConfigError, ConnectionLostError, DatabaseError, TransientDatabaseError
from api_pipeline.odbc import ConnectionString, OdbcFault, connection_error, prepare, statement_error

DRIVER_18 = "ODBC Driver 18 for SQL Server"
DRIVER_17 = "ODBC Driver 17 for SQL Server"
WHERE = ConnectionString.parse("Server=sql01;Database=HDM;UID=svc;PWD=hush")


def odbc_error(state: str, text: str) -> Exception:
    """An exception with the arguments of a ``pyodbc.Error``."""
    return Exception(state, f"[{state}] {text}")


class TestConnectionString:
    """Reading ``key=value;key={va;lue}``."""

    @given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1))
    def test_any_password_survives_in_braces(self, password: str) -> None:
        """Whatever is in braces, with } doubled, is the value as it is."""
        quoted = "{" + password.replace("}", "}}") + "}"
        found = ConnectionString.parse(f"Server=s;PWD={quoted};Database=d")
        assert (found.get("pwd"), found.get("database")) == (password, "d")

    def test_other_names_of_a_key_are_the_same_key(self) -> None:
        """The drivers know several names for the server, the user and the password."""
        found = ConnectionString.parse("Data Source = s ; User ID=u;Password=p;Initial Catalog=d;;")
        assert [found.get(key) for key in ("server", "uid", "pwd", "database")] == ["s", "u", "p", "d"]

    def test_first_of_two_equal_keys_counts(self) -> None:
        """That is the rule of the driver manager."""
        assert ConnectionString.parse("Server=a;SERVER=b").get("server") == "a"

    @pytest.mark.parametrize("text", ["hello", "Server=s;oops", "=x"])
    def test_text_that_is_no_connection_string_is_refused(self, text: str) -> None:
        """The error says how one is written and repeats nothing of the text."""
        with pytest.raises(ConfigError, match="key=value") as caught:
            ConnectionString.parse(text)
        assert text not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Server=sql01", ("sql01", 1433)),
            ("Server=tcp:sql01,1450", ("sql01", 1450)),
            (r"Server=sql01\INST,1450", ("sql01", 1450)),
            (r"Server=sql01\INST", None),
            ("Server=.", ("localhost", 1433)),
            ("Server=(local)", ("localhost", 1433)),
            (r"Server=(localdb)\v11.0", None),
            (r"Server=np:\\sql01\pipe", None),
            ("Driver={PostgreSQL Unicode};Server=pg", ("pg", 5432)),
            ("Driver={PostgreSQL Unicode};Server=pg;Port=5555", ("pg", 5555)),
            ("DSN=reporting", None),
            ("Server=sql01,abc", None),
        ],
    )
    def test_host_and_port_are_those_that_the_driver_calls(
        self, text: str, expected: tuple[str, int] | None
    ) -> None:
        """Where they cannot be told, nothing is guessed."""
        assert ConnectionString.parse(text).host_and_port == expected


class TestPrepare:
    """The choice of a driver."""

    def test_newest_installed_driver_is_taken(self) -> None:
        """Names are compared whole, so a driver with a similar name is not taken for one."""
        installed = ["SQL Server Native Client RDA 11.0", "SQL Server", DRIVER_17]
        found = prepare("Server=s", installed=installed, trust_server_certificate=False)
        assert found.text == f"Driver={{{DRIVER_17}}};Server=s"
        found = prepare("Server=s", installed=[DRIVER_17, DRIVER_18], trust_server_certificate=False)
        assert found.get("driver") == DRIVER_18

    def test_no_driver_says_which_to_install(self) -> None:
        """And which there are."""
        with pytest.raises(DatabaseError, match=DRIVER_18) as caught:
            prepare("Server=s", installed=["SQL Server"], trust_server_certificate=False)
        assert caught.value.hop == "driver"
        assert "'SQL Server'" in caught.value.remedy

    def test_named_driver_must_be_there(self) -> None:
        """Its name is in the error, in any letter case it is found, and a path is looked up as a file."""
        lower = f"Driver={{{DRIVER_18.lower()}}};Server=s"
        assert prepare(lower, installed=[DRIVER_18], trust_server_certificate=False).text == lower
        for driver in ("{ODBC Driver 99}", "/no/such/libodbc.so", r"C:\no\such\odbc.dll"):
            with pytest.raises(DatabaseError, match="is not installed") as caught:
                prepare(f"Driver={driver};Server=s", installed=[DRIVER_18], trust_server_certificate=False)
            assert driver.strip("{}") in caught.value.message

    def test_data_source_brings_its_own_driver(self) -> None:
        """None is put in front of a DSN."""
        assert prepare("DSN=x", installed=[], trust_server_certificate=False).text == "DSN=x"

    def test_trust_is_added_once_and_only_for_sql_server(self) -> None:
        """What the connection string says itself is left as it is."""
        known = [DRIVER_18, "PostgreSQL Unicode"]
        cases = {
            "Server=s": True,
            "Server=s;TrustServerCertificate=no": False,
            "Server=s;Trust Server Certificate=yes": False,
            "Driver={PostgreSQL Unicode};Server=s": False,
        }
        for text, added in cases.items():
            found = prepare(text, installed=known, trust_server_certificate=True)
            assert found.text.endswith(";TrustServerCertificate=yes") is added
            assert (
                "TrustServer" not in prepare("Server=s", installed=known, trust_server_certificate=False).text
            )


MS = "[Microsoft][ODBC Driver 18 for SQL Server]"

# Texts as Microsoft's driver gives them on Windows and Linux, and psqlodbc; last, what it has to be called.
CONNECTION_TEXTS = [
    (
        "08001",
        (
            f"{MS}SSL Provider: The certificate chain was issued by an authority that is not trusted.\r\n"
            " (-2146893019) (SQLDriverConnect)"
        ),
        "certificate",
    ),
    (
        "08001",
        (
            f"{MS}SSL Provider: [error:0A000086:SSL routines::certificate verify failed:"
            "self-signed certificate] (-1) (SQLDriverConnect)"
        ),
        "certificate",
    ),
    ("08001", f"{MS}Encryption not supported on SQL Server. (20) (SQLDriverConnect)", "certificate"),
    ("08001", f"{MS}SSL Provider: [error:0A000102:SSL routines::unsupported protocol] (-1)", "certificate"),
    ("28000", f"{MS}[SQL Server]Login failed for user 'svc'. (18456) (SQLDriverConnect)", "login"),
    (
        "28000",
        f"{MS}[SQL Server]Login failed. The login is from an untrusted domain. (18452) (SQLDriver",
        "login",
    ),
    (
        "42000",
        (
            f'{MS}[SQL Server]Cannot open database "HDM" requested by the login. The login failed. (4060)'
            " (SQLDriverConnect)"
        ),
        "database",
    ),
    (
        "28000",
        f'{MS}[SQL Server]Cannot open database "HDM" requested by the login. (4060) (SQLDriv',
        "database",
    ),
    (
        "01000",
        "[unixODBC][Driver Manager]Can't open lib 'libx.so' : file not found (0) (SQLDriverConnect)",
        "driver",
    ),
    ("IM002", "[Microsoft][ODBC Driver Manager] Data source name not found (0) (SQLDriverConnect)", "driver"),
    ("HYT00", f"{MS}Login timeout expired (0) (SQLDriverConnect)", "port"),
    ("08S01", f"{MS}TCP Provider: Error code 0x68 (104) (SQLDriverConnect)", "port"),
    ("08001", 'FATAL:  password authentication failed for user "svc"\n (101) (SQLDriverConnect)', "login"),
    ("08001", 'FATAL:  role "svc" does not exist\n (101) (SQLDriverConnect)', "login"),
    ("08001", 'FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "svc"\n (101) (SQLDriver', "login"),
    ("08001", 'FATAL:  database "HDM" does not exist\n (101) (SQLDriverConnect)', "database"),
    ("08001", "connection to server failed: Connection refused\n (101) (SQLDriverConnect)", "port"),
]


@pytest.mark.parametrize(("state", "text", "hop"), CONNECTION_TEXTS)
def test_connection_fault_is_named_by_its_hop(state: str, text: str, hop: str) -> None:
    """Each text of a driver leads to the hop that is to be mended, and only an unanswered call may pass."""
    found = connection_error(odbc_error(state, text), WHERE)
    assert (found.hop, isinstance(found, ConnectionLostError)) == (hop, hop == "port")
    assert found.remedy
    assert "hush" not in str(found)


def test_untrusted_certificate_says_what_to_set() -> None:
    """The setting that accepts it is named, after the better way."""
    found = connection_error(odbc_error(*CONNECTION_TEXTS[0][:2]), WHERE)
    assert "DB_TRUST_SERVER_CERTIFICATE=true" in found.remedy
    assert found.remedy.index("authority") < found.remedy.index("DB_TRUST")


STATEMENT_TEXTS = [
    ("40001", f"{MS}[SQL Server]Transaction was deadlocked. (1205) (SQLExecDirectW)", "statement", 1),
    (
        "42000",
        f"{MS}[SQL Server]Lock request time out period exceeded. (1222) (SQLExecDirectW)",
        "statement",
        1,
    ),
    ("HYT00", f"{MS}Query timeout expired (0) (SQLExecDirectW)", "statement", 1),
    (
        "40P01",
        "ERROR: deadlock detected;\nError while executing the query (1) (SQLExecDirectW)",
        "statement",
        1,
    ),
    ("55P03", "ERROR: canceling statement due to lock timeout (1) (SQLExecDirectW)", "statement", 1),
    ("42000", f"{MS}[SQL Server]Resource ID : 1. (40501) (SQLExecDirectW)", "statement", 1),
    ("08S01", f"{MS}Communication link failure (0) (SQLExecDirectW)", "connection", 2),
    (
        "01000",
        f"{MS}TCP Provider: forcibly closed by the remote host. (10054) (SQLExecDirectW)",
        "connection",
        2,
    ),
    ("57P01", "FATAL: terminating connection due to administrator command (7) (SQLExec", "connection", 2),
    ("HY000", "server closed the connection unexpectedly (27) (SQLExecDirectW)", "connection", 2),
    ("42S02", f"{MS}[SQL Server]Invalid object name 'x'. (208) (SQLExecDirectW)", "table", 0),
    ("42P01", 'ERROR: relation "x" does not exist (1) (SQLExecDirectW)', "table", 0),
    ("42S22", f"{MS}[SQL Server]Invalid column name 'x'. (207) (SQLExecDirectW)", "column", 0),
    ("42703", 'ERROR: column "x" does not exist (1) (SQLExecDirectW)', "column", 0),
    ("42000", f"{MS}[SQL Server]The UPDATE permission was denied. (229) (SQLExecDirectW)", "permission", 0),
    ("42501", "ERROR: permission denied for table x (1) (SQLExecDirectW)", "permission", 0),
    ("42000", f"{MS}[SQL Server]The transaction log is full. (9002) (SQLExecDirectW)", "space", 0),
    ("25006", "ERROR: cannot execute UPDATE in a read-only transaction (1) (SQLExec", "read-only", 0),
    ("42000", f"{MS}[SQL Server]Incorrect syntax near 'x'. (102) (SQLExecDirectW)", "statement", 0),
    ("22001", f"{MS}[SQL Server]String or binary data would be truncated. (8152) (SQLEx", "statement", 0),
]
KINDS = (DatabaseError, TransientDatabaseError, ConnectionLostError)


@pytest.mark.parametrize(("state", "text", "hop", "kind"), STATEMENT_TEXTS)
def test_statement_fault_passes_or_does_not(state: str, text: str, hop: str, kind: int) -> None:
    """Deadlocks, locks and lost connections may be tried again; syntax, names, permissions and space not."""
    found = statement_error(odbc_error(state, text))
    assert (found.hop, type(found)) == (hop, KINDS[kind])


def test_what_a_server_repeats_of_a_value_is_not_passed_on() -> None:
    """Servers quote the value that they did not like; the error gives only codes to look up."""
    text = f"{MS}[SQL Server]Conversion failed when converting the value 'Siobhan O''Brien'. (245) (SQLExec"
    found = statement_error(odbc_error("22018", text))
    assert "O'" not in str(found)
    assert "22018" in found.message
    assert "245" in found.message


@given(st.lists(st.text(max_size=40), max_size=3))
def test_any_error_of_a_driver_can_be_read(args: list[str]) -> None:
    """However strange its arguments, an error becomes one of ours, and a hop is named."""
    error = Exception(*args)
    assert statement_error(error).hop
    assert connection_error(error, WHERE).hop
    assert len(OdbcFault.of(error).state) in (0, 5)

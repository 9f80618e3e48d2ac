"""The pre-flight script for PowerShell 5.1, read where there is no PowerShell: its syntax, and what it shows.

The workflow on Windows runs it against the receiver; here a parser answers for the syntax, and its tree for
the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import pytest
import tree_sitter
import tree_sitter_powershell

from api_pipeline.errors import ExitCode
from api_pipeline.setting_table import SETTINGS
from tests.conftest import ROOT

PATH = ROOT / "pre_flight_checks" / "api_credentials_smoke_test.ps1"
SOURCE = PATH.read_text(encoding="ascii")

# What must never be in a line that is shown: the secrets, what they are put into, and what came back.
_SECRET = {
    "$clientsecret", "$supplierkey", "$secret", "$key", "$bearer", "$form", "$headers", "$body", "$reply",
    "$file", "$arguments", "$text", "$_", "$why", "$clientid", "$id", "$error", "$variable", "$value",
}  # fmt: skip
_HARMLESS = {"$reply.status", "$reply.fault", "$reply.number"}
# What Windows PowerShell 5.1 does not know, by what the parser calls it or how it is written.
_YOUNGER_NODES = {
    "pipeline_chain_tail",
    "ternary_expression",
    "null_coalescing_expression",
    "class_statement",
}
_YOUNGER_TEXT = re.compile(
    r"\?\?|\?\.|&&|\|\||-Parallel\b|-SkipHttpErrorCheck|-SkipCertificateCheck|`u\{|\bclean\s*\{"
)


@cache
def parser() -> tree_sitter.Parser:
    """A parser for PowerShell."""
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))


def nodes(node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    """The node and all below it."""
    yield node
    for child in node.children:
        yield from nodes(child)


def text_of(node: tree_sitter.Node) -> str:
    """The source of a node."""
    assert node.text is not None
    return node.text.decode()


def faults(source: str) -> list[str]:
    """Where the parser stumbles, and what is too young for 5.1."""
    tree = parser().parse(source.encode())
    found = [
        f"line {node.start_point[0] + 1}: {node.type}"
        for node in nodes(tree.root_node)
        if node.type == "ERROR" or node.is_missing or node.type in _YOUNGER_NODES
    ]
    code = re.sub(r"(?s)<#.*?#>|'(?:[^']|'')*'|#[^\n]*", "", source)
    return found + _YOUNGER_TEXT.findall(code)


def output_commands() -> list[tree_sitter.Node]:
    """Every command that shows something."""
    root = parser().parse(SOURCE.encode()).root_node
    commands = [node for node in nodes(root) if node.type == "command"]
    return [node for node in commands if re.match(r"(?i)(Show(-Remedy)?|Write-\w+|Out-\w+)\s", text_of(node))]


def shown_secrets(command: tree_sitter.Node) -> set[str]:
    """The variables in a command that hold what must not be shown."""
    variables = set()
    for node in nodes(command):
        if node.type == "variable":
            parent = node.parent
            whole = text_of(parent).lower() if parent is not None and parent.type == "member_access" else ""
            if whole not in _HARMLESS:
                variables.add(text_of(node).lower())
    return variables & _SECRET


def test_syntax_is_that_of_5_1() -> None:
    """The script parses without an error, and uses nothing that came after Windows PowerShell 5.1."""
    assert faults(SOURCE) == []


@pytest.mark.parametrize(
    "source", ["$a = $b ?? 1\n", "$a = $b ? 1 : 2\n", "Get-Item a && Get-Item b\n", "if ($a) {\n", "$a?.b\n"]
)
def test_faults_are_found(source: str) -> None:
    """The search would find what it is there to find."""
    assert faults(source)


def test_no_secret_is_shown() -> None:
    """No line that the script writes is made with a secret, a token, an answer, or what was sent."""
    commands = output_commands()
    assert len(commands) > 30
    assert [text_of(command) for command in commands if shown_secrets(command)] == []


def test_secrets_would_be_found() -> None:
    """A variable with a secret is seen in an argument, in a string, and within an expression."""
    for line in ('Show "ok" $bearer', 'Write-Output "key $key"', 'Show "x" "a $($headers.SupplierKey)"'):
        (command,) = (
            node for node in nodes(parser().parse(line.encode()).root_node) if node.type == "command"
        )
        assert shown_secrets(command)


def test_nothing_is_shown_by_leaving_it_in_the_pipeline() -> None:
    """No statement is a bare variable, whose value PowerShell would print."""
    root = parser().parse(SOURCE.encode()).root_node
    bare = [
        text_of(node)
        for node in nodes(root)
        if node.type == "pipeline"
        and node.parent is not None
        and node.parent.type == "statement_list"
        and node.parent.parent is not None
        and node.parent.parent.type in {"program", "statement_block", "script_block_body"}
        and re.match(r"\$[^=+]*$", text_of(node))
    ]
    # The ends of those that give something back, or that only do something.
    assert [line for line in bare if not re.match(r"\$(client|stream|url)\b", line)] == []


def test_no_module_and_no_other_language_is_needed() -> None:
    """The script loads no module, compiles nothing and evaluates no text; all of it is ASCII."""
    commands = {
        text_of(node).lower()
        for node in nodes(parser().parse(SOURCE.encode()).root_node)
        if node.type == "command_name"
    }
    assert not commands & {"import-module", "install-module", "add-type", "invoke-expression", "iex"}
    assert "#requires" not in SOURCE.lower()


def test_dotnet_stays_out_of_constrained_language_mode() -> None:
    """Every call of a method of .NET lies in a branch that is only taken in the full language."""
    root = parser().parse(SOURCE.encode()).root_node
    guarded = {"Test-Encryption"}  # called only where the language is full
    found = 0
    for node in nodes(root):
        if node.type == "type_literal" and text_of(node).startswith(("[System.", "[Net.")):
            found += 1
            above = []
            parent = node.parent
            while parent is not None:
                above.append(text_of(parent).split("{", 1)[0])
                parent = parent.parent
            assert any("$full" in head or any(name in head for name in guarded) for head in above)
    assert found >= 4
    (call,) = re.findall(r"if \((.*?)\) \{\s*Test-Encryption \$where", SOURCE)
    assert "$full" in call


def test_tls_and_redirects_are_set() -> None:
    """TLS 1.2 is asked for, which 5.1 does not do by itself, and no redirect is followed."""
    assert "[System.Net.SecurityProtocolType]::Tls12" in SOURCE
    assert re.search(r"MaximumRedirection = 0", SOURCE)
    assert "ServerCertificateValidationCallback" not in SOURCE


def test_exit_codes_are_those_of_the_program() -> None:
    """The script ends with the codes of test-endpoint."""
    values = dict(re.findall(r"(?m)^\$(OK|USAGE|API) = (\d+)$", SOURCE))
    assert {name: int(value) for name, value in values.items()} == {
        name: int(ExitCode[name]) for name in ("OK", "USAGE", "API")
    }
    assert set(re.findall(r"\bexit (\S+)", SOURCE)) == {"$OK", "$USAGE", "$API"}


def test_settings_are_those_of_the_program() -> None:
    """Every key that the script looks for is one of the program's."""
    asked = set(re.findall(r"Get-Setting '([A-Z_]+)'", SOURCE))
    assert asked == {
        "API_ENDPOINT", "LA_CODE", "TOKEN_ENDPOINT", "CLIENT_ID", "CLIENT_SECRET", "SCOPE", "SUPPLIER_KEY",
        "HTTPS_PROXY", "USER_AGENT",
    }  # fmt: skip
    assert asked <= {setting.key for setting in SETTINGS}


def test_each_hop_has_a_verdict() -> None:
    """Both verdicts exist for every hop, and the page for analysts names each."""
    page = (ROOT / "docs" / "pre_flight_checks.md").read_text(encoding="utf-8")
    hops = ("settings", "proxy", "DNS", "TCP", "TLS", "token", "supplier key", "LA code", "API")
    for hop in hops:
        assert re.search(rf"Show 'ok' '{hop}'", SOURCE)
        assert re.search(rf"Show 'FAIL' '{hop}'", SOURCE)
        assert f"\n| {hop} |" in page

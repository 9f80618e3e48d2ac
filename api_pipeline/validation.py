"""The record schema as data, and what is wrong with a payload in terms of paths and rules.

Carries out domain, section 4. Everything that the schema knows stands in the table ``CHILD``; a new field
is one more line there. The table is JSON Schema (Draft 4, where 12.0 is not an integer) with three words
of our own that the validator passes over: ``must`` (what a text of this kind has to be), ``advisory``
(a miss is a warning) and ``kind`` (the type in plain English). One compiled schema answers "is all well?"
in some ten microseconds; only where it is not are the faults listed and sorted into errors and warnings.

A finding names path and rule and says what is allowed. It never holds anything of the record: the
validator's own messages quote values and are not used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, reduce
from typing import Any, cast

import jsonschema_rs

from api_pipeline.payload import UnreadablePayload, all_finite, decode, diagnose, member_path

_Schema = dict[str, Any]


class Severity(Enum):
    """Whether a finding keeps a record from being sent."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a payload: where, which rule, and what is allowed there."""

    path: str
    rule: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True)
class Checked:
    """A payload text after reading and checking.

    ``value`` is None where there is nothing that could be sent: no text, no JSON, or not writable as
    UTF-8. With errors it may be there all the same (duplicate keys: the last one), for VALIDATION=warn.
    ``encoded`` is the text in UTF-8, if it could be read strictly: whoever sends it need not encode it again.
    """

    value: Any | None
    findings: tuple[Finding, ...]
    encoded: bytes | None = field(default=None, repr=False)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The structural faults: the API would refuse the whole array."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is merely unexpected: unknown fields and codes."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.WARNING)

    @property
    def ok(self) -> bool:
        """Whether there is no structural fault."""
        return not self.errors


# --- The vocabulary of the table -------------------------------------------------------------------------


def _text(longest: int | None = None) -> _Schema:
    limit = {} if longest is None else {"maxLength": longest}
    return {"type": ["string", "null"], "kind": "text", **limit}


def _matching(schema: _Schema, pattern: str, must: str) -> _Schema:
    return schema | {"pattern": pattern, "must": must}


def _id(longest: int) -> _Schema:
    return _matching(_text(longest), "^[A-Za-z0-9_-]+$", "must be made of letters A-Z, digits, _ and - only")


def _one_of(values: str) -> _Schema:
    return _text() | {"enum": [*values.split(), None]}


def _code(longest: int, values: str) -> _Schema:
    return _text(longest) | {"enum": [*values.split(), None], "advisory": True}


def _whole_number(least: int, most: int) -> _Schema:
    return {"type": ["integer", "null"], "kind": "a whole number", "minimum": least, "maximum": most}


def _list(items: _Schema, most: int | None = None) -> _Schema:
    limit = {} if most is None else {"maxItems": most}
    return {"type": ["array", "null"], "kind": "a list", "items": _not_null(items), **limit}


def _object(required: str | None = None, **fields: _Schema) -> _Schema:
    """Return the schema of a record; the field named ``required`` has to be there and not null."""
    schema: _Schema = {
        "type": ["object", "null"],
        "kind": "an object",
        "properties": fields,
        "additionalProperties": False,
    }
    if required is not None:
        fields[required] = _not_null(fields[required])
        schema["required"] = [required]
    return schema


def _not_null(schema: _Schema) -> _Schema:
    changed = schema | {"type": schema["type"][0]}
    if "enum" in schema:
        changed["enum"] = [value for value in schema["enum"] if value is not None]
    return changed


_FLAG: _Schema = {"type": ["boolean", "null"], "kind": "true or false"}
# The format alone would let the year 0000 pass.
_DATE: _Schema = _text() | {"format": "date", "pattern": "^0{0,3}[1-9]"}
_UPN = _matching(_text(), "^[A-Za-z0-9]{13}$", "must be exactly 13 letters A-Z or digits")
_UPN_REASON = _one_of("UN1 UN2 UN3 UN4 UN5 UN6 UN7 UN8 UN9 UN10")
_SEX = _one_of("M F U")

_REFERRAL_SOURCE = _code(2, "1A 1B 1C 1D 2A 2B 3A 3B 3C 3D 3E 3F 4 5A 5B 5C 5D 6 7 8 9 10")
_CLOSURE_REASON = _code(3, "RC1 RC2 RC3 RC4 RC5 RC6 RC7 RC8 RC9")
_ETHNICITY = _code(
    4,
    "WBRI WIRI WIRT WOTH WROM MWBC MWBA MWAS MOTH AIND APKN ABAN AOTH CHNE BCRB BAFR BOTH OOTH REFU NOBT",
)
_DISABILITY = _code(4, "NONE MOB HAND PC INC COMM LD HEAR VIS BEH CON AUT DDA")
_START_REASON = _code(1, "S L P T B U")
_CHANGE_REASON = _code(6, "CARPL CLOSE ALLEG STAND APPRR CREQB CREQO CHILD LAREQ PLACE CUSTOD OTHER")
_ACTIVITY = _code(2, "F1 P1 F2 P2 F4 P4 F5 P5 G4 G5 G6")
_ACCOMMODATION = _code(1, "B C D E G H K R S T U V")

# --- The table: domain, section 4 ------------------------------------------------------------------------

_CHILD_DETAILS = _object(
    unique_pupil_number=_UPN,
    former_unique_pupil_number=_text(13),
    unique_pupil_number_unknown_reason=_UPN_REASON,
    first_name=_text(),
    surname=_text(),
    date_of_birth=_DATE,
    expected_date_of_birth=_DATE,
    sex=_SEX,
    ethnicity=_ETHNICITY,
    disabilities=_list(_DISABILITY, 12),
    postcode=_text(8),
    uasc_flag=_FLAG,
    uasc_end_date=_DATE,
    purge=_FLAG,
)

_HEALTH_AND_WELLBEING = _object(
    sdq_assessments=_list(_object(date=_DATE, score=_whole_number(0, 40))),
    purge=_FLAG,
)

_EPISODE = _object(
    required="social_care_episode_id",
    social_care_episode_id=_id(36),
    referral_date=_DATE,
    referral_source=_REFERRAL_SOURCE,
    referral_no_further_action_flag=_FLAG,
    closure_date=_DATE,
    closure_reason=_CLOSURE_REASON,
    care_worker_details=_list(_object(worker_id=_id(12), start_date=_DATE, end_date=_DATE)),
    child_and_family_assessments=_list(
        _object(
            required="child_and_family_assessment_id",
            child_and_family_assessment_id=_id(36),
            start_date=_DATE,
            authorisation_date=_DATE,
            factors=_list(_text()),
            purge=_FLAG,
        )
    ),
    child_in_need_plans=_list(
        _object(
            required="child_in_need_plan_id",
            child_in_need_plan_id=_id(36),
            start_date=_DATE,
            end_date=_DATE,
            purge=_FLAG,
        )
    ),
    section_47_assessments=_list(
        _object(
            required="section_47_assessment_id",
            section_47_assessment_id=_id(36),
            start_date=_DATE,
            icpc_required_flag=_FLAG,
            icpc_date=_DATE,
            end_date=_DATE,
            purge=_FLAG,
        )
    ),
    child_protection_plans=_list(
        _object(
            required="child_protection_plan_id",
            child_protection_plan_id=_id(36),
            start_date=_DATE,
            end_date=_DATE,
            purge=_FLAG,
        )
    ),
    child_looked_after_placements=_list(
        _object(
            required="child_looked_after_placement_id",
            child_looked_after_placement_id=_id(36),
            start_date=_DATE,
            start_reason=_START_REASON,
            placement_type=_text(3),
            postcode=_text(8),
            end_date=_DATE,
            end_reason=_text(3),
            change_reason=_CHANGE_REASON,
            purge=_FLAG,
        )
    ),
    adoption=_object(initial_decision_date=_DATE, matched_date=_DATE, placed_date=_DATE, purge=_FLAG),
    care_leavers=_object(contact_date=_DATE, activity=_ACTIVITY, accommodation=_ACCOMMODATION, purge=_FLAG),
    purge=_FLAG,
)

CHILD: _Schema = _not_null(
    _object(
        required="la_child_id",
        la_child_id=_id(36),
        mis_child_id=_id(36),
        purge=_FLAG,
        child_details=_CHILD_DETAILS,
        health_and_wellbeing=_HEALTH_AND_WELLBEING,
        social_care_episodes=_list(_EPISODE),
    )
)

# --- Checking --------------------------------------------------------------------------------------------

_READING_MESSAGES = {
    "missing": "there is no payload",
    "not_json": "must be JSON",
    "duplicate_key": "must not be there twice",
    "nan": "must be a number that JSON can hold",
    "surrogate": "must not hold half of a surrogate pair",
    "depth": "must not be nested deeper than 200 levels",
}


@cache
def _validator() -> jsonschema_rs.Draft4Validator:
    return jsonschema_rs.Draft4Validator(CHILD, validate_formats=True)


def check_text(text: str | None) -> Checked:
    """Read a payload strictly and check it against the record schema (domain, section 4).

    Every structural fault is found, except that a text which is no JSON has only that one. Never raises
    for anything that a text can hold.
    """
    if text is None:
        return Checked(None, (_reading_fault("missing", "$"),))
    try:
        encoded = text.encode()
        value = decode(encoded)
    except (UnicodeEncodeError, UnreadablePayload):
        return _check_unreadable(text)
    if _validator().is_valid(value):
        return Checked(value, (), encoded)  # no field is a float, so no infinite number is in it either
    return Checked(value, _listed(value), encoded) if all_finite(value) else _check_unreadable(text)


def check_value(value: Any) -> tuple[Finding, ...]:
    """Check a value as :func:`api_pipeline.payload.parse` returns it: errors first, then warnings."""
    return () if _validator().is_valid(value) else _listed(value)


def describe(findings: Iterable[Finding], limit: int = 5) -> str:
    """Put findings into one line for ``api_response``: ``$.path: rule (what is allowed); ... (+2 more)``."""
    listed = list(findings)
    line = "; ".join(f"{finding.path}: {finding.rule} ({finding.message})" for finding in listed[:limit])
    return line if len(listed) <= limit else f"{line}; ... (+{len(listed) - limit} more)"


def _reading_fault(rule: str, where: str) -> Finding:
    message = _READING_MESSAGES[rule]
    if where.startswith("$"):
        return Finding(where, rule, Severity.ERROR, message)
    return Finding("$", rule, Severity.ERROR, f"{message}: {where}")


def _check_unreadable(text: str) -> Checked:
    """List the faults of a text that the strict reader refuses, and what else is wrong with the record."""
    diagnosis = diagnose(text)
    faults = tuple(_reading_fault(rule, where) for rule, where in diagnosis.faults)
    # What stands in for an unreadable value says nothing; the last of two duplicates is as good as any.
    unknown = {fault.path for fault in faults if fault.rule != "duplicate_key"}
    others = tuple(finding for finding in check_value(diagnosis.value) if finding.path not in unknown)
    return Checked(diagnosis.value if diagnosis.sendable else None, _errors_first(faults + others))


def _errors_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: finding.severity is Severity.WARNING))


# The name of a member or the index of an item, from the child down.
_Location = tuple[str | int, ...]


def _listed(value: Any) -> tuple[Finding, ...]:
    """Return all findings of an invalid value in the order of their paths, errors first."""
    found: dict[tuple[_Location, str], Finding] = {}
    for error in _validator().iter_errors(value):
        for location, finding in _findings_of(error):
            found.setdefault((location, finding.rule), finding)
    # Under one parent all steps are names or all are indexes, so locations can be compared.
    findings = [found[key] for key in sorted(found)]
    mistyped = {finding.path for finding in findings if finding.rule in {"type", "not_object"}}
    wrong = {finding.path for finding in findings if finding.severity is Severity.ERROR}
    return _errors_first(
        finding
        for finding in findings
        # A wrong type is in no list of values either, and a code that is too long is in no code list.
        if not (finding.rule == "enum" and finding.path in mistyped)
        and not (finding.severity is Severity.WARNING and finding.path in wrong)
    )


def _findings_of(error: jsonschema_rs.ValidationError) -> Iterator[tuple[_Location, Finding]]:
    """Translate one error of the validator, dropping all that it says about the value."""
    location: _Location = tuple(error.instance_path)
    kind = error.kind
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
        for name in kind.unexpected:
            finding = Finding(
                _path((*location, name)), "unknown_field", Severity.WARNING, "is not in the schema"
            )
            yield (*location, name), finding
        return
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
        location = (*location, kind.property)
        yield location, Finding(_path(location), "required", Severity.ERROR, "must be there")
        return
    *above, keyword = error.schema_path
    rule, message = _rule(keyword, _schema_at(above), at_root=not location)
    severity = Severity.WARNING if rule == "code_list" else Severity.ERROR
    yield location, Finding(_path(location), rule, severity, message)


def _rule(keyword: str | int, node: _Schema, *, at_root: bool) -> tuple[str, str]:
    """Return the rule and what it allows, for a keyword of the schema ``node`` that was broken."""
    if keyword == "type":
        nullable = " or null" if isinstance(node["type"], list) else ""
        return "not_object" if at_root else "type", f"must be {node['kind']}{nullable}"
    if keyword == "maxLength":
        return "max_length", f"must be at most {node['maxLength']} characters"
    if keyword == "maxItems":
        return "max_items", f"must have at most {node['maxItems']} items"
    if keyword in {"minimum", "maximum"}:
        return "range", f"must be from {node['minimum']} to {node['maximum']}"
    if keyword == "enum":
        allowed = " ".join(value for value in node["enum"] if value is not None)
        if node.get("advisory"):
            return "code_list", f"should be one of {allowed}"
        return "enum", f"must be one of {allowed}"
    if "format" in node:
        return "date", "must be a date that exists, as YYYY-MM-DD"
    return "pattern", node["must"]


def _schema_at(schema_path: Iterable[str | int]) -> _Schema:
    return cast("_Schema", reduce(lambda node, key: node[key], schema_path, cast("Any", CHILD)))


def _path(location: _Location) -> str:
    return reduce(
        lambda path, step: f"{path}[{step}]" if isinstance(step, int) else member_path(path, step),
        location,
        "$",
    )


_PATH_IN_TEXT = re.compile(r"[a-z][a-z_]*(?:\[[0-9]+\])?(?:\.[a-z][a-z_]*(?:\[[0-9]+\])?)*")


def field_paths(text: str, limit: int = 10) -> list[str]:
    """Return the paths of known fields that a refusal names, and nothing else of its text.

    What DfE says about a record may quote it; the names of the specification's own fields tell nothing.
    """
    names = _field_names()
    found: dict[str, None] = {}
    for match in _PATH_IN_TEXT.finditer(text):
        parts = [part.partition("[")[0] for part in match.group().split(".")]
        if all(part in names for part in parts):
            found[match.group()] = None
    return list(found)[:limit]


@cache
def _field_names() -> frozenset[str]:
    return frozenset(_names_below(CHILD))


def _names_below(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield from properties
        for value in schema.values():
            yield from _names_below(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _names_below(value)

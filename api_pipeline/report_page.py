"""The page of ``report``: one HTML file that needs no network, no script and no other file.

Charts are boxes sized by CSS, each with a pattern of its own so that no colour is needed, hidden from screen
readers because the same figures stand in a table below. Every value is escaped by Jinja. The template is a
string, since the frozen executable carries no data files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import jinja2

from api_pipeline import __version__
from api_pipeline.report_figures import Report
from api_pipeline.report_reading import RunFigures
from api_pipeline.report_style import STYLE

_MARK = "csc-api-pipeline report"
_COLUMNS = 60  # as many as a phone can show

_PAGE = """\
<!DOCTYPE html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<meta name="generator" content="{{ mark }}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Submissions from {{ report.table }}</title>
<style>{{ style|safe }}</style>
</head>
<body>
{% macro chart(name, series, columns, unit) %}
<figure class="chart">
<figcaption>{{ name }}{% if columns|length == most %} (the last {{ most }}){% endif %}</figcaption>
{% if series|length > 1 %}
<p class="legend" aria-hidden="true">
{% for kind, label in series %}
<span class="key"><span class="swatch {{ kind }}"></span>{{ label }}</span>
{% endfor %}
</p>
{% endif %}
<div class="plot" aria-hidden="true">
<div class="scale"><span>{{ unit(columns|map(attribute="total")|max) }}</span><span>0</span></div>
<div class="columns" style="max-width:{{ columns|length * 3 }}rem">
{% for column in columns %}
<div class="column" title="{{ column.label }}: {{ column.text }}">
{%- for part in column.parts -%}
<div class="{{ part.kind }}" style="height:{{ part.percent }}%"></div>
{%- endfor -%}
</div>
{% endfor %}
</div>
<div class="dates" style="max-width:{{ [columns|length * 3, 16]|max }}rem">\
<span>{{ columns[0].label }}</span>\
{% if columns|length > 1 %}<span>{{ columns[-1].label }}</span>{% endif %}</div>
</div>
</figure>
{% endmacro %}
{% macro table(id, tall=false) %}
<div class="scroll{{ ' tall' if tall }}" role="region" aria-labelledby="{{ id }}" tabindex="0">
<table><caption id="{{ id }}"><span>
{%- endmacro %}
{% macro bar(count, most) %}
<td class="bar" aria-hidden="true">\
{% if count %}<div class="sent" style="width:{{ percent(count, most) }}%"></div>{% endif %}</td>
{% endmacro %}
<header>
<h1>Submissions from <span class="name">{{ report.table }}</span></h1>
<p>{{ since }} to {{ made_at }} UTC ({{ report.period }} days). {{ source }}</p>
</header>
<nav aria-label="Sections"><ul>
<li><a href="#now">Now</a></li>
<li><a href="#runs">{{ "Runs" if report.has_log else "Days" }}</a></li>
<li><a href="#reasons">Reasons</a></li>
<li><a href="#sizes">Sizes</a></li>
<li><a href="#waiting">Waiting</a></li>
</ul></nav>
<main>
<section id="now" aria-labelledby="h-now">
<h2 id="h-now">Now</h2>
<p class="lead">{{ lead }}</p>
<dl class="cards">
{% for card in cards %}
<div class="card{{ ' alert' if card.alert }}"><dt>{{ card.name }}</dt>
<dd>{{ card.value }}{% if card.note %}<span class="note">{{ card.note }}</span>{% endif %}</dd></div>
{% endfor %}
</dl>
{{ table("c-counts") }}Rows of the table by state</span></caption>
<thead><tr><th scope="col">row_state</th><th scope="col">submission_status</th>\
<th scope="col" class="number">rows</th></tr></thead>
<tbody>
{% for count in status.counts %}
<tr><td>{{ count.row_state or "(empty)" }}</td><td>{{ count.status or "(empty)" }}</td>\
<td class="number">{{ number(count.rows) }}</td></tr>
{% else %}
<tr><td colspan="3">The table is empty.</td></tr>
{% endfor %}
</tbody></table>
</div>
</section>
<section id="runs" aria-labelledby="h-runs">
{% if report.has_log %}
<h2 id="h-runs">Runs</h2>
{% if report.runs %}
{{ chart("Records in each run", series, run_columns, number) }}
{% if fault_columns|sum(attribute="total") %}
{{ chart("Failed and in doubt in each run", series[1:3], fault_columns, number) }}
{% endif %}
{{ chart("Duration of each run", [("sent", "")], time_columns, duration) }}
{{ chart("Data in each run", [("sent", "")], size_columns, size) }}
{{ table("c-runs", report.runs|length > 15) }}Runs, the newest first; times in UTC\
{% if unlisted %}; {{ number(unlisted) }} older ones of the period are not listed{% endif %}</span></caption>
<thead><tr><th scope="col">started</th><th scope="col" class="number">duration</th>\
<th scope="col" class="number">sent</th><th scope="col" class="number">failed</th>\
<th scope="col" class="number">in doubt</th><th scope="col" class="number">testing</th>\
<th scope="col" class="number">size</th><th scope="col">kinds</th><th scope="col">run id</th></tr></thead>
<tbody>
{% for run in report.runs %}
<tr><th scope="row">{{ moment(run.started) }}</th><td class="number">{{ duration(run.seconds) }}</td>\
<td class="number">{{ number(run.sent) }}</td>\
<td class="number{{ ' bad' if run.failed }}">{{ number(run.failed) }}</td>\
<td class="number{{ ' bad' if run.doubtful }}">{{ number(run.doubtful) }}</td>\
<td class="number">{{ number(run.testing) }}</td><td class="number">{{ size(run.size) }}</td>\
<td>{% for kind, count in run.kinds|dictsort %}{{ number(count) }} {{ kind }}{{ ", " if not loop.last }}\
{% endfor %}</td><td class="id">{{ run.run_id }}</td></tr>
{% endfor %}
</tbody>
<tfoot><tr><th scope="row">{{ number(report.totals.runs) }} runs</th><td></td>\
<td class="number">{{ number(report.totals.sent) }}</td>\
<td class="number">{{ number(report.totals.failed) }}</td>\
<td class="number">{{ number(report.totals.doubtful) }}</td>\
<td class="number">{{ number(report.totals.testing) }}</td>\
<td class="number">{{ size(report.totals.size) }}</td><td></td><td></td></tr></tfoot>
</table>
</div>
<p class="small">A run in which nothing was due leaves no line in the log. The duration is from the first
request to the last reply.</p>
{% else %}
<p>The submission log has no run in these {{ report.period }} days.</p>
{% endif %}
{% else %}
<h2 id="h-runs">Days</h2>
<p>There is no submission log beside this table, so single runs, their failures and durations are not known.
The command <code>init-db</code> makes one.</p>
{% if report.days %}
{{ chart("Rows by the day of their last acknowledgement", [("sent", "")], day_columns, number) }}
{{ table("c-days", report.days|length > 15) }}Rows by the day of their last acknowledgement</span></caption>
<thead><tr><th scope="col">day</th><th scope="col" class="number">rows</th></tr></thead>
<tbody>
{% for day, count in report.days.items()|reverse %}
<tr><th scope="row">{{ day }}</th><td class="number">{{ number(count) }}</td></tr>
{% endfor %}
</tbody></table>
</div>
{% else %}
<p>No row was acknowledged in these {{ report.period }} days.</p>
{% endif %}
{% endif %}
</section>
<section id="reasons" aria-labelledby="h-reasons">
<h2 id="h-reasons">Reasons</h2>
{% macro reasons(id, caption, found, by_attempt) %}
{{ table(id) }}{{ caption }}</span></caption>
<thead><tr><th scope="col">reason</th>\
{% if by_attempt %}<th scope="col">outcome</th><th scope="col">HTTP</th>\
{% endif %}<th scope="col" class="number">{{ "attempts" if by_attempt else "rows" }}</th>\
<td class="bar" aria-hidden="true"></td></tr></thead>
<tbody>
{% for reason in found %}
<tr><th scope="row" class="text">{{ reason.text }}</th>\
{% if by_attempt %}<td>{{ reason.outcome }}</td><td>{{ reason.status or "" }}</td>{% endif %}\
<td class="number">{{ number(reason.count) }}</td>\
{{ bar(reason.count, found|map(attribute="count")|max) }}</tr>
{% endfor %}
</tbody></table>
</div>
{% endmacro %}
{% if report.reasons %}
{{ reasons("c-reasons", "Why attempts of the period failed or are in doubt", report.reasons, true) }}
{% elif report.has_log %}
<p>No attempt of the period failed or is in doubt.</p>
{% endif %}
{% if report.faults %}
{{ reasons("c-faults", "Why rows are in error now; api_response has the whole text", report.faults, false) }}
{% else %}
<p>No row is in error now.</p>
{% endif %}
{% if status.errors %}
{{ table("c-errors") }}Rows in error, the newest</span></caption>
<thead><tr><th scope="col">person_id</th><th scope="col">error</th></tr></thead>
<tbody>
{% for person, error in status.errors %}
<tr><th scope="row">{{ person }}</th><td class="text">{{ error }}</td></tr>
{% endfor %}
</tbody></table>
</div>
{% endif %}
</section>
<section id="sizes" aria-labelledby="h-sizes">
<h2 id="h-sizes">Sizes</h2>
{% if sizes.classes %}
<p>{{ number(sizes.count) }} {{ "records" if report.has_log else "payloads in the table" }}:
{{ measure(sizes.mean) }} on average, {{ measure(sizes.largest) }} the largest.</p>
{{ table("c-sizes") }}{{ "What was sent" if report.has_log else "Payloads" }}, by size</span></caption>
<thead><tr><th scope="col">size</th>\
<th scope="col" class="number">{{ "records" if report.has_log else "payloads" }}</th>\
<td class="bar" aria-hidden="true"></td></tr></thead>
<tbody>
{% for found in sizes.classes %}
<tr><th scope="row">{{ "under " ~ measure(found.below) if found.below else "larger" }}</th>\
<td class="number">{{ number(found.count) }}</td>\
{{ bar(found.count, sizes.classes|map(attribute="count")|max) }}</tr>
{% endfor %}
</tbody></table>
</div>
{% else %}
<p>{{ "Nothing was sent in these days." if report.has_log else "The table has no payload." }}</p>
{% endif %}
</section>
<section id="waiting" aria-labelledby="h-waiting">
<h2 id="h-waiting">Waiting</h2>
{% if report.waiting %}
{{ table("c-waiting") }}Due rows that changed the longest ago (times of the database)</span></caption>
<thead><tr><th scope="col">person_id</th><th scope="col">row_state</th><th scope="col">submission_status</th>\
<th scope="col">last_updated</th></tr></thead>
<tbody>
{% for row in report.waiting %}
<tr><th scope="row">{{ row.person_id or "(empty)" }}</th><td>{{ row.row_state or "(empty)" }}</td>\
<td>{{ row.status or "(empty)" }}</td><td>{{ row.last_updated }}</td></tr>
{% endfor %}
</tbody></table>
</div>
<p class="small">The command <code>explain</code> with a person_id says why that person is due.</p>
{% else %}
<p>{{ "No due row says when it changed." if status.due else "No row is due." }}</p>
{% endif %}
</section>
</main>
<footer><p>Made by csc-api-pipeline {{ version }}. This page holds person_ids: treat it as personal data.
It loads nothing from any network.</p></footer>
</body>
</html>
"""


@dataclass(frozen=True)
class Part:
    """A box of a column; ``percent`` of the height of the plot."""

    kind: str
    percent: float


@dataclass(frozen=True)
class Column:
    """A column of a chart."""

    label: str
    text: str
    total: float
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Card:
    """One figure at the top."""

    name: str
    value: str
    note: str = ""
    alert: bool = False


_SERIES = (("sent", "sent"), ("failed", "failed"), ("doubt", "in doubt"), ("testing", "testing"))


def render(report: Report) -> str:
    """Return the page as text."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    status = report.status
    newest = list(reversed(report.runs[:_COLUMNS]))
    labels = [moment(run.started) for run in newest]
    outcomes = [_outcomes_of(run) for run in newest]
    seconds = [(run.seconds or 0.0,) for run in newest]
    by_day = list(report.days.items())[-_COLUMNS:]
    return environment.from_string(_PAGE).render(
        report=report,
        status=status,
        sizes=report.sizes,
        mark=_MARK,
        style=STYLE,
        version=__version__,
        unlisted=report.totals.runs - len(report.runs),
        since=report.since.date().isoformat(),
        made_at=moment(report.made_at),
        source=(
            "From the submission log and the staging table."
            if report.has_log
            else "From the staging table: there is no submission log."
        ),
        lead=_lead(report),
        cards=_cards(report),
        series=_SERIES,
        most=_COLUMNS,
        run_columns=_columns(labels, outcomes, [_in_words(counts) for counts in outcomes]),
        fault_columns=_columns(
            labels,
            [(0, failed, doubtful, 0) for _, failed, doubtful, _ in outcomes],
            [_in_words((0, failed, doubtful, 0)) for _, failed, doubtful, _ in outcomes],
        ),
        time_columns=_columns(labels, seconds, [duration(found) for (found,) in seconds]),
        size_columns=_columns(labels, [(run.size,) for run in newest], [size(run.size) for run in newest]),
        day_columns=_columns([day for day, _ in by_day], [(count,) for _, count in by_day], None),
        number=number,
        duration=duration,
        moment=moment,
        size=size,
        measure=size if report.sizes.unit == "bytes" else lambda count: f"{number(count)} characters",
        percent=_percent,
    )


def is_report(head: bytes) -> bool:
    """Whether a file that begins so is such a page."""
    return f'content="{_MARK}"'.encode() in head


def number(count: float) -> str:
    """Return a whole number with its thousands apart."""
    return f"{count:,.0f}"


def size(count: float) -> str:
    """Return a number of bytes in the unit that suits it (powers of 1000)."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def duration(seconds: float | None) -> str:
    """Return a length of time in words; nothing where it is not known."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = timedelta(seconds=round(seconds))
    minutes, rest = divmod(whole.seconds, 60)
    hours = whole.days * 24 + minutes // 60
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def moment(value: datetime | None) -> str:
    """Return a moment to the minute."""
    return "" if value is None else value.isoformat(sep=" ", timespec="minutes")


def _lead(report: Report) -> str:
    status = report.status
    oldest = f", the oldest since {status.oldest_due[:16]}" if status.oldest_due else ""
    due = f"{number(status.due)} rows are due{oldest}." if status.due else "Nothing is due."
    if not report.has_log:
        last = status.last_submission
        return (
            f"The last acknowledgement is from {last[:16]}. {due}" if last else f"Nothing was sent yet. {due}"
        )
    if not report.runs:
        return f"No run in these {report.period} days. {due}"
    last_run = report.runs[0]
    return f"The last run, {moment(last_run.started)} UTC: {_in_words(_outcomes_of(last_run))}. {due}"


def _outcomes_of(run: RunFigures) -> tuple[int, int, int, int]:
    return run.sent, run.failed, run.doubtful, run.testing


def _in_words(counts: Sequence[int]) -> str:
    named = zip((label for _, label in _SERIES), counts, strict=True)
    return ", ".join(f"{number(count)} {label}" for label, count in named if count) or "nothing"


def _cards(report: Report) -> list[Card]:
    status, log = report.status, report.status.log
    in_error = sum(count.rows for count in status.counts if count.status == "error")
    held = sum(status.held.values())
    cards = [
        Card("Rows due", number(status.due), f"oldest {status.oldest_due[:10]}" if status.oldest_due else ""),
        Card("Rows in error", number(in_error), "look at the reasons" if in_error else "", bool(in_error)),
        Card("Rows held back", number(held), ", ".join(sorted(status.held)) if held else "", bool(held)),
    ]
    if report.has_log:
        cards += [
            Card("People in doubt", number(log.unsure), "sent again in full" if log.unsure else ""),
            Card("Sent in the period", number(report.totals.sent), size(report.totals.size)),
            Card("Failed in the period", number(report.totals.failed), "counted in each run"),
        ]
    if log.in_flight:
        cards.append(Card("People in flight", number(log.in_flight), "a run is at work, or ended early"))
    if log.spooled is None or log.spooled:
        files = "not known" if log.spooled is None else number(log.spooled)
        cards.append(Card("Spool files", files, "the next live run writes them back", alert=True))
    return cards


def _columns(
    labels: Sequence[str], values: Sequence[Sequence[float]], texts: Sequence[str] | None
) -> list[Column]:
    """Return the columns of a chart, all on one scale; the parts of a column are stacked."""
    most = max((sum(parts) for parts in values), default=0)
    texts = texts or [number(sum(parts)) for parts in values]
    return [
        Column(
            label,
            text,
            sum(parts),
            tuple(
                Part(kind, _percent(part, most))
                for (kind, _), part in zip(_SERIES, parts, strict=False)
                if part
            ),
        )
        for label, text, parts in zip(labels, texts, values, strict=True)
    ]


def _percent(part: float, most: float) -> float:
    return round(100 * part / most, 2) if most else 0.0

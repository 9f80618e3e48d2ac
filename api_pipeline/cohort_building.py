"""From a page of the source to the payloads of the cohort.

Carries out ssd, sections 2 to 4, for a page of people at a time: :class:`ssd_cohort.Judge` says who is in the
cohort, :class:`ssd_payload.PayloadBuilder` builds the payloads, :mod:`semantic` hashes them. Pure: what one
page gives depends on nothing but the page, so it may be worked out anywhere (``builder_process``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from api_pipeline.refresh import Built, Left
from api_pipeline.semantic import record_counts, semantic_hash
from api_pipeline.ssd_cohort import Judge, Verdict
from api_pipeline.ssd_payload import PayloadBuilder, text_of
from api_pipeline.ssd_source import PeoplePage
from api_pipeline.ssd_tables import Person, SourcePage
from api_pipeline.ssd_window import Window


@dataclass(frozen=True)
class BuildOptions:
    """What the payloads of a night depend on beside the rows of the people.

    Attributes:
        window: what the run looks at.
        professionals: id of a professional -> their worker ids.
        uasc_pattern: the setting UASC_PATTERN.
        shared: the trimmed ids that several people of the source share.
        listed: the trimmed ids of the cohort table; None where everybody is listed.
    """

    window: Window
    professionals: Mapping[str, list[str]]
    uasc_pattern: str | None
    shared: frozenset[str]
    listed: frozenset[str] | None


@dataclass
class CohortCounts:
    """People by what became of them, and values by the rule that changed them or left them out."""

    people: int = 0
    cohort: int = 0
    grounds: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)

    def included(self, verdict: Verdict) -> bool:
        """Count a verdict, and return whether the person is in the cohort."""
        if verdict.exclusion is not None:
            self.excluded[verdict.exclusion.value] += 1
            return False
        self.cohort += 1
        for ground in verdict.grounds:
            self.grounds[ground.value] += 1
        return True

    def add(self, other: CohortCounts) -> None:
        """Count what another page counted, too."""
        self.people += other.people
        self.cohort += other.cohort
        self.grounds += other.grounds
        self.excluded += other.excluded
        self.rules += other.rules


@dataclass(frozen=True)
class BuiltPage:
    """What a page gives: its people's ids, the cohort's payloads, who is left as they are, and counts."""

    people: list[str]
    built: list[Built]
    left: list[tuple[str, Left]]
    counts: CohortCounts


class CohortBuilder:
    """Builds page after page of one night."""

    def __init__(self, options: BuildOptions) -> None:
        self._options = options
        self._builder = PayloadBuilder(options.window, options.professionals, options.uasc_pattern)

    def build(self, page: PeoplePage) -> BuiltPage:
        """Build the payloads of the people of a page who are in the cohort. Never raises for data."""
        options, rows = self._options, page.page
        counts = CohortCounts(people=len(page.people))
        built: list[Built] = []
        left: list[tuple[str, Left]] = []
        verdict_of = Judge(rows, options.window).verdict
        for person in page.people:
            person_id = person.pers_person_id or ""
            trimmed = person_id.strip()
            if trimmed in options.shared:
                left.append((person_id, Left.SHARED_IN_SOURCE))
            elif person_id in page.unreadable:
                left.append((person_id, Left.UNREADABLE))
            elif counts.included(verdict_of(person, options.listed is None or trimmed in options.listed)):
                built.append(self._built(person, rows))
        counts.rules.update(self._builder.tally)
        self._builder.tally.clear()
        people = [person.pers_person_id or "" for person in page.people]
        return BuiltPage(people, built, left, counts)

    def _built(self, person: Person, rows: SourcePage) -> Built:
        payload = self._builder.build(person, rows)
        return Built(
            person_id=person.pers_person_id or "",
            legacy_id=person.pers_legacy_id,
            text=text_of(payload),
            hash=semantic_hash(payload),
            counts=record_counts(payload),
        )

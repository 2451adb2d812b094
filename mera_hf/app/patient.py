"""The patient as entered so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class EnteredPatient:
    """
    Visits as they stand on the page. Every change gives a new patient; visits are counted from 1.

    Attributes:
        visits (`tuple[tuple[str, ...], ...]`): codes of each visit, the oldest first; a visit just added has none.
        recorded (`tuple[str, ...]`): codes of the visit after these, if known and nothing was changed since.
    """

    visits: tuple[tuple[str, ...], ...] = ((),)
    recorded: tuple[str, ...] = ()

    @property
    def filled(self) -> list[int]:
        """Numbers of the visits that have codes; the model reads no others."""
        return [number for number, codes in enumerate(self.visits, start=1) if codes]

    @property
    def history(self) -> set[str]:
        """All codes of all visits."""
        return {code for codes in self.visits for code in codes}

    def add_code(self, visit: int, code: str) -> EnteredPatient:
        """The patient with a code added to a visit, which holds it only once."""
        codes = self.visits[visit - 1]
        return self if code in codes else self._with(visit, (*codes, code))

    def remove_code(self, visit: int, code: str) -> EnteredPatient:
        """The patient with a code removed from a visit; an empty visit stays."""
        return self._with(visit, tuple(other for other in self.visits[visit - 1] if other != code))

    def add_visit(self) -> EnteredPatient:
        """The patient with an empty visit at the end."""
        return EnteredPatient((*self.visits, ()))

    def remove_visit(self, visit: int) -> EnteredPatient:
        """The patient without a visit; at least one, perhaps empty, always stays."""
        visits = self.visits[: visit - 1] + self.visits[visit:]
        return EnteredPatient(visits or ((),))

    def move_visit(self, visit: int, by: int) -> EnteredPatient:
        """The patient with a visit moved earlier (-1) or later (+1); unchanged at either end."""
        to = min(max(visit + by, 1), len(self.visits))
        visits = list(self.visits)
        visits.insert(to - 1, visits.pop(visit - 1))
        return EnteredPatient(tuple(visits))

    def row(self, profile: Mapping) -> dict:
        """The patient as a row of a visits dataset, with `sex`, `age` and `race` as `profile` has them."""
        visits = [{"codes": list(codes)} for codes in self.visits if codes]
        return {"profile": {name: profile.get(name) for name in ("sex", "age", "race")}, "visits": visits}

    def _with(self, visit: int, codes: tuple[str, ...]) -> EnteredPatient:
        visits = list(self.visits)
        visits[visit - 1] = codes
        return replace(self, visits=tuple(visits), recorded=())

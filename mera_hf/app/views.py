"""What the page shows, as HTML: the visits, the scale of the cut, the ranking, and one code with its reasons."""

from __future__ import annotations

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import escape

from mera_hf.app.codes import Codes
from mera_hf.app.patient import EnteredPatient
from mera_hf.app.reading import CutRanking, Reading, Scale
from mera_hf.explanation_mera import Explanation
from mera_hf.timeline_mera import unread_text


TEMPLATES = Path(__file__).parent / "templates"
_SMALL = 0.1  # parts whose effect is below this share of the largest are folded
_BAR_ENDS = (0.1, 0.25, 0.5, 1.0)  # what a full bar stands for

_environment = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def percent(share: float, digits: int = 1) -> str:
    """A share for readers: `12.3 %`, and `< 0.1 %` where it would read as zero."""
    least = 0.5 * 10 ** -(digits + 2)
    return f"{100 * share:.{digits}f}\u202f%" if share >= least else f"<\u202f{10**-digits:g}\u202f%"


def points(change: float, digits: int) -> str:
    """A change of a probability in percentage points, with its sign."""
    text = f"{100 * change:+.{digits}f}".replace("-", "\u2212")
    return text if any(digit in text for digit in "123456789") else "0"


_environment.filters |= {"percent": percent, "points": points}


def script(name: str) -> str:
    """The script of a part of the page."""
    return (TEMPLATES / f"{name}.js").read_text(encoding="utf-8")


def header(name: str, codes: int, public: bool) -> str:
    """The head of the page: what it is, which model answers, and what it is not for."""
    return _render("header", name=name, codes=codes, public=public)


def stored_head(source: str) -> str:
    """What stands above the choice of a stored patient."""
    return f"<h2>Or load a patient</h2><p class='muted'>{escape(source)}</p>"


def visits(patient: EnteredPatient, codes: Codes, focus: str = "") -> str:
    """The visits with their codes and a search in each; `focus` is the id of what gets the keyboard focus."""
    return _render("visits", patient=patient, codes=codes, focus=focus)


def cut(scale: Scale | None, codes: Codes) -> str:
    """The scale of the cut with the codes on it; nothing if there is no patient or another kind of cut."""
    return "" if scale is None else _render("cut", scale=scale, codes=codes, place=lambda value: _place(scale, value))


def ranking(
    ranked: CutRanking | None,
    patient: EnteredPatient,
    codes: Codes,
    chosen: str | None,
    record: dict,
    reordered: int = 0,
) -> str:
    """The ranking with the line of the cut in it, or what to do first; `record` is what can be copied and downloaded,
    and `reordered` how many codes stand in the order of their value."""
    if ranked is None:
        return _render("empty")
    most = max(row.probability for row in ranked.rows)
    full = next(end for end in _BAR_ENDS if most <= end)
    known = set(patient.recorded)
    found = sum(row.code in known for row in ranked.rows[: ranked.size])
    scored = ranked.rows[reordered:]
    by_score = any(after.probability > before.probability for before, after in zip(scored, scored[1:], strict=False))
    return _render(
        "ranking",
        ranked=ranked,
        unread=unread_text(ranked.unread_visits),
        history=patient.history,
        recorded=known,
        found=found,
        codes=codes,
        chosen=chosen,
        full=full,
        record=json.dumps(record),
        reordered=reordered,
        by_score=by_score,
    )


def code(explanation: Explanation | None, patient: EnteredPatient, codes: Codes, reordered: bool) -> str:
    """One code: what moved it, and where it stands in the tree."""
    if explanation is None:
        return ""
    (of,) = explanation.codes
    branches = explanation.branches(of)
    largest = max((abs(effect.probability) for branch in branches for effect in branch), default=0.0)
    shown, folded = [], 0
    for top, *parts in branches:
        large = [part for part in parts if abs(part.probability) >= _SMALL * largest]
        folded += len(parts) - len(large)
        if large or abs(top.probability) >= _SMALL * largest:
            shown.append([top, *large])
        else:
            folded += 1
    without = next((effect for effect in of.effects if effect.kind == "history"), None)
    return _render(
        "code",
        of=of,
        branches=shown,
        folded=folded,
        largest=largest or 1.0,
        digits=1 if largest >= 0.005 else 3,
        without=without,
        filled=patient.filled,
        unread=explanation.unread_visits,
        profile=explanation.profile,
        expected=explanation.expected_codes,
        codes=codes,
        reordered=reordered,
    )


def record(reading: Reading, ranked: CutRanking, patient: EnteredPatient, name: str) -> dict:
    """What to download: the patient, the cut, and the ranking as in `mera predict --json`, without groups."""
    cut, inside = ranked.cut, "above_eov" if ranked.cut.coverage is None else "in_set"
    how = (
        {"eov_value": ranked.value}
        if cut.coverage is None
        else {"coverage": cut.coverage, "coverage_of": cut.coverage_of}
    )
    return {
        "checkpoint": name,
        "note": "For research, not for clinical decisions.",
        "profile": reading.row["profile"],
        "visits": [visit["codes"] for visit in reading.row["visits"]],
        "unread_visits": reading.unread_visits,
        "set_size": ranked.size,
        **how,
        "ranking": [
            {
                "rank": row.rank,
                "code": row.code,
                "description": row.description,
                "probability": round(row.probability, 4),
                inside: row.rank <= ranked.size,
                "in_history": row.code in patient.history,
            }
            for row in ranked.rows
        ],
    }


def _place(scale: Scale, value: float) -> float:
    """Where a value lies on the scale, in percent of its length."""
    return round(100 * (value - scale.low) / (scale.high - scale.low), 2)


def _render(template: str, **values) -> str:
    return _environment.get_template(f"{template}.html.jinja").render(**values).strip()

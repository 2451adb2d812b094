"""What a person does to the visits, as the page sends it, and where the keyboard focus goes next."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mera_hf.app.patient import EnteredPatient


def edit(patient: EnteredPatient, action: Mapping, is_code: Callable[[str], bool]) -> tuple[EnteredPatient, str]:
    """
    Do what the page asks for.

    Args:
        patient (`EnteredPatient`): the current one.
        action (`Mapping`): `do`, one of `add-code`, `remove-code`, `add-visit`, `remove-visit`, `move-visit`; and as
            needed `visit` (from 1), `code` and `by` (-1 or 1).
        is_code (`Callable`): whether the model knows a code.

    Returns:
        the patient, and the id of the element that gets the keyboard focus.

    Raises:
        `ValueError`: for anything that the page would not send.
    """
    do, visit, code = action.get("do"), int(action.get("visit", 1)), action.get("code")
    if not 1 <= visit <= len(patient.visits):
        raise ValueError(f"there is no visit {visit}.")
    if do == "add-visit":
        patient = patient.add_visit()
        return patient, f"search-{len(patient.visits)}"
    if do == "remove-visit":
        patient = patient.remove_visit(visit)
        return patient, f"search-{min(visit, len(patient.visits))}"
    if do == "move-visit" and action.get("by") in (-1, 1):
        patient = patient.move_visit(visit, action["by"])
        to = min(max(visit + action["by"], 1), len(patient.visits))
        # The button that was pressed, or the other one if it is disabled at an end
        way = "earlier" if to == len(patient.visits) or (action["by"] == -1 and to > 1) else "later"
        return patient, f"{way}-{to}"
    if do == "add-code" and isinstance(code, str) and is_code(code):
        return patient.add_code(visit, code), f"search-{visit}"
    if do == "remove-code" and code in patient.visits[visit - 1]:
        at = patient.visits[visit - 1].index(code)
        patient = patient.remove_code(visit, code)
        left = len(patient.visits[visit - 1])
        return patient, f"code-{visit}-{min(at + 1, left)}" if left else f"search-{visit}"
    raise ValueError(f"the page sent {do!r}, which cannot be done.")

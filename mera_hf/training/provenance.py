"""Whose patients are in the weights of a model, and under which terms (this project's choice).

    {"source": "diabetes130", "licence": "CC BY 4.0", "credentialed": false, "fingerprint": "b6852758fdb0ddf9",
     "agreement": null, "patients": true, "before": {...}}

`agreement` is the one under which credentialed data were obtained, where it is known. `before` is present if the
training started from a checkpoint that had seen patients; its credentialed mark is inherited. The config of a
checkpoint carries this as `provenance`, and `None` there means that it is not known.
"""

from typing import Any


NO_PATIENTS: dict[str, Any] = {
    "source": None,
    "licence": None,
    "credentialed": False,
    "fingerprint": None,
    "agreement": None,
    "patients": False,
}
UNKNOWN = {**NO_PATIENTS, "credentialed": True, "patients": True}


def trained_on(before: dict | None, report: dict | None) -> dict | None:
    """The provenance of a model after a training on the patients of a prepared dataset.

    Args:
        before (`dict`, *optional*): the provenance that it started with; `None` if not known.
        report (`dict`, *optional*): `prepare.json` of the dataset; `None` if not known.

    Returns:
        the new provenance; `None` if the dataset is not known.
    """
    if report is None:
        return None
    after: dict[str, Any] = {
        "source": report["source"],
        "licence": report["license"],
        "credentialed": report["credentialed"],
        "fingerprint": report["fingerprint"],
        "agreement": report.get("agreement"),
        "patients": True,
    }
    before = UNKNOWN if before is None else before
    if before["patients"]:
        agreements = [part["agreement"] for part in (before, after) if part["agreement"]]
        after["credentialed"] |= before["credentialed"]
        after["agreement"] = " and ".join(dict.fromkeys(agreements)) or None
        after["before"] = before
    return after

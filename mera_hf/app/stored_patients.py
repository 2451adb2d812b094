"""Patients of a prepared data set, to be loaded into the page."""

from __future__ import annotations

import os
from collections.abc import Container

from mera_hf.app.patient import EnteredPatient
from mera_hf.errors import InputError


class StoredPatients:
    """
    The test patients of a prepared folder, counted from 1. Their identifiers stay in the folder.

    Args:
        folder (`str` or `Path`): a folder that `mera prepare` wrote.
        public (`bool`): whether others can reach the page.

    Raises:
        [`~mera_hf.errors.InputError`]: not a prepared folder, one without test patients, or a credentialed one where the
            page is public.
    """

    def __init__(self, folder: str | os.PathLike, public: bool):
        from mera_hf.data.prepared import Prepared

        prepared = Prepared.open(folder)
        report = prepared.report
        if report["credentialed"] and public:
            raise InputError(
                f"`--dataset`: {str(folder)!r} holds credentialed data ({report['source']}), which others could read on this "
                "page. Serve it on this computer alone (`--host 127.0.0.1`), or name a folder of open data."
            )
        self.source = report["title"]
        self._rows = prepared.splits["test"]
        if not len(self._rows):
            raise InputError(f"`--dataset`: {str(folder)!r} has no test patients. Prepare more patients.")
        self.races = sorted({profile["race"] for profile in self._rows["profile"] if profile["race"]})

    def __len__(self) -> int:
        return len(self._rows)

    def open(self, number: int, known: Container[str]) -> tuple[EnteredPatient, dict, int]:
        """
        A patient as if the last visit were still to come.

        Args:
            number (`int`): from 1.
            known (container of `str`): codes of the model.

        Returns:
            the patient, the profile (`dict`), and how many codes are left out because the model does not know them.
        """
        row = self._rows[number - 1]
        visits = [tuple(dict.fromkeys(visit["codes"])) for visit in row["visits"]]
        read = [tuple(code for code in codes if code in known) for codes in visits]
        left_out = sum(map(len, visits)) - sum(map(len, read))
        if len(read) == 1:
            return EnteredPatient(tuple(read)), row["profile"], left_out
        return EnteredPatient(tuple(read[:-1]), read[-1]), row["profile"], left_out

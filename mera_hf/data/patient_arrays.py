"""Patients as numbers in a few flat arrays: all that training keeps of a visits dataset in memory."""

from array import array

from mera_hf.timeline_mera import Patient


class PatientArrays:
    """A list of [`Patient`]s that grows by appending. Python lists would need twenty times the memory."""

    def __init__(self):
        self.heads: list[list[int]] = []  # each stored once: many patients share a profile
        self._head_number: dict[tuple[int, ...], int] = {}
        self.head_of_patient = array("i")
        self.visits, self.tails, self.first_visit = _Lists(), _Lists(), array("q", [0])

    def append(self, patient: Patient) -> None:
        number = self._head_number.setdefault(tuple(patient.head), len(self.heads))
        if number == len(self.heads):
            self.heads.append(patient.head)
        self.head_of_patient.append(number)
        for codes, tail in zip(patient.visits, patient.tails, strict=True):
            self.visits.append(codes)
            self.tails.append(tail)
        self.first_visit.append(len(self.visits))

    def __len__(self) -> int:
        return len(self.head_of_patient)

    def __getitem__(self, row: int) -> Patient:
        row = range(len(self))[row]  # raises for a row past the end
        visits = slice(self.first_visit[row], self.first_visit[row + 1])
        return Patient(self.heads[self.head_of_patient[row]], self.visits[visits], self.tails[visits])


class _Lists:
    """Many short lists of numbers, stored one after another."""

    def __init__(self):
        self.numbers, self.ends = array("i"), array("q", [0])

    def append(self, numbers: list[int]) -> None:
        self.numbers.extend(numbers)
        self.ends.append(len(self.numbers))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, some: slice) -> list[list[int]]:
        ends = self.ends[some.start : some.stop + 1]
        numbers, first = self.numbers[ends[0] : ends[-1]].tolist(), ends[0]
        return [numbers[begin - first : end - first] for begin, end in zip(ends, ends[1:], strict=False)]

"""Codes that are in no tree: the error that says so, and the count of them that a data report shows."""

from collections import Counter

from ..errors import InputError
from ..spelling_mera import VERSIONS


class UnknownCodeError(InputError):
    """A spelling that is no code of its version.

    Args:
        value (`str`): the spelling as it was given.
        version (`str`): the version in which it was looked up, `"ICD9CM"` or `"ICD10CM"`.
        nearest (`str`, *optional*): the code of the longest prefix that is valid, such as `"ICD9CM:250.2"`.
        other (`str`, *optional*): the code that the spelling is in the other version.
    """

    def __init__(self, value: str, version: str, nearest: str | None = None, other: str | None = None):
        # All four go to `args`, from which pickle rebuilds an exception: one raised in a worker process must arrive.
        super().__init__(value, version, nearest, other)
        self.value, self.version, self.nearest, self.other = value, version, nearest, other

    def __str__(self) -> str:
        message = f"{self.value!r} is not an {VERSIONS[self.version]} code"
        if self.nearest is not None:
            message += f"; its nearest valid prefix is {self.nearest}"
        if self.other is not None:
            other_name = VERSIONS[self.other.partition(":")[0]]
            message += f"; it is an {other_name} code: set version {other_name.split('-')[1]}?"
        return message


class CodeReport:
    """Counts the unknown spellings of a source, so that what is dropped is reported.

    Example:

        report = CodeReport()
        for raw in column:
            try:
                codes.append(tree.normalize(raw))
            except UnknownCodeError as error:
                report.add(error)
        print(report.table())
    """

    def __init__(self):
        self._counts: Counter[str] = Counter()
        self._errors: dict[str, UnknownCodeError] = {}

    def add(self, error: UnknownCodeError, count: int = 1) -> None:
        """Count `count` (`int`) more rows with the spelling of `error` (`UnknownCodeError`)."""
        key = f"{error.version}:{error.value}"
        self._counts[key] += count
        self._errors[key] = error

    @property
    def total(self) -> int:
        """Rows with an unknown spelling."""
        return self._counts.total()

    def __len__(self) -> int:
        """Distinct unknown spellings, by version."""
        return len(self._counts)

    def rows(self) -> list[dict]:
        """One `{"value", "version", "count", "nearest", "other"}` a spelling, most frequent first, then by name."""
        return [
            {
                "value": self._errors[key].value,
                "version": self._errors[key].version,
                "count": count,
                "nearest": self._errors[key].nearest,
                "other": self._errors[key].other,
            }
            for key, count in sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        ]

    def table(self, limit: int = 10) -> str:
        """The `limit` (`int`) most frequent spellings as a table of plain text, and how many more there are."""
        if not self._counts:
            return "No unknown codes."
        rows = self.rows()
        cells = [("spelling", "version", "rows", "nearest valid prefix", "a code of")]
        for row in rows[:limit]:
            other = VERSIONS[row["other"].partition(":")[0]] if row["other"] else ""
            cells.append((row["value"], VERSIONS[row["version"]], str(row["count"]), row["nearest"] or "none", other))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [f"Unknown codes: {len(rows)} spellings in {self.total} rows."]
        for row in cells:
            lines.append("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        if len(rows) > limit:
            lines.append(f"... and {len(rows) - limit} more spellings.")
        return "\n".join(lines)

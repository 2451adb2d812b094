"""How a code is written: where its dot lies, and which zeros a spreadsheet took away."""

import re


# In sort order, with the names that people use.
VERSIONS = {"ICD9CM": "ICD-9-CM", "ICD10CM": "ICD-10-CM"}

# The part before the dot, then the part after it.
_SHAPES = {
    "ICD9CM": re.compile(r"([0-9]{1,3}|V[0-9]{2}|E[0-9]{3})\.?([0-9]{0,2})"),
    "ICD10CM": re.compile(r"([A-Z][0-9A-Z]{2})\.?([0-9A-Z]{0,4})"),
}


def dotted(version: str, text: str) -> str | None:
    """The dotted form of an upper-case spelling without its version, or None where it has not the shape of a code.

    The dot lies after three characters, in an ICD-9-CM E code after four. A dot that is written must lie there.

    Lost zeros (ICD-9-CM numbers that went through a spreadsheet) come back where the part before the dot has fewer
    than three digits, and nowhere else: `8` is 008, `38` is 038, `38.1` is 038.1. A number without a dot and with
    three digits or more is read as written: `389` is 389 and never 038.9, `0380` is 038.0, `4019` is 401.9.

    Args:
        version (`str`): `"ICD9CM"` or `"ICD10CM"`.
        text (`str`): the spelling, such as `"25023"`, `"250.23"`, `"T814XXA"`.
    """
    match = _SHAPES[version].fullmatch(text)
    if match is None:
        return None
    head, tail = match.groups()
    head = head.zfill(3)
    return f"{head}.{tail}" if tail else head

"""The checkpoints that come with this package, by name: small models trained from scratch, see `checkpoints/README.md`."""

from pathlib import Path

from mera_hf.errors import InputError


CHECKPOINTS = Path(__file__).parent / "checkpoints"


def shipped_names() -> list[str]:
    """Names of the checkpoints that come with this package."""
    return sorted(path.parent.name for path in CHECKPOINTS.glob("*/config.json"))


def shipped_checkpoint(name: str) -> str:
    """
    The folder of a checkpoint that comes with this package, for `AutoModel.from_pretrained` and the like.

    Args:
        name (`str`): `mera-tiny-diabetes130`, which ranks, or `mera-tiny-memorized`, which only knows what codes mean.

    Raises:
        [`InputError`]: for a name that is not shipped.

    ```python
    >>> import mera_hf
    >>> from transformers import AutoModel

    >>> AutoModel.from_pretrained(mera_hf.shipped_checkpoint("mera-tiny-diabetes130")).config.num_codes
    793
    ```
    """
    if name not in shipped_names():
        raise InputError(f"`name` is {name!r}; the checkpoints that come with mera are {', '.join(shipped_names())}.")
    return str(CHECKPOINTS / name)


def find_checkpoint(name: str) -> str:
    """The folder of a shipped checkpoint of this name, unless a folder of this name is here; any other name as it is."""
    return shipped_checkpoint(name) if name in shipped_names() and not Path(name).exists() else name

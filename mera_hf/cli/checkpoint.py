"""Opening a checkpoint at the command line."""

from pathlib import Path

from ..errors import InputError


def open_checkpoint(name: str):
    """The model and its tokenizer.

    Raises:
        [`InputError`]: where there is no checkpoint, it is not one of mera, or it was memorized but not trained to rank.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        where = "is not a folder here and cannot be fetched" if not Path(name).exists() else "holds no model"
        raise InputError(f"checkpoint {name!r} {where}: {str(error).splitlines()[0]}") from error
    if config.model_type != "mera":
        raise InputError(f"checkpoint {name!r} is a {config.model_type} model; train it with `mera train` first.")
    model = AutoModel.from_pretrained(name).eval()
    if not model.ranking_head.log_prevalence.any():
        raise InputError(f"checkpoint {name!r} was memorized but not trained to rank; run `mera train` on it first.")
    return model, AutoTokenizer.from_pretrained(name)

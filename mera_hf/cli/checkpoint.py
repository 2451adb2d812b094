"""Opening a checkpoint at the command line."""

from pathlib import Path

from ..errors import InputError
from ..shipped import find_checkpoint, shipped_names


CHECKPOINT_HELP = "folder that `mera train` wrote, mera-tiny-diabetes130 (comes with mera), or a name on the Hub"


def open_checkpoint(name: str):
    """The model, on the GPU if there is one, and its tokenizer.

    Args:
        name (`str`): a folder, a checkpoint that comes with mera, or a name on the Hub; the first of these that there is.

    Raises:
        [`InputError`]: where there is no checkpoint, it is not one of mera, it is an adapter, a part of it
            is missing, or it was memorized but not trained to rank.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils.peft_utils import find_adapter_config_file

    from ..timeline_mera import check_code_tokens

    folder = find_checkpoint(name)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if Path(name).exists():
            raise InputError(f"checkpoint {name!r} holds no model: {reason}") from error
        raise InputError(
            f"checkpoint {name!r} is not a folder here and cannot be fetched: {reason} "
            f"(With mera come {' and '.join(shipped_names())}.)"
        ) from error
    if config.model_type != "mera":
        raise InputError(f"checkpoint {name!r} is a {config.model_type} model; train it with `mera train` first.")
    if find_adapter_config_file(folder):
        raise InputError(f"checkpoint {name!r} is an adapter; merge it into its base first: `mera merge`.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"checkpoint {name!r} has no tokenizer; copy the tokenizer files that were saved with it."
        ) from error
    try:
        check_code_tokens(config, tokenizer)
        model = AutoModel.from_pretrained(folder).eval()
    except (OSError, ValueError) as error:
        raise InputError(f"checkpoint {name!r} is not whole: {str(error).splitlines()[0]}") from error
    if not model.ranking_head.is_trained:
        raise InputError(f"checkpoint {name!r} was memorized but not trained to rank; run `mera train` on it first.")
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer

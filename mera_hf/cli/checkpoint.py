"""Opening a checkpoint at the command line."""

from pathlib import Path

from ..errors import InputError


def open_checkpoint(name: str):
    """The model, on the GPU if there is one, and its tokenizer.

    Raises:
        [`InputError`]: where there is no checkpoint, it is not one of mera, it is an adapter, a part of it
            is missing, or it was memorized but not trained to rank.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils.peft_utils import find_adapter_config_file

    from ..timeline_mera import check_code_tokens

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        where = "is not a folder here and cannot be fetched" if not Path(name).exists() else "holds no model"
        raise InputError(f"checkpoint {name!r} {where}: {str(error).splitlines()[0]}") from error
    if config.model_type != "mera":
        raise InputError(f"checkpoint {name!r} is a {config.model_type} model; train it with `mera train` first.")
    if find_adapter_config_file(name):
        raise InputError(f"checkpoint {name!r} is an adapter; merge it into its base first: `mera merge`.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"checkpoint {name!r} has no tokenizer; copy the tokenizer files that were saved with it."
        ) from error
    try:
        check_code_tokens(config, tokenizer)
        model = AutoModel.from_pretrained(name).eval()
    except (OSError, ValueError) as error:
        raise InputError(f"checkpoint {name!r} is not whole: {str(error).splitlines()[0]}") from error
    if not model.ranking_head.is_trained:
        raise InputError(f"checkpoint {name!r} was memorized but not trained to rank; run `mera train` on it first.")
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer

"""Opening a checkpoint at the command line."""

import argparse
import gc
import sys
from pathlib import Path

from mera_hf.errors import InputError
from mera_hf.shipped import find_checkpoint, shipped_names


SHIPPED = "mera-tiny-diabetes130"  # the bundled checkpoint that ranks
CHECKPOINT_HELP = f"folder that `mera train` wrote, {SHIPPED} (comes with mera), or a name on the Hub"


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the argument CHECKPOINT and `--revision`."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT_HELP)
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a checkpoint on the Hub")


def import_libraries() -> None:
    """Import torch and transformers, if not yet imported, in two thirds of the usual time.

    Garbage collection would scan their tens of thousands of objects again and again, also at exit, and find no
    garbage. So it is off during the import, and skips these objects from then on.
    """
    if "transformers.modeling_utils" in sys.modules:
        return
    gc.disable()
    try:
        import transformers.modeling_utils
        import transformers.pipelines  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def open_checkpoint(name: str, revision: str | None = None):
    """The model, on the GPU if there is one, and its tokenizer.

    Args:
        name (`str`): a folder, a checkpoint that comes with mera, or a name on the Hub; the first that exists.
        revision (`str`, *optional*): branch, tag or commit on the Hub.

    Raises:
        [`InputError`]: if there is no checkpoint, it is not one of mera, it is an adapter, a part of it
            is missing, or it was memorized but not trained to rank.
    """
    import_libraries()
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils.peft_utils import find_adapter_config_file

    from mera_hf.timeline_mera import check_code_tokens

    folder = find_checkpoint(name)
    try:
        config = AutoConfig.from_pretrained(folder, revision=revision)
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
    if find_adapter_config_file(folder, revision=revision):
        raise InputError(f"checkpoint {name!r} is an adapter; merge it into its base first: `mera merge`.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
    except (OSError, ValueError) as error:
        raise InputError(
            f"checkpoint {name!r} has no tokenizer; copy the tokenizer files that were saved with it."
        ) from error
    try:
        check_code_tokens(config, tokenizer)
        model = AutoModel.from_pretrained(folder, revision=revision).eval()
    except (OSError, ValueError) as error:
        raise InputError(f"checkpoint {name!r} is not whole: {str(error).splitlines()[0]}") from error
    if not model.ranking_head.is_trained:
        raise InputError(f"checkpoint {name!r} was memorized but not trained to rank; run `mera train` on it first.")
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer

"""The command `mera`."""

import argparse
import atexit
import logging
import os
import sys
import traceback
import warnings

from mera_hf.cli import (
    app,
    card,
    compare,
    cross_validate,
    demo,
    evaluate,
    experiment,
    export,
    leaderboard,
    memorize,
    merge,
    predict,
    prepare,
    publish,
    submit,
    train,
)
from mera_hf.errors import InputError


DESCRIPTION = """\
Predict a patient's next diagnoses with a language model: memorize what each ICD code means, then learn to rank
all codes for the next visit (MERA, huggingface.co/papers/2501.17326). Patient data stays on this machine.

  mera demo        everything below on open data, in minutes, on a CPU
  mera prepare     raw tables (MIMIC-III, MIMIC-IV, your own) to a dataset folder
  mera memorize    teach a language model what the codes mean
  mera train       train it to rank the codes of the next visit
  mera evaluate    measure a checkpoint beside the reference rankers
  mera compare     checkpoints and rankings of other models side by side
  mera experiment  what a part of the method is worth on a dataset
  mera predict     rank the diagnoses of one patient, or of a data set
  mera app         a page to enter a patient and look at the ranking
  mera export      a checkpoint as a plain language model, for serving engines

and for cohorts too small for a test split
  mera cross-validate   measure a recipe by cross-validation over patients

and for models trained by adapters (LoRA, QLoRA)
  mera merge       merge an adapter into its base, without quantisation

and to share
  mera card         the model card of a checkpoint
  mera publish      a checkpoint or a data set on the Hugging Face Hub
  mera submit       results on the benchmark to a model on the Hub
  mera leaderboard  all results in some folders side by side
"""
VERBS = {
    "demo": demo,
    "prepare": prepare,
    "memorize": memorize,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "experiment": experiment,
    "predict": predict,
    "app": app,
    "export": export,
    "cross-validate": cross_validate,
    "merge": merge,
    "card": card,
    "publish": publish,
    "submit": submit,
    "leaderboard": leaderboard,
}

MANY_PROCESSES = ("memorize", "train", "predict")  # the others run in one process


def main(argv: list[str] | None = None) -> int:
    """Run `mera`; returns the exit status: 0, 2 for bad input (one message on standard error), 1 for anything else."""
    ended: list[int] = []
    if argv is None and "WORLD_SIZE" in os.environ:  # as a program that a launcher started
        atexit.register(_end, ended)  # before the libraries register theirs, so that it is called after them
    ended.append(_run(argv))
    return ended[0]


def _run(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="mera", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs (mera VERB --help tells more)")
    parsers = {}
    for name, verb in VERBS.items():
        texts = {"help": verb.HELP, "description": verb.DESCRIPTION, "epilog": verb.EPILOG}
        parsers[name] = subparsers.add_parser(name, **texts, formatter_class=argparse.RawDescriptionHelpFormatter)
        verb.add_arguments(parsers[name])
    args, rest = parser.parse_known_args(argv)
    if args.verb is None:
        parser.print_help()
        return 0
    if args.verb in ("memorize", "train", "experiment", "cross-validate"):
        args.overrides = rest
    elif rest:
        parsers[args.verb].error(f"unknown argument {rest[0]}")
    _quiet()
    try:
        if args.verb not in MANY_PROCESSES and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise InputError("it runs in one process; start it without `accelerate launch`.")
        return VERBS[args.verb].run(args)
    except InputError as error:
        print(f"mera {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mera {args.verb}: stopped", file=sys.stderr)
        return 1
    except Exception as error:
        if os.environ.get("MERA_DEBUG"):
            traceback.print_exc()
        print(
            f"mera {args.verb}: {type(error).__name__}: {error}\n"
            "This should not happen. Set MERA_DEBUG=1 to see where it came from.",
            file=sys.stderr,
        )
        return 1
    finally:
        _leave_the_group()


def _leave_the_group() -> None:
    """With several processes, leave the group: what this one has for the others is written or sent by now."""
    distributed = sys.modules.get("torch.distributed")  # `mera --help` does not need torch
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _end(ended: list[int]) -> None:
    """With several processes, the last thing that one does: end with the status, without finalising the interpreter.

    A thread of gloo frees the tensors of the last exchange at some later time, and needs the interpreter for that. If
    the interpreter is being finalised by then, Python ends the thread inside C++ and the process aborts ("terminate
    called without an active exception"); the launcher then ends the others. Leaving the group ends its threads only if
    nothing else refers to it, but PyTorch does: the defaults of `torch.distributed.nn.functional`, if imported after
    the group was made, and meshes of FSDP. Remove this once `destroy_process_group` ends the threads in any case.
    """
    if ended:  # empty if the arguments were not understood
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0])


def _quiet() -> None:
    """Silence library warnings that a user of `mera` can do nothing about."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for message in (
        "'pin_memory' argument is set as true",  # a machine without a GPU
        "`is_gradient_checkpointing` is deprecated",  # the older name, which PEFT asks for
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # an optional kernel that is not installed


if __name__ == "__main__":
    sys.exit(main())

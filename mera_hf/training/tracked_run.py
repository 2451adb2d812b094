"""Which run of a tracker a training is, so that the card of its checkpoint can link it (this project's choice)."""

import sys

from transformers import TrainerCallback


class TrackedRun(TrainerCallback):
    """
    Remembers the run that Weights & Biases or Trackio opened when training began; add it to a trainer that reports to one.

    Attributes:
        run (`dict`, *optional*):
            `{"name": "wandb" or "trackio", "id": ..., "url": ...}`; the URL is `None` if the run is only on this
            machine. `None` without such a tracker: TensorBoard has neither. With both trackers, the one with a link.
    """

    def __init__(self):
        self.run = None

    def on_train_begin(self, args, state, control, **kwargs):
        finders = {"wandb": _wandb_run, "trackio": _trackio_run}
        runs = [
            {"name": name, **found}
            for name, find in finders.items()
            if name in args.report_to and state.is_world_process_zero and (found := find())
        ]
        self.run = max(runs, key=lambda run: run["url"] is not None, default=None)


def _wandb_run() -> dict | None:
    run = sys.modules["wandb"].run
    return run and {"id": run.id, "url": run.url or None}  # no URL in offline mode


def _trackio_run() -> dict | None:
    variables = sys.modules["trackio"].context_vars
    run, space = variables.current_run.get(), variables.current_space_id.get()
    return run and {"id": run.name, "url": f"https://huggingface.co/spaces/{space}" if space else None}

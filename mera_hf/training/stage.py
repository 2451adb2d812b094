"""What both stages share: the arguments and the trainer that memorizing and ranking build on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from trl.trainer.base_config import _BaseConfig
from trl.trainer.base_trainer import _BaseTrainer

from mera_hf.errors import InputError
from mera_hf.training.distributed import SamplerEpoch, check_engine, keep_precision
from mera_hf.training.training_card import write_training_card
from mera_hf.training.wrapped import base_model


@dataclass
class StageConfig(_BaseConfig):
    """TRL's arguments, with bfloat16 only where a GPU supports it, without a data loader that drops rows, and with a log that
    shows a loss which is not a number."""

    # The type of TRL's field does not allow `None`, which means that it was not set
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Older name of `activation_checkpointing`."}
    )

    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={
            "help": "Whether the log leaves out losses that are NaN or infinite. Training stops where one is logged."
        },
    )

    def __post_init__(self):
        if self.bf16 is None:  # TRL would train in bfloat16
            self.bf16 = not self.fp16 and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        super().__post_init__()
        if self.dataloader_drop_last:
            raise InputError(
                "`dataloader_drop_last` would leave rows out; every one is trained on and counts the same."
            )


class StageTrainer(_BaseTrainer):
    """A `Trainer` whose loss is a sum over the rows of a step, divided by their number in all processes. It stops where a loss
    is not a number."""

    model: Any  # a `MeraForDiagnosis`, wrapped by PEFT or not
    loss_is_scaled_for_ga: Any = True
    _what: str  # one sentence on what the model does, for its card

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        check_engine(self)
        keep_precision(self)
        self.add_callback(SamplerEpoch)

    def _send_telemetry(self):
        """Hospital data: nothing is reported to anyone unless the user asks by `report_to`."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in `Trainer`. A loss is looked at here, where it is on the CPU anyway, and not at each step.

        Raises:
            [`InputError`]: where a loss is NaN or infinite; the line of the log is written before.
        """
        super().log(logs, start_time)
        broken = [f"{name} {value}" for name, value in logs.items() if "loss" in name and not math.isfinite(value)]
        if broken:
            raise InputError(
                f"the loss is not a number at step {self.state.global_step} ({', '.join(broken)}): weights or hidden states "
                "have overflowed, in this step or since the last line of the log. Start anew with a lower `learning_rate`, "
                "more `warmup_steps` or `max_grad_norm: 1.0`, and with `bf16` instead of `fp16`."
            )

    # These are TRL's parameters; the types of `Trainer` expect its own
    def create_model_card(self, model_name=None, dataset_name=None, tags=None) -> None:  # type: ignore[override]
        write_training_card(self, self._what, model_name, dataset_name, tags)

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # PEFT does not save the config, which `mera merge` needs
            folder = output_dir or self.args.output_dir
            assert folder is not None
            base_model(self.accelerator.unwrap_model(self.model)).config.save_pretrained(folder)

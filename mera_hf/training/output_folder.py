"""Where a training writes: steps to resume from while it runs, a finished checkpoint at the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.errors import InputError


if TYPE_CHECKING:
    from accelerate import Accelerator


class OutputFolder:
    """The output folder of a training: checkpoints to resume from while it runs, a finished checkpoint at the end.

    Nothing is written or deleted before [`OutputFolder.open`].

    Args:
        output_dir (`str` or `Path`, *optional*): the folder; `None` is an error.
        resume (`bool`): whether to go on from the last saved step in it.
        overwrite (`bool`): whether to replace what is in it.
        inputs (`tuple[str | None, ...]`, *optional*): model and dataset that the training reads.

    Raises:
        [`InputError`]: if no folder is named, it is not empty and neither `--overwrite` nor `--resume` was
            given, mera did not write it, it holds one of `inputs`, or there is nothing to resume.
    """

    def __init__(
        self, output_dir: str | Path | None, resume: bool = False, overwrite: bool = False, inputs: tuple = ()
    ):
        if not output_dir:
            raise InputError("`--output-dir` is missing: say where the checkpoint goes.")
        if resume and overwrite:
            raise InputError("`--resume` goes on with what `--overwrite` would delete; give one of them.")
        self.folder = Path(output_dir)
        self.checkpoints = self.folder / "checkpoints"
        self.last, self.replaces = None, False
        if self.folder.is_file():
            raise InputError(f"`--output-dir` {self.folder} is a file; choose a folder.")
        if resume:
            saved = [
                path.parent for path in self.checkpoints.glob("checkpoint-*/trainer_state.json") if _is_whole(path)
            ]
            self.last = str(max(saved, key=lambda path: int(path.name.split("-")[1]))) if saved else None
            if self.last is None:
                raise InputError(f"`--resume`: {self.checkpoints} holds no saved step; start without it.")
        elif any(path.is_file() for path in self.folder.rglob("*")):
            if not overwrite:
                hint = ", or `--resume` to go on" if self.checkpoints.is_dir() else ""
                raise InputError(
                    f"`--output-dir` {self.folder} is not empty; choose another folder, or add `--overwrite` to "
                    f"replace it{hint}."
                )
            if not self._is_ours():
                raise InputError(f"`--output-dir` {self.folder} holds no checkpoint of mera; it is not overwritten.")
            for path in inputs:
                if path and Path(path).resolve().is_relative_to(self.folder.resolve()):
                    raise InputError(
                        f"`--output-dir` {self.folder} holds {path}, which this training reads; choose another folder."
                    )
            self.replaces = True

    def _is_ours(self) -> bool:
        names = {path.name for path in self.folder.iterdir()}
        return bool(names & {"memorization.json", "training.json"}) or names <= {"checkpoints", "unfinished"}

    def open(self, accelerator: Accelerator) -> None:
        """Make the folder, without what an earlier training left in it; called once the input is known to be good.

        Every process calls this; the main one does the work, once all of them have looked at the folder.
        """
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            if self.replaces:
                shutil.rmtree(self.folder)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        accelerator.wait_for_everyone()

    def finish(self, write) -> None:
        """Let `write(folder)` write the checkpoint into a temporary folder, and move it into place file by file.

        Only the main process calls this.
        """
        temporary = self.folder / "unfinished"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write(temporary)
        for path in sorted(temporary.iterdir()):
            target = self.folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
        temporary.rmdir()
        if not any(self.checkpoints.iterdir()):
            self.checkpoints.rmdir()


def _is_whole(state: Path) -> bool:
    """Whether the Trainer's state, which it writes last, is there to its end: otherwise the saving was cut short."""
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True

"""Rows that count where a dataset does not divide by the processes (this project's choice)."""

from accelerate import Accelerator


def own_rows(accelerator: Accelerator, rows: int, length: int) -> int:
    """How many rows of the batch that this process drew last count; they are its first ones.

    So that all processes have batches of one size, accelerate fills the last ones of a dataset up with rows of its
    beginning. These are in no loss and no metric, and training on several processes does as one process does.

    Args:
        accelerator (`Accelerator`): that the data loader was prepared by.
        rows (`int`): rows of the batch; all batches of the data loader have as many.
        length (`int`): rows of the dataset.
    """
    if accelerator.num_processes == 1 or not accelerator.gradient_state.end_of_dataloader:
        return rows
    # So many rows of the last batch over all processes are new, and they go to the processes in order. Accelerate has the
    # number too, but not in a resumed epoch
    new = length % (rows * accelerator.num_processes) or rows * accelerator.num_processes
    return min(max(new - accelerator.process_index * rows, 0), rows)

"""The order of an epoch, also where a training on several processes resumes in its middle."""

from transformers import TrainerCallback


class SamplerEpoch(TrainerCallback):
    """Tells the sampler which epoch begins, however many batch samplers are around it.

    Accelerate does so too, but does not get through to it in the epoch in which several processes resume.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        sampler = train_dataloader.batch_sampler
        while sampler is not None and not hasattr(sampler, "set_epoch"):
            sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
        if sampler is not None:
            sampler.set_epoch(int(state.epoch))

"""Trains a model to rank the codes of the next visit (paper, stage 'rank')."""

from collections import defaultdict
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from mera_hf.attention_mera import check_attention
from mera_hf.data.timelines import BudgetSampler, LengthSampler, TimelineCollator, TimelineDataset
from mera_hf.errors import InputError
from mera_hf.modeling_mera import FORWARD_INPUTS, MeraOutput, Readout
from mera_hf.timeline_mera import TimelineEncoder
from mera_hf.training.code_order import grouped_codes, in_order
from mera_hf.training.distributed import own_rows
from mera_hf.training.fused_loss import FusedLoss
from mera_hf.training.head_start import start_ranking_head
from mera_hf.training.hierarchy import SPACE, Hierarchy
from mera_hf.training.losses import DecisionTargets, Pools, confidence_loss, contrastive_loss, group_loss
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.moving_average import MovingAverage
from mera_hf.training.stage import StageTrainer
from mera_hf.training.wrapped import base_model, guard_quantised, tokenizer_of, warn_left_out


logger = logging.get_logger(__name__)


class MeraTrainer(StageTrainer):
    """
    Trainer that ranks all codes of the candidate space for each visit of a timeline
    (huggingface.co/papers/2501.17326).

    Every decision of every visit is in one forward pass; the codes of a visit come in a fresh order each epoch. Probabilities
    and the EOV cut are fitted afterwards, see [`~mera_hf.calibrate`].

    Args:
        model (`MeraForDiagnosis`):
            a model with code tokens, see `add_code_tokens`; wrapped by PEFT or not. A warning names the code rows and the
            parts of the ranking head that the model would not train.
        args (`MeraTrainerConfig`, *optional*): arguments of the training.
        train_dataset (`datasets.Dataset`, *optional*): visits dataset, one row per patient.
        eval_dataset (`datasets.Dataset` or `dict`, *optional*): visits dataset(s); the last visit of each patient is ranked.
        processing_class (`PreTrainedTokenizerBase`, *optional*):
            tokenizer of the model; by default loaded from where the model came from.
        compute_metrics (`Callable`, *optional*):
            gets `EvalPrediction(predictions=(order, set_sizes), label_ids=codes)`: rankings (N, C), predicted set sizes
            (N,) and true codes (N, M), -100 is padding; `mera_hf.evaluation.rankings.model.trainer_metrics` is one.
        kwargs: passed to `transformers.Trainer` (`callbacks`, `optimizers`; not `peft_config`: wrap the model first).

    Raises:
        [`InputError`]: for a model without code tokens, a foreign tokenizer, a code that the model does not know, a level
            that the tree does not have, a dataset without a visit to predict, a `max_length` that the model has no positions
            for or that not even a profile fits into, an attention implementation that cannot do what `layout` and `packing`
            ask, or a quantised model whose gradients would be wrong, see [`guard_quantised`].
    """

    args: MeraTrainerConfig
    train_dataset: TimelineDataset | None
    data_collator: TimelineCollator
    _tag_names = ["mera", "diagnosis-prediction"]
    _name = "MERA"
    _what = "Ranks all ICD codes of its candidate space for a patient's next visit, from the visits before it."

    def __init__(
        self,
        model: PreTrainedModel,
        args: MeraTrainerConfig | None = None,
        train_dataset=None,
        eval_dataset=None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics=None,
        **kwargs,
    ):
        args = args or MeraTrainerConfig("mera-output")
        config = model.config
        guard_quantised(model)
        processing_class = tokenizer_of(model, processing_class)
        max_length = config.max_length if args.max_length is None else args.max_length
        if max_length is None and train_dataset is not None:
            max_length = config.position_limit
        try:
            self.encoder = TimelineEncoder(config, processing_class, max_length)
        except ValueError as error:
            raise InputError(str(error)) from error
        groups, self.code_order = grouped_codes(config, args.hierarchy, args.seed)
        self.hierarchy = Hierarchy(groups, config.num_codes, args.levels, contrast_groups=args.group_weight > 0)
        self.fused_loss = FusedLoss(self.hierarchy, self._losses, args.tau, excess=args.eov_loss == "count")
        levels = [level for level in (SPACE, *groups) if args.levels is None or level in args.levels]
        unknown = set(args.level_weights or {}) - set(levels)
        if unknown:
            raise InputError(f"`level_weights` names {sorted(unknown)[0]!r}, which is not one of {', '.join(levels)}.")
        if args.contrastive_weight > 0 and not self.hierarchy.has_space and not self.hierarchy.levels:
            raise InputError(
                f"`levels` is {', '.join(levels)}, where no two codes of this model share a group: there is nothing to "
                f"contrast. Add `{SPACE}`."
            )

        first_target = 0 if args.predict_first_visit else 1
        self.orders = args.orders if args.layout == "tree" else None
        if config.is_encoder_decoder and (self.orders or args.max_batch_tokens):
            raise InputError(
                "`layout: tree`, `packing` and `max_batch_tokens` are for decoders alone; an encoder-decoder takes a row for "
                "each visit, `per_device_train_batch_size` patients at a time."
            )
        if train_dataset is not None:
            base_model(model).config.provenance = None  # the caller has to say whose patients the rows are
            train_dataset = TimelineDataset(
                train_dataset,
                self.encoder,
                first_target,
                args.seed,
                args.prefix_share,
                self.orders,
                args.perturb_orders,
            )
            if args.process_index == 0 and (train_dataset.left_out or train_dataset.unread_visits):
                logger.warning(
                    f"{train_dataset.left_out} patients have no visit to predict and are left out; "
                    f"{train_dataset.unread_visits} oldest visits do not fit into the {self.encoder.max_length} tokens of "
                    "`max_length` and count in the history term alone."
                )
            base = base_model(model)
            base.config.max_length = self.encoder.max_length  # whatever reads the model reads what it was trained on
            if args.packing or self.orders:
                self._check_attention(base, args, train_dataset.reach)
            if args.max_batch_tokens and max(train_dataset.lengths) > args.max_batch_tokens:
                count = sum(length > args.max_batch_tokens for length in train_dataset.lengths)
                logger.warning(f"{count} timelines are longer than `max_batch_tokens` and are batches of their own.")
            if args.start_head and not base.ranking_head.is_trained:
                start_ranking_head(base.ranking_head, train_dataset, config, args.eov_loss)
                if args.zero_readout:
                    if base.get_input_embeddings().weight is base.get_output_embeddings().weight:
                        raise InputError(
                            "`zero_readout` needs a model whose input and output embeddings are not tied."
                        )
                    if base is not model:
                        raise InputError("`zero_readout` needs full training: an adapter has a copy of the code rows.")
                    with torch.no_grad():
                        base.code_rows().zero_()
        if isinstance(eval_dataset, dict):
            eval_dataset = {name: self._to_evaluate(rows) for name, rows in eval_dataset.items()}
        else:
            eval_dataset = self._to_evaluate(eval_dataset)

        super().__init__(
            model=model,
            args=args,
            data_collator=TimelineCollator(
                processing_class.pad_token_id or 0,
                processing_class.padding_side,
                decoder_start_token_id=config.decoder_start_token_id,
            ),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            **kwargs,
        )
        if args.process_index == 0:
            warn_left_out(model)
        self.moving_average = None if args.ema_decay is None else MovingAverage(args.ema_decay)
        if self.moving_average is not None:
            self.add_callback(self.moving_average)
        self.label_names = ["labels"]  # evaluation goes through `prediction_step` below with its loss
        # Parts of the losses since the last line of the log, or of an evaluation
        self._parts: dict[str, list] = {"train": [], "eval": []}
        if hasattr(model, "add_model_tags"):
            model.add_model_tags(self._tag_names)

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.moving_average is not None:
            self.moving_average.save(output_dir, self.args.should_save)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """As in `Trainer`; a checkpoint from another folder brings its moving average."""
        if self.moving_average is not None and isinstance(resume_from_checkpoint, str):
            self.moving_average.resumed_from = resume_from_checkpoint
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _to_evaluate(self, rows):
        """Rows of a visits dataset as timelines; what the Trainer passes by name or a second time stays as it is."""
        done = rows is None or isinstance(rows, (str, TimelineDataset))
        return rows if done else TimelineDataset(rows, self.encoder, orders=self.orders)

    @staticmethod
    def _check_attention(base, args: MeraTrainerConfig, reach: int) -> None:
        decoder = base.language_model.base_model
        if decoder.config._attn_implementation == "flex_attention" and args.device.type == "cpu":
            raise InputError("flex_attention has no backward pass on CPUs; set `attn_implementation` to sdpa.")
        try:
            check_attention(decoder, reach, branches=args.layout == "tree")
        except ValueError as error:
            raise InputError(str(error)) from error

    def get_train_dataloader(self) -> DataLoader:
        args, dataset = self.args, self.train_dataset
        if dataset is None or args.max_batch_tokens is None:
            return super().get_train_dataloader()
        limits = (self._train_batch_size, args.max_batch_tokens)
        sampler = BudgetSampler(dataset.lengths, *limits, args.seed, self.accelerator.num_processes)
        padding = (self.data_collator.pad_token_id, self.data_collator.padding_side)
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=TimelineCollator(*padding, packed=True) if args.packing else self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)

    def get_eval_dataloader(self, eval_dataset=None):
        return super().get_eval_dataloader(self._to_evaluate(eval_dataset))

    def get_test_dataloader(self, test_dataset):
        return super().get_test_dataloader(self._to_evaluate(test_dataset))

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        assert dataset is not None
        # The batches of all processes together are what one process would draw
        return LengthSampler(dataset.lengths, self._train_batch_size * self.args.world_size, self.args.seed)

    def create_optimizer(self, model=None):
        """The ranking head has a learning rate of its own and no weight decay: it starts from a fit, and zero is not a
        value to return to."""
        if self.optimizer is None:
            model = self.model if model is None else model
            decayed = set(self.get_decay_parameter_names(model))
            groups = defaultdict(list)
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    head = "ranking_head" in name
                    groups[head, name in decayed and not head].append(parameter)
            optimizer, arguments = self.get_optimizer_cls_and_kwargs(self.args, model)
            head_rate = self.args.head_learning_rate or self.args.learning_rate
            self.optimizer = optimizer(
                [
                    {
                        "params": parameters,
                        "weight_decay": self.args.weight_decay if decay else 0.0,
                        "lr": head_rate if head else self.args.learning_rate,
                    }
                    for (head, decay), parameters in groups.items()
                ],
                **arguments,
            )
        return self.optimizer

    def _get_num_items_in_batch(self, batch_samples: list[dict], device: torch.device) -> torch.Tensor | None:
        """Patients of one step in all processes, whatever the micro-batches: each weighs the same."""
        if not batch_samples:
            return None
        last = batch_samples[-1]
        if self.args.max_batch_tokens is None:  # otherwise the sampler leaves nothing over
            assert self.train_dataset is not None
            last["own_patients"] = own_rows(self.accelerator, _patients(last), len(self.train_dataset))
        patients = torch.tensor(sum(_patients(batch) for batch in batch_samples), device=device)
        return self.accelerator.gather(patients).sum() if self.args.world_size > 1 else patients

    def _track_num_input_tokens(self, inputs):
        # What each token sees is not a mask whose sum counts tokens; without one, the Trainer counts what is no padding
        mask = inputs["attention_mask"]
        super()._track_num_input_tokens(inputs if mask.ndim == 2 else {"input_ids": inputs["input_ids"]})

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        losses, logits = self._forward(model, inputs, slice(None) if return_outputs else None)
        # Gradients are averaged over processes, but the loss must be summed over them
        share = 1 / _patients(inputs) if num_items_in_batch is None else self.args.world_size / num_items_in_batch
        losses = losses * share
        self._parts["train"].append((self.state.global_step, losses.detach()))
        if not return_outputs:
            return losses.sum()
        assert logits is not None
        return losses.sum(), MeraOutput(code_logits=logits[:, :-1], eov_logits=logits[:, -1])

    def _forward(self, model, inputs: dict, chosen=None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The parts of the loss, see [`losses`], and the logits of the `chosen` decisions, if any."""
        return model(
            **{name: tensor for name, tensor in inputs.items() if name in FORWARD_INPUTS},
            criterion=lambda readout: (
                self.losses(readout, inputs),
                None if chosen is None else readout.at(chosen).logits(),
            ),
        )

    def _weights(self) -> dict[str, float]:
        weights = {"contrastive": self.args.contrastive_weight, "group": self.args.group_weight}
        weights["confidence"] = 0.0 if self.args.eov_loss == "none" else self.args.confidence_weight
        return {name: weight for name, weight in weights.items() if weight > 0}

    def losses(self, readout: Readout, batch: dict) -> torch.Tensor:
        """The parts of the loss that have a weight, times that weight: mean over positions and visits, sum over patients.

        Args:
            readout ([`~mera_hf.modeling_mera.Readout`]): of the decisions of the batch.
            batch (`dict`): what `collate_timelines` returns; with `own_patients`, only this many first patients count.

        Returns:
            `Tensor` of shape `(parts,)`; they must be minimised together, see [`FusedLoss`].
        """
        hierarchy = self.hierarchy.to(readout.hidden.device)
        targets = DecisionTargets.from_batch(batch, hierarchy.num_codes, self.args.first_weight)
        targets.weights *= batch["visit_patient"][batch["decision_visit"]] < _patients(batch)
        if self.code_order is not None:
            self.code_order = self.code_order.to(readout.hidden.device)
            readout, targets = in_order(readout, targets, self.code_order)
        return self.fused_loss(readout, targets)

    def _losses(self, pools: Pools, targets: DecisionTargets) -> torch.Tensor:
        """The weighted parts at a chunk of decisions, `(parts, p)`."""
        args, hierarchy = self.args, self.hierarchy
        level_weights = cast("dict[str, float]", args.level_weights or {})
        part = {
            "contrastive": lambda: contrastive_loss(pools, targets, hierarchy, level_weights, args.softmax),
            "confidence": lambda: confidence_loss(pools, targets, args.eov_loss),
            "group": lambda: group_loss(pools, targets, hierarchy),
        }
        return torch.stack([weight * part[name]() for name, weight in self._weights().items()])

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The ranking for the last visit of each patient; the loss over all visits is kept for `evaluation_loop`."""
        rows = _patients(inputs)
        loader: Any = self.callback_handler.eval_dataloader
        own = own_rows(self.accelerator, rows, len(loader.dataset))
        inputs = self._prepare_inputs({**inputs, "own_patients": own})
        patient = inputs["visit_patient"][inputs["decision_visit"]]  # (P,)
        is_first = inputs["decision_given"] == 0
        # Decisions stand in order of time, so the last one before a first code belongs to the last visit
        last = torch.full((rows,), -1, device=patient.device)
        last = last.scatter_reduce(0, patient[is_first], is_first.nonzero()[:, 0], "amax")
        with torch.no_grad(), self.compute_loss_context_manager():
            losses, logits = self._forward(model, inputs, None if prediction_loss_only else last)
        self._parts["eval"].append(losses)
        if prediction_loss_only:
            return None, None, None
        assert logits is not None
        visits = inputs["decision_visit"][last]
        ranking = base_model(self.accelerator.unwrap_model(model)).decide(
            MeraOutput(logits[:, :-1], logits[:, -1]),
            inputs["history_codes"][visits],
            inputs["history_values"][visits],
        )
        codes = inputs["visit_codes"][visits]
        device = self.args.device
        return (
            None,
            (ranking.order.to(device), ranking.set_sizes.to(device)),
            torch.where(codes < 0, -100, codes),
        )

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix: str = "eval"
    ):
        """As in `Trainer`, with the loss as the mean over patients: neither batches nor processes change it."""
        self._parts["eval"] = []
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        assert output.metrics is not None
        mean = self.accelerator.reduce(sum(self._parts["eval"]), "sum") / output.num_samples
        output.metrics[f"{metric_key_prefix}_loss"] = mean.sum().item()
        output.metrics.update(self._named(mean, f"{metric_key_prefix}_"))
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the weighted parts of the training loss, averaged over the steps since the last line and over processes."""
        if self.model.training and self._parts["train"]:
            parts, self._parts["train"] = self._parts["train"], []
            # The micro-batches of a step add up to its loss
            mean = sum(losses for _, losses in parts) / len({step for step, _ in parts})
            logs = {**logs, **self._named(self.accelerator.reduce(mean, "mean"))}
        super().log(logs, start_time)

    def _named(self, losses: torch.Tensor, prefix: str = "") -> dict[str, float]:
        return {f"{prefix}loss_{name}": x for name, x in zip(self._weights(), losses.tolist(), strict=True)}


def _patients(batch: dict) -> int:
    """Patients of a batch that count."""
    own = batch.get("own_patients")
    return int(batch["visit_patient"][-1]) + 1 if own is None else own  # not both: reading a number waits for the GPU

"""MERA: rank all diagnosis codes for the next visit in one forward pass of a language model.

What is in here: [`MeraForDiagnosis`] wraps any `AutoModelForCausalLM` or `AutoModelForSeq2SeqLM` and reads the logits of the
code tokens and of the end-of-visit token EOV at decision positions; [`RankingHead`] adds the code bias and the history term;
[`Readout`] is what logits are made of, for losses that do without the table of logits; [`MeraRanking`] is what the one
ranking function, [`MeraForDiagnosis.rank`], returns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .attention_mera import attention_arguments
from .configuration_mera import MeraConfig
from .explanation_mera import explain
from .timeline_mera import HISTORY_FEATURES, TimelineEncoder, batches_by_length, collate_pairs, collate_timelines


@dataclass
class MeraOutput(ModelOutput):
    """
    Logits at `P` decision positions.

    Args:
        code_logits (`torch.FloatTensor` of shape `(P, codes)`): one logit per code, in the order of `config.codes`.
        eov_logits (`torch.FloatTensor` of shape `(P,)`): logit of the end of the visit.
        vocabulary_logits (`torch.FloatTensor` of shape `(Q, vocabulary)`, *optional*):
            in place of the two above where `vocabulary_index` was given: what the language model says, codes and words.
    """

    code_logits: torch.Tensor | None = None
    eov_logits: torch.Tensor | None = None
    vocabulary_logits: torch.Tensor | None = None


@dataclass
class Readout:
    """
    What the logits at `P` decisions are made of, before the table of decisions x codes is:

        s = softcap(scale * hidden @ rows^T) + bias, and history_terms on top at history_codes

    Attributes:
        hidden (`torch.FloatTensor` of shape `(P, d)`): hidden states.
        rows (`torch.FloatTensor` of shape `(codes + 1, d)`): output rows of the codes in tree order with EOV last.
        scale (`float`): factor of the products.
        softcap (`float`, *optional*): largest absolute value, c tanh(s / c).
        bias (`torch.FloatTensor` of shape `(codes + 1,)`, *optional*): of codes and EOV.
        history_codes (`torch.LongTensor` of shape `(P, H)`, *optional*): codes of the history, -1 is padding.
        history_terms (`torch.FloatTensor` of shape `(P, H)`, *optional*): what is added to the logits of those.
    """

    hidden: torch.Tensor
    rows: torch.Tensor
    scale: float = 1.0
    softcap: float | None = None
    bias: torch.Tensor | None = None
    history_codes: torch.Tensor | None = None
    history_terms: torch.Tensor | None = None

    def logits(self) -> torch.Tensor:
        """The table of logits, shape `(P, codes + 1)`."""
        logits = nn.functional.linear(self.hidden, self.rows) * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        if self.bias is not None:
            logits = logits + self.bias.to(logits.dtype)
        if self.history_terms is not None:
            assert self.history_codes is not None  # the head gives both or neither
            terms = self.history_terms.masked_fill(self.history_codes < 0, 0.0)
            logits = logits.scatter_add(1, self.history_codes.clamp(min=0), terms.to(logits.dtype))
        return logits

    def at(self, decisions: torch.Tensor) -> "Readout":
        """The readout of some decisions."""
        history = (self.history_codes, self.history_terms)
        codes, terms = (None if part is None else part[decisions] for part in history)
        return Readout(self.hidden[decisions], self.rows, self.scale, self.softcap, self.bias, codes, terms)


@dataclass
class MeraRanking:
    """
    Codes ranked for the next visit of `N` patients.

    Attributes:
        order (`torch.LongTensor` of shape `(N, K)`): code indices, best first; equal scores stand in tree order.
        set_sizes (`torch.LongTensor` of shape `(N,)`): number of codes above EOV; the predicted set is `order[:, :size]`.
        logits (`torch.FloatTensor` of shape `(N, K)`): code logits in the order of `order`.
        probabilities (`torch.FloatTensor` of shape `(N, K)`): P(code in the next visit), see `MeraForDiagnosis.log_odds`.
        eov_logits (`torch.FloatTensor` of shape `(N,)`): logit of the end of the visit.
        unread_visits (`torch.LongTensor` of shape `(N,)`, *optional*): number of oldest visits that were not read because the
            history is longer than `max_length`; their codes count in the history term alone. [`rank`] gives it.
    """

    order: torch.Tensor
    set_sizes: torch.Tensor
    logits: torch.Tensor
    probabilities: torch.Tensor
    eov_logits: torch.Tensor
    unread_visits: torch.Tensor | None = None


class RankingHead(nn.Module):
    """
    Code bias and history term (this project's choice), added to the logits that the language model gives:

        s_c = w_c . h + b_c + (g(h) + r_c) . f_c

    `f_c` are the features of code `c` in the history (`HISTORY_FEATURES`, and its log prevalence: how readily a code returns
    hardly depends on how common it is), zero for codes that are not in it, so that the term touches a few entries of a row
    only. `g(h)` is linear in the hidden state of the decision and `r_c` is linear in the row `w_c` of the code: how readily
    this patient repeats, and how readily this code is repeated. Both start at zero but for the constant of `g`, which
    training fits to the repetition seen in the training visits.
    """

    value_weight: torch.Tensor
    value_threshold: torch.Tensor
    log_prevalence: torch.Tensor

    def __init__(self, config: MeraConfig, hidden_size: int):
        super().__init__()
        if config.code_bias:
            self.code_bias = nn.Parameter(torch.zeros(config.num_codes + 1))  # EOV last
        if config.history_term:
            self.patient_gate = nn.Linear(hidden_size, len(HISTORY_FEATURES) + 1)
            self.code_gate = nn.Linear(hidden_size, len(HISTORY_FEATURES) + 1, bias=False)
        # What naming a code is worth for weighted F1: weight * (P(code in the visit) - threshold), fitted on validation
        self.register_buffer("value_weight", torch.zeros(config.num_codes))
        self.register_buffer("value_threshold", torch.zeros(config.num_codes))
        # Log share of the training patients that have each code
        self.register_buffer("log_prevalence", torch.zeros(config.num_codes))

    @property
    def is_trained(self) -> bool:
        """Whether anything has moved from zero, where an untrained head stands but for `value_weight`."""
        tensors = (tensor for name, tensor in self.state_dict().items() if name != "value_weight")
        return any(bool(tensor.any()) for tensor in tensors)

    def forward(
        self,
        hidden: torch.Tensor,
        code_rows: torch.Tensor,
        decision_visit: torch.Tensor,
        history_codes: torch.Tensor | None,
        history_values: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """The parts that are added to the logits, as fields of [`Readout`].

        Shapes: `hidden` (P, d), `code_rows` (C + 1, d), `decision_visit` (P,), `history_codes` (V, H), `history_values`
        (V, H, 7)."""
        parts: dict[str, torch.Tensor] = {}
        if hasattr(self, "code_bias"):
            parts["bias"] = self.code_bias
        if hasattr(self, "patient_gate") and history_codes is not None:
            assert history_values is not None
            if not torch.is_autocast_enabled(hidden.device.type):
                # Beside an adapter the head is in float32, also on a base in half precision; FSDP2 casts its weights
                hidden, code_rows = (tensor.to(self.code_gate.weight.dtype) for tensor in (hidden, code_rows))
            codes = history_codes.clamp(min=0)  # (V, H)
            values = torch.cat([history_values, self.log_prevalence[codes][:, :, None]], dim=-1)  # (V, H, 8)
            values = values.masked_fill(history_codes[:, :, None] < 0, 0.0).to(hidden.dtype)
            of_code = (self.code_gate(code_rows)[codes] * values).sum(-1)  # (V, H)
            of_patient = torch.einsum("pf,phf->ph", self.patient_gate(hidden), values[decision_visit])  # (P, H)
            parts["history_codes"] = history_codes[decision_visit]
            parts["history_terms"] = of_patient + of_code[decision_visit]
        return parts


class MeraForDiagnosis(PreTrainedModel):
    """
    A language model that ranks diagnosis codes (huggingface.co/papers/2501.17326).

    Of an encoder-decoder the encoder reads the history and the decoder writes the visit, see [`collate_pairs`].

    Example:

        >>> import mera_hf
        >>> from transformers import AutoModel, AutoTokenizer
        >>> model = AutoModel.from_pretrained("checkpoint").eval()
        >>> tokenizer = AutoTokenizer.from_pretrained("checkpoint")
        >>> patient = {"profile": {"sex": "F", "age": 72}, "visits": [{"codes": ["ICD9CM:428", "ICD9CM:584"]}]}
        >>> ranking = model.rank([patient], tokenizer, top_k=10)
        >>> [model.config.codes[index] for index in ranking.order[0]]
    """

    config: MeraConfig
    language_model: PreTrainedModel
    ranking_head: RankingHead  # from code tokens on
    base_model_prefix = "language_model"  # lets a plain checkpoint load straight into the wrapper
    _tied_weights_keys = {}  # a dict: PEFT looks for the ties of the children only if the top level has one
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    accepts_loss_kwargs = False  # the losses live in the trainers

    def __init__(self, config: MeraConfig):
        super().__init__(config)
        family = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        self.language_model = family.from_config(config.text_config)
        if config.num_codes:
            self.ranking_head = RankingHead(config, self.hidden_size)
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, RankingHead):
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                if name == "value_weight":
                    init.ones_(tensor)
                else:
                    init.zeros_(tensor)

    @property
    def hidden_size(self) -> int:
        """Width `d` of the hidden state that the code rows are multiplied with."""
        return self.get_output_embeddings().weight.shape[1]

    def get_input_embeddings(self) -> Any:  # a layer with a `weight`, which `nn.Module` does not say
        return super().get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings):
        self.language_model.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(self, *args, **kwargs):
        return self.language_model.resize_token_embeddings(*args, **kwargs)  # BART has a bias to resize beside them

    def tie_weights(self, *args, **kwargs):
        """As in transformers, but what a checkpoint holds apart stays apart: T5 configs say that the output matrix is tied,
        and Flan-T5 has one of its own, which a resize would tie."""
        tied = dict(self.all_tied_weights_keys)
        super().tie_weights(*args, **kwargs)
        apart = tied.keys() - self.all_tied_weights_keys.keys()
        if apart:
            ties = self.language_model._tied_weights_keys.items()
            self.language_model._tied_weights_keys = {k: v for k, v in ties if f"language_model.{k}" not in apart}

    def reset_ranking_head(self) -> None:
        """Put an untrained ranking head, all zero, in place of the present one, as the config has it."""
        weight = self.get_input_embeddings().weight
        dtype = weight.dtype if weight.is_floating_point() else torch.float32
        self.ranking_head = RankingHead(self.config, self.hidden_size).to(device=weight.device, dtype=dtype)
        self._init_weights(self.ranking_head)

    def code_rows(self) -> torch.Tensor:
        """Output rows of the codes in tree order with EOV last, shape `(codes + 1, d)`; a view of what is trained."""
        head, trained = self._trained_rows(self.get_output_embeddings())
        return head.weight[self._code_slice()] if trained is None else trained[: self.config.num_codes + 1]

    @property
    def _code_start(self) -> int:
        start = self.config.code_token_start
        assert start is not None  # as soon as there are code tokens
        return start

    def _code_slice(self) -> slice:
        start = self._code_start
        return slice(start, start + self.config.num_codes + 1)

    def _trained_rows(self, embeddings: Any) -> tuple[Any, torch.Tensor | None]:
        """The layer inside PEFT's wrapper of trained token rows, and those rows in its precision, the first code first.

        PEFT itself copies them into the whole table in every forward pass, and takes a gradient of the whole table. Where
        nothing is trained, or other rows than `peft_config` names, the module that was given and `None`.
        """
        adapter = getattr(embeddings, "token_adapter", None)
        if adapter is None:
            return embeddings, None
        if adapter.disable_adapters and adapter.merged:
            adapter.unmerge()  # as PEFT does in the next forward pass of the layer
        if adapter.disable_adapters or adapter.merged:
            return adapter.base_layer, None
        start = self.config.code_token_start
        for name in adapter.active_adapters:
            tokens = list(adapter.token_indices.get(name, []))
            ours = start is not None and tokens == list(range(start, start + len(tokens)))
            if ours and len(tokens) > self.config.num_codes:
                return adapter.base_layer, adapter.trainable_tokens_delta[name].to(adapter.base_layer.weight.dtype)
        return embeddings, None

    def _embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The input embeddings of tokens, shape (B, S, d)."""
        layer, trained = self._trained_rows(self.get_input_embeddings())
        embeds = layer(input_ids)
        if trained is None:
            return embeds
        rows = input_ids - self._code_start
        inside = (rows >= 0) & (rows < len(trained))
        ours = nn.functional.embedding(rows.clamp(0, len(trained) - 1), trained) * getattr(layer, "embed_scale", 1.0)
        return torch.where(inside[..., None], ours.to(embeds.dtype), embeds)

    def _vocabulary_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of codes and words, shape (Q, vocabulary)."""
        head, trained = self._trained_rows(self.get_output_embeddings())
        logits = head(hidden)
        if trained is not None:
            start = self._code_start
            stop = start + len(trained)
            bias = getattr(head, "bias", None)
            ours = nn.functional.linear(hidden, trained, None if bias is None else bias[start:stop])
            logits = logits.slice_scatter(ours, 1, start, stop)
        logits = logits * self._output_scale
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decision_index: torch.Tensor | None = None,
        decision_visit: torch.Tensor | None = None,
        history_codes: torch.Tensor | None = None,
        history_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        vocabulary_index: torch.Tensor | None = None,
        criterion: Callable[[Readout], Any] | None = None,
        **kwargs,
    ) -> MeraOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`): timelines; what the encoder reads of an encoder-decoder.
            attention_mask (`torch.LongTensor` of shape `(B, S)` or `(B, S, 3)`, *optional*):
                as in any causal LM, or what each token sees, see `attention_mera.py`.
            position_ids (`torch.LongTensor` of shape `(B, S)`, *optional*): as in any causal LM.
            decoder_input_ids (`torch.LongTensor` of shape `(B, T)`, *optional*):
                what the decoder of an encoder-decoder reads. Padding stands on the right, where it needs no mask. "Tokens"
                below are these.
            decision_index (`torch.LongTensor` of shape `(P,)`, *optional*):
                decision positions in the flattened `B * S` tokens; the last token of every sequence without it.
            decision_visit (`torch.LongTensor` of shape `(P,)`, *optional*):
                row of `history_codes` that belongs to each decision; row `p` without it.
            history_codes (`torch.LongTensor` of shape `(V, H)`, *optional*): codes of the history, -1 is padding.
            history_values (`torch.FloatTensor` of shape `(V, H, 7)`, *optional*): features of those codes.
            vocabulary_index (`torch.LongTensor` of shape `(Q,)`, *optional*):
                positions in the flattened tokens whose logits over the whole vocabulary are wanted, for memorizing.
            criterion (`Callable`, *optional*):
                gets the [`Readout`], and what it returns is returned in place of logits. A loss belongs here, inside the
                forward pass, where engines that share out the weights have gathered them.
        """
        for embeddings in (self.get_input_embeddings(), self.get_output_embeddings()):
            # FSDP2 gathers the weights of what is called, and rows of these are read
            if hasattr(embeddings, "unshard"):
                embeddings.unshard()
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self._embed(input_ids)
        inputs_embeds = self._dropout(inputs_embeds)
        if self.config.is_encoder_decoder:
            assert decoder_input_ids is not None
            hidden = self._decoded(inputs_embeds, attention_mask, decoder_input_ids)  # (B, T, d)
            attention_mask = None  # it was the encoder's
        else:
            decoder = self.language_model.base_model
            hidden = decoder(
                inputs_embeds=inputs_embeds,
                position_ids=position_ids,
                use_cache=False,
                **attention_arguments(decoder, attention_mask, inputs_embeds),
            ).last_hidden_state  # (B, S, d)
        if vocabulary_index is not None:
            return MeraOutput(vocabulary_logits=self._vocabulary_logits(hidden.flatten(0, 1)[vocabulary_index]))
        if decision_index is None:
            decision_index = _last_tokens(hidden, attention_mask)
        if decision_visit is None:
            decision_visit = torch.arange(len(decision_index), device=hidden.device)
        hidden = self._dropout(hidden.flatten(0, 1)[decision_index])  # (P, d)
        rows = self.code_rows()
        parts = self.ranking_head(hidden, rows, decision_visit, history_codes, history_values)
        head, _ = self._trained_rows(self.get_output_embeddings())
        output_bias = getattr(head, "bias", None)  # Phi and GPT-J have one
        if output_bias is not None:
            parts["bias"] = parts.get("bias", 0.0) + output_bias[self._code_slice()] * self._output_scale
        readout = Readout(hidden, rows, self._output_scale, self._softcap, **parts)
        if criterion is not None:
            return criterion(readout)
        logits = readout.logits()
        return MeraOutput(code_logits=logits[:, :-1], eov_logits=logits[:, -1])

    def _decoded(
        self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None, decoder_input_ids: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states of the decoder of an encoder-decoder, shape `(B, T, d)`. T5 has no base model below its logits."""
        encoded = self.language_model.get_encoder()(inputs_embeds=inputs_embeds, attention_mask=attention_mask)
        return self.language_model.get_decoder()(
            inputs_embeds=self._dropout(self._embed(decoder_input_ids)),
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=attention_mask,
            use_cache=False,
        ).last_hidden_state

    def generate(self, generation_config, **kwargs):
        """What the language model generates under these settings alone, for memorizing; its own may search with beams or force
        the end of sequence, as BART's do. Engines that share out the weights take this for a forward pass."""
        model: Any = self.language_model
        own, model.generation_config = model.generation_config, generation_config
        try:
            return model.generate(**kwargs)
        finally:
            model.generation_config = own

    def _dropout(self, values: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(values, self.config.hidden_dropout, self.training)

    @property
    def _output_scale(self) -> float:
        """The factor that some families put before or behind their output matrix (Cohere, Falcon-H1, Granite, T5)."""
        text = self.config.text_config
        scale = text.d_model**-0.5 if getattr(text, "scale_decoder_outputs", False) else 1.0
        for name in ("logit_scale", "lm_head_multiplier"):
            scale *= 1.0 if getattr(text, name, None) is None else getattr(text, name)
        return scale / (getattr(text, "logits_scaling", None) or 1.0)

    @property
    def _softcap(self) -> float | None:
        """The bound that some families put on their logits (Gemma 2)."""
        return getattr(self.config.text_config, "final_logit_softcapping", None)

    def rank(
        self,
        patients: list[dict],
        tokenizer,
        top_k: int | None = None,
        batch_size: int = 64,
        max_length: int | None = None,
        progress=None,
        batch_tokens: int | None = None,
        coverage: float | None = None,
        coverage_of: str = "codes",
    ) -> MeraRanking:
        """
        Rank the codes of the next visit of each patient, from one forward pass each.

        Args:
            patients (`list[dict]`): `profile` and `visits` as in a row of a visits dataset; all visits are history.
            tokenizer (`PreTrainedTokenizerBase`): the tokenizer of this checkpoint.
            top_k (`int`, *optional*): length of the ranking; all codes without it.
            batch_size (`int`, *optional*, defaults to 64): patients in a forward pass; timelines are sorted by length.
            max_length (`int`, *optional*): longest history in tokens; that of the config without it, see [`MeraConfig`].
            progress (*optional*): called with an iterable of batches and returning it, such as `tqdm`.
            batch_tokens (`int`, *optional*): tokens in a forward pass, padding among them; no limit without it.
            coverage, coverage_of (*optional*): sets of a known coverage in place of those above EOV, see [`decide`].

        Returns:
            [`MeraRanking`] in the order of `patients`.

        Raises:
            `ValueError`: for a `top_k`, `batch_size` or `batch_tokens` below 1, no patient, a code that the model does not
                know, a foreign tokenizer, a `max_length` that the model has no positions for or that not even a profile fits
                into, or a `coverage` that was not fitted.
        """
        for name, value in (("top_k", top_k), ("batch_size", batch_size), ("batch_tokens", batch_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` is {value}; it must be 1 or more.")
        if not patients:
            raise ValueError("`patients` is empty; give one patient at least.")
        rows, parts = [], []
        batches = self.decisions(patients, tokenizer, batch_size, max_length, progress, batch_tokens)
        for batch_rows, output, batch in batches:
            rows += batch_rows
            history = (batch["history_codes"], batch["history_values"])
            ranking = self.decide(output, *history, top_k, coverage, coverage_of)
            ranking.unread_visits = batch["unread_visits"]
            parts.append(ranking)
        where = torch.tensor(rows, dtype=torch.long).argsort()
        return MeraRanking(
            *(torch.cat([getattr(part, name) for part in parts])[where] for name in MeraRanking.__dataclass_fields__)
        )

    explain = explain

    @torch.no_grad()
    def decisions(
        self,
        patients: list[dict],
        tokenizer,
        batch_size: int = 64,
        max_length: int | None = None,
        progress=None,
        batch_tokens: int | None = None,
    ):
        """Run the model on the next visit of each patient, batch by batch in order of length; arguments as in [`rank`], and
        `patients` may be what [`TimelineEncoder.read`] made of them.

        Yields:
            the rows of `patients` in the batch, the [`MeraOutput`] with one decision for each, and the batch, with the number
            of `unread_visits` of each, int64 of shape `(B,)`.
        """
        encoder = TimelineEncoder(self.config, tokenizer, max_length)
        timelines = [encoder.encode_history(patient) for patient in patients]
        lengths = [len(timeline.input_ids) for timeline in timelines]
        batches = batches_by_length(range(len(timelines)), lengths, batch_size, batch_tokens)
        pad, start = tokenizer.pad_token_id or 0, self.config.decoder_start_token_id
        training = self.training
        self.eval()
        try:
            for rows in progress(batches) if progress is not None else batches:
                some = [timelines[row] for row in rows]
                batch = collate_timelines(some, pad) if start is None else collate_pairs(some, pad, start)
                batch = {name: tensor.to(self.device) for name, tensor in batch.items() if name in FORWARD_INPUTS}
                output = self(**batch)
                batch["unread_visits"] = torch.tensor([timeline.unread_visits for timeline in some])
                yield rows, output, batch
        finally:
            self.train(training)

    def decide(
        self,
        output: MeraOutput,
        history_codes: torch.Tensor,
        history_values: torch.Tensor,
        top_k: int | None = None,
        coverage: float | None = None,
        coverage_of: str = "codes",
        eov_value: float | None = None,
    ) -> MeraRanking:
        """
        Turn logits into rankings: order, set above EOV and probabilities.

        Codes are ordered by their logit, and the first `config.rerank_depth` of them again by their value, which is the
        probability of the code unless a calibration weighs it for weighted F1. The predicted set is the head of the ranking,
        as long as there are codes that [`cut_values`] puts above [`eov_cut`]: with `config.eov_offset` by their logits, so
        that the set shrinks when EOV's logit rises.

        With `coverage` the set holds the codes whose share of the softmax over codes reaches the threshold that
        `config.conformal` has for it, and all codes stay in the order of their logit, which is that of their share.

        Args:
            output (`MeraOutput`): logits at `N` decisions.
            history_codes, history_values: the history at each decision, of shapes `(N, H)` and `(N, H, 7)`.
            top_k (`int`, *optional*): length of the ranking.
            coverage (`float`, *optional*): share that the sets shall hold, such as 0.9.
            coverage_of (`str`, *optional*, defaults to `"codes"`): of the codes of a visit, or of whole `"visits"`.
            eov_value (`float`, *optional*): where EOV cuts the ranking; [`eov_cut`] without it.
        """
        eov_value = self.eov_cut if eov_value is None else eov_value
        logits, eov_logits = _in_float32(output)
        probabilities = self.log_odds(output, history_codes, history_values).sigmoid()  # (N, C)
        values = self.cut_values(output, probabilities)
        depth = self.config.rerank_depth if coverage is None else 0
        order = _best_first(logits, None if top_k is None else max(top_k, depth))
        if coverage is not None:
            set_sizes = (logits.softmax(-1) >= self.config.conformal_threshold(coverage, coverage_of)).sum(-1)
        elif depth:
            first = order[:, :depth]
            places = values.gather(1, first).argsort(dim=-1, descending=True, stable=True)
            order = torch.cat([first.gather(1, places), order[:, depth:]], dim=1)
            set_sizes = (values.gather(1, first) > eov_value).sum(-1)
        else:
            set_sizes = (values > eov_value).sum(-1)
        order = order[:, :top_k]
        return MeraRanking(
            order=order.cpu(),
            set_sizes=set_sizes.cpu(),
            logits=logits.gather(1, order).cpu(),
            probabilities=probabilities.gather(1, order).cpu(),
            eov_logits=eov_logits.cpu(),
        )

    @property
    def eov_cut(self) -> float:
        """What [`cut_values`] of a code has to be above for the code to be in the set."""
        return self.config.eov_value if self.config.eov_offset is None else self.config.eov_offset

    def cut_values(self, output: MeraOutput, probabilities: torch.Tensor) -> torch.Tensor:
        """What EOV cuts, of all codes, shape `(N, C)`: by how much their logits are above EOV's, or where no `eov_offset` was
        fitted, their [`code_values`]."""
        if self.config.eov_offset is None:
            return self.code_values(probabilities)
        logits, eov_logits = _in_float32(output)
        return logits - eov_logits[:, None]

    def code_values(self, probabilities: torch.Tensor) -> torch.Tensor:
        """What naming each code is worth, from the probabilities of all codes, both of shape `(N, C)`; by it the first
        `config.rerank_depth` codes are ordered."""
        return self.ranking_head.value_weight.float() * (probabilities - self.ranking_head.value_threshold.float())

    def log_odds(self, output: MeraOutput, history_codes: torch.Tensor, history_values: torch.Tensor) -> torch.Tensor:
        """Log-odds that each code is in the next visit, shape `(N, C)` (this project's choice).

        Without `config.calibration` they are `s_c - e`, so that a code is above EOV if its odds are. A softmax over codes
        shares one unit of probability among the codes of a visit, and repeated codes do not share it as new ones do: a
        calibration weighs the features of [`log_odds_features`].
        """
        if self.config.calibration is None:
            logits, eov_logits = _in_float32(output)
            return logits - eov_logits[:, None]
        features = self.log_odds_features(output, history_codes, history_values)
        total: Any = sum(weight * feature for weight, feature in zip(self.config.calibration, features, strict=True))
        return total

    def log_odds_features(
        self, output: MeraOutput, history_codes: torch.Tensor, history_values: torch.Tensor
    ) -> list[torch.Tensor]:
        """`s_c - e`, `log P(c)`, `[c in the last visit]`, `[c in the history]`, `log P(c) [c in the history]` and 1, each of
        shape `(N, C)`, where P is the softmax over the codes."""
        logits, eov_logits = _in_float32(output)
        shares = logits.log_softmax(-1)
        flags = torch.zeros(
            len(logits), logits.shape[1] + 1, 2, device=logits.device
        )  # the spare column takes padding
        where = torch.where(history_codes < 0, logits.shape[1], history_codes)
        chosen = history_values[:, :, [0, len(HISTORY_FEATURES) - 1]].to(flags)
        flags = flags.scatter_(1, where[:, :, None].expand(-1, -1, 2), chosen)[:, :-1]
        in_last, in_history = flags.unbind(-1)
        above = logits - eov_logits[:, None]
        return [above, shares, in_last, in_history, shares * in_history, torch.ones_like(shares)]


FORWARD_INPUTS = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "decoder_input_ids",
    "decision_index",
    "decision_visit",
    "history_codes",
    "history_values",
)


def _in_float32(output: MeraOutput) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of codes and EOV."""
    assert output.code_logits is not None and output.eov_logits is not None  # words alone have neither
    return output.code_logits.float(), output.eov_logits.float()


def _best_first(logits: torch.Tensor, count: int | None) -> torch.Tensor:
    """Indices of the `count` largest of each row, largest first, equal ones by index; of all without it."""
    if count is None or count >= logits.shape[1]:
        return logits.argsort(dim=-1, descending=True, stable=True)
    largest, order = logits.topk(count)  # a fraction of the time of sorting all, but equal ones stand anywhere
    order = order.sort().values
    order = order.gather(1, logits.gather(1, order).argsort(dim=-1, descending=True, stable=True))
    torn = (logits >= largest[:, -1:]).sum(-1) > count  # equal ones inside and outside of the first
    if torn.any():
        order[torn] = logits[torn].argsort(dim=-1, descending=True, stable=True)[:, :count]
    return order


def _last_tokens(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    batch, length = hidden.shape[:2]
    if attention_mask is None:
        last = torch.full((batch,), length - 1, device=hidden.device)
    else:
        last = length - 1 - attention_mask.flip(-1).argmax(-1)  # the last token that is not padding
    return torch.arange(batch, device=hidden.device) * length + last


AutoModel.register(MeraConfig, MeraForDiagnosis, exist_ok=True)

__all__ = ["FORWARD_INPUTS", "MeraForDiagnosis", "MeraOutput", "MeraRanking", "RankingHead", "Readout"]

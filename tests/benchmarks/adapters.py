"""A training step of LoRA with trained code tokens: the loss on the code rows against the ordinary forward pass."""

import math

import torch
from peft import get_peft_model
from transformers import LlamaConfig

from mera_hf.configuration_mera import MeraConfig
from mera_hf.icd import level_groups
from mera_hf.modeling_mera import FORWARD_INPUTS, MeraForDiagnosis
from mera_hf.training.code_tokens import peft_config
from mera_hf.training.fused_loss import FusedLoss
from mera_hf.training.hierarchy import Hierarchy
from mera_hf.training.losses import DecisionTargets, Pools, confidence_loss, contrastive_loss

from .cases import icd_codes
from .timing import best_of


def lora_step(patients=12, tokens=64, words=32_000, codes=5_000, width=1_024, layers=2, repeat=5) -> tuple[float, str]:
    """Forward, backward and AdamW. The ordinary forward pass gives the logits of all tokens at every position, as that of any
    causal language model under PEFT, and the same losses read those of the codes at the decisions."""
    names = icd_codes("ICD9CM", codes)
    sides = {
        "ordinary": _Side(names, words, width, layers, patients, tokens),
        "code rows": _Side(names, words, width, layers, patients, tokens),
    }
    losses = {}

    def step(name: str):
        losses[name] = getattr(sides[name], name.replace(" ", "_"))()

    times = best_of({name: lambda name=name: step(name) for name in sides}, repeat)
    if not math.isclose(losses["ordinary"], losses["code rows"], rel_tol=1e-3):
        raise AssertionError(f"the two sides do not learn the same: {losses}")
    return times["ordinary"] / times["code rows"], (
        "LoRA step with the ordinary forward pass / with the loss on the rows of the codes, time of forward, backward and "
        f"AdamW: {patients * tokens} tokens a step, {words:,} + {codes:,} tokens in the vocabulary, untied; Llama, d = "
        f"{width:,}, {layers} layers, rank 16"
    )


class _Side:
    """A model under LoRA with its optimizer, and one batch: a history and one visit to predict for each patient."""

    def __init__(self, names: list[str], words: int, width: int, layers: int, patients: int, tokens: int):
        torch.manual_seed(0)
        self.words, self.codes = words, len(names)
        eov, visit_mark, profile_mark = range(words + self.codes, words + self.codes + 3)
        text = LlamaConfig(
            vocab_size=words + self.codes + 3,
            hidden_size=width,
            intermediate_size=11 * width // 4,
            num_hidden_layers=layers,
            num_attention_heads=16,
            tie_word_embeddings=False,
        )
        groups = level_groups(names)
        config = MeraConfig(
            text_config=text,
            code_token_start=words,
            eov_token_id=eov,
            visit_token_id=visit_mark,
            profile_token_id=profile_mark,
            id2label=dict(enumerate(names)),
            level_groups=groups,
            code_bias=False,
            history_term=False,
        )
        base = MeraForDiagnosis(config)
        lora = peft_config(base, r=16, target_modules=r"language_model\..*\.(q|k|v|o|gate|up|down)_proj")
        self.model = get_peft_model(base, lora).train()
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-4)
        self.hierarchy = Hierarchy(groups, self.codes)
        self.fused_loss = FusedLoss(self.hierarchy, self._losses, tau=1.0)

        before = tokens * 3 // 8  # tokens in front of the codes to predict
        visit = torch.stack([torch.randperm(self.codes)[: tokens - before] for _ in range(patients)])  # (B, M)
        history = torch.stack([torch.randperm(self.codes)[: before - 2] for _ in range(patients)])  # (B, H)
        marks = torch.tensor([profile_mark, visit_mark]).expand(patients, 2)
        decisions = torch.arange(before - 1, tokens)
        batch = {
            "input_ids": torch.cat([marks, history + words, visit + words], dim=1),
            "attention_mask": torch.ones(patients, tokens, dtype=torch.long),
            "position_ids": torch.arange(tokens).repeat(patients, 1),
            "decision_index": (torch.arange(patients)[:, None] * tokens + decisions).flatten(),
            "decision_visit": torch.arange(patients).repeat_interleave(len(decisions)),
            "decision_given": torch.arange(len(decisions)).repeat(patients),
            "visit_patient": torch.arange(patients),
            "visit_codes": visit,
            "history_codes": history,
            "history_values": torch.rand(patients, history.shape[1], 7),
        }
        self.targets = DecisionTargets.from_batch(batch, self.codes)
        self.inputs = {name: batch[name] for name in FORWARD_INPUTS if name in batch}

    def _losses(self, pools: Pools, targets: DecisionTargets) -> torch.Tensor:
        contrast = contrastive_loss(pools, targets, self.hierarchy, {})
        return torch.stack([contrast, confidence_loss(pools, targets, "atlop")])

    def ordinary(self) -> float:
        language_model = self.model.get_base_model().language_model
        names = ("input_ids", "attention_mask", "position_ids")
        logits = language_model(**{name: self.inputs[name] for name in names}, use_cache=False).logits  # (B, S, V)
        at_decisions = logits.flatten(0, 1)[self.inputs["decision_index"]]  # (P, V)
        code_logits = at_decisions[:, self.words : self.words + self.codes + 1]
        pools = Pools.from_logits(code_logits, self.targets, self.hierarchy, tau=1.0)
        return self._learn((self._losses(pools, self.targets) * self.targets.weights).sum())

    def code_rows(self) -> float:
        losses = self.model(**self.inputs, criterion=lambda readout: self.fused_loss(readout, self.targets))
        return self._learn(losses.sum())

    def _learn(self, loss: torch.Tensor) -> float:
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

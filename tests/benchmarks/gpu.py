"""Mistral-7B's shape with random weights and 13,000 code tokens on one GPU: `python -m tests.benchmarks.gpu --output FILE`.

What it measures: tokens a second, peak memory and the share of the card's matrix-product rate of training by LoRA, by QLoRA
and of all weights; the fused loss against its three matrix products; and how far bfloat16 is from float32. `--tiny --device
cpu` runs the same code anywhere, on a model whose figures mean nothing.
"""

import argparse
import contextlib
import copy
import gc
import importlib.util
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, TrainerCallback
from transformers.utils import is_flash_attn_2_available, logging
from trl import ModelConfig, get_quantization_config

from mera_hf.configuration_mera import MeraConfig
from mera_hf.modeling_mera import MeraForDiagnosis
from mera_hf.training.checkpoints import wrap_with_adapter
from mera_hf.training.code_tokens import add_code_tokens
from mera_hf.training.from_scratch import word_tokenizer
from mera_hf.training.fused_loss import FusedLoss
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.mera_trainer import MeraTrainer
from mera_hf.training.wrapped import guard_quantised

from .cases import icd_codes, synthetic_patients
from .loss import Case, against_products
from .table import replace_file
from .timing import best_of


HOWS = ("lora", "qlora", "full")
CODES_OF_A_VISIT = 12


@dataclass
class Size:
    """What is trained, and on how much: `patients` of `visits` visits a step."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    words: int
    codes: int
    patients: int
    visits: int
    positions: int  # of the loss alone
    matrix: int  # rows and columns of the matrices whose product gives the rate


LARGE = Size(4_096, 14_336, 32, 32, 8, 32_000, 13_000, patients=8, visits=40, positions=8_192, matrix=8_192)
TINY = Size(64, 128, 2, 4, 2, 100, 60, patients=2, visits=3, positions=32, matrix=128)


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write the figures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", default="cuda", help="where to run (default cuda)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to test this script")
    parser.add_argument("--steps", type=int, default=10, help="training steps that are measured, behind two others")
    parser.add_argument("--only", nargs="+", choices=HOWS, default=HOWS, help="ways to train (default all)")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    if not args.tiny and device.type != "cuda":
        return _refuse(
            f"`--device {args.device}`: a model of 7 billion weights needs a GPU; test the script with --tiny."
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        return _refuse(
            "this machine has no GPU that torch can use; `--tiny --device cpu` tests the script without one."
        )
    logging.set_verbosity_error()
    size = TINY if args.tiny else LARGE
    attention = "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else "sdpa"
    rate = matrix_product_rate(size.matrix, device)
    figures = {
        "command": " ".join(["python -m tests.benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "size": asdict(size),
        "attention": attention,
        "bfloat16_matrix_product_tflops": round(rate / 1e12, 4),
    }
    ratio, setting = against_products(
        size.positions, size.codes, "ICD10CM", size.hidden_size, device=device.type, dtype=torch.bfloat16
    )
    figures["loss_against_products"] = {"ratio": round(ratio, 3), "setting": f"{setting}, bfloat16"}
    figures["bfloat16_against_float32"] = {
        "loss_alone": loss_agreement(size, device),
        "model_of_two_layers": model_agreement(size, device, attention),
    }
    figures["training"] = {}
    for how in args.only:
        print(f"training: {how}", file=sys.stderr)
        figures["training"][how] = train(how, size, device, attention, args.steps, rate)
        replace_file(args.output, json.dumps(figures, indent=2) + "\n")
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(json.dumps(figures, indent=2))
    return 0


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


def matrix_product_rate(width: int, device: torch.device) -> float:
    """FLOP a second of a large product in bfloat16: what the card reaches at best."""
    left, right, out = (torch.randn(width, width, device=device, dtype=torch.bfloat16) for _ in range(3))
    times = best_of({"product": lambda: torch.mm(left, right, out=out)}, repeat=20, synchronise=_synchronise(device))
    return 2 * width**3 / times["product"]


def _synchronise(device: torch.device):
    return torch.cuda.synchronize if device.type == "cuda" else None


def loss_agreement(size: Size, device: torch.device) -> dict[str, float]:
    """Relative differences of the fused loss and its gradients in bfloat16 from float32, at the same inputs."""
    half = Case.make(size.positions, size.codes, "ICD10CM", size.hidden_size, device=device.type, dtype=torch.bfloat16)
    exact = copy.copy(half)
    exact.hidden, exact.rows = (tensor.detach().float().requires_grad_() for tensor in (half.hidden, half.rows))
    sums = [case.step(FusedLoss(case.hierarchy, case.losses, 1.0)) for case in (half, exact)]
    return {
        "loss": abs(sums[0] - sums[1]) / abs(sums[1]),
        "gradient_of_hidden_states": _relative(half.hidden.grad, exact.hidden.grad),
        "gradient_of_code_rows": _relative(half.rows.grad, exact.rows.grad),
    }


def _relative(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.float() - exact).norm() / exact.norm())


def model_agreement(size: Size, device: torch.device, attention: str) -> dict[str, float]:
    """Relative difference of the training loss under bfloat16 autocast from float32, with two layers of the same width."""
    small = Size(**{**asdict(size), "num_hidden_layers": 2, "patients": 2})
    # Flash attention has no float32
    attention = "sdpa" if attention == "flash_attention_2" else attention
    model, tokenizer, codes = build(small, device, attention, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        trainer = MeraTrainer(
            model=model,
            args=_config(folder, small, device, steps=1, bf16=False),
            train_dataset=_patients(small, codes, steps=1),
            processing_class=tokenizer,
        )
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        losses = {}
        for dtype in (torch.float32, torch.bfloat16):
            model.train().zero_grad()
            with torch.autocast(device.type, dtype) if dtype == torch.bfloat16 else contextlib.nullcontext():
                loss = trainer.compute_loss(model, batch)
            loss.backward()
            gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
            losses[dtype] = loss.item(), gradient
    exact, half = losses.values()
    return {"loss": abs(half[0] - exact[0]) / abs(exact[0]), "gradient": _relative(half[1], exact[1])}


def build(size: Size, device: torch.device, attention: str, dtype: torch.dtype, quantization=None):
    """A model with random weights, made on the device, with tokens for the codes; its tokenizer and the codes."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    text = AutoConfig.for_model(
        "mistral",
        **{name: getattr(size, name) for name in names},
        vocab_size=size.words,
        tie_word_embeddings=False,
        sliding_window=None,
        max_position_embeddings=8_192,
    )
    config = MeraConfig(text_config=text)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in MeraForDiagnosis(config).state_dict().items()}
    torch.manual_seed(0)
    weights = {
        name: torch.ones(shape, device=device, dtype=dtype)  # norms
        if len(shape) == 1
        else torch.empty(shape, device=device, dtype=dtype).normal_(std=0.02)
        for name, shape in shapes.items()
    }
    model = MeraForDiagnosis.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=dtype,
        attn_implementation=attention,
        device_map={"": device},
        **({} if quantization is None else {"quantization_config": quantization}),
    )
    guard_quantised(model)
    tokenizer = word_tokenizer(f"w{number}" for number in range(size.words - 4))  # and four special tokens
    codes = icd_codes("ICD10CM", size.codes)
    add_code_tokens(model, tokenizer, codes, initialise="random", use_profile=False)
    return model, tokenizer, codes


def _patients(size: Size, codes: list[str], steps: int) -> list[dict]:
    """Timelines of one length, so that every step has as many tokens."""
    count = CODES_OF_A_VISIT
    return synthetic_patients(size.patients * steps, codes, visits=[size.visits], fewest=count, most=count)


def _config(folder: str, size: Size, device: torch.device, steps: int, **fields) -> MeraTrainerConfig:
    return MeraTrainerConfig(
        folder,
        per_device_train_batch_size=size.patients,
        max_steps=steps,
        start_head=False,
        use_cpu=device.type == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=False,
        dataloader_pin_memory=device.type == "cuda",
        **fields,
    )


def train(how: str, size: Size, device: torch.device, attention: str, steps: int, rate: float) -> dict:
    """Figures of a training of some steps, or why there are none."""
    if how == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        return {"skipped": "bitsandbytes is not installed"}
    try:
        return _train(how, size, device, attention, steps, rate)
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).splitlines()[0]}


def _train(how: str, size: Size, device: torch.device, attention: str, steps: int, rate: float) -> dict:
    adapter = ModelConfig(
        use_peft=how != "full",
        load_in_4bit=how == "qlora",
        bnb_4bit_quant_type="nf4",
        use_bnb_nested_quant=True,
        dtype="bfloat16",
        lora_r=16,
        lora_alpha=32,
        lora_dropout=0.05,
    )
    quantization = get_quantization_config(adapter)
    if quantization is not None:
        quantization.llm_int8_skip_modules = ["lm_head", "ranking_head"]
    started = time.perf_counter()
    model, tokenizer, codes = build(size, device, attention, torch.bfloat16, quantization)
    model = wrap_with_adapter(model, adapter)
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    optimizer = _optimizer(how, weights, device)
    clock = _Clock(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = MeraTrainer(
            model=model,
            args=_config(
                folder, size, device, _Clock.BEFORE + steps, bf16=True, optim=optimizer, activation_checkpointing=True
            ),
            train_dataset=_patients(size, codes, _Clock.BEFORE + steps),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        seconds_to_build = time.perf_counter() - started
        with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its log to standard output
            loss = trainer.train().training_loss
    length = trainer.train_dataset.lengths[0]
    decisions = len(trainer.train_dataset[0].decisions)
    step = clock.seconds / steps
    work = size.patients * _work(size, length, decisions, frozen=how != "full")
    return {
        "tokens_a_second": round(size.patients * length / step, 1),
        "seconds_a_step": round(step, 4),
        "share_of_matrix_product_rate": round(work / step / rate, 4),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None,
        "tokens_a_step": size.patients * length,
        "decisions_a_step": size.patients * decisions,
        "trained_weights": weights,
        "optimizer": optimizer,
        "activation_checkpointing": True,
        "loss": loss,
        "seconds_to_build": round(seconds_to_build, 1),
    }


def _optimizer(how: str, weights: int, device: torch.device) -> str:
    """AdamW where weights, gradients and two moments in bfloat16 leave a sixth of the card free; else what needs less."""
    if how != "full" or device.type == "cpu" or 8 * weights < torch.cuda.mem_get_info(device)[1] * 5 / 6:
        return "adamw_torch_fused"
    return "adafactor" if importlib.util.find_spec("bitsandbytes") is None else "paged_adamw_8bit"


def _work(size: Size, length: int, decisions: int, frozen: bool) -> float:
    """FLOP of the matrix products of one patient, forward and backward, without what checkpointing computes twice."""
    heads = size.hidden_size * (2 + 2 * size.num_key_value_heads / size.num_attention_heads)
    of_layer = size.hidden_size * (heads + 3 * size.intermediate_size)  # weights
    products = 2 if frozen else 3  # a frozen weight has no gradient
    layers = 2 * products * of_layer * length + 6 * size.hidden_size * length**2  # causal attention: half of all pairs
    return size.num_hidden_layers * layers + 6 * decisions * (size.codes + 1) * size.hidden_size


class _Clock(TrainerCallback):
    """Seconds of the steps behind the first two, which load kernels and make the optimizer's state."""

    BEFORE = 2

    def __init__(self, device: torch.device):
        self.synchronise = _synchronise(device) or (lambda: None)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.BEFORE:
            self.synchronise()
            self.started = time.perf_counter()
        if state.global_step == state.max_steps:
            self.synchronise()
            self.seconds = time.perf_counter() - self.started


if __name__ == "__main__":
    sys.exit(main())

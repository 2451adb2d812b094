"""The fused linear layer and ranking loss against its three matrix products, and against plain autograd in memory."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from mera_hf.icd import level_groups
from mera_hf.modeling_mera import Readout
from mera_hf.training.fused_loss import FusedLoss
from mera_hf.training.hierarchy import Hierarchy
from mera_hf.training.losses import DecisionTargets, Pools, confidence_loss, contrastive_loss

from .cases import icd_codes
from .timing import best_of


VISIT = 12  # codes of the visit that a decision is in
HISTORY = 30  # codes of the history before it


def against_products(
    positions, codes=None, vocabulary="ICD9CM", width=256, extras=False, repeat=5, device="cpu", dtype=torch.float32
) -> tuple[float, str]:
    """Forward and backward of linear layer and loss by the time of the three matrix products in it."""
    case = Case.make(positions, codes, vocabulary, width, extras, device, dtype)
    # Their results lie there before: no time goes into memory
    logits, slopes = (torch.empty(len(case.rows), positions, dtype=dtype, device=device) for _ in range(2))
    hidden_grad, rows_grad = (torch.empty_like(tensor) for tensor in (case.hidden, case.rows))
    slopes.normal_()

    @torch.no_grad()
    def products():
        torch.mm(case.rows, case.hidden.T, out=logits)
        torch.mm(slopes.T, case.rows, out=hidden_grad)
        torch.mm(slopes, case.hidden, out=rows_grad)

    loss = FusedLoss(case.hierarchy, case.losses, tau=1.0)
    synchronise = torch.cuda.synchronize if device != "cpu" else None
    times = best_of({"fused": lambda: case.step(loss), "products": products}, repeat, synchronise)
    return times["fused"] / times["products"], (
        "linear layer and loss, forward and backward / their three matrix products alone, time: "
        f"{case.size()}{', with code bias and history term' if extras else ''}"
    )


def memory(positions, codes=None, vocabulary="ICD9CM", width=256) -> tuple[float, str]:
    """Peak memory of the fused loss, beyond its inputs, by that of plain autograd; each in a process of its own."""
    peaks = []
    for variant in ("fused", "plain"):
        arguments = [variant, str(positions), str(codes), vocabulary, str(width), str(torch.get_num_threads())]
        peaks.append(
            subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.loss", *arguments],
                cwd=Path(__file__).parents[2],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
    fused, plain = map(int, peaks)
    return fused / plain, (
        "linear layer and loss, forward and backward / the same by plain autograd on nested groups, peak memory beyond the "
        f"inputs: {Case.make(1, codes, vocabulary, 8).size(positions, width)}"
    )


@dataclass
class Case:
    """Random hidden states and code rows, and random visits to predict, over the codes of a real tree."""

    hierarchy: Hierarchy
    targets: DecisionTargets
    hidden: torch.Tensor
    rows: torch.Tensor
    extras: dict[str, torch.Tensor]

    @classmethod
    def make(cls, positions, codes, vocabulary, width, extras=False, device="cpu", dtype=torch.float32) -> "Case":
        names = icd_codes(vocabulary, codes)
        generator = torch.Generator().manual_seed(0)
        count, visit = len(names), min(VISIT, len(names))
        # Distinct codes without a table of positions x codes: steps that end before the last code
        steps = torch.randint(1, count // visit + 1, (visit, positions), generator=generator)
        given = torch.randint(0, visit, (positions,), generator=generator)
        true = torch.arange(visit)[:, None] >= given
        targets = DecisionTargets(
            (steps.cumsum(0) - 1).to(device),
            true.to(device),
            torch.full((positions,), 1 / positions).double().to(device),
        )
        hidden = torch.randn(positions, width, generator=generator)
        rows = torch.randn(count + 1, width, generator=generator) / width**0.5
        learned = {}
        if extras:
            learned["bias"] = torch.randn(count + 1, generator=generator)
            learned["history_terms"] = torch.randn(positions, HISTORY, generator=generator)
            learned["history_codes"] = torch.randint(0, count, (positions, HISTORY), generator=generator)
        to_learn = lambda tensor: tensor.to(device, dtype).requires_grad_()  # noqa: E731
        learned = {
            name: to_learn(tensor) if tensor.is_floating_point() else tensor.to(device)
            for name, tensor in learned.items()
        }
        hierarchy = Hierarchy(level_groups(names), count).to(device)
        return cls(hierarchy, targets, to_learn(hidden), to_learn(rows), learned)

    def readout(self) -> Readout:
        return Readout(self.hidden, self.rows, **self.extras)

    def losses(self, pools: Pools, targets: DecisionTargets) -> torch.Tensor:
        """L_CL at every level of the tree, and L_DCE."""
        contrast = contrastive_loss(pools, targets, self.hierarchy, {})
        return torch.stack([contrast, confidence_loss(pools, targets, "atlop")])

    def step(self, loss: FusedLoss) -> float:
        self.forget()
        total = loss(self.readout(), self.targets).sum()
        total.backward()
        return total.item()

    def plain_step(self) -> float:
        """The same by autograd alone."""
        self.forget()
        pools = Pools.from_logits(self.readout().logits(), self.targets, self.hierarchy, tau=1.0)
        total = (self.losses(pools, self.targets) * self.targets.weights).sum()
        total.backward()
        return total.item()

    def forget(self) -> None:
        for tensor in (self.hidden, self.rows, *self.extras.values()):
            tensor.grad = None

    def size(self, positions: int | None = None, width: int | None = None) -> str:
        positions, width = positions or self.hidden.shape[0], width or self.hidden.shape[1]
        levels = len(self.hierarchy.levels) + self.hierarchy.has_space
        return (
            f"{positions:,} positions x {self.hierarchy.num_codes:,} codes, d = {width:,}, L_CL at {levels} levels and L_DCE, "
            f"{VISIT} codes a visit"
        )


def _peak_memory(variant: str, positions: int, codes: int | None, vocabulary: str, width: int) -> int:
    """Bytes that one step adds to this process at its peak (Linux).

    What `resource` knows as the peak would begin with that of the process that started this one.
    """
    case, small = (Case.make(some, codes, vocabulary, width) for some in (positions, 1))
    run = {"fused": lambda case: case.step(FusedLoss(case.hierarchy, case.losses, 1.0)), "plain": Case.plain_step}
    run[variant](small)  # loads what torch loads when it is first needed
    small.forget()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _resident("VmRSS")
    run[variant](case)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


if __name__ == "__main__":
    variant, positions, codes, vocabulary, width, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    print(_peak_memory(variant, int(positions), None if codes == "None" else int(codes), vocabulary, int(width)))

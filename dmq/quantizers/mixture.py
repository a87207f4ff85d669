"""Quantizers that are still being chosen: at every site a weighted mixture of the groups', while a
search runs.

`CandidateGroups` holds what is learned for all sites together; a `SoftBank` in the place of each
site's bank reads its rows. Which step it is, all of them learn from the clock of the quantized
model."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models.borrow import replace
from ..numerics.mixture import Grids, grids, mixture
from ..results import Plan, Site
from ..trajectory.search import importance, ranges, start_logits
from .bank import Clock


NARROWEST = 1e-6  # width of a range at the start, for activations that are constant


class CandidateGroups:
    """Importance weights of every site and step over G groups, and the groups' ranges; Q sites.

    Each step's logits are a parameter of their own, so that an optimiser's momentum cannot move the
    rows of steps that were not visited. Ranges are learned relative to where they started: shift in
    widths, stretch in logarithms. Once `assignment` is set, every site uses the one group that it
    says."""

    def __init__(
        self,
        slot: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        *,
        sites: tuple[Site, ...],
        bits: np.ndarray,
        symmetric: bool,
        shared: bool,
        device: torch.device,
    ) -> None:
        """`slot` [Q, T] and `low`, `high` [Q, G] are the start; one row of logits serves all
        sites if `shared`.
        """
        self.sites, self.bits, self.symmetric, self.shared = sites, bits.tolist(), symmetric, shared
        self.device, self.temperature = device, 1.0
        self._bits = torch.tensor(bits.astype(np.int64), device=device)[:, None]
        probs = torch.tensor([[site.point == "probs"] for site in sites], device=device)
        self._least, self._most = (
            torch.where(probs, 0.0, -torch.inf),
            torch.where(probs, 1.0, torch.inf),
        )
        self._parts: list[tuple[Tensor, Grids]] = []
        self.begin(slot, low, high)

    def begin(self, slot: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Start anew from `slot` [Q, T] and `low`, `high` [Q, G]; what was learned is forgotten."""
        start = start_logits(slot[:1] if self.shared else slot, low.shape[1])
        self.rows: list[Tensor] = [
            nn.Parameter(torch.tensor(start[:, i], device=self.device))
            for i in range(slot.shape[1])
        ]
        a, e = (torch.tensor(end, dtype=torch.float32, device=self.device) for end in (low, high))
        self.width = (e - a).clamp(min=NARROWEST)
        self.centre = (a + e) / 2
        self.shift, self.stretch = (nn.Parameter(torch.zeros_like(a)) for _ in range(2))
        self.assignment: Tensor | None = None  # [Q, T] int64

    def ranges(self) -> tuple[Tensor, Tensor]:
        """Low and high of every group [Q, G], differentiable; softmax outputs stay within 0..1."""
        low, high = ranges(self.centre + self.shift * self.width, self.width.log() + self.stretch)
        return torch.maximum(low, self._least), torch.minimum(high, self._most)

    def weights(self, i: int) -> Tensor:
        """The importance weights of step i [Q, G], differentiable."""
        return importance(self.rows[i], self.temperature).expand(len(self.sites), -1)

    @torch.no_grad()
    def importance(self) -> np.ndarray:
        """The importance weights of all steps [Q, T, G] float32."""
        made = importance(torch.stack(self.rows, 1), self.temperature)
        return made.expand(len(self.sites), -1, -1).cpu().numpy().copy()

    def assign(self, slot: np.ndarray) -> None:
        """From now on, site q uses at step i the one group `slot[q, i]`."""
        self.assignment = torch.tensor(slot.astype(np.int64), device=self.width.device)

    def state(self) -> list[Tensor]:
        """Copies of all that is learned."""
        return [p.detach().clone() for p in (self.shift, self.stretch, *self.rows)]

    @torch.no_grad()
    def restore(self, state: list[Tensor]) -> None:
        """Go back to what `state` returned."""
        for p, kept in zip((self.shift, self.stretch, *self.rows), state, strict=True):
            p.copy_(kept)

    def before_call(self, i: int) -> None:
        """Make the grids and weights that the banks read in a call at step i."""
        all_grids = grids(*self.ranges(), self._bits, self.symmetric)
        if self.assignment is None:
            weights = self.weights(i)
        else:
            own = self.assignment[:, i, None]
            all_grids = Grids(*(part.gather(1, own) for part in all_grids))
            weights = torch.ones_like(all_grids.scale)
        columns = [part.unbind() for part in all_grids]
        self._parts = [
            (w, Grids(*parts)) for w, *parts in zip(weights.unbind(), *columns, strict=True)
        ]

    def quantize(self, q: int, x: Tensor) -> Tensor:
        """What becomes of `x` at site q."""
        return mixture(x, *self._parts[q], self.bits[q])


class SoftBank(nn.Module):
    """Takes the place of a site's bank during a search."""

    def __init__(self, candidates: CandidateGroups, q: int) -> None:
        super().__init__()
        self.candidates, self.q = candidates, q

    def forward(self, x: Tensor) -> Tensor:
        return self.candidates.quantize(self.q, x)


def banked_sites(plan: Plan) -> tuple[Site, ...]:
    """The sites that `plan` quantizes: inputs of layers, then operands of attention."""
    return (
        *(row.bank.site for row in plan.layers if row.bank),
        *(bank.site for bank in plan.attention),
    )


def soften(model: nn.Module, candidates: CandidateGroups, clock: Clock) -> None:
    """Put a `SoftBank` in the place of each bank of a quantized `model`, in place."""
    for q, site in enumerate(candidates.sites):
        place = (
            f"{site.name}.input" if site.point == "input" else f"{site.name}.processor.{site.point}"
        )
        replace(model, place, SoftBank(candidates, q))

    def before_call(*_: Any) -> None:
        candidates.before_call(clock.i)

    model.register_forward_pre_hook(before_call)  # after the clock's own, which was there first

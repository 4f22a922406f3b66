"""The result of a verification: what was checked, and in words what that proves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from xnorinfer.proof.agreement import Agreement
from xnorinfer.proof.sensitivity import Sensitivity


@dataclass
class LayerProof:
    """What was checked of one layer.

    values: accumulator values per neuron.  compared: decisions or float32 results that were compared, all neurons together.
    weights: weights that were compared.  flipped, never, always: neurons that are stored negated, and those that no input or
    every input makes fire.  ties: compared values where torch.sign gives 0.
    """

    name: str
    kind: str
    neurons: int
    method: str = ""
    values: int = 0
    compared: int = 0
    weights: int = 0
    flipped: int = 0
    never: int = 0
    always: int = 0
    ties: int = 0
    differences: int = 0
    first: str | None = None

    def differ(self, count: int, first: str) -> None:
        """Count differences; the first one is kept in words."""
        self.differences += count
        self.first = self.first or first


@dataclass
class Verification:
    """The result of `verify`.  `holds` is True only if nothing at all differs."""

    model: str
    source: str
    source_unchanged: bool
    source_digest: str
    source_format: str
    content_digest: str
    header_digest: str
    input: str
    profile: str
    options: dict[str, Any]
    assumptions: list[list[str]]
    reading: list[str]
    kernel: str
    threads: int
    layers: list[LayerProof] = field(default_factory=list)
    rows: int = 0
    data: str = "random"
    differing_rows: int = 0
    differing_predictions: int = 0
    tie_rows: int = 0
    first_difference: str | None = None
    sensitivity: Sensitivity | None = None
    framework: Agreement | None = None
    expected: Agreement | None = None
    input_evidence: str | None = None
    input_fits: bool = True

    @property
    def holds(self) -> bool:
        """Whether it is equal to the reading, and that gives what the file itself and the user's own answers give."""
        return self.equal and all(one.holds for one in self.compared)

    @property
    def compared(self) -> list[Agreement]:
        """What says anything about the reading: the layers as they were read do not."""
        program = self.framework is not None and self.framework.run is not None and self.framework.run.program
        return [one for one in (self.framework if program else None, self.expected) if one is not None]

    @property
    def equal(self) -> bool:
        """Whether the model is the reading of the checkpoint, bit for bit, as far as was checked."""
        return self.first_difference is None and not self.differing_rows and all(not p.differences for p in self.layers)

    @property
    def proves(self) -> str:
        """What is proved, and what not, in one sentence."""
        if not self.equal:
            return f"{self.model} DOES NOT EQUAL the network as it was read from {self.source}"
        read = f"{self.model} computes, bit for bit, the network as it was read from {self.source}"
        against = [one.subject for one in self.compared if not one.holds]
        if against:
            return f"{read}, but THAT IS NOT {' nor '.join(against)}"
        if self.compared:
            return f"{read}, which gives the classes of {' and of '.join(one.subject for one in self.compared)}"
        return f"{read}; that this reading is the trained network is not proved (--expect compares with its own answers)"

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        parts = {"framework": self.framework, "expected": self.expected}
        extra = {name: None if part is None else part.to_json() for name, part in parts.items()}
        return {"holds": self.holds, "equal": self.equal, **asdict(self), **extra}

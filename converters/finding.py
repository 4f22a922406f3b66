"""What a file shows against a reading of it: evidence, what else would explain it, and what says so."""

from __future__ import annotations

from dataclasses import dataclass

#: What can be contradicted, beside the assumptions of `reading`.
BETWEEN = "between sum and sign"
ACTIVATIONS = "activations"
WEIGHTS = "binary layers"
ORDER = "order of layers"


@dataclass(frozen=True)
class Finding:
    """A contradiction.  about: the assumption (`Assumption.what`); option: what to do about it.

    proof: so strong that the reading is refused, unless an option that decides it was given, one of `answers`, or a net.toml
    says the reading.
    """

    evidence: str
    alternative: str
    option: str
    about: str
    proof: bool = False
    answers: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return f"{self.evidence}: {self.alternative}; {self.option}"

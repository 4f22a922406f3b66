"""Floats of a table as the uint8 pixels that a packed network takes.

A binary weight is -1 or +1, so that a first layer can only add and subtract its inputs: of two features it makes four
directions.  Several grades of a feature, each a ramp over its own part of the range, give it a piecewise choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

#: quantile: equal shares of the training rows between neighbouring pixels.  min-max: equal distances.
Kind = Literal["quantile", "min-max"]
KINDS: tuple[Kind, ...] = ("quantile", "min-max")

#: Grades of a feature where nobody says how many: fewer where there are many features.
MOST_GRADES, GRADED_COLUMNS = 8, 256


@dataclass(frozen=True, eq=False)
class Binning:
    """What was learned of the features.

    references: per feature its increasing float64 values that stand for equally spaced pixels; between them it is linear, and
    what lies outside is the nearest end.  grades: columns that each feature becomes.
    """

    references: tuple[NDArray[np.float64], ...]
    grades: int

    @classmethod
    def of(cls, x: NDArray[Any], kind: Kind, grades: int | None = None) -> Binning:
        """Learn from finite rows x (rows, features).  grades: None for what suits so many features."""
        if kind == "quantile":
            # Values that occur, and no means of them: a feature of two values has two references.
            shares = np.linspace(0, 1, 256)
            references = tuple(
                np.unique(np.quantile(column.astype(np.float64), shares, method="inverted_cdf")) for column in x.T
            )
        else:
            references = tuple(np.unique([column.min(), column.max()]).astype(np.float64) for column in x.T)
        return cls(references, grades or int(np.clip(GRADED_COLUMNS // max(1, x.shape[1]), 1, MOST_GRADES)))

    @property
    def columns(self) -> int:
        """Inputs of the network."""
        return len(self.references) * self.grades

    def pixels(self, x: NDArray[Any]) -> NDArray[np.uint8]:
        """Finite rows (rows, features) -> (rows, features * grades) uint8, the grades of a feature side by side."""
        made = np.empty((len(x), len(self.references), self.grades), np.uint8)
        steps = np.arange(self.grades)
        for index, values in enumerate(self.references):
            # Halved, so that the difference of two finite numbers is finite.
            place = np.interp(x[:, index] * 0.5, values * 0.5, np.linspace(0, 1, len(values)) if len(values) > 1 else [0.0])
            made[:, index] = np.rint(255 * np.clip(place[:, None] * self.grades - steps, 0, 1))
        return made.reshape(len(x), self.columns)

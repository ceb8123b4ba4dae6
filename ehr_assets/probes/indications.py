"""A fit per indication: nodes of one disease are answered by a model of their own, if they are enough."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_assets.probes.rows import Fit, Fitted, How, NoModelError, Rows, shortage


@dataclass(frozen=True)
class ByIndication:
    """Makes of a fit one that is repeated in every indication with train rows enough.

    Other nodes are answered by the fit of all, so that both are scored on the same nodes.
    """

    fit: Fit
    min_samples: int
    min_positives: int

    def __call__(self, train: Rows, tuning: Rows, how: How) -> "Separate":
        models: dict[str, Fitted] = {}
        for indication in sorted(set(train.indication.tolist()) - {""}):
            own = train.of(indication)
            if shortage(own, self.min_samples, self.min_positives) is None:
                try:
                    models[indication] = self.fit(own, tuning.of(indication), how)
                except NoModelError:
                    continue
        if not models:
            raise NoModelError("too_few_in_every_indication")
        return Separate(self.fit(train, tuning, how), models)


@dataclass(frozen=True)
class Separate:
    """Models by indication, and the one of all."""

    pooled: Fitted
    models: Mapping[str, Fitted]

    @property
    def chosen(self) -> Mapping[str, Any]:
        own = {name: dict(model.chosen) for name, model in self.models.items()}
        return {"pooled": dict(self.pooled.chosen), "indications": own}

    def predict(self, rows: Rows) -> NDArray[np.float32]:
        answers = self.pooled.predict(rows)
        for indication, model in self.models.items():
            at = rows.indication == indication
            if at.any():
                answers[at] = model.predict(rows[at])
        return answers

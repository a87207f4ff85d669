"""Ridge regression whose penalty is chosen by leaving out one row at a time: no data of others
is needed for it.
"""

import numpy as np


PENALTIES = np.logspace(-4, 4, 33)  # times the mean squared length of a row


def ridge(
    columns: np.ndarray, target: np.ndarray, taught: np.ndarray, *, scaled: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of all rows [N] and weights [D], fitted to the rows that are `taught` [N] bool.

    Shapes: `columns` (N, D), `target` (N). `scaled` columns are brought to deviation 1 first. The
    prediction of a row that is left out is y - r / (1 - h), with r the residual and h the row's own
    share in its fit."""
    mean = columns[taught].mean(0)
    deviation = np.maximum(columns[taught].std(0), 1e-12) if scaled else 1.0
    x = (columns - mean) / deviation
    own, level = x[taught], target[taught].mean()
    y = target[taught] - level
    values, vectors = np.linalg.eigh(own @ own.T)
    values = np.maximum(values, 0)
    turned, unit = vectors.T @ y, max(values.mean(), 1e-12)
    best, chosen = np.inf, PENALTIES[-1] * unit
    for penalty in PENALTIES * unit:
        kept = values / (values + penalty)
        share = np.square(vectors) @ kept + 1 / len(y)
        left_out = (y - vectors @ (kept * turned)) / np.maximum(1 - share, 1e-9)
        if left_out @ left_out < best:
            best, chosen = left_out @ left_out, penalty
    weights = own.T @ (vectors @ (turned / (values + chosen)))
    return x @ weights + level, weights / deviation

"""How weights follow the gradient: Muon for all kernels but the last, Adam for the rest."""

from __future__ import annotations

from . import network

MOMENTUM = 0.95
STEPS = 5  # of the iteration that brings a kernel's singular values near to 1
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of its polynomial of fifth order
SIZE = 0.3  # root mean square of a step of Muon, at a rate of 1: somewhat more than Adam's


def muon(rate):
    """Return the optimizer.

    A kernel's step is its momentum with all singular values made equal: what many windows agree on
    does not drown what few say. Method: K. Jordan et al., Muon (2024); step size: J. Liu et al.,
    arXiv:2502.16982.

    Parameters
    ----------
    rate : float or keras.optimizers.schedules.LearningRateSchedule

    Returns
    -------
    keras.optimizers.Optimizer
    """
    keras = network.keras()

    class Muon(keras.optimizers.Adam):
        def build(self, variables):
            super().build(variables)
            self.momenta = [
                self.add_variable_from_reference(one, "ahead") if _is_kernel(one) else None
                for one in variables
            ]

        def update_step(self, gradient, variable, learning_rate):
            if not _is_kernel(variable):
                super().update_step(gradient, variable, learning_rate)
                return
            momentum = self.momenta[self._get_variable_index(variable)]
            self.assign(momentum, MOMENTUM * momentum + gradient)
            ahead = keras.ops.reshape(MOMENTUM * momentum + gradient, (-1, variable.shape[-1]))
            step = SIZE * max(ahead.shape) ** 0.5 * orthogonal(ahead)
            self.assign_sub(variable, learning_rate * keras.ops.reshape(step, variable.shape))

    return Muon(rate)


def orthogonal(matrix):
    """Return a matrix, float32 (M, N), with its singular values brought to 0.7 to 1.2.

    By Newton-Schulz: those that are less than a thousandth of the matrix' norm stay less.
    """
    ops = network.keras().ops
    rows, columns = matrix.shape
    if rows < columns:
        return ops.transpose(orthogonal(ops.transpose(matrix)))
    a, b, c = COEFFICIENTS
    found = matrix / (ops.norm(matrix) + 1e-7)
    for _ in range(STEPS):
        gram = ops.matmul(ops.transpose(found), found)
        found = a * found + ops.matmul(found, b * gram + c * ops.matmul(gram, gram))
    return found


def _is_kernel(variable):
    """Whether Muon suits it: biases have no singular values, and the score's kernel only one."""
    return len(variable.shape) > 1 and variable.shape[-1] > 1

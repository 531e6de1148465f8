"""What is made of an error: its size, and how much its timestep counts. Pure functions, in float32.

Notation: a = alpha_bar_t, SNR = a / (1 - a). Every weight is written as a weight w on the squared error of the picture
x_0 and put onto what the model predicts: eps, whose squared error is SNR times that of x_0, or v, for which it is
SNR + 1 times. So a weighting means the same for both, and as a, not SNR, stands in the formulas, zero SNR has a value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dora_core.families import Prediction
from trainer.config_learning import LossConfig

GAMMA = 5.0
DELTA = 0.1


def timestep_weight(alpha_bar: Tensor, prediction: Prediction, loss: LossConfig) -> Tensor:
    """The factor of each picture's loss, in the shape of `alpha_bar`."""
    gamma = GAMMA if loss.min_snr_gamma is None else loss.min_snr_gamma
    match loss.weighting:
        case "none":
            return torch.ones_like(alpha_bar)
        case "min-snr":
            return min_snr_weight(alpha_bar, gamma, prediction)
        case "soft-min-snr":
            return soft_min_snr_weight(alpha_bar, gamma, prediction)
        case "debiased":
            return debiased_weight(alpha_bar, prediction)
        case "p2":
            return p2_weight(alpha_bar, prediction)


def min_snr_weight(alpha_bar: Tensor, gamma: float, prediction: Prediction) -> Tensor:
    """Min-SNR-gamma (arXiv 2303.09556, section 3.4): w = min(SNR, gamma).

    epsilon:  min(SNR, gamma) / SNR        = min(1, gamma (1 - a) / a), and so 1 at zero SNR
    v:        min(SNR, gamma) / (SNR + 1)  = min(a, gamma (1 - a)), and so 0 at zero SNR, like x_0's weight
    """
    capped = gamma * (1 - alpha_bar)
    if prediction == "v":
        return torch.minimum(alpha_bar, capped)
    return (capped / alpha_bar).clamp(max=1)


def soft_min_snr_weight(alpha_bar: Tensor, gamma: float, prediction: Prediction) -> Tensor:
    """Soft-min-SNR (arXiv 2401.11605): w = SNR gamma / (SNR + gamma), min-SNR with its corner rounded.

    epsilon:  gamma / (SNR + gamma)                    = gamma (1 - a) / (a + gamma (1 - a)), 1 at zero SNR
    v:        SNR gamma / ((SNR + gamma) (SNR + 1))    = a times that, 0 at zero SNR
    """
    capped = gamma * (1 - alpha_bar)
    weight = capped / (alpha_bar + capped)
    return alpha_bar * weight if prediction == "v" else weight


def debiased_weight(alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """Debiased estimation (arXiv 2310.08442): w = sqrt(SNR).

    epsilon:  1 / sqrt(SNR)          = sqrt((1 - a) / a), which has no value at zero SNR; no model predicts eps there
    v:        sqrt(SNR) / (SNR + 1)  = sqrt(a (1 - a)), 0 at zero SNR
    """
    if prediction == "v":
        return (alpha_bar * (1 - alpha_bar)).sqrt()
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def p2_weight(alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """P2 with k = gamma = 1 (arXiv 2204.00227): w = SNR / (1 + SNR).

    epsilon:  1 / (1 + SNR)      = 1 - a
    v:        SNR / (1 + SNR)^2  = a (1 - a), 0 at zero SNR
    """
    return alpha_bar * (1 - alpha_bar) if prediction == "v" else 1 - alpha_bar


def sized(squared: Tensor, alpha_bar: Tensor, loss: LossConfig) -> Tensor:
    """The loss of every value from its squared error r^2: (batch, c, h, w); alpha_bar: (batch, 1, 1, 1).

    Pseudo-Huber (arXiv 2403.16728) in the scaling of sd-scripts, written without a difference of close numbers:

    huber:      2 delta (sqrt(r^2 + delta^2) - delta) = 2 delta r^2 / (sqrt(r^2 + delta^2) + delta); r^2 for small r
    smooth-l1:  that / delta, 2 |r| for large r
    """
    if loss.kind == "l2":
        return squared
    delta = delta_at(alpha_bar, loss)
    smooth_l1 = 2 * squared / ((squared + delta.square()).sqrt() + delta)
    return delta * smooth_l1 if loss.kind == "huber" else smooth_l1


def delta_at(alpha_bar: Tensor, loss: LossConfig) -> Tensor:
    """Where the straight part begins; for snr as sd-scripts has it, (1 - delta) / (1 + sigma)^2 + delta.

    sigma^2 = 1 / SNR: 1 / (1 + sigma)^2 = a / (sqrt(a) + sqrt(1 - a))^2, and so 0 at zero SNR.
    """
    delta = DELTA if loss.delta is None else loss.delta
    if loss.delta_schedule == "constant":
        return torch.full_like(alpha_bar, delta)
    return (1 - delta) * alpha_bar / (alpha_bar.sqrt() + (1 - alpha_bar).sqrt()).square() + delta

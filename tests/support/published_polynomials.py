"""Lists of odd polynomials that others published, to compare with."""

from modula.kernels.spectral.polynomials import Polynomials

# Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (blog).
# Steep at zero, not convergent: [0.01, 1] goes to [0.68, 1.13].
JORDAN = Polynomials(((3.4445, -4.7750, 2.0315),) * 5, name="JORDAN")

# Source: You Jiacheng 2025, published in the discussion of modded-nanogpt.
YOU5 = Polynomials(
    (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    name="YOU5",
)

# Same source: six steps, printed in units of 1 / 1024.
YOU6 = Polynomials(
    tuple(
        (a / 1024, b / 1024, c / 1024)
        for a, b, c in (
            (3955, -8306, 5008),
            (3735, -6681, 3463),
            (3799, -6499, 3211),
            (4019, -6385, 2906),
            (2677, -3029, 1162),
            (2172, -1833, 682),
        )
    ),
    name="YOU6",
)

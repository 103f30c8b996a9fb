"""Norm choice = optimizer choice: what eight unit balls make of the same turning gradient.
python examples/06_unit_balls.py      # writes 06_unit_balls.png and 06_unit_balls.gif"""

import matplotlib.pyplot as plt
import torch
from PIL import Image

from modula.norms import L1, L2, Elementwise, Frobenius, InCoordinates, Max, Nuclear, Spectral

NORMS = L1(), L2(), Max(), InCoordinates(L2(), Elementwise(torch.tensor([0.7, 1.4])))
NORMS += Nuclear(), Frobenius(), Spectral(), 1.41 * Max(ndim=2)
STEPS = "coordinate", "gradient", "sign", "scaled", "rank-one", "gradient", "Muon: spectral", "sign"
RIGHT, UP = [[0.372, -0.601], [-0.601, -0.372]], [[0.491, -0.113], [-0.113, 0.856]]
BASES = 4 * [torch.eye(3, 2)] + 4 * [torch.tensor([RIGHT, UP, [[0.788, 0.354], [0.354, -0.358]]])]


def draw(axis, norm, basis, u: float, v: float, colors: str) -> None:
    """A unit ball at (u, v); Newton's method finds where each line of sight meets it."""
    x = torch.cartesian_prod(*[torch.linspace(-1.5, 1.5, 240)] * 2, torch.tensor([3.0]))
    for _ in range(8):
        normal = torch.func.grad(lambda x: norm(torch.tensordot(x, basis, 1)).sum())(x)
        gap = 1 - (normal * x).sum(-1)
        x[..., 2] += torch.where(normal[..., 2] > 1e-6, gap / normal[..., 2], 0)
    light = normal @ torch.tensor([-0.5, 0.65, 0.57]) / normal.norm(dim=-1) * basis[2].norm()
    light = light.where(gap > -1e-3, torch.nan).view(240, 240).T.flip(0).numpy()
    axis.imshow(light, colors, vmin=-1.6, vmax=1.4, extent=(u - 1.5, u + 1.5, v - 1.5, v + 1.5))


def main(steps: int = 48, gif: bool = False) -> None:
    """Blue: unit balls; grey: their duals; black: gradients; red: duality maps (step against)."""
    figure = plt.figure(figsize=(9, 8.6))
    axis = figure.add_axes((0, 0, 1, 0.96), frame_on=False, xticks=[], yticks=[])
    turn, arrows, frames = torch.linspace(0.4, 0.4 + 2 * torch.pi, steps + 1)[:-1], [], []
    g = torch.stack([turn.cos(), turn.sin(), torch.full_like(turn, 0.5)], -1) / 1.25**0.5
    for k, (norm, basis, name) in enumerate(zip(NORMS, BASES, STEPS, strict=True)):
        u, v, w = 4.4 * (k % 4), -8.4 * (k // 4), torch.tensordot(g, basis, 1)
        draw(axis, norm, torch.linalg.pinv(basis.flatten(1)).T.view_as(basis), u, v, "Blues_r")
        draw(axis, norm.dual, basis, u, v - 3.8, "Greys_r")
        axis.text(u, v + 2.2, f"{norm}\n{name} descent", ha="center", size=11)
        at, t = torch.tensor([u, v]), (norm.duality_map(w).flatten(1) @ basis.flatten(1).T)[:, :2]
        far, low = 2 * g[:, :2], (g / norm.dual(w)[:, None])[:, :2]
        axis.plot(*(at + torch.stack([far, t])[:, ::2]).unbind(-1), "o-", c="0.5", lw=0.4, ms=1)
        starts, moves = (0 * t, far, 0 * t, 0 * t - at.new_tensor([0, 3.8])), (far, t - far, t, low)
        arrows += [torch.cat([at + a, b], 1) for a, b in zip(starts, moves, strict=True)]
    arrows, colors = torch.stack(arrows, 1), ["0.2", "#e58a90", "#d1242f", "0.2"] * 8
    axis.set(xlim=(-2.3, 15.5), ylim=(-13.9, 3.3), title=main.__doc__)
    for arrow in arrows.flip(0) if gif else arrows[:1]:  # the PNG is the last one drawn
        quiver = axis.quiver(*arrow.T, color=colors, units="xy", width=0.06, scale=1, zorder=3)
        figure.savefig("06_unit_balls.png", dpi=180)
        quiver.remove()
        frame = Image.open("06_unit_balls.png").convert("RGB").reduce(2)
        frames.append(frame.quantize(palette=frames[0] if frames else None, dither=0))
    if gif:
        frames[0].save("06_unit_balls.gif", save_all=True, append_images=frames[1:], loop=0)
    plt.close(figure)


if __name__ == "__main__":
    main(gif=True)

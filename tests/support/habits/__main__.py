"""Writes docs/contract.md."""

import logging

import torch

from habits.page import PAGE, written

logging.getLogger("modula").propagate = False  # projections are logged by the hundred
logging.getLogger("modula").addHandler(logging.NullHandler())
torch.set_num_threads(1)
PAGE.write_text(written(), encoding="utf-8")

"""Writes docs/contract.md."""

import logging

from habits.page import PAGE, written

logging.getLogger("modula").setLevel(logging.CRITICAL)
PAGE.write_text(written(), encoding="utf-8")

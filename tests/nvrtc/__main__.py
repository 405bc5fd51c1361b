"""``python -m tests.nvrtc``: measure all kernels anew into ``budgets.json``; look at its diff before committing."""

from tests.nvrtc.compiler import write_budgets

write_budgets()

"""The command line: ``gpunet`` and ``python -m gpunet``.

One module per command. A command's dependencies are imported only when it runs, so that ``--help`` is fast.
"""

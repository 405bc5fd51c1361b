"""The command line: ``gpunet`` and ``python -m gpunet``.

One module a command. What a command needs is imported when it runs, so that ``--help`` answers at once.
"""

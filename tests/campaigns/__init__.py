"""Long trials of what a run survives: kills, failing disks, power losses, many epochs. Each is a command.

    python -m tests.campaigns.kills --model cnn --kills 100
    python -m tests.campaigns.faults --model hybrid --fault kill
    python -m tests.campaigns.power --losses 25
    python -m tests.campaigns.epochs --epochs 1000

A few cases of each run with the other tests, in ``test_campaigns.py``.
"""

"""Data parallel training: several processes train one model, to the weights that one process gets, bit for bit."""

from gpunet.parallel.communicator import Communicator, MpiCommunicator, Serial, first_then_others, from_first
from gpunet.parallel.launch import world
from gpunet.parallel.shards import ShardedStep, shard_count

__all__ = [
    "Communicator",
    "MpiCommunicator",
    "Serial",
    "ShardedStep",
    "first_then_others",
    "from_first",
    "shard_count",
    "world",
]

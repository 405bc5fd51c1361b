"""A fuzzing campaign: mutated files through every parser of gpunet. Each must end in a value or a GpunetError."""

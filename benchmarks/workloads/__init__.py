"""Whole workloads on Kiln and on every installed peer: `kiln bench`, `python -m benchmarks workloads`.

| file | what it holds |
|---|---|
| `catalog` | the workloads, by name |
| `models`, `kernels` | their definition in PyTorch's API, for Kiln and PyTorch alike |
| `problem` | weights and batches as arrays, the same for all, and the floating-point operations of a step |
| `torchlike`, `jaxlike`, `tflike`, `ortlike` | the frameworks: how a step is prepared in each |
| `worker` | a framework at work in a process of its own |
| `measure` | rounds of blocks, first steps, memory, a busy neighbour, whether results agree |
| `machine` | the machine's measured peaks; import times and sizes of packages |
| `figures`, `report`, `charts` | what follows from the measurements, as text and as pictures |
"""

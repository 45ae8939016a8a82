# The compiled module; its functions take addresses and are called from this package alone.
from typing import Any

built_with_cuda: bool

class LennardJonesParams:
    def __init__(self, *args: Any) -> None: ...

class Place:
    cuda_device: int
    work: int
    def __init__(self, *args: Any) -> None: ...

def __getattr__(name: str) -> Any: ...

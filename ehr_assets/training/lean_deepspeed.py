"""DeepSpeed with only what training uses: faster to start, half the memory, and no compiler needed.

Three things are left out, on measured grounds (2 CPU cores):

* `import deepspeed` imports its autotuner, which imports mlflow and xgboost when they are installed: 5 s and
  220 MB in the launcher and in every rank. They are hidden while deepspeed is imported.
* On CPU, `init_distributed` compiles a shared-memory collective at first use: about a minute, a C++ compiler
  and ninja needed. Only the all-reduce of DeepSpeed's inference calls it; training goes through gloo. It is
  switched off.
* Every ZeRO engine imports the Muon optimizer, whose functions are wrapped in `torch.compile`: 3 s and 50 MB
  for a compiler. Ranks import it unwrapped (`import_muon_uncompiled`); nothing here uses Muon.

Run as a module it is `deepspeed.launcher.launch`, bound to the life of whoever started it: when its standard
input closes (the starter ended, however abruptly), it ends its whole process group.
"""

import importlib
import os
import signal
import sys
import threading
import time
import warnings
from types import ModuleType

HIDDEN = ("mlflow", "xgboost")
GRACE_SECONDS = 5


def import_deepspeed() -> ModuleType:
    """The deepspeed package, without its autotuner's and its compiler's needs."""
    hidden = [name for name in HIDDEN if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # makes `import name` raise ImportError
    try:
        import deepspeed
    finally:
        for name in hidden:
            del sys.modules[name]
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # It calls what torch 2.13 has renamed.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    return deepspeed


def import_muon_uncompiled() -> None:
    """Imports DeepSpeed's Muon optimizer with `torch.compile` doing nothing."""
    import torch

    compile_ = torch.compile
    torch.compile = lambda model=None, **_: model if model else lambda f: f  # type: ignore[assignment]
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        torch.compile = compile_


def end_group_with_starter() -> None:
    """Ends this process group once standard input is closed, in a thread of its own."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.killpg(0, signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_group_with_starter()
    import_deepspeed()
    from deepspeed.launcher.launch import main

    main()
